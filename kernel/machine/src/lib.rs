// SPDX-License-Identifier: Apache-2.0
//! The floor under the personality: it owns all `unsafe` of the guest kernel outside the nucleus.
//!
//! What stands on it is safe code: frames are reference-counted handles, page tables own the pages
//! that they map, user memory is reached through an address space and never through a raw pointer,
//! and nothing here ever hands out a reference into memory that the application can write.
//!
//! The same code runs in the guest, where the arena is the direct map of RAM, and in tests on a
//! host, where it is a heap allocation and no page table is ever loaded.
//!
//! | module | what |
//! | --- | --- |
//! | [`arena`] | RAM: the free frames and the images |
//! | [`frame`] | one 4 KiB frame, one page of an image |
//! | [`space`] | an address space: four-level page tables that own their pages |
//! | [`shootdown`] | stale translations on other vCPUs |
//! | [`contention`] | whether other vCPUs wait for the kernel's lock |
//! | [`heap`] | the kernel's allocator |
//! | [`context`] | what a thread leaves behind when it enters the kernel |
//! | [`window`] | the kernel's end of the rings to the I/O server |
//! | [`channel`] | the kernel's end of the control rings to the VMM |
//! | [`cpu`] | this vCPU: running application code, VMM calls, the clock |
#![no_std]
#![expect(unsafe_code, reason = "this crate is where the guest kernel's unsafe code lives")]

#[cfg(test)]
#[macro_use]
extern crate std;

pub mod arena;
pub mod channel;
pub mod contention;
pub mod context;
pub mod cpu;
pub mod frame;
pub mod heap;
mod raw;
pub mod shootdown;
pub mod space;
pub mod window;

pub use arena::Arena;
pub use context::Registers;
pub use frame::{Frame, HugeFrame, ImagePage, Page};
pub use space::{Access, AddressSpace, OutOfMemory, Translations};
