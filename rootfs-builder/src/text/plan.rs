// SPDX-License-Identifier: Apache-2.0
//! Which sites of a file are rewritten, and where their trampolines belong.

use std::{collections::BTreeMap, ops::Range};

use memchr::memmem;
use trine_abi::text::{TRAMPOLINE_BYTES, TRAMPOLINE_PAGES_MAX};

use super::{
    PAGE_BYTES,
    functions::Functions,
    object::Object,
    padding::{Padding, Room},
    sites::{self, Call},
};

/// The bytes of `syscall`.
pub(super) const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Most places of a file that are looked at.
const SUSPECTS_MAX: usize = 4 << 20;
/// How much code of one file is decoded: only functions with those bytes are, which are few.
const DECODED_BYTES_MAX: u64 = 16 << 20;
/// Most sites of a file.
pub(super) const SITES_MAX: usize =
    (TRAMPOLINE_PAGES_MAX as u64 * PAGE_BYTES / TRAMPOLINE_BYTES) as usize;
/// Programs that are not relocated need their trampolines above this: lower pages cannot be mapped.
const LOWEST_MIN: u64 = 0x1_1000;
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
    pub(super) head: Range<u64>,
    /// Address of the `syscall`.
    pub(super) call: u64,
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
        let all = Calls::of(object, &functions, &suspects, &mut budget);
        let mut plan = Self {
            found: all.found.len() as u64,
            sites: Vec::new(),
            base: 0,
            trampolines: 0,
            pages: 0,
        };
        let Some((base, calls)) = largest_group(object, all.calls) else { return Some(plan) };
        plan.base = base;
        let mut padding = Padding::new(object, &functions, &all.padding, &all.targets);
        for Call { at: call, long, short } in calls.into_iter().take(SITES_MAX) {
            let site = match (long, short) {
                (Some(head), _) => Some(Planned { head, call, hop: None }),
                (None, Some(head)) => {
                    let hop = padding.take(head.start, base, &mut budget);
                    hop.map(|hop| Planned { head, call, hop: Some(hop) })
                }
                (None, None) => None,
            };
            plan.sites.extend(site);
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
    /// All of them, in order.
    found: Vec<u64>,
    /// Those that can be rewritten, by address, none near another.
    calls: Vec<Call>,
    /// Padding in the functions that have them, by address, none near anything else.
    padding: Vec<Range<u64>>,
    /// Where these functions jump to, in order.
    targets: Vec<u64>,
}

impl Calls {
    /// Decodes the functions that suspects are in, each once.
    fn of(object: &Object<'_>, functions: &Functions, suspects: &[u64], budget: &mut u64) -> Self {
        let mut all = Self::default();
        let around = suspects.iter().filter_map(|suspect| {
            let with_call = |range: Range<u64>| range.start..suspect + SYSCALL.len() as u64;
            functions.around(*suspect).or_else(|| functions.up_to(*suspect).map(with_call))
        });
        let mut around: Vec<_> = around.map(|range| (range.start, range.end)).collect();
        around.sort_unstable();
        around.dedup();
        for (start, end) in around {
            let Some(code) = object.code(&(start..end)) else { continue };
            // The smaller ones behind may still have their turn.
            let Some(left) = budget.checked_sub(code.len() as u64) else { continue };
            *budget = left;
            let decoded = sites::decode(code, start);
            all.found.extend(decoded.found);
            let room = SITES_MAX.saturating_sub(all.calls.len());
            all.calls.extend(decoded.calls.into_iter().take(room));
            all.padding.extend(decoded.padding);
            let outside = decoded.targets.iter().filter(|target| !(start..end).contains(target));
            all.targets.extend(outside);
        }
        for addresses in [&mut all.found, &mut all.targets] {
            addresses.sort_unstable();
            addresses.dedup();
        }
        all.separate();
        all
    }

    /// Drops calls and padding that overlap: somebody lies, and nobody knows who.
    fn separate(&mut self) {
        let calls = self.calls.drain(..).map(|call| (call.claim(), Some(call)));
        let padding = self.padding.drain(..).map(|padding| (padding, None));
        let mut claims: Vec<_> = calls.chain(padding).collect();
        claims.sort_by_key(|(claim, _)| (claim.start, claim.end));
        // Functions in functions have the same calls.
        claims.dedup();
        let mut is_apart = vec![true; claims.len()];
        let mut end = 0;
        for (index, (claim, _)) in claims.iter().enumerate() {
            if claim.start < end {
                is_apart[index] = false;
                is_apart[index - 1] = false;
            }
            end = end.max(claim.end);
        }
        for ((claim, call), _) in claims.into_iter().zip(is_apart).filter(|(_, is_apart)| *is_apart)
        {
            match call {
                Some(call) => self.calls.push(call),
                None => self.padding.push(claim),
            }
        }
    }
}

/// The calls whose heads are on pages that may be rewritten, of the base that has most of them.
fn largest_group(object: &Object<'_>, calls: Vec<Call>) -> Option<(i64, Vec<Call>)> {
    let mut groups = BTreeMap::<i64, Vec<Call>>::new();
    for call in calls {
        let claim = call.claim();
        let Some(text) = object.text_with(&claim) else { continue };
        if text.pages(&claim).all(|page| object.is_own_page(page, text)) {
            groups.entry(text.base()).or_default().push(call);
        }
    }
    // Of equals, the lowest.
    groups.into_iter().rev().max_by_key(|(_, group)| group.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_claims_are_all_dropped() {
        let call = |start: u64, at: u64| Call { at, long: Some(start..at), short: None };
        let mut all = Calls {
            calls: vec![
                call(0, 5),
                call(0, 5),
                call(7, 12),
                call(13, 15),
                call(30, 35),
                call(37, 40),
            ],
            padding: vec![20..28, 27..30, 42..47, 46..47, 60..70],
            ..Calls::default()
        };
        all.separate();
        // 12 and 13 are the bytes of a `syscall`, which another one claims.
        assert_eq!(all.calls, [call(0, 5), call(30, 35), call(37, 40)]);
        assert_eq!(all.padding, vec![60..70; 1]);
    }
}
