// SPDX-License-Identifier: Apache-2.0
//! The personality: Linux's system calls on top of the machine, in safe code.
//!
//! It is one state machine.  The binary around it (or a test) calls [`Kernel`]: it takes the next
//! runnable task, lets the machine run it, and hands the trap back.  Nothing in here blocks, and no
//! task has a kernel stack: **a system call that must wait registers with what it waits for and
//! returns [`cx::Stop::Block`]; when the task is woken, the call is simply made again** from the
//! registers, with its [`cx::Progress`] kept.  So a blocked task is plain data: it can be
//! interrupted, inspected and snapshotted at any time.
//!
//! | module | what |
//! | --- | --- |
//! | [`kernel`] | the whole: tasks, run queue, what the outside calls |
//! | [`cx`] | what a system call sees: the calling task, its resources, how to wait |
//! | [`wait`] | wait queues and tickets |
//! | [`io`] | where file contents go to and come from |
//! | `forward` | requests to the I/O server, and how a system call finds their answers |
//! | [`services`] | clock, random numbers, frames, the window: what every object may use |
//! | [`fs`] | files: VFS, image, overlay, tmpfs, devices, proc, pipes, terminals, streams |
//! | [`mm`] | memory: areas, faults, ELF images |
//! | `net` | sockets |
//! | [`process`] | tasks, processes, signals, credentials |
//! | [`syscall`] | the table, and one file per family of calls |
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    test,
    expect(redundant_imports, reason = "in tests the prelude of std has what alloc gives")
)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod cx;
pub mod errno;
pub(crate) mod forward;
pub mod fs;
pub mod io;
pub mod kernel;
pub mod mm;
mod net;
pub mod process;
pub mod services;
pub mod sync;
pub mod syscall;
#[cfg(test)]
mod testing;
pub mod wait;

pub use errno::Errno;
pub use kernel::Kernel;
