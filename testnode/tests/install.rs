//! The installer on a node whose containerd knows nothing of functions: they run afterwards, and nothing of it is left in the end.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use cwasi_testnode::cri::Stream;
use cwasi_testnode::images::Form;
use cwasi_testnode::{ContainerSpec, Error, Node, PodSpec, Result, built, node_tests, testing, wait};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

node_tests!(native:
    functions_run_on_an_installed_node_and_nothing_stays,
    a_drop_in_does_as_well,
    a_containerd_that_does_not_start_has_its_configuration_again,
);

/// All that the installer needs, of util-linux's setpriv(1): the node's root as its own, and files of any owner.
const RIGHTS: &str = "-all,+sys_chroot,+chown,+fowner,+dac_override";

/// The installer as a container has it: the node's root is a directory.
struct Installer<'node> {
    node: &'node Node,
    /// Where the node's root is mounted.
    root: PathBuf,
    /// The test's own directory.
    directory: PathBuf,
    payload: PathBuf,
    program: PathBuf,
}

impl<'node> Installer<'node> {
    fn new(node: &'node Node) -> Result<Self> {
        let program = built("cwasi-installer", "cwasi-installer")?;
        let shim = built("containerd-shim-cwasi-v1", "cwasi-shim --features containerd")?;
        let payload = node.directory("payload")?;
        symlink(
            shim.parent().expect("a file has a directory"),
            payload.join("bin"),
        )
        .expect("a new directory");
        let (root, directory) = (node.directory("root")?, node.directory("files")?);
        node.namespaces().run(|| {
            // As the volume of a DaemonSet, with everything that is mounted below.
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some("/"), &root, None::<&str>, flags, None::<&str>).expect("root may mount");
            Ok(())
        })?;
        Ok(Self {
            node,
            root,
            directory,
            payload,
            program,
        })
    }

    fn prefix(&self) -> PathBuf {
        self.directory.join("opt/cwasi")
    }

    /// Runs a command; containerd is restarted when the installer asks for it, with these results, and then with success.
    fn run(&self, arguments: &[&OsStr], results: &[i32]) -> Result<Output> {
        let (asked, done) = (self.directory.join("asked"), self.directory.join("done"));
        let restart = format!(
            "echo > {asked}; until [ -e {done} ]; do sleep 0.02; done; read result < {done}; rm {done}; exit $result",
            asked = asked.display(),
            done = done.display(),
        );
        let mut command = Command::new("setpriv");
        command
            // The rights of the DaemonSet's container.
            .args(["--bounding-set", RIGHTS, "--inh-caps", RIGHTS, "--no-new-privs"])
            .arg(&self.program)
            .arg("--host-root")
            .arg(&self.root)
            .arg("--config")
            .arg(self.node.config())
            .arg("--prefix")
            .arg(self.prefix())
            .arg("--containerd")
            .arg(self.node.containerd().bin.join("containerd"))
            .args(["--restart", "command", "--restart-command", &restart])
            .args(arguments);
        thread::scope(|scope| {
            let mut results = results.iter();
            let running = scope.spawn(|| self.node.namespaces().run(|| wait::output(&mut command)));
            while !running.is_finished() {
                if asked.exists() {
                    fs::remove_file(&asked).expect("it exists");
                    self.node.stop_containerd(Signal::SIGTERM)?;
                    self.node.start_containerd()?;
                    // Renamed, so that it is not read before it is written.
                    let written = self.directory.join("result");
                    fs::write(&written, format!("{}\n", results.next().unwrap_or(&0)))
                        .expect("an own directory");
                    fs::rename(&written, &done).expect("an own directory");
                }
                thread::sleep(std::time::Duration::from_millis(10));
            }
            running.join().expect("it does not panic")
        })
    }

    fn install(&self, results: &[i32]) -> Result<Output> {
        let words = ["install", "--payload"].map(OsStr::new);
        self.run(&[words[0], words[1], self.payload.as_os_str()], results)
    }

    fn uninstall(&self) -> Result<Output> {
        let cache = self.node.cache();
        let words = ["uninstall", "--cache-dir"].map(OsStr::new);
        self.run(&[words[0], words[1], cache.as_os_str()], &[])
    }
}

impl Drop for Installer<'_> {
    fn drop(&mut self) {
        let unmounted = self.node.namespaces().run(|| {
            umount2(&self.root, MntFlags::MNT_DETACH).expect("mounted before");
            Ok(())
        });
        if let Err(error) = unmounted {
            eprintln!("{} stays mounted: {error}", self.root.display());
        }
    }
}

fn succeeds(output: &Output) -> String {
    let text = wait::text(&output.stdout);
    assert!(output.status.success(), "{}{text}", wait::text(&output.stderr));
    text
}

/// Names and bytes of everything beside containerd's configuration that an installer could leave.
fn files(node: &Node) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let directory = node.config().parent().expect("a file has a directory").to_owned();
    let mut todo = vec![directory.join("test/files")];
    let entries = fs::read_dir(&directory)
        .expect("the node's own")
        .map(|entry| entry.expect("it is read").path());
    let mut found: Vec<_> = entries
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().contains("config.toml"))
        })
        .map(|path| (path.clone(), fs::read(path).ok()))
        .collect();
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            found.push((path.clone(), fs::read(&path).ok()));
            todo.extend(path.is_dir().then_some(path));
        }
    }
    found.sort();
    found
}

/// What a function prints that runs to its end in a pod of its own.
fn run_function(node: &Node, name: &str) -> Result<()> {
    let image = node.import_function("inspect", Form::Rootfs)?;
    let pod = node.pod(&PodSpec::new(name))?;
    let spec = ContainerSpec::new("inspect", &image).args(["--exit", "3"]);
    let container = pod.run(&spec.annotation("cwasi.dev/name", name))?;
    assert_eq!(container.wait()?, 3, "{}", container.stderr()?);
    assert!(
        container.stdout()?.contains("\"args\""),
        "{}",
        container.stdout()?
    );
    container.remove()?;
    end(node, pod.id())
}

/// Removes a pod, and waits until nothing of the shim runs any more.
fn end(node: &Node, pod: &str) -> Result<()> {
    node.cri().stop_pod(pod)?;
    node.cri().remove_pod(pod)?;
    wait::until("no shim is left", || {
        Ok(node
            .processes_like(&["containerd-shim-cwasi-v1"])
            .is_empty()
            .then_some(()))
    })
}

fn has_no_handler(node: &Node) {
    match node.pod(&PodSpec::new("none")) {
        Err(Error::Cri { message, .. }) => assert!(message.contains("no runtime for \"cwasi\""), "{message}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("there is a handler"),
    }
}

fn functions_run_on_an_installed_node_and_nothing_stays(node: &Node) -> Result<()> {
    has_no_handler(node);
    let installer = Installer::new(node)?;
    let before = files(node);
    let message = succeeds(&installer.install(&[])?);
    assert!(message.contains("config.toml"), "{message}");
    run_function(node, "first")?;
    // A second time nothing is restarted, and nothing changes.
    let installed = fs::read(node.config()).expect("the node's own");
    assert!(succeeds(&installer.install(&[])?).contains("installed already"));
    assert_eq!(fs::read(node.config()).expect("the node's own"), installed);
    // Functions that run keep the runtime.
    let image = node.import_function("inspect", Form::Wasm)?;
    let pod = node.pod(&PodSpec::new("long"))?;
    let spec = ContainerSpec::new("long", &image).args(["--sleep", "1000"]);
    pod.run(&spec)?.says(Stream::Stdout, "\"args\"")?;
    let refused = installer.uninstall()?;
    let line = wait::text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{line}");
    assert!(line.contains("functions run on this node"), "{line}");
    end(node, pod.id())?;
    succeeds(&installer.uninstall()?);
    assert_eq!(files(node), before);
    assert!(!node.cache().exists());
    has_no_handler(node);
    Ok(())
}

fn a_drop_in_does_as_well(node: &Node) -> Result<()> {
    if !node.containerd().is_2() {
        testing::skipped(&format!(
            "{} does not merge files of one plugin",
            node.containerd()
        ));
        return Ok(());
    }
    let directory = node.directory("files")?.join("conf.d");
    let config = fs::read_to_string(node.config()).expect("the node's own");
    let config = config.replacen(
        '\n',
        &format!("\nimports = [\"{}/*.toml\"]\n", directory.display()),
        1,
    );
    fs::write(node.config(), &config).expect("the node's own");
    let installer = Installer::new(node)?;
    let before = files(node);
    let message = succeeds(&installer.install(&[])?);
    assert!(message.contains("conf.d/cwasi.toml"), "{message}");
    assert_eq!(fs::read_to_string(node.config()).expect("the node's own"), config);
    run_function(node, "dropped-in")?;
    succeeds(&installer.uninstall()?);
    assert_eq!(files(node), before);
    has_no_handler(node);
    Ok(())
}

fn a_containerd_that_does_not_start_has_its_configuration_again(node: &Node) -> Result<()> {
    let installer = Installer::new(node)?;
    let before = files(node);
    let failed = installer.install(&[7])?;
    let line = wait::text(&failed.stderr);
    assert_eq!(failed.status.code(), Some(4), "{line}");
    assert!(line.contains("exit status: 7"), "{line}");
    assert_eq!(files(node), before);
    // With its old configuration neither, as far as the command tells: what was done is known still, and can be undone.
    let failed = installer.install(&[7, 7])?;
    assert_eq!(failed.status.code(), Some(6), "{}", wait::text(&failed.stderr));
    succeeds(&installer.uninstall()?);
    assert_eq!(files(node), before);
    // One that would not have its CRI any more.
    let config = fs::read_to_string(node.config()).expect("the node's own");
    let broken = config.replace(
        "default_runtime_name = \"runc\"",
        "default_runtime_name = \"gone\"",
    );
    fs::write(node.config(), &broken).expect("the node's own");
    let failed = installer.install(&[])?;
    let line = wait::text(&failed.stderr);
    assert_eq!(failed.status.code(), Some(4), "{line}");
    assert!(line.contains("gone"), "{line}");
    assert_eq!(fs::read_to_string(node.config()).expect("the node's own"), broken);
    fs::write(node.config(), &config).expect("the node's own");
    assert_eq!(files(node), before);
    has_no_handler(node);
    runs_native_programs(node)
}

/// Other pods run as ever.
fn runs_native_programs(node: &Node) -> Result<()> {
    node.import(&cwasi_testnode::native::PEER.image()?)?;
    let pod = node.pod(&PodSpec::new("native").runtime("runc"))?;
    let spec = ContainerSpec::new("listen", "docker.io/local/peer:1");
    let container = pod.run(&spec.args(["nonsense"]))?;
    assert_ne!(container.wait()?, 0);
    Ok(())
}
