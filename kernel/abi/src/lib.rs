// SPDX-License-Identifier: Apache-2.0
//! The one definition of everything that the guest kernel and the host share.
//!
//! Both sides of the VM boundary link this crate and no other: address layout, boot information,
//! the per-vCPU page, the control channel between the VMM and the kernel, and the window between
//! the kernel and the I/O server.  It has no dependencies, no allocation but `alloc`'s, and does
//! no I/O.  Layouts are asserted at compile time.
//!
//! | module | what |
//! | --- | --- |
//! | [`layout`] | guest-physical and guest-virtual address map |
//! | [`boot`] | what the VMM tells the kernel once, at entry |
//! | [`vcpu`] | the page that one vCPU and the VMM share, and the VMM calls |
//! | [`nucleus`] | where the entry points lie in the ring 0 code |
//! | [`ring`] | the byte ring that carries control messages |
//! | [`control`] | commands to the kernel, events from it |
//! | [`names`] | the names of all system calls |
//! | [`text`] | rewritten program text in images, and how it enters the kernel |
//! | [`wire`] | how a control message is encoded |
//! | [`window`] | rings and buffers between the kernel and the I/O server |
//! | [`file`] | arguments and answers of forwarded file calls |
//! | [`socket`] | arguments, answers and events of forwarded sockets |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod boot;
pub mod control;
pub mod file;
pub mod layout;
pub mod names;
pub mod nucleus;
pub mod ring;
pub mod socket;
pub mod text;
pub mod vcpu;
pub mod window;
pub mod wire;
