//! The first file system of a kernel under test: the tests, the programs that they run, and what starts them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cpio::Cpio;
use super::image::Image;
use crate::error::FileContext;
use crate::{Error, Result, features, paths, process};

const INIT: &str = include_str!("init.sh");

/// The tests that need a kernel and nothing else, by the names of their files in cwasi-agent/tests.
const SUITES: &str = "kernel_*";
/// What their names begin with.
const PREFIX: &str = "kernel_";

/// Debian packages that have the programs below and qemu.
pub const PACKAGES: [&str; 6] = [
    "binutils",
    "busybox-static",
    "iproute2",
    "nftables",
    "qemu-system-x86",
    "xz-utils",
];

/// What all kernels are given alike.
#[derive(Debug)]
pub struct Programs {
    /// Test executables by name.
    suites: Vec<(String, Vec<u8>)>,
    /// Where the tests look for the agent.
    agent: String,
    /// Everything else, by path.
    others: Vec<(String, Vec<u8>)>,
}

impl Programs {
    /// Builds the tests, all or those of the suites named, and collects the programs and libraries that they need.
    ///
    /// # Errors
    /// The tests cannot be built, [`Error::Missing`] when a program is not installed.
    pub fn build(suites: &[String]) -> Result<Self> {
        let work = tempfile::tempdir().file("create a directory in", std::env::temp_dir())?;
        let mut programs = Self {
            suites: Vec::new(),
            agent: String::new(),
            others: Vec::new(),
        };
        let mut libraries = BTreeSet::new();
        for executable in build_tests(suites)? {
            libraries.extend(libraries_of(&executable)?);
            let content = stripped(&executable, work.path())?;
            match suite_name(&executable) {
                Some(name) => programs.suites.push((name, content)),
                None => {
                    programs.agent = executable.to_string_lossy().into_owned();
                    programs.others.push((programs.agent.clone(), content));
                }
            }
        }
        programs.suites.sort();
        for (name, package) in [
            ("busybox", "busybox-static"),
            ("ip", "iproute2"),
            ("nft", "nftables"),
        ] {
            let file = find(name, package)?;
            libraries.extend(libraries_of(&file)?);
            let directory = if name == "busybox" { "/bin" } else { "/sbin" };
            programs.add(&format!("{directory}/{name}"), &file)?;
        }
        for library in libraries {
            programs.add(&library.to_string_lossy(), &library)?;
        }
        Ok(programs)
    }

    fn add(&mut self, path: &str, file: &Path) -> Result<()> {
        self.others
            .push((path.to_owned(), fs::read(file).file("read", file)?));
        Ok(())
    }

    /// The names of the suites, in the order in which they run.
    pub fn suites(&self) -> impl ExactSizeIterator<Item = &str> {
        self.suites.iter().map(|(name, _)| name.as_str())
    }

    /// The archive for a kernel.
    ///
    /// # Errors
    /// [`Error::File`] when a module cannot be read.
    pub fn archive(&self, image: &Image) -> Result<Vec<u8>> {
        let mut cpio = Cpio::default();
        for directory in ["/proc", "/sys", "/dev", "/tmp", "/run", "/modules", "/suites"] {
            cpio.directory(directory);
        }
        // Until /dev is mounted, the first process has these.
        cpio.device("/dev/console", (5, 1));
        cpio.device("/dev/null", (1, 3));
        cpio.file("/init", INIT.as_bytes());
        for (path, content) in &self.others {
            cpio.file(path, content);
        }
        cpio.symlink("/bin/cwasi-agent", &self.agent);
        for (name, content) in &self.suites {
            cpio.file(&format!("/suites/{name}"), content);
        }
        let mut order = String::new();
        for module in &image.modules {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            cpio.file(
                &format!("/modules/{name}"),
                &fs::read(module).file("read", module)?,
            );
            order += &format!("{name}\n");
        }
        cpio.file("/modules/order", order.as_bytes());
        Ok(cpio.finish())
    }
}

/// Builds the suites and the agent, and gives their files.
fn build_tests(suites: &[String]) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("cargo");
    command.arg("test").current_dir(paths::root());
    // The selection of `cargo xtask test`, so that nothing is built again.
    let all = [SUITES.to_owned()];
    let suites = if suites.is_empty() { &all[..] } else { suites };
    features::whole_workspace(&mut command).args(["--no-run", "--message-format=json-render-diagnostics"]);
    command.args(suites.iter().flat_map(|suite| ["--test", suite.as_str()]));
    let executables = process::executables(&process::stdout_bytes(&mut command)?);
    Ok(executables
        .into_iter()
        .filter(|file| suite_name(file).is_some() || file.file_name() == Some("cwasi-agent".as_ref()))
        .collect())
}

/// The name of a suite's file without cargo's hash; `None` for other programs.
fn suite_name(executable: &Path) -> Option<String> {
    let name = executable.file_name()?.to_str()?;
    let (name, _hash) = name.rsplit_once('-')?;
    name.starts_with(PREFIX).then(|| name.to_owned())
}

/// An executable without what only debuggers want.
fn stripped(executable: &Path, work: &Path) -> Result<Vec<u8>> {
    let to = work.join("stripped");
    process::run(Command::new("strip").arg("-o").arg(&to).arg(executable))?;
    fs::read(&to).file("read", to)
}

/// The shared libraries of a program, the loader among them. A static one has none.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .map_err(|source| Error::Spawn {
            program: "ldd".to_owned(),
            remedy: "",
            source,
        })?;
    Ok(libraries_in(&String::from_utf8_lossy(&output.stdout)))
}

/// The absolute paths that ldd names.
fn libraries_in(listing: &str) -> Vec<PathBuf> {
    listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

fn find(name: &str, package: &str) -> Result<PathBuf> {
    ["/bin", "/sbin", "/usr/bin", "/usr/sbin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| Error::Missing {
            what: format!("no program `{name}`"),
            remedy: format!("install the package {package}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_known_by_their_files() {
        let name = |file: &str| suite_name(Path::new(file));
        assert_eq!(
            name("/t/debug/deps/kernel_close-4ad2"),
            Some("kernel_close".to_owned())
        );
        assert_eq!(name("/t/debug/cwasi-agent"), None);
        assert_eq!(name("/t/debug/deps/agent_ends-4ad2"), None);
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let listing = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld-linux.so.2 (0x7f)\n";
        assert_eq!(
            libraries_in(listing),
            [Path::new("/lib/x/libc.so.6"), Path::new("/lib64/ld-linux.so.2")]
        );
        assert!(libraries_in("\tstatically linked\n").is_empty());
    }
}
