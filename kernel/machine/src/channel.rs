// SPDX-License-Identifier: Apache-2.0
//! The kernel's end of the control rings to the VMM (`trine_abi::ring`).
//!
//! The VMM is trusted, but the same care costs nothing: positions are checked, bytes copied once.

extern crate alloc;

use alloc::{collections::VecDeque, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};

use trine_abi::{
    layout::{CONTROL_RINGS, DIRECT_MAP},
    ring::{
        DATA_OFFSET, HEAD_OFFSET, MAX_MESSAGE, RING_BYTES, RING_STRIDE, TAIL_OFFSET, pieces, used,
    },
};

use crate::raw;

/// The two control rings.
#[derive(Debug)]
pub struct Channel {
    to_kernel: *mut u8,
    from_kernel: *mut u8,
    /// Bytes of the message that is arriving.
    incoming: Vec<u8>,
    /// Bytes that did not fit in the ring yet.
    outgoing: VecDeque<u8>,
}

// SAFETY: the rings are shared with the VMM anyway: every access is atomic or an opaque copy.
unsafe impl Send for Channel {}

impl Channel {
    /// Takes over the control rings.
    ///
    /// # Safety
    /// Only in the guest, and once.
    pub unsafe fn new() -> Self {
        let base = DIRECT_MAP + CONTROL_RINGS;
        Self {
            to_kernel: base as *mut u8,
            from_kernel: (base + RING_STRIDE) as *mut u8,
            incoming: Vec::new(),
            outgoing: VecDeque::new(),
        }
    }

    /// Takes the next message, if one is complete.  Says also whether bytes were taken, so that the
    /// VMM may have more.
    pub fn receive(&mut self) -> (Option<Vec<u8>>, bool) {
        let head = word(self.to_kernel, HEAD_OFFSET).load(Ordering::Relaxed);
        let tail = word(self.to_kernel, TAIL_OFFSET).load(Ordering::Acquire);
        let available = used(head, tail).unwrap_or(0);
        if available > 0 {
            for (offset, bytes) in pieces(head, available) {
                let at = self.incoming.len();
                self.incoming.resize(at + bytes as usize, 0);
                // SAFETY: `pieces` stays within the ring's data; the target is private memory.
                unsafe {
                    raw::copy(
                        self.to_kernel.wrapping_add(DATA_OFFSET as usize + offset as usize),
                        self.incoming.as_mut_ptr().wrapping_add(at),
                        bytes as usize,
                    );
                }
            }
            word(self.to_kernel, HEAD_OFFSET)
                .store(head.wrapping_add(available), Ordering::Release);
        }
        (self.take_message(), available > 0)
    }

    fn take_message(&mut self) -> Option<Vec<u8>> {
        let (length, rest) = self.incoming.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length).min(MAX_MESSAGE) as usize;
        let message = rest.get(..length)?.to_vec();
        self.incoming.drain(..4 + length);
        Some(message)
    }

    /// Queues a message.
    pub fn send(&mut self, message: &[u8]) {
        self.outgoing.extend((message.len() as u32).to_le_bytes());
        self.outgoing.extend(message);
    }

    /// Moves queued bytes to the ring; returns whether any were moved, so that the VMM must look.
    pub fn flush(&mut self) -> bool {
        if self.outgoing.is_empty() {
            return false;
        }
        let tail = word(self.from_kernel, TAIL_OFFSET).load(Ordering::Relaxed);
        let head = word(self.from_kernel, HEAD_OFFSET).load(Ordering::Acquire);
        let room = RING_BYTES - used(head, tail).unwrap_or(RING_BYTES);
        let bytes = room.min(self.outgoing.len() as u32);
        let data: Vec<u8> = self.outgoing.drain(..bytes as usize).collect();
        let mut done = 0;
        for (offset, bytes) in pieces(tail, bytes) {
            // SAFETY: `pieces` stays within the ring's data; the source is private memory.
            unsafe {
                raw::copy(
                    data.as_ptr().wrapping_add(done),
                    self.from_kernel.wrapping_add(DATA_OFFSET as usize + offset as usize),
                    bytes as usize,
                );
            }
            done += bytes as usize;
        }
        word(self.from_kernel, TAIL_OFFSET).store(tail.wrapping_add(bytes), Ordering::Release);
        bytes > 0
    }

    /// Whether bytes still wait for room.
    pub fn is_flushed(&self) -> bool {
        self.outgoing.is_empty()
    }
}

fn word<'a>(ring: *mut u8, offset: u64) -> &'a AtomicU32 {
    // SAFETY: an aligned word of the ring's header page, which is mapped for ever.
    unsafe { AtomicU32::from_ptr(ring.wrapping_add(offset as usize).cast()) }
}
