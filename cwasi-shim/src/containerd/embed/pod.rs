//! Which guests of the shim's pod run in one process.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sha2::{Digest, Sha256};

use super::handle::{Handle, Sandbox};
use super::terms::{Terms, check_resources};
use super::wire::{Channel, WireError};
use super::{DIRECTORY, EMBED};
use crate::containerd::bundle::{Bundle, NAME};
use crate::containerd::error::ShimError;

/// The shim's pod, as far as its guests share processes.
#[derive(Debug)]
pub struct Embedding {
    namespace: String,
    /// The pod's sandbox, which is created before every other container.
    sandbox: OnceLock<Sandbox>,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    process: Option<(Arc<Handle>, Terms)>,
    /// Processes that were started so far.
    processes: u32,
    /// Guests that joined so far.
    guests: u64,
}

impl Embedding {
    /// The pod of a shim that serves containerd's namespace `namespace`.
    #[must_use]
    pub fn new(namespace: String) -> Self {
        Self {
            namespace,
            sandbox: OnceLock::new(),
            current: Mutex::default(),
        }
    }

    /// Remembers the pod's sandbox.
    pub fn sandbox(&self, id: &str, bundle: &Bundle) {
        // A shim has one pod.
        let _ = self.sandbox.set(Sandbox {
            namespace: self.namespace.clone(),
            id: id.to_owned(),
            bundle: bundle.clone(),
        });
    }

    /// Whether the guest of this container shares a process with others, as its own annotation says, or the pod's.
    ///
    /// # Errors
    /// [`ShimError::Annotation`].
    pub fn applies(&self, bundle: &Bundle) -> Result<bool, ShimError> {
        let of_pod = || self.sandbox.get()?.bundle.annotation(EMBED);
        let wanted = match bundle.annotation(EMBED).or_else(of_pod) {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(ShimError::annotation(EMBED, other, "it is `true` or `false`")),
        };
        if wanted && self.sandbox.get().is_none() {
            log::warn!("annotation {EMBED} has no effect: this container is not in a pod");
            return Ok(false);
        }
        Ok(wanted)
    }

    /// Makes room for the guest of the container `id` in the pod's process, which is started if there is none. Gives the
    /// stand-in's end of their connection.
    ///
    /// # Errors
    /// [`ShimError::Embed`] when the container asks for what functions of one process cannot have.
    pub fn join(
        self: &Arc<Self>,
        id: &str,
        bundle: &Bundle,
        code: &impl AsFd,
    ) -> Result<(Membership, Channel), ShimError> {
        let linux = bundle.spec.linux().as_ref();
        if let Some(resources) = linux.and_then(|linux| linux.resources().as_ref()) {
            check_resources(resources)?;
        }
        let name = bundle.container_name().unwrap_or(id);
        let function = self.name_of(bundle).unwrap_or(name);
        let terms = Terms::of(name, &bundle.spec);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = current.process.take().filter(|(process, _)| process.is_alive());
        if let Some((_, first)) = &alive {
            first
                .admit(&terms)
                .inspect_err(|_| current.process = alive.clone())?;
        }
        let (process, terms) = match alive {
            Some(alive) => alive,
            None => (self.start(&mut current, bundle, function)?, terms),
        };
        current.process = Some((Arc::clone(&process), terms));
        current.guests += 1;
        let guest = current.guests;
        let admitted = Channel::pair().map_err(broken).and_then(|(stand_in, its)| {
            process.admit(guest, function, &its, code)?;
            Ok(stand_in)
        });
        drop(current);
        // Whatever comes of it: it has a place now, which it leaves with its end.
        let membership = Membership {
            pod: Arc::clone(self),
            process,
            guest,
            left: Mutex::new(false),
        };
        let stand_in = admitted?;
        if let Some(score) = bundle
            .spec
            .process()
            .as_ref()
            .and_then(|process| process.oom_score_adj())
        {
            membership.process.spare(score);
        }
        Ok((membership, stand_in))
    }

    /// The name that the container itself is given. The pod's annotations are its containers', too, and name the pod.
    fn name_of<'b>(&self, bundle: &'b Bundle) -> Option<&'b str> {
        let of_pod = self
            .sandbox
            .get()
            .and_then(|sandbox| sandbox.bundle.annotation(NAME));
        bundle.annotation(NAME).filter(|name| Some(*name) != of_pod)
    }

    /// Takes a guest's place back.
    fn release(&self, process: &Arc<Handle>, guest: u64) {
        process.wait_gone(guest);
        // Nobody joins meanwhile.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let last = process.forget(guest);
        if last {
            current.process.take_if(|(other, _)| Arc::ptr_eq(other, process));
        }
        drop(current);
        if last {
            process.end();
        }
    }

    fn start(&self, current: &mut Current, first: &Bundle, name: &str) -> Result<Arc<Handle>, ShimError> {
        let Some(sandbox) = self.sandbox.get() else {
            return Err(ShimError::Embed("there is no pod".to_owned()));
        };
        current.processes += 1;
        let number = current.processes;
        let id = format!("{}-functions-{number}", sandbox.id);
        let dir: PathBuf = sandbox.bundle.dir.join(DIRECTORY).join(&id);
        let cgroup = cgroup_name(&sandbox.id, number);
        Handle::start(sandbox, &id, &cgroup, &dir, first, name)
    }
}

fn broken(error: WireError) -> ShimError {
    ShimError::Process(format!("a connection to its function: {error}"))
}

/// Names the cgroup of a process of functions. Not by the sandbox's id: where cAdvisor finds one in the path of a cgroup, it
/// takes that for the container's own.
fn cgroup_name(sandbox: &str, number: u32) -> String {
    let digest = Sha256::digest(sandbox.as_bytes());
    let short: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("cwasi-{short}-{number}")
}

/// A guest's place in the pod's process.
#[derive(Debug)]
pub struct Membership {
    pod: Arc<Embedding>,
    process: Arc<Handle>,
    guest: u64,
    left: Mutex<bool>,
}

impl Membership {
    /// Waits until nothing of the guest is left in the process, which ends with its last guest. The stand-in has ended, or was
    /// never made. May be called any number of times.
    pub fn leave(&self) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *left, true) {
            self.pod.release(&self.process, self.guest);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
    }
}
