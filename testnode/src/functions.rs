//! The guests of `bench/functions` as images on a node, and modules that no shim should run.

use std::fs;
use std::path::Path;

use xtask::commands::images::PREBUILT;
use xtask::paths;

use crate::cri::{Container, ContainerSpec, Pod, PodSpec, Stream};
use crate::error::{IoContext, on};
use crate::images::{File, Form, Image, Process};
use crate::node::Node;
use crate::{Result, native};

/// Where images have the module.
pub const APP: &str = "/app.wasm";

/// A core module without anything, so without `_start` as well.
pub const NO_START: &[u8] = b"\0asm\x01\0\0\0";

/// A component's first bytes, and then none of a component.
pub const BROKEN: &[u8] = b"\0asm\x0d\0\x01\0\xff\xff\xff\xff";

/// The committed component of a guest of `bench/functions`.
///
/// # Errors
/// There is none of that name.
pub fn prebuilt(name: &str) -> Result<Vec<u8>> {
    let path = paths::root().join(PREBUILT).join(name).with_extension("wasm");
    fs::read(&path).action(on("read", path))
}

/// A root filesystem image whose entrypoint has these bytes.
#[must_use]
pub fn image_of(reference: &str, content: &[u8]) -> Image {
    let file = File {
        path: APP,
        mode: 0o755,
        content,
        ..File::default()
    };
    Image::rootfs(reference, &[file], &Process::new([APP]))
}

/// A native program of another architecture than this machine's.
///
/// # Errors
/// There is no C compiler.
pub fn foreign_program() -> Result<Vec<u8>> {
    // e_machine of the ELF header, and two architectures that it can name.
    const MACHINE: std::ops::Range<usize> = 18..20;
    const X86_64: [u8; 2] = [62, 0];
    const AARCH64: [u8; 2] = [183, 0];
    let mut program = native::PAUSE.bytes()?.to_vec();
    let other = if program[MACHINE] == X86_64 {
        AARCH64
    } else {
        X86_64
    };
    program[MACHINE].copy_from_slice(&other);
    Ok(program)
}

/// An `echo` that listens in a pod, and another pod for who talks to it.
pub struct Echo<'n> {
    /// The pod of the echo.
    pub server: Pod<'n>,
    /// The other one.
    pub client: Pod<'n>,
    /// The echo.
    pub echo: Container<'n>,
    /// Where it listens.
    pub address: String,
    /// The image of `ping`.
    ping: String,
}

impl<'n> Echo<'n> {
    /// Starts the echo.
    ///
    /// # Errors
    /// containerd or the shim cannot.
    pub fn start(node: &'n Node) -> Result<Self> {
        let (echo, ping) = (
            node.import_function("echo", Form::Rootfs)?,
            node.import_function("ping", Form::Rootfs)?,
        );
        let (server, client) = (
            node.pod(&PodSpec::new("server"))?,
            node.pod(&PodSpec::new("client"))?,
        );
        let echo = server.run(&ContainerSpec::new("echo", &echo).args(["0.0.0.0:7000"]))?;
        echo.says(Stream::Stderr, "listening")?;
        let address = format!("{}:7000", server.ip()?);
        Ok(Self {
            server,
            client,
            echo,
            address,
            ping,
        })
    }

    /// Starts a container with this name in the client's pod that sends so many messages of 1000 bytes, one after the other.
    ///
    /// # Errors
    /// containerd or the shim cannot.
    pub fn ping(&self, name: &str, count: u32) -> Result<Container<'n>> {
        let (spec, count) = (ContainerSpec::new(name, &self.ping), count.to_string());
        self.client
            .run(&spec.args([&self.address, "--size", "1000", "--count", &count]))
    }
}

impl Node {
    /// Imports a guest of `bench/functions` in a form, and gives the name of its image.
    ///
    /// # Errors
    /// There is none of that name, or containerd refuses it.
    pub fn import_function(&self, name: &str, form: Form) -> Result<String> {
        let reference = form.reference(name);
        self.import(&form.image(&reference, &prebuilt(name)?)?)?;
        Ok(reference)
    }

    /// Processes of this node whose command line holds all of these words, with their ids.
    #[must_use]
    pub fn processes_like(&self, words: &[&str]) -> Vec<i32> {
        let processes = self.namespaces().processes().into_iter();
        processes
            .filter(|(_, line)| words.iter().all(|word| line.contains(word)))
            .map(|(pid, _)| pid)
            .collect()
    }
}

/// Whether a process runs; a zombie does not.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    // The state is after the name, which is in parentheses.
    stat.is_ok_and(|stat| {
        let state = stat.rsplit(") ").next().unwrap_or_default();
        !state.starts_with(['Z', 'X'])
    })
}
