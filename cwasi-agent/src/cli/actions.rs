//! Commands that change something, by the agent where one answers, and on the pins where none does.

use std::path::Path;

use cwasi_client::client::{Client, ClientError};
use cwasi_client::protocol::{Reply, Request};
use serde::Serialize;

use super::args::{Common, Format, StateArgs};
use super::output::{print, print_json};
use super::{CliError, exit};
use crate::agent::{SavedAgent, Store};
use crate::kernel::pinned;

/// What was done.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Done {
    /// `enable`, `disable` or `unload`.
    action: &'static str,
    /// Who did it: `agent`, or `pins` for this program itself.
    by: &'static str,
    /// One line for people.
    message: String,
}

impl Done {
    pub(super) fn print(&self, format: Format) -> Result<u8, CliError> {
        match format {
            Format::Json => print_json(self)?,
            Format::Table => print(&self.message)?,
        }
        Ok(exit::OK)
    }
}

/// Asks the agent. `Ok(None)` when none answers, or one that hangs: then the pins are what is left.
fn by_agent(common: &Common, request: &Request) -> Result<Option<()>, CliError> {
    match Client::connect(&common.socket).and_then(|mut client| client.call(request)) {
        Ok(Reply::Done) => Ok(Some(())),
        Ok(_) => Err(CliError::Unexpected),
        Err(error @ (ClientError::Refused(_) | ClientError::Denied { .. })) => Err(error.into()),
        Err(ClientError::NoAgent { .. }) => Ok(None),
        Err(error) => {
            eprintln!("cwasi-agent: {error}; going on without it");
            Ok(None)
        }
    }
}

pub(super) fn switch(common: &Common, state: &StateArgs, enabled: bool) -> Result<Done, CliError> {
    let action = if enabled { "enable" } else { "disable" };
    if by_agent(common, &Request::SetEnabled { enabled })?.is_some() {
        let message = format!("acceleration is switched {}", if enabled { "on" } else { "off" });
        return Ok(Done {
            action,
            by: "agent",
            message,
        });
    }
    let message = switch_pins(&common.bpffs, &Store::new(&state.dir(common)), enabled)?;
    Ok(Done {
        action,
        by: "pins",
        message,
    })
}

/// The switch without an agent: in the pinned configuration, and for the next agent where that does not tell it.
fn switch_pins(bpffs: &Path, store: &Store, enabled: bool) -> Result<String, CliError> {
    let saved = store.load().agent;
    let pinned = pinned::is_configured(bpffs);
    // An agent that found the kernel wanting holds redirection off, and keeps the operator's wish for a better one.
    let held_off = saved.switch.is_some();
    if pinned && !(enabled && held_off) {
        pinned::set_enabled(bpffs, enabled)?;
    }
    if held_off || !pinned {
        store
            .put_agent(&SavedAgent {
                switch: Some(enabled),
                ..saved
            })
            .map_err(CliError::State)?;
    }
    let word = if enabled { "on" } else { "off" };
    Ok(match (pinned, enabled && held_off) {
        (true, false) => format!("no agent answers; acceleration is switched {word} in the pinned configuration"),
        (true, true) => "no agent answers; the last one found the kernel wanting and holds acceleration off, the next one \
                         that finds it fit switches it on"
            .to_owned(),
        (false, _) => format!("no agent answers and nothing is pinned; the next agent starts with acceleration {word}"),
    })
}

pub(super) fn unload(common: &Common) -> Result<Done, CliError> {
    let action = "unload";
    if by_agent(common, &Request::Unload)?.is_some() {
        let message = "programs and pins are removed, and the agent ends".to_owned();
        return Ok(Done {
            action,
            by: "agent",
            message,
        });
    }
    let message = if pinned::unload(&common.bpffs)? {
        "no agent answers; the pins that one left are removed"
    } else {
        "no agent answers, and nothing is pinned"
    };
    Ok(Done {
        action,
        by: "pins",
        message: message.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_pins_the_switch_waits_for_the_next_agent() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("state"));
        store
            .put_agent(&SavedAgent {
                next_id: 5,
                switch: None,
            })
            .unwrap();
        let message = switch_pins(&dir.path().join("bpffs"), &store, false).unwrap();
        assert!(message.contains("nothing is pinned"), "{message}");
        assert_eq!(
            store.load().agent,
            SavedAgent {
                next_id: 5,
                switch: Some(false)
            }
        );
    }

    #[test]
    fn pins_that_cannot_be_switched_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("v1/maps/CONFIG");
        std::fs::create_dir_all(config.parent().unwrap()).unwrap();
        std::fs::write(&config, "no map").unwrap();
        let store = Store::new(&dir.path().join("state"));
        assert!(matches!(
            switch_pins(dir.path(), &store, false),
            Err(CliError::Plane(_))
        ));
        store
            .put_agent(&SavedAgent {
                next_id: 1,
                switch: Some(false),
            })
            .unwrap();
        let message = switch_pins(dir.path(), &store, true).unwrap();
        assert!(message.contains("holds acceleration off"), "{message}");
        assert_eq!(store.load().agent.switch, Some(true));
    }
}
