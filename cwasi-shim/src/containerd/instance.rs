//! The life of a container, as containerd asks for it.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use containerd_shimkit::sandbox::sync::WaitableCell;
use containerd_shimkit::sandbox::{Error, Instance as SandboxInstance, InstanceConfig};

use super::bundle::{Bundle, guest_config};
use super::compile::{compile, warm_up};
use super::container::Container;
use super::function::{Function, agent_socket, describe};
use super::leaf::{Leaf, key};
use super::pidfd::{PidFd, Reaped};
use super::workload::Workload;
use crate::exit;

/// A container of this shim.
pub struct Instance {
    id: String,
    container: Container,
    process: PidFd,
    /// Taken by the one task that waits.
    reaped: Mutex<Option<Reaped>>,
    guest: Option<Guest>,
    exit: WaitableCell<(u32, DateTime<Utc>)>,
}

/// What only a guest has.
#[derive(Clone, Debug)]
struct Guest {
    leaf: Leaf,
    function: Function,
}

impl Guest {
    /// Gives the guest its leaf, and makes the agent know it. A host on which that fails runs the guest on plain TCP.
    fn begin(bundle: &Bundle, config: &InstanceConfig, id: &str, pid: i32) -> Option<Self> {
        let namespace = &config.namespace;
        let leaf = Leaf::of_guest(pid.unsigned_abs(), namespace, id)
            .map_err(|error| log::warn!("{id} stays on TCP: {error}"))
            .ok()?;
        let function = Function::new(agent_socket(), key(namespace, id), leaf.path().to_owned());
        function.begin(&describe(bundle, namespace, id, pid, leaf.path()));
        Some(Self { leaf, function })
    }

    /// May be called any number of times.
    fn end(&self) {
        if let Err(error) = self.function.end() {
            log::warn!("{error}");
        }
        if let Err(error) = self.leaf.remove() {
            log::warn!("{error}");
        }
    }
}

impl SandboxInstance for Instance {
    async fn new(id: String, config: &InstanceConfig) -> Result<Self, Error> {
        let bundle = Bundle::load(&config.bundle)?;
        let address = Path::new(&config.containerd_address);
        let code = match Workload::find(&bundle, &id, address, &config.namespace).await? {
            Workload::Native => None,
            Workload::Guest { name, wasm } => {
                // Bad annotations are told before anything is compiled.
                guest_config(&bundle.spec)?;
                let compiled = compile(&name, wasm)?;
                for error in &compiled.cache_errors {
                    log::warn!("{name}: {error}");
                }
                let origin = if compiled.cached {
                    "from the cache"
                } else {
                    "compiled"
                };
                log::info!("{id}: {name}: {origin}");
                Some(compiled.code)
            }
        };
        let is_guest = code.is_some();
        let container = Container::create(&id, config, code)?;
        let (process, reaped) = match PidFd::open(container.pid) {
            Ok(opened) => opened,
            Err(error) => {
                container.delete()?;
                return Err(error.into());
            }
        };
        let guest = is_guest
            .then(|| Guest::begin(&bundle, config, &id, container.pid))
            .flatten();
        if bundle.is_sandbox() {
            // The containers of the pod come next; the engine is ready for them then.
            tokio::task::spawn_blocking(|| warm_up().map_err(|error| log::warn!("{error}")));
        }
        Ok(Self {
            id,
            container,
            process,
            reaped: Mutex::new(Some(reaped)),
            guest,
            exit: WaitableCell::new(),
        })
    }

    async fn start(&self) -> Result<u32, Error> {
        let taken = self.reaped.lock().unwrap_or_else(PoisonError::into_inner).take();
        let reaped =
            taken.ok_or_else(|| Error::FailedPrecondition(format!("{} was started before", self.id)))?;
        let exit = self.exit.clone();
        // Whatever happens to the waiting task, containerd gets an end.
        let guard = exit
            .clone()
            .set_guard_with(|| (u32::from(exit::MEMORY_LIMIT), Utc::now()));
        self.container.start()?;
        let (id, process, guest) = (self.id.clone(), self.process.clone(), self.guest.clone());
        tokio::spawn(async move {
            let _guard = guard;
            let status = process.wait(reaped).await.unwrap_or_else(|error| {
                log::error!("{id}: {error}");
                u32::from(exit::HOST)
            });
            let ended = Utc::now();
            if let Some(guest) = guest {
                // Before containerd hears of the end: who then looks finds nothing.
                let _ = tokio::task::spawn_blocking(move || guest.end()).await;
            }
            let _ = exit.set((status, ended));
        });
        Ok(self.container.pid.unsigned_abs())
    }

    async fn kill(&self, signal: u32) -> Result<(), Error> {
        Ok(self.process.kill(signal)?)
    }

    async fn delete(&self) -> Result<(), Error> {
        if let Some(guest) = &self.guest {
            guest.end();
        }
        Ok(self.container.delete()?)
    }

    async fn wait(&self) -> (u32, DateTime<Utc>) {
        *self.exit.wait().await
    }
}
