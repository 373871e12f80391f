//! The node on which pods are: containerd with its shim, beside the soak's own pods, with the soak's agent.

use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLockReadGuard};
use std::time::{Duration, Instant};

use cwasi_bench::interrupt;
use cwasi_testnode::images::Form;
use cwasi_testnode::{Containerd as Programs, Error as NodeError, Node, Pod, PodSpec, testing};
use nix::sys::signal::Signal;

use crate::Result;

/// How long containerd may take for what it must do in the end, restarts of its own included.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// A container's directory that containerd was deleting when it was killed, which it does not take up again: any runtime's.
const DELETED: &str = "/io.containerd.runtime.v2.task/k8s.io/.";

/// The guest of the streams between pods.
const GUEST: &str = "bulk";

/// containerd on a node of its own, and how often it was taken away.
pub(super) struct Containerd {
    node: Node,
    /// Name of the guest's image.
    image: String,
    faults: AtomicU64,
    /// Held while a pod is made: containerd forgets the network of one that it was making when it was killed, whatever its
    /// runtime (runc's as well).
    making: RwLock<()>,
    pods: AtomicU64,
}

impl Containerd {
    /// Starts one whose shims use the agent at this socket; `None`, and a line that says why, where there can be none.
    pub(super) fn start(agent: &Path) -> Result<Option<Self>> {
        let skipped = |reason: &dyn std::fmt::Display| {
            testing::skipped(&format!("pods in containerd: {reason}"));
            Ok(None)
        };
        if let Some(reason) = testing::missing() {
            return skipped(&reason);
        }
        let found = Programs::installed().and_then(|programs| Ok((programs, testing::functions()?)));
        let (programs, runtimes) = match found {
            Err(error @ NodeError::Missing { .. }) => return skipped(&error),
            found => found?,
        };
        let node = Node::start(programs, runtimes)?;
        let socket = agent.display().to_string();
        node.restart_containerd_with(&[("CWASI_SOCKET", &socket)])?;
        Ok(Some(Self {
            image: node.import_function(GUEST, Form::Rootfs)?,
            node,
            faults: AtomicU64::new(0),
            making: RwLock::default(),
            pods: AtomicU64::new(0),
        }))
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    pub(super) fn image(&self) -> &str {
        &self.image
    }

    /// How often containerd was taken away so far.
    pub(super) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Makes a pod of a name that no other one had.
    ///
    /// # Errors
    /// containerd or the shim cannot.
    pub(super) fn pod(&self, spec: impl FnOnce(&str) -> PodSpec) -> std::result::Result<Pod<'_>, NodeError> {
        let _making: RwLockReadGuard<'_, ()> = self.making.read().unwrap_or_else(PoisonError::into_inner);
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        self.node.pod(&spec(&format!("soak-{number}")))
    }

    /// Repeats what containerd refuses while it is away, or still does what was asked of it before.
    ///
    /// # Errors
    /// Its last refusal, after a minute; interrupted.
    pub(super) fn insist<T>(
        &self,
        mut attempt: impl FnMut(&Node) -> std::result::Result<T, NodeError>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            interrupt::check()?;
            match attempt(&self.node) {
                Err(NodeError::Cri { .. } | NodeError::Timeout { .. }) if Instant::now() < deadline => {}
                done => return Ok(done?),
            }
            interrupt::pause(PAUSE)?;
        }
    }

    /// Removes a pod, with what runs in it; one that is gone is no error.
    ///
    /// # Errors
    /// See [`Containerd::insist`].
    pub(super) fn remove(&self, pod: &str) -> Result<()> {
        self.insist(|node| {
            // containerd 1.6 refuses to stop one that it does not know.
            if !node.cri().pods()?.iter().any(|known| known == pod) {
                return Ok(());
            }
            node.cri().stop_pod(pod)?;
            node.cri().remove_pod(pod)
        })
    }

    /// SIGSTOP, and SIGCONT after a while.
    pub(super) fn hold(&self, length: Duration) -> Result<()> {
        self.node.signal_containerd(Signal::SIGSTOP)?;
        let paused = interrupt::pause(length);
        self.node.signal_containerd(Signal::SIGCONT)?;
        Ok(paused?)
    }

    /// Ends it by a signal, and starts it again after a while.
    pub(super) fn replace(&self, signal: Signal, after: Duration) -> Result<()> {
        let _unmade = self.making.write().unwrap_or_else(PoisonError::into_inner);
        self.faults.fetch_add(1, Ordering::Relaxed);
        self.node.stop_containerd(signal)?;
        interrupt::pause(after)?;
        self.node.start_containerd()?;
        // Whoever began meanwhile was refused because of it.
        self.faults.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the pods that are left, and says what stays of them and of others.
    pub(super) fn settle(&self) -> Result<String> {
        for pod in self.insist(|node| node.cri().pods())? {
            self.remove(&pod)?;
        }
        match self.node.settle() {
            Ok(()) => Ok(String::new()),
            Err(NodeError::Leftovers(mut left)) => {
                left.retain(|thing| !thing.contains(DELETED));
                Ok(left.join(", "))
            }
            Err(error) => Err(error.into()),
        }
    }
}
