// SPDX-License-Identifier: Apache-2.0
//! Room between functions, for jumps that a site is too short for.

use std::{collections::HashMap, ops::Range};

use super::{
    PAGE_BYTES,
    functions::{Functions, Gap},
    object::Object,
    sites,
};

/// Bytes of a jump to anywhere.
pub(super) const FAR_JUMP_BYTES: u64 = 5;
/// Bytes of a jump nearby.
pub(super) const NEAR_JUMP_BYTES: u64 = 2;
/// Longer gaps are not padding.
const GAP_BYTES_MAX: u64 = 128;

/// Room for a far jump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) at: u64,
    /// All of the padding that it is in.
    pub(super) gap: Range<u64>,
}

/// Padding that nothing executes.
#[derive(Debug)]
pub(super) struct Padding<'a> {
    object: &'a Object<'a>,
    functions: &'a Functions,
    /// Where functions that were decoded jump to, in order.
    targets: &'a [u64],
    /// By start of a gap: how far it is used, or that it cannot be.
    used: HashMap<u64, Option<u64>>,
}

impl<'a> Padding<'a> {
    pub(super) fn new(
        object: &'a Object<'a>,
        functions: &'a Functions,
        targets: &'a [u64],
    ) -> Self {
        debug_assert!(targets.is_sorted());
        Self { object, functions, targets, used: HashMap::new() }
    }

    /// Takes room for a far jump that a near jump at `from`, in a segment with this base, reaches;
    /// what it decodes is paid from `budget`, in bytes.
    pub(super) fn take(&mut self, from: u64, base: i64, budget: &mut u64) -> Option<Room> {
        let next = from.checked_add(NEAR_JUMP_BYTES)?;
        let reach = reach(next);
        // What begins before may have room within reach.
        let looked_at = reach.start.saturating_sub(GAP_BYTES_MAX)..reach.end;
        for gap in self.functions.gaps(looked_at) {
            if gap.bytes.end <= reach.start || gap.bytes.end - gap.bytes.start > GAP_BYTES_MAX {
                continue;
            }
            let start = gap.bytes.start;
            if !self.used.contains_key(&start) {
                let is_free = self.is_free(&gap, base, budget);
                self.used.insert(start, is_free.then_some(start));
            }
            let Some(Some(used)) = self.used.get_mut(&start) else { continue };
            let place = reach.start.max(*used);
            if place < reach.end && place + FAR_JUMP_BYTES <= gap.bytes.end {
                *used = place + FAR_JUMP_BYTES;
                return Some(Room { at: place, gap: gap.bytes });
            }
        }
        None
    }

    /// Whether a gap is padding, and the function before does not flow or jump into it.
    fn is_free(&self, gap: &Gap, base: i64, budget: &mut u64) -> bool {
        let bytes = &gap.bytes;
        if bytes.end - bytes.start < FAR_JUMP_BYTES {
            return false;
        }
        let (Some(text), Some(padding), Some(before)) =
            (self.object.text_with(bytes), self.object.code(bytes), self.object.code(&gap.before))
        else {
            return false;
        };
        let offset = text.bytes.start + (bytes.start - text.address);
        let mut pages = offset / PAGE_BYTES..(offset + padding.len() as u64).div_ceil(PAGE_BYTES);
        let first = self.targets.partition_point(|target| *target < bytes.start);
        let is_target = self.targets.get(first).is_some_and(|target| *target < bytes.end);
        if is_target
            || text.base() != base
            || !pages.all(|page| self.object.is_own_page(page, text))
            || !sites::is_padding(padding)
        {
            return false;
        }
        let Some(left) = budget.checked_sub(before.len() as u64) else { return false };
        *budget = left;
        let decoded = sites::decode(before, gap.before.start);
        decoded.is_closed && !decoded.targets.iter().any(|target| bytes.contains(target))
    }
}

/// Where a near jump whose next instruction is at `next` can lead.
fn reach(next: u64) -> Range<u64> {
    next.saturating_sub(128)..next.saturating_add(128)
}
