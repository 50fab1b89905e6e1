// SPDX-License-Identifier: Apache-2.0
//! RAM as the kernel sees it: which frames are free, and where the images lie.
//!
//! RAM is managed in blocks of 2 MiB.  Single frames come from the lowest block that has one, so a
//! small container stays within few host pages; whole blocks come from the top.  A frame that was
//! never handed out is known to be zero, as the VMM gives zeroed memory.
//!
//! The last blocks are a reserve that only the kernel's heap gets: applications run out of memory
//! before the kernel does, which then still can end one of them.

use core::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use spin::Mutex;
use trine_abi::{
    boot::{BLOCK_BYTES, COUNT_BYTES, ImageSlot, MAX_IMAGES},
    layout::{HUGE_PAGE_SIZE, PAGE_SIZE},
};

use crate::{frame::ImagePage, raw};

/// Frames of a block.
pub(crate) const BLOCK_FRAMES: u64 = HUGE_PAGE_SIZE / PAGE_SIZE;
/// One block in so many is part of the reserve, but not more than `RESERVE_MAX`.
const RESERVE_SHARE: u64 = 32;
const RESERVE_MAX: u64 = 32;
/// Page-table frames that are kept for the next page table.
const TABLE_POOL: usize = 128;

/// One block's free frames.
#[derive(Clone, Copy)]
#[repr(C)]
struct Block {
    /// A set bit is a free frame.
    free: [u64; 8],
    /// How many bits are set.
    count: u32,
    /// Frames from this one on were never handed out.
    fresh: u32,
}

struct Free {
    /// No block below this one has a free frame.
    lowest: u64,
    frames: u64,
    /// Recycled page tables: a host that shadows page tables watches these frames, so they go from
    /// page table to page table and never to anybody who would pay for that at each write.
    tables: [u32; TABLE_POOL],
    table_count: usize,
}

const _: () = assert!(size_of::<Block>() as u64 == BLOCK_BYTES);
const _: () = assert!(size_of::<AtomicU32>() as u64 == COUNT_BYTES);

/// The RAM and images of a VM.
pub struct Arena {
    base: *mut u8,
    ram_bytes: u64,
    /// One reference count a frame.
    counts: *const AtomicU32,
    blocks: *mut Block,
    free: Mutex<Free>,
    images: [(ImageSlot, *const u8); MAX_IMAGES],
    kernel_root: AtomicU64,
    /// Blocks from this one on are the reserve.
    reserve_from: u64,
    /// The heap had to take from the reserve, or found nothing there.
    is_short: AtomicBool,
}

// SAFETY: the memory behind the pointers is reached only through frames, whose owners are exclusive
// or copy bytewise, through atomics, or under the `free` lock (`blocks`).
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("ram_bytes", &self.ram_bytes).finish_non_exhaustive()
    }
}

impl Arena {
    /// Takes over RAM.  `base` is where physical address 0 is mapped.
    ///
    /// Frames below `free_start` are never free.  The bookkeeping is at the end of RAM, where the
    /// host backs it with small pages (`trine_abi::boot::bookkeeping_bytes`).
    ///
    /// # Safety
    /// - `base .. base + ram_bytes` is mapped, writable, and stays so for ever; everything from
    ///   `free_start` on is zero and used by nobody else.
    /// - Each image's pointer is readable for its length, for ever.
    ///
    /// # Panics
    /// If RAM is too small for its own bookkeeping.
    pub unsafe fn new(
        base: *mut u8,
        ram_bytes: u64,
        free_start: u64,
        images: [(ImageSlot, *const u8); MAX_IMAGES],
    ) -> Self {
        let frames = ram_bytes / PAGE_SIZE;
        let blocks = frames / BLOCK_FRAMES;
        let own = frames * COUNT_BYTES + blocks * BLOCK_BYTES;
        let counts_at = (ram_bytes - own) / PAGE_SIZE * PAGE_SIZE;
        let first_free = free_start.div_ceil(PAGE_SIZE);
        let end = counts_at / PAGE_SIZE;
        assert!(first_free < end, "ram of {ram_bytes} bytes is too small for its bookkeeping");
        let reserve = (blocks / RESERVE_SHARE).min(RESERVE_MAX);
        let arena = Self {
            base,
            ram_bytes,
            reserve_from: blocks - reserve,
            is_short: AtomicBool::new(false),
            counts: base.wrapping_add(counts_at as usize).cast(),
            blocks: base.wrapping_add((counts_at + frames * COUNT_BYTES) as usize).cast(),
            free: Mutex::new(Free {
                lowest: first_free / BLOCK_FRAMES,
                frames: 0,
                tables: [0; TABLE_POOL],
                table_count: 0,
            }),
            images,
            kernel_root: AtomicU64::new(0),
        };
        let mut free = arena.free.lock();
        for index in 0..blocks {
            let start = index * BLOCK_FRAMES;
            let used = first_free.saturating_sub(start).min(BLOCK_FRAMES);
            let usable = end.saturating_sub(start).min(BLOCK_FRAMES);
            let mut block = Block { free: [0; 8], count: 0, fresh: used as u32 };
            for frame in used..usable {
                block.free[(frame / 64) as usize] |= 1 << (frame % 64);
            }
            block.count = usable.saturating_sub(used) as u32;
            if index < arena.reserve_from {
                free.frames += u64::from(block.count);
            }
            // SAFETY: the block lies in the bookkeeping that was sized above.
            unsafe { arena.blocks.wrapping_add(index as usize).write(block) };
        }
        drop(free);
        arena
    }

    /// Bytes of RAM.
    pub fn ram_bytes(&self) -> u64 {
        self.ram_bytes
    }

    /// Bytes of RAM that are free, less the reserve.
    pub fn free_bytes(&self) -> u64 {
        self.free.lock().frames * PAGE_SIZE
    }

    /// Length of image `index` in bytes; 0 if there is none.
    pub fn image_bytes(&self, index: usize) -> u64 {
        self.images.get(index).map_or(0, |(slot, _)| slot.bytes)
    }

    /// The contents of image `index`, which nobody ever writes; empty if there is none.
    pub fn image(&'static self, index: usize) -> &'static [u8] {
        match self.images.get(index) {
            // SAFETY: `new`'s caller vouches that the image is readable for its length, for ever,
            // and images are immutable by contract (read-only descriptor, mapping and slot).
            Some((slot, pointer)) if slot.bytes > 0 => unsafe {
                core::slice::from_raw_parts(*pointer, slot.bytes as usize)
            },
            _ => &[],
        }
    }

    /// The page at `offset` (a multiple of 4096) of image `index`.
    pub fn image_page(&'static self, index: usize, offset: u64) -> Option<ImagePage> {
        let (slot, _) = self.images.get(index)?;
        let fits = offset.is_multiple_of(PAGE_SIZE) && offset.checked_add(PAGE_SIZE)? <= slot.bytes;
        fits.then(|| ImagePage::new(self, slot.base + offset))
    }

    /// Tells the arena the kernel's page table, whose system half every address space shares.
    pub fn set_kernel_root(&self, root: u64) {
        self.kernel_root.store(root, Ordering::Relaxed);
    }

    /// The kernel's page table; 0 on a host.
    pub(crate) fn kernel_root(&self) -> u64 {
        self.kernel_root.load(Ordering::Relaxed)
    }

    /// Where a physical address of RAM or of an image is mapped.
    pub(crate) fn pointer(&self, address: u64) -> *mut u8 {
        if address < self.ram_bytes {
            return self.base.wrapping_add(address as usize);
        }
        for (slot, pointer) in &self.images {
            if address >= slot.base && address - slot.base < slot.bytes {
                return pointer.wrapping_add((address - slot.base) as usize).cast_mut();
            }
        }
        unreachable!("address {address:#x} is neither RAM nor image")
    }

    /// Whether an address is RAM.
    pub(crate) fn is_ram(&self, address: u64) -> bool {
        address < self.ram_bytes
    }

    /// The reference count of a frame.
    pub(crate) fn count(&self, frame: u32) -> &AtomicU32 {
        assert!(u64::from(frame) < self.ram_bytes / PAGE_SIZE);
        // SAFETY: one counter a frame, and the frame exists.
        unsafe { &*self.counts.wrapping_add(frame as usize) }
    }

    /// The bookkeeping of a block, which belongs to who holds `free`.
    fn block<'a>(&self, _free: &'a mut Free, index: u64) -> &'a mut Block {
        assert!(index < self.ram_bytes / HUGE_PAGE_SIZE);
        // SAFETY: the block exists; holding `free` mutably makes this the only reference.
        unsafe { &mut *self.blocks.wrapping_add(index as usize) }
    }

    /// Takes one frame with a reference count of 1; says whether it is known to be zero.
    pub(crate) fn take_frame(&self) -> Option<(u32, bool)> {
        let mut free = self.free.lock();
        while free.lowest < self.reserve_from {
            let index = free.lowest;
            let block = self.block(&mut free, index);
            if block.count == 0 {
                free.lowest += 1;
                continue;
            }
            let word = block.free.iter().position(|&word| word != 0).expect("count says so");
            let bit = block.free[word].trailing_zeros();
            block.free[word] &= !(1 << bit);
            block.count -= 1;
            let within = word as u32 * 64 + bit;
            let fresh = within >= block.fresh;
            block.fresh = block.fresh.max(within + 1);
            free.frames -= 1;
            let frame = index as u32 * BLOCK_FRAMES as u32 + within;
            self.count(frame).store(1, Ordering::Relaxed);
            return Some((frame, fresh));
        }
        None
    }

    /// Takes `count` frames in a row for the kernel's own heap, which never gives them back; returns
    /// their address.  Their contents are whatever they were.
    pub fn take_run(&self, count: u64) -> Option<u64> {
        let mut free = self.free.lock();
        let (lowest, reserve, end) =
            (free.lowest, self.reserve_from, self.ram_bytes / HUGE_PAGE_SIZE);
        if let Some(address) = self.find_run(&mut free, count, lowest, reserve) {
            free.frames -= count;
            return Some(address);
        }
        self.is_short.store(true, Ordering::Relaxed);
        self.find_run(&mut free, count, reserve, end)
    }

    /// Says, once, whether the heap had to take from the reserve.
    pub fn take_shortage(&self) -> bool {
        self.is_short.load(Ordering::Relaxed) && self.is_short.swap(false, Ordering::Relaxed)
    }

    /// Takes frames in a row from blocks of a range.
    fn find_run(&self, free: &mut Free, count: u64, from: u64, end: u64) -> Option<u64> {
        if count > BLOCK_FRAMES {
            return self.find_blocks(free, count, from, end);
        }
        for index in from..end {
            let block = self.block(free, index);
            if u64::from(block.count) < count {
                continue;
            }
            let is_free = |at: u64| block.free[(at / 64) as usize] >> (at % 64) & 1 == 1;
            let mut start = 0;
            while start + count <= BLOCK_FRAMES {
                match (start..start + count).rev().find(|&at| !is_free(at)) {
                    Some(taken) => start = taken + 1,
                    None => break,
                }
            }
            if start + count > BLOCK_FRAMES {
                continue;
            }
            for at in start..start + count {
                block.free[(at / 64) as usize] &= !(1 << (at % 64));
            }
            block.count -= count as u32;
            block.fresh = block.fresh.max((start + count) as u32);
            return Some((index * BLOCK_FRAMES + start) * PAGE_SIZE);
        }
        None
    }

    /// Takes more frames in a row than a block has: whole blocks, and the beginning of the last.
    fn find_blocks(&self, free: &mut Free, count: u64, from: u64, end: u64) -> Option<u64> {
        let blocks = count.div_ceil(BLOCK_FRAMES);
        let mut first = end.checked_sub(blocks).filter(|first| *first >= from)?;
        let mut index = end;
        while index > first {
            index -= 1;
            if u64::from(self.block(free, index).count) != BLOCK_FRAMES {
                first = index.checked_sub(blocks).filter(|first| *first >= from)?;
                index = first + blocks;
            }
        }
        let mut left = count;
        for index in first..first + blocks {
            let block = self.block(free, index);
            let taken = left.min(BLOCK_FRAMES);
            for at in 0..taken {
                block.free[(at / 64) as usize] &= !(1 << (at % 64));
            }
            block.count -= taken as u32;
            block.fresh = block.fresh.max(taken as u32);
            left -= taken;
        }
        Some(first * BLOCK_FRAMES * PAGE_SIZE)
    }

    /// Takes a whole block; every frame of it has a reference count of 1.  Says whether it is known
    /// to be zero.
    pub(crate) fn take_block(&self) -> Option<(u32, bool)> {
        let mut free = self.free.lock();
        let index = (free.lowest..self.reserve_from)
            .rev()
            .find(|&index| u64::from(self.block(&mut free, index).count) == BLOCK_FRAMES)?;
        let block = self.block(&mut free, index);
        let fresh = block.fresh == 0;
        *block = Block { free: [0; 8], count: 0, fresh: BLOCK_FRAMES as u32 };
        free.frames -= BLOCK_FRAMES;
        let first = index as u32 * BLOCK_FRAMES as u32;
        for frame in first..first + BLOCK_FRAMES as u32 {
            self.count(frame).store(1, Ordering::Relaxed);
        }
        Some((first, fresh))
    }

    /// Gives a frame back whose reference count has become 0.
    pub(crate) fn give_frame(&self, frame: u32) {
        let mut free = self.free.lock();
        let index = u64::from(frame) / BLOCK_FRAMES;
        let within = frame % BLOCK_FRAMES as u32;
        let block = self.block(&mut free, index);
        block.free[(within / 64) as usize] |= 1 << (within % 64);
        block.count += 1;
        free.frames += 1;
        free.lowest = free.lowest.min(index);
    }

    /// Takes a zeroed frame for a page table.
    pub(crate) fn take_table(&self) -> Option<u32> {
        let recycled = {
            let mut free = self.free.lock();
            let last = free.table_count.checked_sub(1);
            last.map(|last| {
                free.table_count = last;
                free.tables[last]
            })
        };
        let (frame, fresh) = match recycled {
            Some(frame) => (frame, false),
            None => self.take_frame()?,
        };
        if !fresh {
            let table = self.pointer(u64::from(frame) * PAGE_SIZE).cast::<u64>();
            for entry in 0..512 {
                // A host that still watches this page emulates the first few writes one by one: a
                // string instruction would be emulated to its end.
                // SAFETY: entry < 512, within the frame, which nobody else owns.
                unsafe { table.wrapping_add(entry).write_volatile(0) };
            }
        }
        Some(frame)
    }

    /// Gives a page table's frame back.
    pub(crate) fn give_table(&self, frame: u32) {
        let mut free = self.free.lock();
        let at = free.table_count;
        if at < TABLE_POOL {
            free.tables[at] = frame;
            free.table_count += 1;
        } else {
            drop(free);
            self.give_frame(frame);
        }
    }

    /// Zeroes a frame that the caller owns alone.
    pub(crate) fn zero_frame(&self, frame: u32) {
        let pointer = self.pointer(u64::from(frame) * PAGE_SIZE);
        // SAFETY: a whole frame of RAM; the caller owns it.
        unsafe { raw::fill(pointer, 0, PAGE_SIZE as usize) };
    }
}

/// An arena of heap memory, for tests on a host: RAM and at most one image.  It is leaked.
///
/// # Panics
/// If `ram_bytes` is not a multiple of 2 MiB.
pub fn for_tests(ram_bytes: u64, image: &'static [u8]) -> &'static Arena {
    extern crate alloc;
    use alloc::{alloc::alloc_zeroed, boxed::Box};
    use core::alloc::Layout;

    assert!(ram_bytes.is_multiple_of(HUGE_PAGE_SIZE));
    let layout = Layout::from_size_align(ram_bytes as usize, 4096).expect("a sane size");
    // SAFETY: the layout is not empty.
    let base = unsafe { alloc_zeroed(layout) };
    assert!(!base.is_null(), "out of memory for a test arena");
    let mut images = [(ImageSlot::default(), core::ptr::null()); MAX_IMAGES];
    let bytes = image.len() as u64 / PAGE_SIZE * PAGE_SIZE;
    images[0] = (ImageSlot { base: ram_bytes, bytes }, image.as_ptr());
    // SAFETY: the allocation is zeroed, leaked, and nobody else's; the image is static.
    Box::leak(Box::new(unsafe { Arena::new(base, ram_bytes, 0x1000, images) }))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn take_frame_until_empty_then_give_back_restores_all() {
        let arena = for_tests(4 << 20, &[]);
        let total = arena.free_bytes() / PAGE_SIZE;
        let taken: Vec<_> = core::iter::from_fn(|| arena.take_frame()).collect();
        assert_eq!(taken.len() as u64, total);
        assert!(taken.iter().all(|(_, fresh)| *fresh));
        assert!(arena.take_table().is_none());
        for (frame, _) in taken {
            arena.give_frame(frame);
        }
        assert_eq!(arena.free_bytes() / PAGE_SIZE, total);
        assert_eq!(arena.take_frame().map(|(_, fresh)| fresh), Some(false));
    }

    #[test]
    fn take_run_around_used_frames_finds_a_gap() {
        let arena = for_tests(4 << 20, &[]);
        let a = arena.take_run(16).expect("room");
        let (frame, _) = arena.take_frame().expect("room");
        let b = arena.take_run(400).expect("room");
        assert!(b >= a + 16 * PAGE_SIZE && b > u64::from(frame) * PAGE_SIZE);
        assert!(arena.take_run(512).is_none() || arena.take_run(512).is_none());
    }

    #[test]
    fn reserve_is_for_the_heap_only() {
        let arena = for_tests(64 << 20, &[]);
        let total = arena.free_bytes() / PAGE_SIZE;
        let taken = core::iter::from_fn(|| arena.take_frame()).count() as u64;
        assert_eq!((taken, arena.free_bytes()), (total, 0));
        assert!(arena.take_table().is_none() && arena.take_block().is_none());
        assert!(!arena.take_shortage());
        assert!(arena.take_run(16).is_some());
        assert_eq!([arena.take_shortage(), arena.take_shortage()], [true, false]);
    }

    #[test]
    fn take_run_spans_blocks_that_are_free() {
        let arena = for_tests(16 << 20, &[]);
        let before = arena.free_bytes();
        let (block, _) = arena.take_block().expect("a block");
        let a = arena.take_run(1200).expect("three blocks in a row");
        assert!(a.is_multiple_of(HUGE_PAGE_SIZE));
        assert!(a + 1200 * PAGE_SIZE <= u64::from(block) * PAGE_SIZE);
        assert_eq!(arena.free_bytes(), before - (512 + 1200) * PAGE_SIZE);
        assert!(arena.take_run(4000).is_none());
        let rest = core::iter::from_fn(|| arena.take_frame()).all(|(frame, _)| {
            let address = u64::from(frame) * PAGE_SIZE;
            address < a || address >= a + 1200 * PAGE_SIZE
        });
        assert!(rest, "no frame is given twice");
    }

    #[test]
    fn take_block_is_aligned_and_fresh_once() {
        let arena = for_tests(8 << 20, &[]);
        let (first, fresh) = arena.take_block().expect("a block");
        assert!(fresh && first % 512 == 0);
        for frame in first..first + 512 {
            arena.give_frame(frame);
        }
        assert_eq!(arena.take_block(), Some((first, false)));
    }
}
