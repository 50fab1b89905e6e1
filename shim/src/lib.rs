// SPDX-License-Identifier: Apache-2.0
//! containerd-shim-trine-v1
#![forbid(unsafe_code)]

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
pub mod start;
pub mod stdio;
pub mod tasks;
pub mod time;
pub mod translate;
