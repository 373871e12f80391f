//! What can be done to pins without the agent that made them: the kill switch works when it is dead, and whatever its layout was.

use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::MapData;
use cwasi_ebpf_common::maps::{Config, names};

use super::bpffs::{self, Pins};
use super::error::PlaneError;
use super::sys;

/// Whether an agent has left a configuration in the directory.
#[must_use]
pub fn is_configured(bpffs: &Path) -> bool {
    Pins::all(bpffs).iter().any(Pins::are_configured)
}

/// Turns redirection on or off in every pinned configuration. Open connections follow at their next send.
///
/// # Errors
/// Nothing is pinned there, or the map cannot be written.
pub fn set_enabled(bpffs: &Path, enabled: bool) -> Result<(), PlaneError> {
    let mut configured = Pins::all(bpffs);
    configured.retain(Pins::are_configured);
    if configured.is_empty() {
        return Err(PlaneError::NothingPinned {
            path: bpffs.to_owned(),
        });
    }
    configured.iter().try_for_each(|pins| switch(pins, enabled))
}

/// Switches redirection off and removes the pins that a dead agent left, of every layout. `false` when there are none.
///
/// # Errors
/// A living agent holds the directory, or a pin cannot be removed.
pub fn unload(bpffs: &Path) -> Result<bool, PlaneError> {
    if Pins::all(bpffs).is_empty() {
        return Ok(false);
    }
    let _hold = bpffs::hold(bpffs)?;
    Pins::all(bpffs).iter().try_for_each(retire)?;
    Ok(true)
}

/// Whether the configuration of these pins says to redirect, `None` where there is none.
pub(super) fn is_enabled(pins: &Pins) -> Result<Option<bool>, PlaneError> {
    if !pins.are_configured() {
        return Ok(None);
    }
    let config = read(&open(pins)?)?;
    Ok(Some(config.iter().take(SWITCH).any(|byte| *byte != 0)))
}

/// Takes pins away for good: the connections that were enrolled go on by TCP. For it to be done again after a death in between,
/// they are switched off first.
pub(super) fn retire(pins: &Pins) -> Result<(), PlaneError> {
    // An agent that could not load its programs leaves directories without maps.
    if pins.are_configured() {
        switch(pins, false)?;
    }
    // The sk_msg program goes with the last reference to the sockhash.
    pins.remove()
}

/// Bytes of the switch, with which the configuration begins in every layout.
const SWITCH: usize = size_of::<u32>();
const _: () = assert!(std::mem::offset_of!(Config, enabled) == 0);

fn open(pins: &Pins) -> Result<MapData, PlaneError> {
    MapData::from_pin(pins.map(names::CONFIG)).map_err(PlaneError::map(names::CONFIG, "open"))
}

/// The configuration, as long as it is in its layout.
fn read(map: &MapData) -> Result<Vec<u8>, PlaneError> {
    let info = map.info().map_err(PlaneError::map(names::CONFIG, "info"))?;
    let failed = PlaneError::syscall("bpf(BPF_MAP_LOOKUP_ELEM)", names::CONFIG);
    sys::first_value(map.fd().as_fd(), info.value_size() as usize).map_err(failed)
}

fn switch(pins: &Pins, enabled: bool) -> Result<(), PlaneError> {
    let map = open(pins)?;
    let mut config = read(&map)?;
    for (byte, value) in config.iter_mut().zip(u32::from(enabled).to_ne_bytes()) {
        *byte = value;
    }
    let failed = PlaneError::syscall("bpf(BPF_MAP_UPDATE_ELEM)", names::CONFIG);
    sys::set_first_value(map.fd().as_fd(), &config).map_err(failed)
}
