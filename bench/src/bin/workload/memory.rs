// SPDX-License-Identifier: Apache-2.0
//! Memory that is mapped, touched and given back.

use std::{
    hint::black_box,
    io,
    time::{Duration, Instant},
};

const PAGE_BYTES: usize = 4096;
/// So much that the C library maps it anew each time, whatever it has learnt (32 MiB at most).
const MAPPED_BYTES: usize = 64 << 20;

/// The first touch of every page of fresh memory; making and freeing it is not counted.
pub(crate) fn fault_loop() -> io::Result<(u64, Duration)> {
    let mut memory = vec![0_u8; MAPPED_BYTES];
    let begun = Instant::now();
    for page in memory.chunks_mut(PAGE_BYTES) {
        page[0] = 1;
        black_box(&*page);
    }
    let took = begun.elapsed();
    Ok(((MAPPED_BYTES / PAGE_BYTES) as u64, took))
}

/// mmap, the first touch of one page, munmap.
pub(crate) fn mmap_loop() -> io::Result<(u64, Duration)> {
    const TURNS: u64 = 50;
    let begun = Instant::now();
    for _ in 0..TURNS {
        let mut memory = vec![0_u8; MAPPED_BYTES];
        memory[0] = 1;
        black_box(&memory);
    }
    Ok((TURNS, begun.elapsed()))
}
