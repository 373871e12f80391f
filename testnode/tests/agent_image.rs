//! The agent's image as a DaemonSet runs it: a user that is not root, three capabilities (and a fourth on hybrid hosts), a root that cannot be written, the seccomp
//! profile, and of the node only the directories that it needs.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cwasi_client::cgroup;
use cwasi_client::client::Client;
use cwasi_client::protocol::Request;
use cwasi_testnode::functions::Echo;
use cwasi_testnode::images::{File, Image};
use cwasi_testnode::{ContainerSpec, Error, Node, Pod, PodSpec, Result, built, node_tests, wait};
use xtask::dist::{Release, SECCOMP, agent_image};
use xtask::paths;

node_tests!(
    the_agent_accelerates_without_root,
    the_agent_says_what_its_container_lacks,
);

/// Messages that show that the kernel moves them.
const ENOUGH: u64 = 1000;

/// The image of the agent that is built, with the libraries that it needs where it is not static; made once, as it is large.
fn image() -> Result<Image> {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    if let Some(image) = IMAGE.get() {
        return Ok(image.clone());
    }
    let program = built("cwasi-agent", "cwasi-agent")?;
    let libraries = libraries(&program)?;
    let libraries: Vec<File<'_>> = libraries
        .iter()
        .map(|(path, content)| File {
            path,
            mode: 0o755,
            content,
            ..File::default()
        })
        .collect();
    let release = Release {
        version: "0.0.0-test",
        epoch: 0,
        revision: "none".to_owned(),
    };
    let image = agent_image(&release, &read(&program), &libraries);
    Ok(IMAGE.get_or_init(|| image).clone())
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// Paths and contents of what the program is linked with.
fn libraries(program: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let printed = wait::succeed(Command::new("ldd").arg(program))?;
    let paths = printed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths
        .map(|path| (path.to_owned(), read(Path::new(path))))
        .collect())
}

/// What the DaemonSet's pod has of the node.
struct Place {
    socket: PathBuf,
    bpffs: PathBuf,
    image: String,
}

impl Place {
    fn new(node: &Node) -> Result<Self> {
        let image = image()?;
        node.import(&image)?;
        let bpffs = Path::new("/sys/fs/bpf").join(node.name());
        // As a kubelet makes it; it is removed with the node.
        node.namespaces().run(|| {
            fs::create_dir(&bpffs).unwrap_or_else(|error| panic!("mkdir {}: {error}", bpffs.display()));
            Ok(())
        })?;
        Ok(Self {
            socket: node.agent().socket(),
            bpffs,
            image: image.reference().to_owned(),
        })
    }

    fn container(&self, name: &str) -> ContainerSpec {
        let hybrid = is_hybrid().expect("cgroup v2");
        let run = self.socket.parent().expect("the socket is in a directory");
        ContainerSpec::new(name, &self.image)
            .mount(run, "/run/cwasi", false)
            .mount(&self.bpffs, "/bpf", false)
            .mount(Path::new("/sys/fs/cgroup"), "/sys/fs/cgroup", !hybrid)
            .env("CWASI_BPFFS", "/bpf")
            .readonly()
    }

    /// Makes the directories the user's, as the pod's init container does, by root with two capabilities.
    fn prepare(&self, pod: &Pod<'_>) -> Result<()> {
        let spec = self.container("prepare").args(["prepare", "--user", "65532"]);
        let prepare = pod.run(&spec.user(0).confined().capabilities(&["CHOWN", "DAC_OVERRIDE"]))?;
        assert_eq!(prepare.wait()?, 0, "{}", prepare.stderr()?);
        prepare.remove()
    }

    fn call(&self, request: &Request) -> Result<()> {
        let mut client = Client::connect(&self.socket)?;
        client.call(request)?;
        Ok(())
    }
}

/// Whether containers have no cgroup v2 of their own: the self-test then needs one of its own, and the right to enter it.
fn is_hybrid() -> Result<bool> {
    Ok(cgroup::unified_root()? != Path::new("/sys/fs/cgroup"))
}

/// Runs the agent with these capabilities for as long as the test asks.
fn with_agent(node: &Node, capabilities: &[&str], test: impl FnOnce(&Pod<'_>) -> Result<()>) -> Result<()> {
    let place = Place::new(node)?;
    let pod = node.pod(&PodSpec::new("agent").runtime("runc"))?;
    place.prepare(&pod)?;
    let hybrid: &[&str] = if is_hybrid()? { &["DAC_OVERRIDE"] } else { &[] };
    let spec = place
        .container("agent")
        .env("CWASI_METRICS_ADDR", "0.0.0.0:9464")
        .capabilities(&[capabilities, hybrid].concat())
        .seccomp(&paths::root().join(SECCOMP));
    let agent = pod.run(&spec)?;
    wait::until("the agent serves", || {
        if let Ok(code) = agent.state().map(|state| format!("{state:?}"))
            && code.contains("Exited")
        {
            return Err(Error::Output {
                program: "the agent's container".to_owned(),
                detail: agent.stderr()?,
            });
        }
        Ok(place.call(&Request::Version).ok())
    })?;
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()?)).expect("read its status");
    let has = |line: &str| status.lines().any(|found| found.starts_with(line));
    assert!(
        has("Uid:\t65532\t65532\t65532\t65532") && has("Seccomp:\t2"),
        "{status}"
    );
    test(&pod)?;
    place.call(&Request::Unload)?;
    assert_eq!(agent.wait()?, 0, "{}", agent.stderr()?);
    agent.remove()?;
    pod.remove()
}

/// The answer to a GET of the agent's own pod.
fn get(pod: &Pod<'_>, path: &str) -> Result<String> {
    let address = format!("{}:9464", pod.ip()?);
    pod.run_inside(|| {
        let mut answer = String::new();
        let asked = TcpStream::connect(&address).and_then(|mut stream| {
            write!(stream, "GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n")?;
            stream.read_to_string(&mut answer)
        });
        asked.unwrap_or_else(|error| panic!("GET {path} of {address}: {error}"));
        Ok(answer)
    })
}

fn the_agent_accelerates_without_root(node: &Node) -> Result<()> {
    with_agent(node, &["BPF", "NET_ADMIN", "PERFMON"], |pod| {
        let status = node.agent().status()?;
        assert_eq!(status.degraded, []);
        assert!(status.accelerating);
        assert!(get(pod, "/readyz")?.contains(" 200 OK"));
        let pods = Echo::start(node)?;
        let ping = pods.ping("ping", 10_000_000)?;
        wait::until("the kernel moves the messages", || {
            let function = node.agent().function("default", "client", "ping")?;
            Ok((function.sent.redirect_messages > ENOUGH).then_some(()))
        })?;
        assert!(get(pod, "/metrics")?.contains("cwasi_bytes_total{"));
        ping.remove()?;
        wait::until("the agent forgets a function that ended", || {
            Ok((node.agent().functions()?.len() == 1).then_some(()))
        })?;
        pods.client.remove()?;
        pods.server.remove()
    })
}

fn the_agent_says_what_its_container_lacks(node: &Node) -> Result<()> {
    with_agent(node, &["BPF", "NET_ADMIN"], |_| {
        let degraded = node.agent().status()?.degraded;
        let [cause] = &degraded[..] else {
            panic!("not one cause: {degraded:?}");
        };
        assert!(cause.detail.starts_with("CAP_PERFMON is missing"), "{cause:?}");
        assert!(cause.remedy.contains("capabilities.add"), "{cause:?}");
        Ok(())
    })
}
