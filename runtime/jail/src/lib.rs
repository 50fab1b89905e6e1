// SPDX-License-Identifier: Apache-2.0
//! Confinement of the host processes, and the one place where they touch memory shared with a VM.
//!
//! `trine-vmm` and `trine-io` confine *themselves*, with functions of this crate that they call at
//! start; nothing is left to a launcher, so that no way of starting them is less confined.
//!
//! | module | what |
//! | --- | --- |
//! | [`shared`] | [`shared::SharedMemory`]: a sealed memfd, accessed without references into it |
//! | [`vmm`] | what `trine-vmm` calls |
//! | [`io`] | what `trine-io` calls |
//! | [`network`] | the network namespace of `trine-io` |
//! | [`socket`] | system calls on sockets, as bytes |
//! | [`fence`] | Landlock: which files a thread can reach |
//! | [`mount`] | mounts that are attached nowhere, for volumes |
//! | [`files`] | file locks, which rustix does not have |
//! | [`seccomp`] | system call filters: a small decision tree instead of a long list |
//!
//! The layers, each of which holds without the others: no privileges to gain (`no_new_privs`), no
//! capabilities (`trine-io`: those to act as any user on a volume and to bind any port), an empty root
//! directory, Landlock, and a system call filter that kills the process.

pub mod fence;
pub mod files;
pub mod io;
pub mod mount;
pub mod network;
mod posture;
pub mod seccomp;
pub mod shared;
pub mod socket;
pub mod vmm;

pub use fence::Landlock;
pub use posture::{JailError, begin};
