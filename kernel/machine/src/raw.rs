// SPDX-License-Identifier: Apache-2.0
//! Copies to and from memory that somebody else may write at the same time.
//!
//! The compiler must neither split, repeat nor reorder these accesses on the ground that nobody
//! else writes, so bulk copies are one opaque instruction and single words are volatile.

use core::arch::asm;

/// Copies `bytes` bytes; the regions must not overlap.
///
/// # Safety
/// - `from` is readable and `to` is writable for `bytes` bytes.
/// - No Rust reference to either region is live, except `bytes` of private memory on one side.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller vouches for both regions; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") bytes => _, inout("rsi") from => _, inout("rdi") to => _,
             options(nostack, preserves_flags));
    }
}

/// Fills `bytes` bytes with `value`.
///
/// # Safety
/// As for the target of [`copy`].
pub(crate) unsafe fn fill(to: *mut u8, value: u8, bytes: usize) {
    // SAFETY: the caller vouches for the region; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep stosb", inout("rcx") bytes => _, inout("rdi") to => _, in("al") value,
             options(nostack, preserves_flags));
    }
}
