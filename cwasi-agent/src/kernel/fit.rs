//! Whether pinned maps are those that the programs expect. aya takes over whatever is pinned under a map's name, and the kernel writes
//! values of the size that the map has: one that is larger than its type would be written beyond it.

use aya::maps::MapInfo;
use aya::maps::lpm_trie::Key;
use cwasi_ebpf_common::learn::Record;
use cwasi_ebpf_common::maps::{
    Addr, Config, Destination, Flow, FunctionEntry, Listener, ListenerKey, PairEnd, PairKey, TrafficEntry,
    TrafficKey, names,
};

use super::bpffs::Pins;
use super::error::PlaneError;

const fn sizes<K, V>() -> (usize, usize) {
    (size_of::<K>(), size_of::<V>())
}

/// Sizes of every map's keys and values, in bytes.
const SIZES: [(&str, (usize, usize)); names::ALL.len()] = [
    (names::FUNCTIONS, sizes::<u64, FunctionEntry>()),
    (names::LOCALITY, sizes::<Key<Addr>, u32>()),
    (names::PAIRS, sizes::<PairKey, PairEnd>()),
    (names::SOCKETS, sizes::<u64, u32>()),
    (names::FLOWS, sizes::<u64, Flow>()),
    (names::TRAFFIC, sizes::<TrafficKey, TrafficEntry>()),
    (names::LISTENERS, sizes::<ListenerKey, Listener>()),
    (names::LEARNED, sizes::<Destination, Record>()),
    (names::CONFIG, sizes::<u32, Config>()),
    (names::EVENTS, sizes::<(), ()>()),
    (names::LOST_EVENTS, sizes::<u32, u64>()),
];

/// Refuses pins whose maps have keys or values of other sizes. What is not pinned yet fits.
pub(super) fn check(pins: &Pins) -> Result<(), PlaneError> {
    for (name, (key, value)) in SIZES {
        let pin = pins.map(name);
        if !pin.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&pin).map_err(PlaneError::map(name, "open"))?;
        let found = (info.key_size(), info.value_size());
        if (found.0 as usize, found.1 as usize) != (key, value) {
            return Err(PlaneError::OtherMap {
                pin,
                found,
                wanted: (key, value),
            });
        }
    }
    Ok(())
}
