//! What can be done to pins without the agent: the kill switch works when the agent is dead.

use std::path::Path;

use aya::maps::{Array, Map};
use cwasi_ebpf_common::maps::{Config, names};

use super::bpffs::{self, Pins};
use super::error::PlaneError;
use super::object;

/// Turns redirection on or off in the pinned configuration. Open connections follow at their next send.
///
/// # Errors
/// Nothing is pinned there, or the map cannot be written.
pub fn set_enabled(bpffs: &Path, enabled: bool) -> Result<(), PlaneError> {
    let map = Map::Array(object::pinned(&Pins::new(bpffs).maps(), names::CONFIG)?);
    let mut map = Array::<_, Config>::try_from(map).map_err(PlaneError::map(names::CONFIG, "type"))?;
    let config = map.get(&0, 0).map_err(PlaneError::map(names::CONFIG, "lookup"))?;
    let config = Config {
        enabled: u32::from(enabled),
        ..config
    };
    map.set(0, config, 0)
        .map_err(PlaneError::map(names::CONFIG, "update"))
}

/// Switches redirection off and removes the pins that a dead agent left. `false` when there are none.
///
/// # Errors
/// A living agent holds the directory, or a pin cannot be removed.
pub fn unload(bpffs: &Path) -> Result<bool, PlaneError> {
    let pins = Pins::new(bpffs);
    if !pins.exist() {
        return Ok(false);
    }
    let _hold = bpffs::hold(bpffs)?;
    // An agent that could not load its programs leaves directories without maps.
    if pins.maps().join(names::CONFIG).exists() {
        set_enabled(bpffs, false)?;
    }
    // The sk_msg program goes with the last reference to the sockhash.
    pins.remove()?;
    Ok(true)
}
