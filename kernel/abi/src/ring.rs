// SPDX-License-Identifier: Apache-2.0
//! The byte ring that carries control messages: one writer, one reader, framed by length.
//!
//! ```text
//! 0x000  head  u32   next byte to read, free running; written by the reader
//! 0x040  tail  u32   next byte to write, free running; written by the writer
//! 0x1000 data  RING_BYTES
//! ```
//!
//! A message is a little-endian `u32` length and that many bytes; it may be larger than the ring:
//! the writer goes on when the reader has made room.  This module is the arithmetic only; each
//! side brings its own access to the shared memory and checks what it reads with
//! [`used`].

/// Bytes of data in one ring; a power of two.
pub const RING_BYTES: u32 = 64 * 1024;
/// Offset of the head word.
pub const HEAD_OFFSET: u64 = 0;
/// Offset of the tail word.
pub const TAIL_OFFSET: u64 = 0x40;
/// Offset of the data.
pub const DATA_OFFSET: u64 = 0x1000;
/// Bytes of one ring with its header page.
pub const RING_STRIDE: u64 = DATA_OFFSET + RING_BYTES as u64;
/// Longest message, in bytes without its length word: room for ARG_MAX and an environment.
pub const MAX_MESSAGE: u32 = 8 << 20;

const _: () = assert!(RING_BYTES.is_power_of_two());
const _: () = assert!(crate::layout::CONTROL_RINGS + 2 * RING_STRIDE <= crate::layout::KERNEL_BASE);

/// Bytes that wait in a ring, or `None` if the two words cannot be true.
pub fn used(head: u32, tail: u32) -> Option<u32> {
    let used = tail.wrapping_sub(head);
    (used <= RING_BYTES).then_some(used)
}

/// The one or two pieces of the data area that `bytes` bytes from position `at` occupy, as
/// (offset in the data area, length).
pub fn pieces(at: u32, bytes: u32) -> [(u32, u32); 2] {
    let offset = at % RING_BYTES;
    let first = bytes.min(RING_BYTES - offset);
    [(offset, first), (0, bytes - first)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_impossible_words_returns_none() {
        assert_eq!(used(0, RING_BYTES), Some(RING_BYTES));
        assert_eq!(used(0, RING_BYTES + 1), None);
        assert_eq!(used(5, 4), None);
        assert_eq!(used(u32::MAX, 3), Some(4));
    }

    #[test]
    fn pieces_at_the_end_wraps() {
        assert_eq!(pieces(RING_BYTES - 3, 5), [(RING_BYTES - 3, 3), (0, 2)]);
        assert_eq!(pieces(RING_BYTES * 7 + 1, 5), [(1, 5), (0, 0)]);
    }
}
