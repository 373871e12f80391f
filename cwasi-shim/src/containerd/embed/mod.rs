//! Pods whose guests run in one process (annotation [`EMBED`]).
//!
//! Each of these containers is made as every other: libcontainer gives it a process of its own, in its namespaces and its
//! cgroup, with its rights. But that process is a *stand-in*: it opens what the guest is given, its directories and standard
//! streams, and hands the files to the *process of the pod's functions*, which runs the guest beside the others. The stand-in
//! then waits, and ends with the guest's exit code. So containerd starts, signals, kills and reaps every container as ever.
//!
//! ```text
//!  shim ──── create, signal, wait ────▶ stand-in a ─── files, start ──▶ ┐
//!   │                                   stand-in b ─── files, start ──▶ ├ process of the functions
//!   └──── admit a, admit b (machine code, connection to its stand-in) ▶ ┘
//! ```
//!
//! - [`terms`]: what the containers of one process must have in common.
//! - [`specification`]: the container that the functions' process is.
//! - [`pod`]: who takes part.
//! - [`handle`]: the shim's hold of the process, from its beginning to its end.
//! - [`process`]: the process.
//! - [`standin`]: a stand-in.
//! - [`message`] and [`wire`]: what they say to each other, and how.
//!
//! Who ends, ends what depends on it, by nothing more than the end of a connection: a stand-in that is killed ends its guest,
//! the process that is killed ends the stand-ins, and a shim that is killed ends the process. The shim takes two things from the
//! process: which of its guests have gone, and what passes between them, which it passes on as far as it can be true.
//!
//! The process is itself a container of libcontainer, with a bundle in the sandbox's: so its namespaces, rights and cgroups are
//! made and removed by what makes and removes those of all containers, in `delete` too.

pub mod handle;
pub mod message;
pub mod pod;
pub mod process;
pub mod specification;
pub mod standin;
pub mod terms;
pub mod wire;

pub use pod::{Embedding, Membership};

/// Whether the guests of a pod run in one process: `true` or `false`, on the pod or on a container of it.
pub const EMBED: &str = "cwasi.dev/embed";

/// Directory in the sandbox's bundle of the bundles of its functions' processes.
pub const DIRECTORY: &str = "functions";
