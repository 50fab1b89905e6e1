// SPDX-License-Identifier: Apache-2.0
//! Where the entry points lie in the nucleus: the head of its first page.
//!
//! The nucleus is position-independent: the VMM copies it, page by page, to the nucleus pages of
//! each vCPU ([`crate::layout::NUCLEUS_BASE`] plus a stride), and points that vCPU's descriptor
//! tables and LSTAR at it.  Offsets are in bytes from the start of the first nucleus page.

/// Value of [`Header::magic`]: "TRINENU1", little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"TRINENU1");
/// Pages of the nucleus: entry code, exit code, data.
pub const PAGES: u64 = 3;
/// Offset of the exit code's page.  The kick handler knows it by this bit of RIP.
pub const EXIT_PAGE: u64 = 0x1000;
/// Offset of the data page (see the nucleus crate).
pub const DATA_PAGE: u64 = 0x2000;

/// Head of the first nucleus page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// Offset of the SYSCALL entry (LSTAR).
    pub syscall: u32,
    /// Offset of the kick interrupt's stub.
    pub kick: u32,
    /// Offset of the privileged-call stub.
    pub privileged: u32,
    /// Offset of the first exception stub.
    pub exceptions: u32,
    /// Bytes from one exception stub to the next (vectors 0 to 31).
    pub exception_stride: u32,
    /// Must be zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Header>() == 32);
