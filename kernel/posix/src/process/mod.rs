// SPDX-License-Identifier: Apache-2.0
//! Tasks, processes, signals, credentials.
//!
//! A [`Task`] is a thread; a [`Process`] is a thread group with what its threads share.  Both are
//! found through the [`Registry`] of [`crate::services::Services`].

pub(crate) mod access;
mod core_dump;
pub(crate) mod cpu_time;
pub mod creds;
mod delivery;
pub(crate) mod exec;
pub(crate) mod exit;
pub(crate) mod frame;
pub mod group;
pub(crate) mod registry;
pub(crate) mod rseq;
pub(crate) mod seccomp;
pub mod signal;
pub mod task;
pub(crate) mod timers;
pub(crate) mod trace;

pub use creds::Creds;
pub use group::{Limits, Process, Terminal};
pub use registry::Registry;
pub use task::{Task, TaskRef};
