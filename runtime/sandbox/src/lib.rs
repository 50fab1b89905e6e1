// SPDX-License-Identifier: Apache-2.0
//! The library `trine`: create a sandbox, run containers in it.
//!
//! The shim, the command line and the SDKs stand on it.  A [`Pod`] owns one I/O process
//! (`trine-io`); each [`Container`] in it is one VM (`trine-vmm`).  The library is synchronous and
//! thread-safe; every call that waits for a guest has a deadline of its own or returns a state that
//! can be waited on.
//!
//! ```text
//! Pod ── IoProcess (link, one reader thread) ── trine-io
//!  └─ Container ── Vm (link, one reader thread) ── trine-vmm
//!       └─ State: what is known of its processes; changed by calls and by the reader thread
//! ```
//!
//! Locks are leaves: no call is made to another part while one is held, and callbacks run without
//! any.
#![forbid(unsafe_code)]

mod cgroup;
mod container;
mod error;
mod io_process;
mod kvm;
mod launch;
mod libexec;
pub mod oci;
mod pod;
pub mod policy;
mod reader;
mod replace;
mod spec;
mod state;
mod stdio;
#[cfg(test)]
mod tests;
mod vm;
mod volume;

pub use container::{Container, ExitCallback};
pub use error::Error;
pub use pod::{Pod, PodOptions};
pub use replace::replace;
pub use spec::{ContainerSpec, Limits, Stdio, Stream, VMM_OVERHEAD_BYTES};
pub use state::{ContainerState, ExitStatus, ProcessState};
pub use trine_jail::Landlock;
pub use trine_vmm::protocol::SystemCalls;
pub use volume::Volume;
