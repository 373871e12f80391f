//! A guest as a function of the node's agent.

use std::path::{Path, PathBuf};
use std::sync::Once;

use cwasi_client::announce::Announcements;
use cwasi_client::client::{Client, ClientError};
use cwasi_client::netns;
use cwasi_client::protocol::{FunctionSpec, Sockets};

use super::bundle::{Bundle, NAME, Pod};
use super::leaf::{Leaf, key};
use crate::enrol::AGENT_TIMEOUT;

/// Socket of the agent, where it is not the default.
pub const SOCKET_VARIABLE: &str = "CWASI_SOCKET";

/// The agent's socket, as this process's environment says.
#[must_use]
pub fn agent_socket() -> PathBuf {
    std::env::var_os(SOCKET_VARIABLE)
        .map_or_else(|| PathBuf::from(cwasi_client::DEFAULT_SOCKET), PathBuf::from)
}

/// A guest that the agent knows, or will know when it comes.
#[derive(Clone, Debug)]
pub struct Function {
    socket: PathBuf,
    key: String,
    cgroup: PathBuf,
}

impl Function {
    /// The function that was begun under `key` with this cgroup, by whichever process.
    #[must_use]
    pub const fn new(socket: PathBuf, key: String, cgroup: PathBuf) -> Self {
        Self { socket, key, cgroup }
    }

    /// Announces the function, and registers it where an agent answers soon enough. Without one the guest runs all the same;
    /// the agent registers what is announced when it comes. Gives whether its connections are accelerated by now.
    pub fn begin(&self, mut spec: FunctionSpec) -> bool {
        // What annotations say beside must not cost the function its acceleration.
        let left_out = spec.fit_labels();
        if let Some(first) = left_out.first() {
            let count = left_out.len();
            log::warn!(
                "{}: {count} annotations cannot be labels of it, {first:?} for one",
                spec.name
            );
        }
        let spec = &spec;
        if let Err(error) = Announcements::beside(&self.socket).put(&self.key, spec) {
            log::warn!("an agent that comes later will not know {}: {error}", spec.name);
        }
        let registered =
            Client::connect_timeout(&self.socket, AGENT_TIMEOUT).and_then(|mut client| client.register(spec));
        let accelerated = matches!(&registered, Ok(registered) if registered.accelerated);
        match registered {
            Ok(registered) => match registered.reason {
                None => log::info!("function {}: {}/{}", registered.id, spec.namespace, spec.name),
                Some(reason) => log::warn!(
                    "function {}: {}/{} is not accelerated: {reason}",
                    registered.id,
                    spec.namespace,
                    spec.name
                ),
            },
            Err(error) if error.is_no_agent() => {
                static SAID: Once = Once::new();
                SAID.call_once(|| log::warn!("connections stay on TCP until there is an agent: {error}"));
            }
            Err(error) => log::warn!("{}/{} stays on TCP: {error}", spec.namespace, spec.name),
        }
        accelerated
    }

    /// Takes the function back. One that is not known is no error.
    ///
    /// # Errors
    /// The agent is there and did not do it. It forgets the function when the cgroup is gone.
    pub fn end(&self) -> Result<(), ClientError> {
        // First, or an agent that starts right now would register it once more.
        if let Err(error) = Announcements::beside(&self.socket).remove(&self.key) {
            log::warn!("{error}");
        }
        let ended = Client::connect_timeout(&self.socket, AGENT_TIMEOUT)
            .and_then(|mut client| client.unregister_cgroup(&self.cgroup));
        match ended {
            Err(error) if !error.is_no_agent() => Err(error),
            _ => Ok(()),
        }
    }
}

/// A process with guests in a leaf of its own, which the agent knows, or will know when it comes.
#[derive(Debug)]
pub struct Enrolled {
    leaf: Leaf,
    function: Function,
    accelerated: bool,
}

impl Enrolled {
    /// Gives the first process of the container `id` its leaf, and makes the agent know it as what `describe` says of the leaf.
    /// A host on which that fails runs the guest on plain TCP.
    pub fn begin(
        pid: u32,
        bundle: &Path,
        containerd_namespace: &str,
        id: &str,
        describe: impl FnOnce(&Path) -> FunctionSpec,
    ) -> Option<Self> {
        let leaf = Leaf::of_guest(pid, bundle, containerd_namespace, id)
            .map_err(|error| log::warn!("{id} stays on TCP: {error}"))
            .ok()?;
        let key = key(bundle, containerd_namespace, id);
        let function = Function::new(agent_socket(), key, leaf.path().to_owned());
        let accelerated = function.begin(describe(leaf.path()));
        Some(Self {
            leaf,
            function,
            accelerated,
        })
    }

    /// Whether its connections were accelerated from its beginning.
    #[must_use]
    pub const fn accelerated(&self) -> bool {
        self.accelerated
    }

    /// The leaf.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        self.leaf.path()
    }

    /// Makes the agent know it as something else.
    pub fn describe(&self, describe: impl FnOnce(&Path) -> FunctionSpec) {
        self.function.begin(describe(self.leaf.path()));
    }

    /// May be called any number of times.
    pub fn end(&self) {
        if let Err(error) = self.function.end() {
            log::warn!("{error}");
        }
        if let Err(error) = self.leaf.remove() {
            log::warn!("{error}");
        }
    }
}

/// What the agent is told of the guest of a container whose first process is `pid`.
#[must_use]
pub fn describe(
    bundle: &Bundle,
    containerd_namespace: &str,
    id: &str,
    pid: u32,
    cgroup: &Path,
) -> FunctionSpec {
    let Pod {
        name: pod,
        namespace,
        uid,
    } = bundle.pod();
    let own = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let netns = bundle.netns().map(Path::to_owned);
    let addresses =
        netns::run(netns.as_deref().unwrap_or(&own), netns::function_addresses).and_then(|found| found);
    let mut labels = bundle.labels();
    labels.extend(uid.map(|uid| ("io.kubernetes.pod.uid".to_owned(), uid)));
    let container = bundle.container_name().map(str::to_owned);
    FunctionSpec {
        name: bundle
            .annotation(NAME)
            .or(container.as_deref())
            .unwrap_or(id)
            .to_owned(),
        namespace: namespace.unwrap_or_else(|| containerd_namespace.to_owned()),
        pod,
        container,
        members: Vec::new(),
        labels,
        cgroup: Some(cgroup.to_owned()),
        netns: netns.or_else(|| addresses.is_err().then_some(own)),
        // The engine never waits in a read, and reads until EAGAIN; and an agent that comes later cannot tell how older listeners wait.
        sockets: Sockets::All,
        addresses: addresses.unwrap_or_else(|error| {
            log::warn!("addresses of {id}: {error}");
            Vec::new()
        }),
    }
}
