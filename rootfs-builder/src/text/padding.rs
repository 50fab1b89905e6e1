// SPDX-License-Identifier: Apache-2.0
//! Room for jumps that a site is too short for: what compilers fill up with between functions, and
//! in them behind jumps and returns.

use std::{collections::HashMap, ops::Range};

use super::{
    functions::Functions,
    object::Object,
    sites::{self, has_any},
};

/// Bytes of a jump to anywhere.
pub(super) const FAR_JUMP_BYTES: u64 = 5;
/// Bytes of a jump nearby.
pub(super) const NEAR_JUMP_BYTES: u64 = 2;
/// Longer padding is none.
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
    /// Of functions that were decoded, in order, none near another.
    inner: &'a [Range<u64>],
    /// Where functions that were decoded jump to, in order.
    targets: &'a [u64],
    /// By start of padding: how far it is used, or that it cannot be.
    used: HashMap<u64, Option<u64>>,
}

/// Padding that may be free.
struct Candidate {
    bytes: Range<u64>,
    /// The function that ends where it begins, if it is between functions.
    before: Option<Range<u64>>,
}

impl<'a> Padding<'a> {
    pub(super) fn new(
        object: &'a Object<'a>,
        functions: &'a Functions,
        inner: &'a [Range<u64>],
        targets: &'a [u64],
    ) -> Self {
        debug_assert!(targets.is_sorted() && inner.is_sorted_by(|a, b| a.end <= b.start));
        Self { object, functions, inner, targets, used: HashMap::new() }
    }

    /// Takes room for a far jump that a near jump at `from`, in a segment with this base, reaches;
    /// what it decodes is paid from `budget`, in bytes.
    pub(super) fn take(&mut self, from: u64, base: i64, budget: &mut u64) -> Option<Room> {
        let next = from.checked_add(NEAR_JUMP_BYTES)?;
        let reach = next.saturating_sub(128)..next.saturating_add(128);
        for candidate in self.candidates(&reach) {
            let gap = candidate.bytes.clone();
            if !self.used.contains_key(&gap.start) {
                let is_free = self.is_free(&candidate, base, budget);
                self.used.insert(gap.start, is_free.then_some(gap.start));
            }
            let Some(Some(used)) = self.used.get_mut(&gap.start) else { continue };
            let at = reach.start.max(*used);
            if at < reach.end && at + FAR_JUMP_BYTES <= gap.end {
                *used = at + FAR_JUMP_BYTES;
                return Some(Room { at, gap });
            }
        }
        None
    }

    /// The padding within reach, in order.
    fn candidates(&self, reach: &Range<u64>) -> Vec<Candidate> {
        // What begins before may have room within reach.
        let looked_at = reach.start.saturating_sub(GAP_BYTES_MAX)..reach.end;
        let between = self
            .functions
            .gaps(looked_at.clone())
            .map(|gap| Candidate { bytes: gap.bytes, before: Some(gap.before) });
        let first = self.inner.partition_point(|bytes| bytes.start < looked_at.start);
        let inner = self.inner[first..].iter().take_while(|bytes| bytes.start < looked_at.end);
        let inner = inner.map(|bytes| Candidate { bytes: bytes.clone(), before: None });
        let mut candidates: Vec<_> = between.chain(inner).collect();
        candidates.retain(|candidate| {
            let size = candidate.bytes.end - candidate.bytes.start;
            (FAR_JUMP_BYTES..=GAP_BYTES_MAX).contains(&size) && candidate.bytes.end > reach.start
        });
        candidates.sort_by_key(|candidate| candidate.bytes.start);
        candidates
    }

    /// Whether it is padding, and nothing that was decoded flows or jumps there.
    fn is_free(&self, candidate: &Candidate, base: i64, budget: &mut u64) -> bool {
        let bytes = &candidate.bytes;
        let (Some(text), Some(code)) = (self.object.text_with(bytes), self.object.code(bytes))
        else {
            return false;
        };
        let is_padding = text.base() == base
            && text.pages(bytes).all(|page| self.object.is_own_page(page, text))
            && sites::is_padding(code)
            && !has_any(self.targets, bytes.clone());
        match &candidate.before {
            _ if !is_padding => false,
            None => true,
            Some(before) => self.ends_before(before, bytes, budget),
        }
    }

    /// Whether a function neither flows nor jumps into the padding behind it.
    fn ends_before(&self, function: &Range<u64>, padding: &Range<u64>, budget: &mut u64) -> bool {
        let Some(code) = self.object.code(function) else { return false };
        let Some(left) = budget.checked_sub(code.len() as u64) else { return false };
        *budget = left;
        let decoded = sites::decode(code, function.start);
        decoded.is_closed && !has_any(&decoded.targets, padding.clone())
    }
}
