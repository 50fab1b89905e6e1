// SPDX-License-Identifier: Apache-2.0
//! How a sparse file is cut into chunks.

use std::ops::Range;

use super::BLOCK_BYTES;

/// The format stores the chunk size as up to 31 more bits than a block has.
const MAX_BITS: u8 = MIN_BITS + 31;
const MIN_BITS: u8 = BLOCK_BYTES.trailing_zeros() as u8;
/// The longest map, which is held in memory while its inode is written: 16 MiB.
const MAX_CHUNKS: u64 = 4 << 20;
/// The most zeros to store because chunks must be large.
const MAX_FILL_BYTES: u64 = 1 << 30;
/// A chunk that is not stored.
const HOLE: u32 = u32::MAX;

/// The chunks of a file: `runs` of them hold data, the others are holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    size: u64,
    /// The chunk size, as a power of two.
    pub(super) bits: u8,
    /// Chunks with data, in order, apart from each other.
    runs: Vec<Range<u64>>,
}

impl Chunks {
    /// Cuts a file with data in `ranges` (in order); `None` if it is too large for what it holds.
    ///
    /// Small chunks store fewer zeros, large ones need a shorter map: the sum decides.  (A
    /// `lastlog` of 300 GB with two records is neither a map of 300 MB nor gigabytes of zeros.)
    pub(super) fn of(size: u64, ranges: &[Range<u64>]) -> Option<Self> {
        let fitting = (MIN_BITS..=MAX_BITS).filter(|bits| size.div_ceil(1 << bits) <= MAX_CHUNKS);
        let candidates = fitting.map(|bits| Self { size, bits, runs: runs_of(ranges, bits) });
        let best = candidates.min_by_key(|chunks| chunks.stored_bytes() + chunks.map_bytes())?;
        let data: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        (best.stored_bytes() - data <= MAX_FILL_BYTES).then_some(best)
    }

    pub(super) fn map_bytes(&self) -> u64 {
        4 * self.size.div_ceil(1 << self.bits)
    }

    /// The file's ranges that are stored, in order.
    pub(super) fn stored(&self) -> impl Iterator<Item = Range<u64>> {
        let end = |run: &Range<u64>| self.size.min(run.end << self.bits);
        self.runs.iter().map(move |run| run.start << self.bits..end(run))
    }

    pub(super) fn hole_bytes(&self) -> u64 {
        self.size - self.stored_bytes()
    }

    fn stored_bytes(&self) -> u64 {
        self.stored().map(|range| range.end - range.start).sum()
    }

    /// Appends the map to `bytes`, given the first block of each run.
    pub(super) fn encode(&self, blocks: &[u32], bytes: &mut Vec<u8>) {
        let chunk_blocks = 1 << (self.bits - MIN_BITS);
        let mut next = 0;
        for (run, first) in self.runs.iter().zip(blocks) {
            bytes.extend((next..run.start).flat_map(|_| HOLE.to_le_bytes()));
            let count = (run.end - run.start) as u32;
            // The blocks of a run are consecutive, and their numbers fit: they were written.
            bytes.extend((0..count).flat_map(|i| (first + i * chunk_blocks).to_le_bytes()));
            next = run.end;
        }
        let end = self.size.div_ceil(1 << self.bits);
        bytes.extend((next..end).flat_map(|_| HOLE.to_le_bytes()));
    }
}

/// Returns the runs of chunks that `ranges` touch.
fn runs_of(ranges: &[Range<u64>], bits: u8) -> Vec<Range<u64>> {
    let mut runs = Vec::<Range<u64>>::new();
    for range in ranges {
        let (start, end) = (range.start >> bits, range.end.div_ceil(1 << bits));
        match runs.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_without_data_are_holes() {
        let chunks = Chunks::of(40_000, &[0..1, 8191..8193, 20_000..20_001]).unwrap();
        assert_eq!(chunks.bits, 12);
        assert_eq!(chunks.stored().collect::<Vec<_>>(), [0..12_288, 16_384..20_480]);
        assert_eq!(chunks.hole_bytes(), 40_000 - 4 * 4096);
        let mut bytes = Vec::new();
        chunks.encode(&[7, 100], &mut bytes);
        let map: Vec<_> =
            bytes.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(map, [7, 8, 9, HOLE, 100, HOLE, HOLE, HOLE, HOLE, HOLE]);
        assert_eq!(bytes.len() as u64, chunks.map_bytes());
    }

    #[test]
    fn large_chunks_take_several_blocks_and_the_last_is_cut() {
        let size = (1 << 40) + 5;
        let chunks = Chunks::of(size, &[0..1, size - 1..size]).unwrap();
        assert!(chunks.bits > 12);
        assert_eq!(chunks.stored().last().unwrap().end, size);
    }

    #[test]
    fn huge_files_store_little_or_are_refused() {
        let page = |at: u64| at..at + 4096;
        for size in [292 << 30, 1 << 40, 16 << 40] {
            for ranges in [vec![], vec![page(0)], vec![page(8192), page((size / 2) & !4095)]] {
                let chunks = Chunks::of(size, &ranges).unwrap();
                let cost = chunks.map_bytes() + chunks.stored_bytes();
                assert!(cost <= 32 << 20, "{size} {ranges:?}: {cost} bytes");
            }
        }
        let largest = i64::MAX as u64;
        assert!(Chunks::of(largest, &[]).is_some());
        assert_eq!(Chunks::of(largest, &[page(0)]), None);
    }
}
