// SPDX-License-Identifier: Apache-2.0
//! What a thread leaves behind when it enters the kernel.

/// The general registers of an application thread, and the low halves of its vector registers,
/// which the kernel's own code uses.  The order is known to the nucleus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Registers {
    /// General registers by name.
    pub rax: u64,
    /// See `rax`.
    pub rbx: u64,
    /// See `rax`.
    pub rcx: u64,
    /// See `rax`.
    pub rdx: u64,
    /// See `rax`.
    pub rsi: u64,
    /// See `rax`.
    pub rdi: u64,
    /// See `rax`.
    pub rbp: u64,
    /// See `rax`.
    pub r8: u64,
    /// See `rax`.
    pub r9: u64,
    /// See `rax`.
    pub r10: u64,
    /// See `rax`.
    pub r11: u64,
    /// See `rax`.
    pub r12: u64,
    /// See `rax`.
    pub r13: u64,
    /// See `rax`.
    pub r14: u64,
    /// See `rax`.
    pub r15: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Flags; the kernel lets an application change only the ones that POPF in ring 3 can.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// XMM0 to XMM15.
    pub xmm: [u128; 16],
    /// SSE control and status.
    pub mxcsr: u32,
    /// Keeps the size a multiple of 16.
    pub reserved: [u32; 3],
}

/// Segment bases of an application thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bases {
    /// FS base: thread-local storage.
    pub fs: u64,
    /// GS base.
    pub gs: u64,
}

/// Why application code stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// SYSCALL: number in `rax`; `rip` is after the instruction.
    SystemCall,
    /// A kick from the VMM: time to look around.
    Kick,
    /// Page fault (vector 14).
    PageFault {
        /// CR2.
        address: u64,
        /// Error code: 1 present, 2 write, 4 user, 16 fetch.
        code: u64,
    },
    /// Any other exception.
    Exception {
        /// Vector.
        vector: u8,
        /// Error code, or 0.
        code: u64,
    },
}
