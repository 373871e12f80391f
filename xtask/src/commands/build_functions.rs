//! `build-functions`: the guests, built reproducibly into the components and modules that are committed beside them.

use crate::error::FileContext;
use crate::rust_src::RustSrc;
use crate::toolchain::{Toolchain, encode_flags, remap_flags};
use crate::wasi::{Sysroot, WASIP1, WASIP2};
use crate::{Error, Result, apt, committed, paths, process, rustc_wrapper};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The guests' workspace and the directory of what is committed in it.
const FUNCTIONS: &str = "bench/functions";
const PREBUILT: &str = "bench/functions/prebuilt";

/// The C compiler of the committed component; another version gives other bytes.
const CLANG: &str = "clang-14";
const CLANG_VERSION: &str = "14.0.6";

/// Builds the guest functions and refreshes what is committed as bench/functions/prebuilt/*.wasm.
///
/// The build is byte-reproducible: rustc 1.95.0 with the standard library built from source (found as for build-ebpf),
/// clang 14.0.6 and Debian's wasi-libc, unpacked privately into ~/.cache/cwasi (CWASI_CACHE). Where these cannot be
/// had, the Rust guests are built with rustup's wasm32-wasip2 and wasm32-wasip1 when these are installed: they work the same, with
/// other bytes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Compare a rebuild with the committed components instead of writing them; fail when they differ, and skip, with
    /// the reason, what this machine has no tools for.
    #[arg(long)]
    check: bool,
}

/// Runs the command.
///
/// # Errors
/// What keeps the components from being built; with `--check`, [`Error::Checks`] when committed ones differ.
pub fn run(args: &Args) -> Result<()> {
    let mut built = Vec::new();
    match Rust::find(args.check) {
        Ok(rust) => built.extend(rust.build(args.check)?),
        Err(reason @ Error::Missing { .. }) if args.check => println!("skipped: Rust guests: {reason}"),
        Err(error) => return Err(error),
    }
    match C::find() {
        Ok(c) => built.push(c.build()?),
        Err(reason @ Error::Missing { .. }) => println!("skipped: echo-c.wasm: {reason}"),
        Err(error) => return Err(error),
    }
    let mut stale = 0;
    for (name, path) in built {
        let component = fs::read(&path).file("read", &path)?;
        let target = Path::new(PREBUILT).join(name);
        if !args.check {
            committed::write(&paths::root().join(target), &component)?;
        } else if let Err(error) = committed::check(&target, &component, "build-functions") {
            eprintln!("{error}");
            stale += 1;
        }
    }
    match stale {
        0 => Ok(()),
        _ => Err(Error::Checks(format!(
            "{stale} committed components differ from a rebuild"
        ))),
    }
}

/// The Rust program of the documentation, as a component; `directory` is its workspace, relative to the repository.
///
/// # Errors
/// [`Error::Missing`] without a sysroot; the build fails.
pub(super) fn rust_example(directory: &str) -> Result<PathBuf> {
    let built = Rust::find(false)?.cargo_in(directory, WASIP2, Start::Command, &["--bins"], true)?;
    let (_, component) = built.into_iter().next().ok_or_else(|| Error::Output {
        program: "cargo build".into(),
        detail: format!("no executable of {directory}"),
    })?;
    Ok(component)
}

/// The C program of the documentation, as a component; `directory` is that of its only source file.
///
/// # Errors
/// As for the Rust program.
pub(super) fn c_example(directory: &str) -> Result<PathBuf> {
    let (_, component) = C::find()?.compile(directory, "echo.c", "example-echo-c.wasm")?;
    Ok(component)
}

/// A built guest: its file's name and where it is.
type Function = (String, PathBuf);

fn target_dir() -> PathBuf {
    paths::target_dir().join("guests")
}

/// What the Rust guests are built with.
struct Rust {
    toolchain: Toolchain,
    /// The pinned sources; without them, rustup's precompiled target.
    pinned: Option<(RustSrc, Sysroot)>,
}

impl Rust {
    fn find(only_pinned: bool) -> Result<Self> {
        let toolchain = Toolchain::find()?;
        let pinned = RustSrc::find(&toolchain).and_then(|rust_src| Ok((rust_src, Sysroot::find()?)));
        match pinned {
            Ok(pinned) => Ok(Self {
                toolchain,
                pinned: Some(pinned),
            }),
            Err(reason @ Error::Missing { .. }) if has_target(&toolchain, WASIP2) && !only_pinned => {
                eprintln!(
                    "note: built with rustup's {WASIP2}, do not commit: bytes differ without the pinned sysroot ({reason})"
                );
                Ok(Self {
                    toolchain,
                    pinned: None,
                })
            }
            Err(error) => Err(error),
        }
    }

    fn build(&self, locked: bool) -> Result<Vec<Function>> {
        let mut built = self.cargo(WASIP2, Start::Command, &["--bins"], locked)?;
        // Without a main function, it is no executable to cargo.
        let libraries = [("http", "http"), ("echo-p3", "echo_p3")];
        let packages = libraries.map(|(package, _)| ["--package", package]);
        self.cargo(WASIP2, Start::Reactor, packages.as_flattened(), locked)?;
        let directory = Start::Reactor.target_dir().join(WASIP2).join("release");
        built.extend(libraries.map(|(package, library)| {
            (
                format!("{package}.wasm"),
                directory.join(format!("{library}.wasm")),
            )
        }));
        if self.has(WASIP1) {
            let modules = self.cargo(WASIP1, Start::Command, &["--bin", "inspect"], locked)?;
            built.extend(
                modules
                    .into_iter()
                    .map(|(name, path)| (name.replace(".wasm", "-p1.wasm"), path)),
            );
        } else {
            println!("skipped: inspect-p1.wasm: rustup's {WASIP1} is not installed");
        }
        Ok(built)
    }

    /// Whether this can build for `target`.
    fn has(&self, target: &str) -> bool {
        self.pinned.is_some() || has_target(&self.toolchain, target)
    }

    fn cargo(&self, target: &str, start: Start, what: &[&str], locked: bool) -> Result<Vec<Function>> {
        self.cargo_in(FUNCTIONS, target, start, what, locked)
    }

    /// Builds packages of the workspace in `directory`, relative to the repository.
    fn cargo_in(
        &self,
        directory: &str,
        target: &str,
        start: Start,
        what: &[&str],
        locked: bool,
    ) -> Result<Vec<Function>> {
        let mut cargo = self.toolchain.cargo();
        cargo
            .args(["build", "--release", "--target", target, "--target-dir"])
            .arg(start.target_dir())
            .arg("--message-format=json-render-diagnostics")
            .args(what)
            .current_dir(paths::root().join(directory));
        if locked {
            cargo.arg("--locked");
        }
        if let Some((rust_src, sysroot)) = &self.pinned {
            let crt = match start {
                Start::Command => sysroot.crt(target),
                Start::Reactor => sysroot.reactor_crt(target),
            };
            let mut flags = remap_flags(&start.target_dir(), &rust_src.library)?;
            flags.extend([
                "-Clink-self-contained=no".to_owned(),
                format!("-Clink-arg={}", crt.display()),
                format!("-Lnative={}", sysroot.lib(target).display()),
            ]);
            cargo
                .arg("-Zbuild-std=std,panic_abort")
                .env("CARGO_ENCODED_RUSTFLAGS", encode_flags(&flags));
            rust_src.apply(&mut cargo);
            rustc_wrapper::apply(&mut cargo)?;
        }
        let executables = process::executables(&process::stdout_bytes(&mut cargo)?);
        let named = |path: PathBuf| Some((path.file_name()?.to_str()?.to_owned(), path));
        Ok(executables.into_iter().filter_map(named).collect())
    }
}

/// How a guest begins.
#[derive(Clone, Copy)]
enum Start {
    /// With a main function.
    Command,
    /// With each call of what it exports.
    Reactor,
}

impl Start {
    /// Each has a directory of its own: cargo would otherwise build everything again, the standard library too, whenever the
    /// flags of the other come.
    fn target_dir(self) -> PathBuf {
        match self {
            Self::Command => target_dir(),
            Self::Reactor => target_dir().join("reactor"),
        }
    }
}

fn has_target(toolchain: &Toolchain, target: &str) -> bool {
    toolchain.lib_dir().join("rustlib").join(target).is_dir()
}

/// What the C guest is built with.
struct C {
    toolchain: Toolchain,
    sysroot: Sysroot,
}

impl C {
    fn find() -> Result<Self> {
        let toolchain = Toolchain::find()?;
        let sysroot = Sysroot::find()?;
        let version = || Command::new(CLANG).arg("--version").output();
        if version().is_err() && apt::can_install() {
            apt::install_missing(&[CLANG])?;
        }
        let found =
            version().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(CLANG_VERSION));
        if found {
            return Ok(Self { toolchain, sysroot });
        }
        Err(Error::Missing {
            what: format!("{CLANG} of version {CLANG_VERSION} is not installed"),
            remedy: format!("run `apt-get install {CLANG}` on Debian 12"),
        })
    }

    fn build(&self) -> Result<Function> {
        self.compile(FUNCTIONS, "c/echo.c", "echo-c.wasm")
    }

    /// Makes the component `name` of one source file, whose path is relative to `directory` of the repository.
    fn compile(&self, directory: &str, source: &str, name: &str) -> Result<Function> {
        let out = target_dir().join("c");
        fs::create_dir_all(&out).file("create", &out)?;
        let component = out.join(name);
        let object = component.with_extension("o");
        process::run(
            Command::new(CLANG)
                // clang 14 knows this target by the name it had before there were two versions of WASI.
                .args([
                    "--target=wasm32-wasi",
                    "-D__wasip2__",
                    "-O2",
                    "-Wall",
                    "-Wextra",
                    "-Werror",
                    "-nostdlibinc",
                ])
                .arg("-isystem")
                .arg(self.sysroot.include())
                .args(["-c", source, "-o"])
                .arg(&object)
                .current_dir(paths::root().join(directory)),
        )?;
        process::run(
            Command::new(self.toolchain.tool("wasm-component-ld"))
                .arg("--wasm-ld-path")
                .arg(self.toolchain.tool("gcc-ld").join("wasm-ld"))
                .arg(self.sysroot.crt(WASIP2))
                .arg(&object)
                .arg(format!("-L{}", self.sysroot.lib(WASIP2).display()))
                .arg("-lc")
                .arg(self.sysroot.builtins())
                .args(["--strip-all", "-o"])
                .arg(&component),
        )?;
        Ok((name.to_owned(), component))
    }
}
