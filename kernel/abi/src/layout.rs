// SPDX-License-Identifier: Apache-2.0
//! The guest's address map.
//!
//! Guest-physical:
//!
//! ```text
//! 0x00_0000_0000  RAM: boot page, vCPU pages, control rings, kernel, tables of the vCPUs, page
//!                 tables, then free frames; after it, 2 MiB aligned, the window shared with the I/O
//!                 server and the images, read-only
//! 0x40_0000_0000  MMIO: never backed; a write is a doorbell or a VMM call
//! ```
//!
//! Guest-virtual: the application owns everything below [`USER_END`].  Above it lies the system
//! half, the same in every address space: the direct map, where guest-physical address `p` is at
//! `DIRECT_MAP + p`, and the nucleus pages of each vCPU.

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes of a large page.
pub const HUGE_PAGE_SIZE: u64 = 2 << 20;

/// First guest-virtual address that does not belong to the application.
pub const USER_END: u64 = 0x7f00_0000_0000;
/// Guest-virtual address of guest-physical address 0.
pub const DIRECT_MAP: u64 = USER_END;
/// Guest-virtual address of the nucleus pages of vCPU 0.
pub const NUCLEUS_BASE: u64 = 0x7f80_0000_0000;
/// Distance between the nucleus pages of two vCPUs, in bytes.
pub const NUCLEUS_STRIDE: u64 = 1 << 20;

/// Guest-physical end of RAM, window and images.
pub const MEMORY_END: u64 = 0x40_0000_0000;
/// Smallest RAM that a VM boots with, in bytes.
pub const RAM_MIN: u64 = 8 << 20;
/// Guest-physical address of the doorbell to the I/O server (an ioeventfd; 4-byte write).
pub const MMIO_DOORBELL: u64 = 0x40_0000_0000;
/// Guest-physical address of the VMM call register (an exit; 4-byte write of a [`crate::vcpu::Call`]).
pub const MMIO_CALL: u64 = 0x40_0000_1000;
/// Guest-physical address of the boot information page.
pub const BOOT_INFO: u64 = 0x1000;
/// Guest-physical address of the page of vCPU 0 (see [`crate::vcpu::VcpuPage`]); one page each.
pub const VCPU_PAGES: u64 = 0x2000;
/// Most vCPUs that a VM can have.
pub const MAX_VCPUS: usize = 16;
/// Guest-physical address of the control channel (see [`crate::ring`]): to the kernel, then from it.
pub const CONTROL_RINGS: u64 = VCPU_PAGES + MAX_VCPUS as u64 * PAGE_SIZE;
/// Guest-physical address at which the kernel image is loaded.
pub const KERNEL_BASE: u64 = 0x4_0000;
/// Guest-virtual address that the kernel image is linked at.
pub const KERNEL_VIRT: u64 = DIRECT_MAP + KERNEL_BASE;

/// Code segment selector of ring 3 (64-bit).
pub const SELECTOR_CODE3: u16 = 0x33;
/// Data segment selector of ring 3.
pub const SELECTOR_DATA3: u16 = 0x2b;
/// Code segment selector of ring 0.
pub const SELECTOR_CODE0: u16 = 0x10;
/// Task state segment selector.
pub const SELECTOR_TSS: u16 = 0x38;

/// Interrupt vector that the VMM injects for preemption and notifications.
pub const VECTOR_KICK: u8 = 0x40;
const _: () = assert!(KERNEL_BASE < RAM_MIN);
