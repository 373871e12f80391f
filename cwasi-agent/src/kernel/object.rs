//! The eBPF object, and its load.

use std::fmt;
use std::path::Path;

use aya::maps::Map;
use aya::programs::{SkMsg, SockOps};
use aya::{Ebpf, EbpfLoader};
use cwasi_ebpf_common::maps::{LAYOUT, names};
use cwasi_ebpf_common::offsets::{MemoryOffsets, Offsets, QueueMeasure, WaitOffsets};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use sha2::{Digest, Sha256};

use super::btf::Btf;
use super::error::PlaneError;
use super::layout;

/// The object that `cargo xtask build-ebpf` made of `cwasi-ebpf`.
#[cfg(not(feature = "log"))]
static EMBEDDED: &[u8] = aya::include_bytes_aligned!("../../ebpf/cwasi.bpf.o");
/// The same with its log statements: `cargo xtask build-ebpf --features log --out cwasi-agent/ebpf/cwasi-log.bpf.o`.
#[cfg(feature = "log")]
static EMBEDDED: &[u8] = aya::include_bytes_aligned!("../../ebpf/cwasi-log.bpf.o");

pub(super) const SOCK_OPS: &str = "cwasi_sock_ops";
pub(super) const SK_MSG: &str = "cwasi_sk_msg";

/// SHA-256 of the embedded object, in hex.
#[must_use]
pub fn sha256() -> String {
    Sha256::digest(EMBEDDED)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An eBPF object, with the layout of the maps that it pins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Object {
    bytes: &'static [u8],
    layout: u32,
}

impl Object {
    /// The one that this program was built with.
    #[must_use]
    pub const fn embedded() -> Self {
        Self {
            bytes: EMBEDDED,
            layout: LAYOUT,
        }
    }

    /// Another one, whose maps hold what those of the embedded one do: tests of upgrades run an agent with a release's before.
    #[must_use]
    pub const fn of(bytes: &'static [u8]) -> Self {
        Self {
            bytes,
            layout: LAYOUT,
        }
    }

    /// The same, with pins as another layout has them.
    #[must_use]
    pub const fn in_layout(self, layout: u32) -> Self {
        Self { layout, ..self }
    }

    /// Number of the layout of its maps.
    #[must_use]
    pub const fn layout(self) -> u32 {
        self.layout
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({} bytes, layout {})", self.bytes.len(), self.layout)
    }
}

/// The object in the kernel: maps made (or taken from their pins), programs accepted by the verifier.
pub(super) struct Loaded {
    ebpf: Ebpf,
    #[cfg(feature = "log")]
    logger: aya_log::EbpfLogger<&'static dyn log::Log>,
}

impl Loaded {
    /// Loads the object. With `pins`, maps are taken from that directory where they are, and pinned there where not.
    pub(super) fn load(
        object: Object,
        measure: QueueMeasure,
        sockets: Option<u32>,
        pins: Option<&Path>,
    ) -> Result<Self, PlaneError> {
        // Before 5.11 maps count against RLIMIT_MEMLOCK; where raising it fails, the load says so itself.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        let kernel = Btf::of_kernel()?;
        let offsets: Offsets = layout::offsets(&kernel, measure)?;
        let wait_offsets: WaitOffsets = layout::wait_offsets(&kernel).unwrap_or_default();
        let memory_offsets: MemoryOffsets = layout::memory_offsets(&kernel)?;
        let mut loader = EbpfLoader::new();
        loader
            // Its reader is not ours, and the object has nothing to relocate by it.
            .btf(None)
            .override_global("OFFSETS", &offsets, true)
            .override_global("WAIT_OFFSETS", &wait_offsets, true)
            // The object of a release before may know nothing of it.
            .override_global("MEMORY_OFFSETS", &memory_offsets, false);
        if let Some(sockets) = sockets {
            loader.map_max_entries(names::SOCKETS, sockets);
        }
        if let Some(pins) = pins {
            for name in names::ALL {
                loader.map_pin_path(name, pins.join(name));
            }
        }
        let load = |source| PlaneError::Load {
            source: Box::new(source),
        };
        let mut ebpf = loader.load(object.bytes).map_err(load)?;
        program::<SockOps>(&mut ebpf, SOCK_OPS)?
            .load()
            .map_err(PlaneError::program(SOCK_OPS, "load"))?;
        program::<SkMsg>(&mut ebpf, SK_MSG)?
            .load()
            .map_err(PlaneError::program(SK_MSG, "load"))?;
        Ok(Self {
            #[cfg(feature = "log")]
            logger: aya_log::EbpfLogger::init(&mut ebpf).map_err(|_| PlaneError::NoSuch("AYA_LOGS"))?,
            ebpf,
        })
    }

    /// Hands what the programs have logged since the last time to this process's log.
    #[cfg(feature = "log")]
    pub(super) fn flush_logs(&mut self) {
        self.logger.flush();
    }

    pub(super) fn sock_ops(&mut self) -> Result<&mut SockOps, PlaneError> {
        program(&mut self.ebpf, SOCK_OPS)
    }

    pub(super) fn sk_msg(&mut self) -> Result<&mut SkMsg, PlaneError> {
        program(&mut self.ebpf, SK_MSG)
    }

    /// Takes a map out of the object, as the type it has.
    pub(super) fn map<T>(&mut self, name: &'static str) -> Result<T, PlaneError>
    where
        T: TryFrom<Map, Error = aya::maps::MapError>,
    {
        let map = self.ebpf.take_map(name).ok_or(PlaneError::NoSuch(name))?;
        T::try_from(map).map_err(PlaneError::map(name, "type"))
    }
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, PlaneError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(PlaneError::NoSuch(name))?;
    program.try_into().map_err(PlaneError::program(name, "type"))
}
