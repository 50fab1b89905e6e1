// SPDX-License-Identifier: Apache-2.0
//! Where functions begin and end, as unwind tables, symbols and Go's own table have it.

use std::{collections::HashMap, ops::Range};

use elf::{
    abi::{SHN_UNDEF, STT_FUNC, STT_GNU_IFUNC},
    symbol::Symbol,
};
use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindSection as _};

use super::{golang, object::Object};

/// Most functions of a file; one with more is left alone.
const FUNCTIONS_MAX: usize = 4 << 20;
/// Most shared heads of unwind tables; what follows more of them is left alone.
const HEADS_MAX: usize = 1 << 16;
/// How many functions before an address may be nested in the one that it belongs to.
const NESTED_MAX: usize = 16;

/// The functions of a file.
#[derive(Debug)]
pub(super) struct Functions {
    /// By start, each start once, none empty.
    ranges: Vec<Range<u64>>,
    /// By index: which one of those up to here ends last.
    last: Vec<u32>,
}

/// What lies between two functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// The function that ends there.
    pub(super) before: Range<u64>,
    /// Not empty.
    pub(super) bytes: Range<u64>,
}

impl Functions {
    /// Collects the functions of a file; `None` if there are too many.
    pub(super) fn of(object: &Object<'_>) -> Option<Self> {
        let mut ranges = Vec::new();
        from_frames(object, &mut ranges)?;
        for table in [object.elf.symbol_table(), object.elf.dynamic_symbol_table()] {
            if let Ok(Some((symbols, _))) = table {
                for symbol in symbols.iter().filter(is_function) {
                    add(&mut ranges, symbol.st_value, symbol.st_size)?;
                }
            }
        }
        for range in golang::functions(object) {
            add(&mut ranges, range.start, range.end.saturating_sub(range.start))?;
        }
        Some(Self::new(ranges))
    }

    fn new(mut ranges: Vec<Range<u64>>) -> Self {
        // Of those that begin together, the longest first, which stays.
        ranges.sort_unstable_by_key(|range| (range.start, std::cmp::Reverse(range.end)));
        ranges.dedup_by_key(|range| range.start);
        let mut last = Vec::with_capacity(ranges.len());
        let mut latest = 0;
        for (index, range) in ranges.iter().enumerate() {
            if range.end > ranges[latest].end {
                latest = index;
            }
            last.push(latest as u32);
        }
        Self { ranges, last }
    }

    /// The function that an address is in: of several, the one that begins last.
    pub(super) fn around(&self, address: u64) -> Option<Range<u64>> {
        let after = self.ranges.partition_point(|range| range.start <= address);
        let mut before = self.ranges[..after].iter().rev().take(NESTED_MAX);
        before.find(|range| address < range.end).cloned()
    }

    /// The function that ends right before an address: the unwind tables of `clone` end before its
    /// system call, after which there are two threads.
    pub(super) fn up_to(&self, address: u64) -> Option<Range<u64>> {
        let after = self.ranges.partition_point(|range| range.start < address);
        let mut before = self.ranges[..after].iter().rev().take(NESTED_MAX);
        before.find(|range| range.end == address).cloned()
    }

    /// The gaps that begin in a range of addresses, in order.
    pub(super) fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Gap> {
        let first = self.ranges.partition_point(|function| function.start <= range.start);
        let nexts = first.max(1)..self.ranges.len();
        let gaps = nexts.map(|next| {
            let before = self.ranges[self.last[next - 1] as usize].clone();
            let bytes = before.end..self.ranges[next].start;
            Gap { before, bytes }
        });
        // Where they begin never goes back.
        gaps.take_while(move |gap| gap.bytes.start < range.end)
            .filter(move |gap| gap.bytes.start >= range.start && !gap.bytes.is_empty())
    }
}

fn is_function(symbol: &Symbol) -> bool {
    symbol.st_shndx != SHN_UNDEF && matches!(symbol.st_symtype(), STT_FUNC | STT_GNU_IFUNC)
}

/// Adds a function unless it is empty; `None` if there are too many.
fn add(ranges: &mut Vec<Range<u64>>, start: u64, size: u64) -> Option<()> {
    if let Some(end) = start.checked_add(size).filter(|end| *end > start) {
        if ranges.len() == FUNCTIONS_MAX {
            return None;
        }
        ranges.push(start..end);
    }
    Some(())
}

fn from_frames(object: &Object<'_>, ranges: &mut Vec<Range<u64>>) -> Option<()> {
    let Some((address, bytes)) = object.frames() else { return Some(()) };
    let bases = BaseAddresses::default().set_eh_frame(address);
    let section = EhFrame::new(bytes, LittleEndian);
    let mut entries = section.entries(&bases);
    // A head is read once, however many refer to it.
    let mut heads = HashMap::new();
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(frame) = entry else { continue };
        if heads.len() == HEADS_MAX {
            break;
        }
        let frame = frame.parse(|section: &EhFrame<_>, bases, offset| {
            heads.entry(offset).or_insert_with(|| section.cie_from_offset(bases, offset)).clone()
        });
        if let Ok(frame) = frame {
            add(ranges, frame.initial_address(), frame.len())?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions() -> Functions {
        Functions::new(vec![10..20, 0..8, 12..14, 20..30, 40..60, 40..50, 45..50, 64..70])
    }

    #[test]
    fn around_finds_the_innermost_function() {
        let functions = functions();
        let starts = [0, 8, 10, 13, 14, 30, 40, 47, 55, 69, 70]
            .map(|address| functions.around(address).map(|range| (range.start, range.end)));
        let outer = Some((40, 60));
        assert_eq!(
            starts,
            [
                Some((0, 8)),
                None,
                Some((10, 20)),
                Some((12, 14)),
                Some((10, 20)),
                None,
                outer,
                Some((45, 50)),
                outer,
                Some((64, 70)),
                None
            ]
        );
    }

    #[test]
    fn up_to_finds_the_function_that_ends_there() {
        let functions = functions();
        let starts = [8, 9, 20, 30, 50, 60, 0]
            .map(|address| functions.up_to(address).map(|range| range.start));
        assert_eq!(starts, [Some(0), None, Some(10), Some(20), Some(45), Some(40), None]);
    }

    #[test]
    fn gaps_lie_between_what_ends_last_and_what_begins_next() {
        let functions = functions();
        let gaps = |range| functions.gaps(range).map(|gap| gap.bytes).collect::<Vec<_>>();
        assert_eq!(gaps(0..100), [8..10, 30..40, 60..64]);
        assert_eq!(gaps(9..31), vec![30..40; 1]);
        assert_eq!(gaps(61..100), []);
        let last = functions.gaps(60..61).next().unwrap();
        assert_eq!(last.before, 40..60);
        assert_eq!(Functions::new(Vec::new()).gaps(0..100).count(), 0);
    }
}
