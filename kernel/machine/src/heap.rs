// SPDX-License-Identifier: Apache-2.0
//! The kernel's heap: grows in runs of frames from the arena, and never shrinks.

use core::alloc::Layout;

use spin::Once;
use talc::{
    base::{Talc, binning::Binning},
    source::Source,
};
use trine_abi::layout::PAGE_SIZE;

use crate::Arena;

static ARENA: Once<&'static Arena> = Once::new();

/// Frames that the heap takes at least at a time.
const MIN_RUN: u64 = 16;

/// The kernel's allocator, for `#[global_allocator]`.
pub type Heap = talc::TalcLock<spin::Mutex<()>, ArenaSource>;

/// Makes the allocator; it has no memory until [`init`].
pub const fn new() -> Heap {
    Heap::new(ArenaSource(()))
}

/// Gives the heap its arena.
pub fn init(arena: &'static Arena) {
    ARENA.call_once(|| arena);
}

/// Frames of the arena as memory of the heap.
#[derive(Debug)]
pub struct ArenaSource(());

// SAFETY: `acquire` only claims memory that nobody else has, and does not allocate.
unsafe impl Source for ArenaSource {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let arena = ARENA.get().ok_or(())?;
        // Room for the allocator's own words and the worst alignment.
        let bytes = layout.size() + layout.align() + 2 * PAGE_SIZE as usize;
        let needed = (bytes as u64).div_ceil(PAGE_SIZE);
        let (frames, address) = [needed.max(MIN_RUN), needed]
            .into_iter()
            .find_map(|frames| Some((frames, arena.take_run(frames)?)))
            .ok_or(())?;
        let base = arena.pointer(address);
        // SAFETY: the run is RAM that the arena gave to the heap for ever.
        unsafe { talc.claim(base, (frames * PAGE_SIZE) as usize) }.map(|_| ()).ok_or(())
    }
}
