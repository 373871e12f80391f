//! The node on which all peers run.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cwasi_bench::error::IoContext;
use cwasi_testnode::images::{Form, Image};
use cwasi_testnode::{Containerd, Node, Runtime, built, functions, native, testing};
use serde::Serialize;

use crate::{Error, Peer, Result};

/// The function: an unmodified program on `std::net`.
const ECHO: &str = "echo";

/// Those that talk to it, and to themselves.
const OTHERS: [&str; 2] = ["ping", "stream"];

/// The form of the function's image: the one that the stock shim compiles only once.
const COMPARED: Form = Form::Wasm;

/// Name of the directory, in the content store's labels, of what the stock shim compiled.
const STOCK_LABEL: &str = "runwasi.io/precompiled/stock/";

/// A node with the runtimes of the peers, their images, and an agent where functions of cwasi are among them.
#[derive(Debug)]
pub struct Stage {
    node: Node,
    images: Vec<ImageSize>,
    /// The names of the images of Wasm functions and of native containers.
    function: String,
    program: String,
}

/// How large an image is.
#[derive(Clone, Debug, Serialize)]
pub struct ImageSize {
    /// What it is of, and in which form.
    pub image: String,
    /// What a registry holds of it: manifest, configuration and layers.
    pub bytes: usize,
    /// The program in it.
    pub program_bytes: usize,
}

impl Stage {
    /// Starts a node for these peers.
    ///
    /// # Errors
    /// Something is missing on this machine, a shim is not built, or containerd does not start.
    pub fn new(peers: &[Peer]) -> Result<Self> {
        if let Some(reason) = testing::missing() {
            return Err(Error::NoNode(reason));
        }
        let any = |handler: &str| peers.iter().any(|peer| peer.handler() == handler);
        // Sandboxes of other runtimes do not need it, but containerd's configuration has a default.
        let mut runtimes = vec![Runtime::runc()];
        if any(Peer::Cwasi.handler()) {
            runtimes.push(Runtime::cwasi()?);
        }
        if any(Peer::Stock.handler()) {
            runtimes.push(stock()?);
        }
        let node = Node::start(Containerd::installed()?, runtimes)?;
        if any(Peer::Cwasi.handler()) {
            node.start_agent()?;
        }
        let wasm = functions::prebuilt(ECHO)?;
        let form = |form: Form, name: &str, wasm: &[u8]| {
            let made = form.image(&form.reference(name), wasm);
            made.map_err(cwasi_testnode::Error::from)
        };
        let (function, rootfs) = (form(COMPARED, ECHO, &wasm)?, form(Form::Rootfs, ECHO, &wasm)?);
        let program = native::PEER.image()?;
        node.import(&function)?;
        for name in OTHERS {
            node.import(&form(COMPARED, name, &functions::prebuilt(name)?)?)?;
        }
        node.import(&program)?;
        let image = |name: &str, image: &Image, program_bytes| ImageSize {
            image: name.to_owned(),
            bytes: image.size(),
            program_bytes,
        };
        Ok(Self {
            node,
            images: vec![
                image("echo, Wasm, as a layer", &function, wasm.len()),
                image("echo, Wasm, in a root filesystem", &rootfs, wasm.len()),
                image("echo, static C", &program, native::PEER.bytes()?.len()),
            ],
            function: function.reference().to_owned(),
            program: program.reference().to_owned(),
        })
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// The sizes of the peers' images.
    #[must_use]
    pub fn images(&self) -> &[ImageSize] {
        &self.images
    }

    /// The image that a peer runs.
    #[must_use]
    pub fn image(&self, peer: Peer) -> &str {
        if peer.is_wasm() {
            &self.function
        } else {
            &self.program
        }
    }

    /// The image of a guest of `bench/functions` that is on the node.
    #[must_use]
    pub fn guest(&self, name: &str) -> String {
        COMPARED.reference(name)
    }

    /// Makes sure that the next function of [`Peer::Cold`] has to be compiled; does nothing for other peers.
    ///
    /// # Errors
    /// The cache cannot be removed.
    pub fn chill(&self, peer: Peer) -> Result<()> {
        if peer != Peer::Cold {
            return Ok(());
        }
        let cache = self.node.cache();
        match fs::remove_dir_all(&cache) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).action(|| format!("remove {}", cache.display()))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What cwasi's shims have compiled so far: the files of their cache and their inodes.
    #[must_use]
    pub fn compiled(&self) -> BTreeSet<(PathBuf, u64)> {
        let mut found = BTreeSet::new();
        files(&self.node.cache(), &mut found);
        found
    }

    /// Fails when a function that shall have been compiled before was compiled now, or the other way round. `before` is
    /// what [`Stage::compiled`] said before its start.
    ///
    /// # Errors
    /// [`Error::Invalid`]; containerd does not answer.
    pub fn check_compiled(&self, peer: Peer, before: &BTreeSet<(PathBuf, u64)>) -> Result<()> {
        let wrong = match peer {
            Peer::Cwasi if self.compiled() != *before => "it was compiled though it had been compiled before",
            Peer::Cold if self.compiled() == *before => "nothing was put into the cache",
            Peer::Stock if !self.stock_has_compiled()? => {
                "containerd's content store has no compiled code of it"
            }
            _ => return Ok(()),
        };
        Err(Error::Invalid {
            peer,
            detail: wrong.to_owned(),
        })
    }

    fn stock_has_compiled(&self) -> Result<bool> {
        let list = self.node.ctr(&["--namespace", "k8s.io", "content", "ls"])?;
        Ok(list.contains(STOCK_LABEL))
    }
}

/// The stock shim, which is built beside this program.
fn stock() -> Result<Runtime> {
    let shim = built("containerd-shim-stock-v1", "cwasi-stock-shim")?;
    Ok(Runtime {
        handler: Peer::Stock.handler().to_owned(),
        kind: "io.containerd.stock.v1".to_owned(),
        directory: shim.parent().map(Path::to_owned),
    })
}

/// The files below a directory; none when it does not exist.
fn files(directory: &Path, found: &mut BTreeSet<(PathBuf, u64)>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => files(&entry.path(), found),
            Ok(metadata) => {
                found.insert((entry.path(), metadata.ino()));
            }
            // It was removed meanwhile.
            Err(_) => {}
        }
    }
}
