//! The process of `cwasi-run` as one function of the agent's.

use std::path::PathBuf;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cwasi_client::protocol::{FunctionSpec, Sockets};
use nix::sys::signal::Signal;

use super::command_line::{CommandLine, FunctionFlags};
use super::note;
use crate::enrol::Enrolment;
use crate::exit;
use crate::sockets::LocalNetwork;

/// The enrolment, where both the end of the guests and a signal find it. Whoever changes it holds the lock until that is
/// done, so that neither ends the process in the middle of the other's work.
#[derive(Clone, Default)]
pub(super) struct Registration(Arc<Mutex<Option<Enrolment>>>);

impl Registration {
    fn lock(&self) -> MutexGuard<'_, Option<Enrolment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers the process under the name of its first function, and the connections of `network` with it.
    pub(super) fn begin(&self, line: &CommandLine, netns: Option<PathBuf>, network: Option<LocalNetwork>) {
        let names: Vec<String> = line.functions.iter().map(FunctionFlags::name).collect();
        let spec = FunctionSpec {
            name: names[0].clone(),
            namespace: line.process.namespace.clone(),
            members: if network.is_some() { names } else { Vec::new() },
            // Paths below /proc may mean something else to the agent; it then looks at this process.
            netns: netns
                .and_then(|path| std::path::absolute(path).ok())
                .filter(|path| !path.starts_with("/proc")),
            // The engine never waits in a read, and reads until EAGAIN.
            sockets: Sockets::All,
            ..FunctionSpec::default()
        };
        let function = format!("{}/{}", spec.namespace, spec.name);
        let mut enrolment = self.lock();
        let begun = Enrolment::begin(&line.process.socket, spec);
        let begun = begun.and_then(|begun| match network {
            Some(network) => begun.reporting(network, |error| {
                note(&format_args!(
                    "connections in this process are not shown: {error}"
                ));
            }),
            None => Ok(begun),
        });
        match begun {
            Ok(begun) => {
                if let Some(reason) = &begun.registered().reason {
                    note(&format_args!(
                        "{function} is registered but not accelerated: {reason}"
                    ));
                }
                *enrolment = Some(begun);
            }
            Err(error) => note(&format_args!("{function} runs without the agent: {error}")),
        }
    }

    /// Ends the enrolment, if there is one. The lock that it gives back keeps the other thread from getting past its own
    /// clean-up.
    pub(super) fn end(&self) -> MutexGuard<'_, Option<Enrolment>> {
        let mut enrolment = self.lock();
        let ended = enrolment.take().map_or(Ok(()), Enrolment::end);
        if let Err(error) = ended {
            note(&format_args!(
                "the function ended, but its registration did not: {error}"
            ));
        }
        enrolment
    }

    pub(super) fn end_process(&self, signal: Signal) {
        let _locked = self.end();
        process::exit(i32::from(exit::by_signal(signal)));
    }
}
