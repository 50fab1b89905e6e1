// SPDX-License-Identifier: Apache-2.0
//! Which sites of a file are rewritten, and where their trampolines belong.

use std::{collections::BTreeMap, ops::Range};

use memchr::memmem;
use trine_abi::text::{TRAMPOLINE_BYTES, TRAMPOLINE_PAGES_MAX};

use super::{
    PAGE_BYTES,
    functions::Functions,
    object::{Object, Segment},
    padding::{FAR_JUMP_BYTES, Padding, Room},
    sites,
};

/// The bytes of `syscall`.
pub(super) const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Most places of a file that are looked at.
const SUSPECTS_MAX: usize = 4 << 20;
/// How much code of one file is decoded: only functions with those bytes are, which are few.
const DECODED_BYTES_MAX: u64 = 16 << 20;
/// Most sites of a file.
const SITES_MAX: usize = (TRAMPOLINE_PAGES_MAX as u64 * PAGE_BYTES / TRAMPOLINE_BYTES) as usize;
/// Programs that are not relocated need their trampolines above this: lower pages cannot be mapped.
const LOWEST_MIN: u64 = 0x1_1000;
/// Longest instruction that a trampoline has room for, with the two that follow it and the origin.
const REPLACED_BYTES_MAX: u64 = 13;

/// What is rewritten in a file.
#[derive(Debug)]
pub(super) struct Plan {
    /// `syscall` instructions, rewritten or not.
    pub(super) found: u64,
    /// By address; all in segments with the same base.
    pub(super) sites: Vec<Planned>,
    /// Address of the first byte of the file.
    pub(super) base: i64,
    /// Address of the first trampoline: for a file that is relocated, it may be negative.
    pub(super) trampolines: i64,
    /// Pages of trampolines.
    pub(super) pages: u64,
}

/// A site that is rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// The instruction that is replaced.
    pub(super) replaced: Range<u64>,
    /// Where the jump to the trampoline is, if not there.
    pub(super) hop: Option<Room>,
}

impl Plan {
    /// Looks for sites; `None` if there is no system call, or too many functions.
    pub(super) fn of(object: &Object<'_>) -> Option<Self> {
        let suspects = suspects(object);
        if suspects.is_empty() {
            return None;
        }
        let functions = Functions::of(object)?;
        let mut budget = DECODED_BYTES_MAX;
        let calls = Calls::of(object, &functions, &suspects, &mut budget);
        let Calls { found, replaceable, targets } = calls;
        let mut plan = Self { found, sites: Vec::new(), base: 0, trampolines: 0, pages: 0 };
        let Some((base, replaceable)) = largest_group(object, replaceable) else {
            return Some(plan);
        };
        plan.base = base;
        let mut padding = Padding::new(object, &functions, &targets);
        for replaced in replaceable {
            if plan.sites.len() == SITES_MAX {
                break;
            }
            let is_short = replaced.end - replaced.start < FAR_JUMP_BYTES;
            let hop = if is_short { padding.take(replaced.start, base, &mut budget) } else { None };
            if hop.is_some() || !is_short {
                plan.sites.push(Planned { replaced, hop });
            }
        }
        let bytes = plan.sites.len() as u64 * TRAMPOLINE_BYTES;
        plan.pages = bytes.div_ceil(PAGE_BYTES);
        let lowest = object.lowest()?;
        if object.is_fixed && lowest < LOWEST_MIN + plan.pages * PAGE_BYTES {
            plan.sites.clear();
        }
        plan.trampolines = lowest.cast_signed() - (plan.pages * PAGE_BYTES).cast_signed();
        Some(plan)
    }
}

/// Addresses of what may be system calls, in the order of the segments.
fn suspects(object: &Object<'_>) -> Vec<u64> {
    let finder = memmem::Finder::new(&SYSCALL);
    let mut suspects = Vec::new();
    for text in object.text() {
        let size = text.bytes.end - text.bytes.start;
        let code = object.code(&(text.address..text.address + size)).unwrap_or_default();
        let room = SUSPECTS_MAX - suspects.len();
        suspects.extend(finder.find_iter(code).take(room).map(|at| text.address + at as u64));
    }
    suspects
}

/// The system calls of a file.
#[derive(Debug, Default)]
struct Calls {
    found: u64,
    /// Instructions that can be replaced, by address, none near another.
    replaceable: Vec<Range<u64>>,
    /// Where the functions with calls jump to, in order.
    targets: Vec<u64>,
}

impl Calls {
    /// Decodes the functions that suspects are in, each once.
    fn of(object: &Object<'_>, functions: &Functions, suspects: &[u64], budget: &mut u64) -> Self {
        let mut calls = Self::default();
        let around = suspects.iter().filter_map(|suspect| functions.around(*suspect));
        let mut around: Vec<_> = around.map(|range| (range.start, range.end)).collect();
        around.sort_unstable();
        around.dedup();
        for (start, end) in around {
            let Some(code) = object.code(&(start..end)) else { continue };
            // The smaller ones behind may still have their turn.
            let Some(left) = budget.checked_sub(code.len() as u64) else { continue };
            *budget = left;
            let decoded = sites::decode(code, start);
            calls.found += decoded.found;
            calls.replaceable.extend(decoded.replaceable);
            let outside = decoded.targets.iter().filter(|target| !(start..end).contains(target));
            calls.targets.extend(outside);
        }
        calls.targets.sort_unstable();
        calls.targets.dedup();
        calls.replaceable.retain(|range| range.end - range.start <= REPLACED_BYTES_MAX);
        calls.replaceable.sort_unstable_by_key(|range| (range.start, range.end));
        calls.replaceable.dedup();
        drop_overlapping(&mut calls.replaceable);
        calls
    }
}

/// Drops instructions that overlap, or that are in each other's `syscall`: somebody lies, and nobody
/// knows who.
fn drop_overlapping(ranges: &mut Vec<Range<u64>>) {
    let call_end = |range: &Range<u64>| range.end + SYSCALL.len() as u64;
    let mut last_end = 0;
    let mut is_bad: Vec<bool> = Vec::with_capacity(ranges.len());
    for range in ranges.iter() {
        let overlaps = range.start < last_end;
        if overlaps && let Some(before) = is_bad.last_mut() {
            *before = true;
        }
        is_bad.push(overlaps);
        last_end = last_end.max(call_end(range));
    }
    let mut is_bad = is_bad.iter();
    ranges.retain(|_| !is_bad.next().is_some_and(|is_bad| *is_bad));
}

/// The instructions on pages that may be rewritten, of the base that has most of them.
fn largest_group(
    object: &Object<'_>,
    replaceable: Vec<Range<u64>>,
) -> Option<(i64, Vec<Range<u64>>)> {
    let mut groups = BTreeMap::<i64, Vec<Range<u64>>>::new();
    for replaced in replaceable {
        let Some(text) = object.text_with(&replaced) else { continue };
        if pages_of(text, &replaced).all(|page| object.is_own_page(page, text)) {
            groups.entry(text.base()).or_default().push(replaced);
        }
    }
    // Of equals, the lowest.
    groups.into_iter().rev().max_by_key(|(_, group)| group.len())
}

/// The pages of the file that a range of addresses of a segment is on.
fn pages_of(text: &Segment, range: &Range<u64>) -> Range<u64> {
    let offset = |address: u64| address - text.address + text.bytes.start;
    offset(range.start) / PAGE_BYTES..offset(range.end).div_ceil(PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_instructions_are_all_dropped() {
        let mut ranges = vec![0..5, 7..12, 13..15, 20..25, 22..24, 30..35, 37..40];
        drop_overlapping(&mut ranges);
        // 12 and 13 are the bytes of a `syscall`, which another one claims.
        assert_eq!(ranges, [0..5, 30..35, 37..40]);
    }
}
