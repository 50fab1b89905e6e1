// SPDX-License-Identifier: Apache-2.0
//! `trine-io`: the process that executes what the VMs of one pod forward.
//!
//! A sandbox starts one per pod, with a [`trine_link::Link`] as standard input, and tells it which
//! VMs there are and which streams each may use ([`protocol`]).  Each VM has a window
//! ([`trine_abi::window`]) and a thread of its own that serves it: a guest that misuses its window
//! loses it, and disturbs nobody else.
//!
//! ```text
//! link ──> host::serve ──orders──> Server (one thread per VM) ──> Window (rings, in-flight table)
//!                                     └──> Stream (one per handle: its queue and its descriptor)
//! ```
//!
//! Streams of processes are served by the thread itself; forwarded calls go to a `service::Service`,
//! such as `files`, which asks the pod's policy (`guard`) first.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod files;
mod guard;
mod held;
mod host;
pub mod protocol;
mod server;
mod service;
mod socket;
mod stream;
mod window;
mod workers;

pub use host::{ServeError, serve};
