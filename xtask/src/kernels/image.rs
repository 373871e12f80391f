//! A kernel out of its packages: the image, and the modules that tests need, in the cache. Nothing is installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::catalog::{Catalog, Kernel};
use crate::debian::{self, PrivateApt};
use crate::error::FileContext;
use crate::{Error, Result, paths, process};

/// Modules that the tests' networks, and a disk, need, where the kernel does not have them built in.
const MODULES: [&str; 10] = [
    // nf_conntrack looks for this algorithm by name.
    "crc32c_generic",
    "veth",
    "bridge",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_nat",
    "tls",
    "loop",
];
/// What was kept in a kernel's directory, which an xtask of other modules fetches again.
const KEPT: &str = "modules";

/// The kernels of Debian, unpacked once each.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    apt: PrivateApt,
}

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub struct Image {
    /// The compressed image.
    pub vmlinuz: PathBuf,
    /// Modules, uncompressed, in the order in which they are to be loaded.
    pub modules: Vec<PathBuf>,
}

impl Store {
    /// Opens the cache, and reads the index of the machine's mirror.
    ///
    /// # Errors
    /// [`Error::Missing`] where the machine has no Debian mirror, [`Error::File`] when the cache cannot be written to.
    pub fn open() -> Result<(Self, Catalog)> {
        let directory = paths::cache_dir()?.join("kernels");
        let mirror = debian::mirror().ok_or_else(|| Error::Missing {
            what: "this machine has no Debian mirror in its apt sources".to_owned(),
            remedy: "kernels are tested on a Debian machine".to_owned(),
        })?;
        let security = debian::security_mirror();
        let mut sources = String::new();
        for (suite, of_security) in Catalog::sources(security.is_some()) {
            let archive = if of_security {
                security.as_ref()
            } else {
                Some(&mirror)
            };
            let archive = archive.expect("asked for with it only");
            sources += &format!(
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {archive} {suite} main\n"
            );
        }
        let apt = PrivateApt::new(&directory.join("apt"), &sources)?;
        if process::run_quiet("reading the index of Debian's kernels", &mut apt.get(&["update"])).is_err() {
            eprintln!("warning: not every suite could be read: what was read now or earlier is used");
        }
        let catalog = Catalog::read(&apt)?;
        Ok((Self { directory, apt }, catalog))
    }

    /// Gives the kernel's image, fetched and unpacked if that was not done before.
    ///
    /// # Errors
    /// Packages cannot be had, or are not what kernels' packages were up to now.
    pub fn get(&self, kernel: &Kernel) -> Result<Image> {
        let directory = self.directory.join(kernel.version.to_string());
        let wanted = MODULES.join("\n");
        if fs::read_to_string(directory.join(KEPT)).ok().as_ref() != Some(&wanted) {
            if directory.is_dir() {
                fs::remove_dir_all(&directory).file("remove", &directory)?;
            }
            let work =
                tempfile::tempdir_in(&self.directory).file("create a directory in", &self.directory)?;
            let root = work.path().join("root");
            for package in &kernel.packages {
                let deb = self.apt.download(package)?;
                debian::unpack(&deb, &root)?;
                fs::remove_file(&deb).file("remove", &deb)?;
            }
            let kept = work.path().join("kept");
            keep(&root, &kept)?;
            fs::write(kept.join(KEPT), wanted).file("write to", &kept)?;
            // Renamed only when complete, so that an interrupted run leaves nothing that looks usable.
            fs::rename(&kept, &directory).file("rename", &kept)?;
        }
        let order = directory.join("order");
        let modules = fs::read_to_string(&order).file("read", &order)?;
        Ok(Image {
            vmlinuz: directory.join("vmlinuz"),
            modules: modules.lines().map(|name| directory.join(name)).collect(),
        })
    }
}

/// Copies the image and the modules out of an unpacked package.
fn keep(root: &Path, kept: &Path) -> Result<()> {
    fs::create_dir(kept).file("create", kept)?;
    let mut files = Vec::new();
    files_below(root, &mut files)?;
    let named = |file: &PathBuf| {
        file.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let image = files.iter().find(|file| named(file).starts_with("vmlinuz"));
    let image = image.ok_or_else(|| Error::Output {
        program: "dpkg-deb -x".to_owned(),
        detail: "the kernel's packages have no vmlinuz".to_owned(),
    })?;
    fs::copy(image, kept.join("vmlinuz")).file("copy", image)?;
    let modules: BTreeMap<String, &PathBuf> = files
        .iter()
        .filter_map(|file| Some((named(file).split_once(".ko")?.0.replace('-', "_"), file)))
        .collect();
    let mut order = Vec::new();
    for module in MODULES {
        keep_module(module, &modules, kept, &mut order)?;
    }
    let text: String = order.iter().map(|name| format!("{name}.ko\n")).collect();
    fs::write(kept.join("order"), text).file("write", kept.join("order"))
}

/// Adds a module after those that it depends on. One that the package does not have is built in, or not to be had.
fn keep_module(
    name: &str,
    modules: &BTreeMap<String, &PathBuf>,
    kept: &Path,
    order: &mut Vec<String>,
) -> Result<()> {
    let Some(file) = modules.get(name) else {
        return Ok(());
    };
    if order.iter().any(|known| known == name) {
        return Ok(());
    }
    let content = if file.extension() == Some("xz".as_ref()) {
        process::stdout_bytes(Command::new("xz").arg("-dc").arg(file))?
    } else {
        fs::read(file).file("read", *file)?
    };
    for needed in dependencies(&content) {
        keep_module(&needed, modules, kept, order)?;
    }
    let to = kept.join(format!("{name}.ko"));
    fs::write(&to, content).file("write", to)?;
    order.push(name.to_owned());
    Ok(())
}

/// What a module says that it depends on, in its section `.modinfo`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module.windows(FIELD.len()).position(|window| window == FIELD) else {
        return Vec::new();
    };
    let value = module[at + FIELD.len()..].split(|byte| *byte == 0).next();
    String::from_utf8_lossy(value.unwrap_or_default())
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn files_below(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).file("read", directory)? {
        let entry = entry.file("read", directory)?;
        let kind = entry.file_type().file("look at", entry.path())?;
        if kind.is_dir() {
            files_below(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::dependencies;

    #[test]
    fn dependencies_are_read_from_a_module() {
        let module = b"\x7fELF\0license=GPL\0depends=nf_tables,nf-nat\0name=nft_nat\0";
        assert_eq!(dependencies(module), ["nf_tables", "nf_nat"]);
        assert!(dependencies(b"\0depends=\0retpoline=Y\0").is_empty());
        assert!(dependencies(b"no module").is_empty());
    }
}
