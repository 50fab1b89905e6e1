// SPDX-License-Identifier: Apache-2.0
//! The library `trine`: create a sandbox, run containers in it.
//!
//! The shim, the command line and the SDKs stand on it.  A [`Pod`] owns one I/O process
//! (`trine-io`); each [`Container`] in it is one VM (`trine-vmm`).  The library is synchronous and
//! thread-safe; every call that waits for a guest has a deadline of its own or returns a state that
//! can be waited on.
#![forbid(unsafe_code)]

mod container;
mod error;
mod pod;
mod spec;

pub use container::{Container, ContainerState, ExitStatus, ProcessState};
pub use error::Error;
pub use pod::{Pod, PodOptions};
pub use spec::{ContainerSpec, Limits, Stdio, Stream};
