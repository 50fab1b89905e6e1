// SPDX-License-Identifier: Apache-2.0
//! Frames of RAM and pages of images.

use core::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
};

use trine_abi::layout::{HUGE_PAGE_SIZE, PAGE_SIZE};

use crate::{Arena, raw};

const PAGE_BYTES: usize = PAGE_SIZE as usize;

/// One owner of a frame of RAM.  Cloning makes another owner; the last one frees it.
///
/// The application may write the frame at any time if it is mapped, so contents are copied in and
/// out and never borrowed.
pub struct Frame {
    arena: &'static Arena,
    number: u32,
}

impl Frame {
    /// Takes a frame that reads as zero.
    pub fn zeroed(arena: &'static Arena) -> Option<Self> {
        let (number, fresh) = arena.take_frame()?;
        if !fresh {
            arena.zero_frame(number);
        }
        Some(Self { arena, number })
    }

    /// Takes a frame and copies a page into it.
    pub fn copy_of(arena: &'static Arena, page: &Page) -> Option<Self> {
        let (number, _) = arena.take_frame()?;
        let frame = Self { arena, number };
        // SAFETY: two whole pages; the new one is ours alone.
        unsafe { raw::copy(page.pointer(), frame.pointer(), PAGE_BYTES) };
        Some(frame)
    }

    /// Takes over one reference that was counted before.
    pub(crate) fn from_raw(arena: &'static Arena, number: u32) -> Self {
        Self { arena, number }
    }

    /// Gives the reference to the caller to keep as a number.
    pub(crate) fn into_raw(self) -> u32 {
        let number = self.number;
        core::mem::forget(self);
        number
    }

    /// Physical address.
    pub fn address(&self) -> u64 {
        u64::from(self.number) * PAGE_SIZE
    }

    /// Whether this is the only owner.
    pub fn is_unique(&self) -> bool {
        self.arena.count(self.number).load(Ordering::Acquire) == 1
    }

    fn pointer(&self) -> *mut u8 {
        self.arena.pointer(self.address())
    }

    /// Copies bytes out, from `offset` on.
    ///
    /// # Panics
    /// If the range leaves the frame.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        assert!(offset <= PAGE_BYTES && to.len() <= PAGE_BYTES - offset);
        // SAFETY: within the frame, as asserted; `to` is private memory.
        unsafe { raw::copy(self.pointer().wrapping_add(offset), to.as_mut_ptr(), to.len()) };
    }

    /// Copies bytes in, from `offset` on.
    ///
    /// # Panics
    /// If the range leaves the frame.
    pub fn write(&self, offset: usize, from: &[u8]) {
        assert!(offset <= PAGE_BYTES && from.len() <= PAGE_BYTES - offset);
        // SAFETY: within the frame, as asserted; `from` is private memory.
        unsafe { raw::copy(from.as_ptr(), self.pointer().wrapping_add(offset), from.len()) };
    }

    /// Zeroes a range.
    ///
    /// # Panics
    /// If the range leaves the frame.
    pub fn zero(&self, offset: usize, bytes: usize) {
        assert!(offset <= PAGE_BYTES && bytes <= PAGE_BYTES - offset);
        // SAFETY: within the frame, as asserted.
        unsafe { raw::fill(self.pointer().wrapping_add(offset), 0, bytes) };
    }

    /// The aligned 32-bit word at `offset`, for futexes.
    ///
    /// # Panics
    /// If the offset is not aligned or not in the frame.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < PAGE_BYTES);
        // SAFETY: aligned and within the frame, which lives as long as this owner; everybody else
        // reaches it with atomic or opaque accesses.
        unsafe { AtomicU32::from_ptr(self.pointer().wrapping_add(offset).cast()) }
    }
}

impl Clone for Frame {
    fn clone(&self) -> Self {
        let before = self.arena.count(self.number).fetch_add(1, Ordering::Relaxed);
        assert!(before < u32::MAX / 2, "too many owners of a frame");
        Self { arena: self.arena, number: self.number }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if self.arena.count(self.number).fetch_sub(1, Ordering::AcqRel) == 1 {
            self.arena.give_frame(self.number);
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:#x})", self.address())
    }
}

/// The only owner of 2 MiB of RAM in a row, aligned.
#[derive(Debug)]
pub struct HugeFrame {
    arena: &'static Arena,
    first: u32,
}

impl HugeFrame {
    /// Takes 2 MiB that read as zero.
    pub fn zeroed(arena: &'static Arena) -> Option<Self> {
        let (first, fresh) = arena.take_block()?;
        let block = Self { arena, first };
        if !fresh {
            let pointer = arena.pointer(u64::from(first) * PAGE_SIZE);
            // SAFETY: a whole block of RAM, which is ours alone.
            unsafe { raw::fill(pointer, 0, HUGE_PAGE_SIZE as usize) };
        }
        Some(block)
    }

    /// Gives the block to the caller: one reference to each of its frames.
    pub(crate) fn into_address(self) -> u64 {
        let address = u64::from(self.first) * PAGE_SIZE;
        core::mem::forget(self);
        address
    }
}

impl Drop for HugeFrame {
    fn drop(&mut self) {
        for number in self.first..self.first + (HUGE_PAGE_SIZE / PAGE_SIZE) as u32 {
            drop(Frame::from_raw(self.arena, number));
        }
    }
}

/// One page of an image: it can be mapped and read, never written.
#[derive(Clone, Copy)]
pub struct ImagePage {
    arena: &'static Arena,
    address: u64,
}

impl ImagePage {
    pub(crate) fn new(arena: &'static Arena, address: u64) -> Self {
        Self { arena, address }
    }

    /// Physical address.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl fmt::Debug for ImagePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImagePage({:#x})", self.address)
    }
}

/// Something that can be mapped.
#[derive(Clone, Debug)]
pub enum Page {
    /// A frame of RAM.
    Frame(Frame),
    /// A page of an image.
    Image(ImagePage),
}

impl Page {
    /// Physical address.
    pub fn address(&self) -> u64 {
        match self {
            Self::Frame(frame) => frame.address(),
            Self::Image(page) => page.address(),
        }
    }

    fn pointer(&self) -> *const u8 {
        match self {
            Self::Frame(frame) => frame.pointer(),
            Self::Image(page) => page.arena.pointer(page.address),
        }
    }

    /// Copies bytes out, from `offset` on.
    ///
    /// # Panics
    /// If the range leaves the page.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        assert!(offset <= PAGE_BYTES && to.len() <= PAGE_BYTES - offset);
        // SAFETY: within the page, as asserted; `to` is private memory.
        unsafe { raw::copy(self.pointer().wrapping_add(offset), to.as_mut_ptr(), to.len()) };
    }
}
