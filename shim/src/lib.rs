// SPDX-License-Identifier: Apache-2.0
//! containerd-shim-trine-v1: containerd's way to run containers in Trine's micro-VMs.
//!
//! containerd runs the program once per container with the action `start`, which prints the address
//! of the pod's server and starts that server if there is none; then it drives the containers
//! through the task API, over ttrpc.  When a server is gone it runs the action `delete`.
//!
//! ```text
//!  containerd ── start ──▶ [start] ─spawns─▶ [serve]          one server per pod
//!      │                                        │
//!      ├───────── task API (ttrpc) ────────▶ [service]        messages, detached calls
//!      │                                        │
//!      │                                     [tasks]          registry, state machine, sandbox
//!      │                                        │   └────▶ [events] ──▶ containerd
//!      │                                     [host]           the library `trine`, [rootfs] images
//!      └─ delete ────────▶ [delete]                           from [record]s in the bundle alone
//! ```
//!
#![forbid(unsafe_code)]

pub mod app;
pub mod cgroups;
pub mod config;
pub mod delete;
pub mod events;
pub mod flags;
pub mod host;
pub mod ids;
pub mod info;
pub mod log;
pub mod mounts;
pub mod process;
pub mod record;
pub mod rootfs;
pub mod serve;
pub mod service;
pub mod start;
pub mod stats;
pub mod stdio;
pub mod tasks;
pub mod time;
