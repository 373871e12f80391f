//! A stand-in: the process of a container whose guest runs in the process of the pod's functions.
//!
//! It has the container's namespaces, cgroup and rights, opens what the guest is given, hands it over, and ends as the guest
//! does. While it lives, so may the guest.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use oci_spec::runtime::Spec;

use super::message::{Directory, End, Given, START_FILES};
use super::wire::{Channel, MAX_FILES, WireError};
use crate::code;
use crate::containerd::bundle::{ALLOW_NET, annotation};
use crate::exit;
use crate::guest::{GuestConfig, GuestError};
use crate::preopen::Preopen;

/// Has the guest run, and gives its exit code. Why it did not end by itself is told on standard error.
#[must_use]
pub fn run(channel: &Channel, spec: &Spec, config: &GuestConfig) -> u8 {
    let end = hand_over(channel, spec, config).and_then(|()| {
        let end = channel.receive::<End>();
        end.map(|message| message.body).map_err(Failure::Process)
    });
    match end {
        Ok(end) => {
            if let Some(reason) = end.reason {
                eprintln!("cwasi: {reason}");
            }
            end.code
        }
        Err(Failure::Guest(error)) => {
            eprintln!("cwasi: {error}");
            error.exit_code()
        }
        Err(Failure::Process(error)) => {
            eprintln!("cwasi: the process of the pod's functions ended, and this function with it ({error})");
            exit::FUNCTIONS
        }
    }
}

enum Failure {
    Guest(GuestError),
    Process(WireError),
}

/// Opens what the guest is given, and sends it.
fn hand_over(channel: &Channel, spec: &Spec, config: &GuestConfig) -> Result<(), Failure> {
    let start = |reason: &dyn std::fmt::Display| Failure::Guest(GuestError::Start(reason.to_string()));
    let most = MAX_FILES - START_FILES;
    if config.preopens.len() > most {
        return Err(start(&format_args!("it has more than {most} directories")));
    }
    let opened = config.preopens.iter().map(open).collect::<Result<Vec<File>, _>>();
    let opened = opened.map_err(Failure::Guest)?;
    let given = Given {
        args: config.args.clone(),
        env: config.env.clone(),
        cwd: config.cwd.clone(),
        http: config.http,
        allow_net: annotation(spec, ALLOW_NET).map(str::to_owned),
        memory_limit: config.memory_limit,
        directories: config
            .preopens
            .iter()
            .map(|preopen| Directory {
                guest: preopen.guest.clone(),
                read_only: preopen.read_only,
            })
            .collect(),
    };
    // Arguments and variables may be longer than a message.
    let given = serde_json::to_vec(&given).map_err(|error| start(&error))?;
    let given = code::sealed(c"cwasi-given", &given).map_err(|error| start(&error))?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let files: Vec<BorrowedFd<'_>> = [given.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
        .into_iter()
        .chain(opened.iter().map(AsFd::as_fd))
        .collect();
    channel.send(&(), &files).map_err(Failure::Process)
}

/// Opens a directory as the engine would.
fn open(preopen: &Preopen) -> Result<File, GuestError> {
    let open = |path: &Path| {
        fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(path)
    };
    open(&preopen.host).map_err(|error| GuestError::Preopen {
        host: preopen.host.display().to_string(),
        reason: error.to_string(),
    })
}
