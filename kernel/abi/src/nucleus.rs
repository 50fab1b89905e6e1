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
/// Offset of the data page.
pub const DATA_PAGE: u64 = 0x2000;
/// Offset of the top of the exception stack (TSS.RSP0), in the data page.
pub const EXCEPTION_STACK: u64 = DATA_PAGE + 0x800;
/// Offset of the top of the kick's stack (TSS.IST1), in the data page: a kick must not overwrite
/// the frame of an exception that ring 3 has not read yet.
pub const KICK_STACK: u64 = DATA_PAGE + 0x900;

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
    /// Offset of the function that loads a page table.
    pub privileged: u32,
    /// Offset of the first exception stub.
    pub exceptions: u32,
    /// Bytes from one exception stub to the next (vectors 0 to 31).
    pub exception_stride: u32,
    /// Offset of the function that runs application code (see the nucleus crate).
    pub run: u32,
}

/// An interrupt return frame, as the CPU pops it in 64-bit mode (SDM volume 3, 6.14.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct IretFrame {
    /// Instruction pointer.
    pub rip: u64,
    /// Code segment selector.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack segment selector.
    pub ss: u64,
}

/// The start of the data page.  The kernel fills in what the nucleus reads.
#[derive(Debug)]
#[repr(C)]
pub struct Data {
    /// Kernel stack pointer while application code runs.
    pub kernel_rsp: u64,
    /// The application's stack pointer at SYSCALL.
    pub user_rsp: u64,
    /// CR2 of the last page fault.
    pub fault_address: u64,
    /// Vector of the last exception other than a page fault.
    pub vector: u64,
    /// Keeps the layout.
    pub reserved: u64,
    /// MXCSR that the kernel runs with.
    pub kernel_mxcsr: u64,
    /// Where a system call enters ring 3; RSP is the address of the application's registers.
    pub enter_syscall: IretFrame,
    /// The same for a page fault.
    pub enter_page_fault: IretFrame,
    /// The same for any other exception.
    pub enter_exception: IretFrame,
    /// The same for a kick.
    pub enter_kick: IretFrame,
    /// How the application is resumed.
    pub leave: IretFrame,
    /// 1: a kick met kernel code.
    pub delivered: u64,
    /// Address at which rewritten code enters (see [`crate::text`]), as SYSCALL would.
    pub gate: u64,
}

/// GS base with which trampolines find [`Data::gate`] of the data page at `data`.
pub const fn gate_base(data: u64) -> u64 {
    data + core::mem::offset_of!(Data, gate) as u64 + GATE_DISTANCE
}

const GATE_DISTANCE: u64 = crate::text::GATE_DISPLACEMENT.unsigned_abs() as u64;

/// Offsets in the data page of words to which the VMM adds the address of the nucleus.
pub const RELOCATIONS: [u64; 11] =
    [0x00, 0x30, 0x48, 0x58, 0x70, 0x80, 0x98, 0xa8, 0xc0, 0x100, 0xc30];

/// What [`Header::run`] returns.
pub mod trap {
    /// SYSCALL.
    pub const SYSTEM_CALL: u64 = 0;
    /// A kick.
    pub const KICK: u64 = 1;
    /// Vector 14.
    pub const PAGE_FAULT: u64 = 2;
    /// Another exception.
    pub const EXCEPTION: u64 = 3;
}

const _: () = assert!(size_of::<Header>() == 32);
const _: () = assert!(core::mem::offset_of!(Data, enter_syscall) == 0x30);
const _: () = assert!(core::mem::offset_of!(Data, leave) == 0xd0);
const _: () = assert!(core::mem::offset_of!(Data, delivered) == 0xf8);
const _: () = assert!(core::mem::offset_of!(Data, gate) == 0x100);
const _: () = assert!(crate::text::GATE_DISPLACEMENT < 0);
