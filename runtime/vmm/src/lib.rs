// SPDX-License-Identifier: Apache-2.0
//! `trine-vmm`: the process that owns one VM.
//!
//! A VM here is RAM, a few read-only images, a window to the I/O server, and vCPUs: no devices, no
//! interrupt controller that the guest could see, no firmware.  The VMM loads every table register
//! itself and starts the vCPU in ring 3 at the kernel's entry point.
//!
//! | module | what |
//! | --- | --- |
//! | [`protocol`] | what the sandbox and the VMM say to each other |
//! | [`memory`] | guest-physical memory: RAM, images, window |
//! | [`loader`] | the kernel image |
//! | [`tables`] | page tables, descriptor tables, boot information |
//! | [`machine`] | the KVM VM, put together |
//! | [`vcpu`] | a vCPU's thread |
//! | [`control`] | the host's end of the control rings |
//! | [`server`] | the process: link, timers, notifications, the end |
#![expect(unsafe_code, reason = "KVM memory slots, raw ioctls and signal handlers need it")]

pub mod control;
pub mod error;
pub mod loader;
pub mod machine;
pub mod memory;
pub mod protocol;
pub mod server;
pub mod tables;
pub mod vcpu;

pub use error::Error;
