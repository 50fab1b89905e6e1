// SPDX-License-Identifier: Apache-2.0
//! The areas of a memory: what is mapped where.  Purely a map of ranges; no page is touched here.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

use trine_machine::Access;

use super::{HIGHEST, LOWEST, PAGE_SIZE, SharedMemory, TextUse};
use crate::{Errno, fs::FileRef};

/// Most areas of one memory (vm.max_map_count).
const AREAS_MAX: usize = 65530;

/// What the application may do with an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// PROT_READ.
    pub read: bool,
    /// PROT_WRITE.
    pub write: bool,
    /// PROT_EXEC.
    pub execute: bool,
}

impl Protection {
    /// From the bits of mmap and mprotect; other bits are the caller's business.
    pub fn from_bits(bits: u32) -> Self {
        Self { read: bits & 1 != 0, write: bits & 2 != 0, execute: bits & 4 != 0 }
    }

    /// Whether any access is allowed.  On x86 what can be written or executed can be read.
    pub fn any(self) -> bool {
        self.read || self.write || self.execute
    }

    /// As page rights.
    pub fn access(self) -> Access {
        Access { read: self.any(), write: self.write, execute: self.execute }
    }
}

/// What is in an area.
#[derive(Clone, Debug)]
pub enum AreaKind {
    /// Zeroes that become this memory's own.
    Anonymous,
    /// Anonymous pages that are shared over fork; the first page has this index.
    SharedAnonymous(Arc<SharedMemory>, u64),
    /// A file, from this page of it on; `shared`: writes go to the file.
    File {
        /// The file.
        file: FileRef,
        /// Page of the file at the start of the area.
        page: u64,
        /// MAP_SHARED.
        shared: bool,
    },
    /// Pages that the kernel put there and nobody may change (vDSO,
    /// trampolines).
    Fixed,
}

/// A range of addresses with one kind and one set of rights.
#[derive(Clone, Debug)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// What the application may do.
    pub protection: Protection,
    /// What is in it.
    pub kind: AreaKind,
    /// Name for /proc/self/maps if there is no file: `[heap]`, `[stack]`, `[vdso]`, `[vvar]`.
    pub name: &'static str,
    /// Name that the program gave it (PR_SET_VMA_ANON_NAME).
    pub label: Option<Arc<str>>,
    /// Grows towards lower addresses (a stack).
    pub grows_down: bool,
    /// MADV_DONTFORK.
    pub no_fork: bool,
    /// MADV_WIPEONFORK.
    pub wipe_on_fork: bool,
    /// Whether it has rewritten text, or trampolines.
    pub text: TextUse,
    /// Where a sequence of faults would go on, and how many pages it then brings in.
    pub(crate) next_fault: u64,
    pub(crate) window: u64,
}

impl Area {
    /// Makes an area.
    pub fn new(start: u64, end: u64, protection: Protection, kind: AreaKind) -> Self {
        Self {
            start,
            end,
            protection,
            kind,
            name: "",
            label: None,
            grows_down: false,
            no_fork: false,
            wipe_on_fork: false,
            text: TextUse::None,
            next_fault: 0,
            window: 0,
        }
    }

    /// Whether writes are seen by other mappings of the same object.
    pub fn is_shared(&self) -> bool {
        matches!(self.kind, AreaKind::SharedAnonymous(..) | AreaKind::File { shared: true, .. })
    }

    /// Page of the object at an address of the area.
    pub fn object_page(&self, address: u64) -> u64 {
        let offset = (address - self.start) / PAGE_SIZE;
        match &self.kind {
            AreaKind::File { page, .. } | AreaKind::SharedAnonymous(_, page) => page + offset,
            AreaKind::Anonymous | AreaKind::Fixed => offset,
        }
    }

    fn kind_from(&self, address: u64) -> AreaKind {
        let index = self.object_page(address);
        match &self.kind {
            AreaKind::Anonymous => AreaKind::Anonymous,
            AreaKind::Fixed => AreaKind::Fixed,
            AreaKind::SharedAnonymous(memory, _) => {
                AreaKind::SharedAnonymous(memory.clone(), index)
            }
            AreaKind::File { file, shared, .. } => {
                AreaKind::File { file: file.clone(), page: index, shared: *shared }
            }
        }
    }

    /// The part of the area within `start .. end`.
    pub(crate) fn part(&self, start: u64, end: u64) -> Self {
        let (start, end) = (start.max(self.start), end.min(self.end));
        Self { start, end, kind: self.kind_from(start), ..self.clone() }
    }

    /// Whether `next`, which begins where this ends, is just more of the same.
    fn continues_with(&self, next: &Self) -> bool {
        let same = self.end == next.start
            && self.protection == next.protection
            && self.name == next.name
            && self.text == next.text
            && self.label == next.label
            && self.grows_down == next.grows_down
            && !self.grows_down
            && self.no_fork == next.no_fork
            && self.wipe_on_fork == next.wipe_on_fork;
        same && match (&self.kind, &next.kind) {
            (AreaKind::Anonymous, AreaKind::Anonymous) => true,
            (AreaKind::SharedAnonymous(a, _), AreaKind::SharedAnonymous(b, page)) => {
                Arc::ptr_eq(a, b) && self.object_page(self.end) == *page
            }
            (
                AreaKind::File { file: a, shared: x, .. },
                AreaKind::File { file: b, shared: y, page },
            ) => Arc::ptr_eq(a, b) && x == y && self.object_page(self.end) == *page,
            _ => false,
        }
    }
}

/// All areas of a memory, by start; they never overlap.
#[derive(Debug, Default)]
pub struct Areas {
    map: BTreeMap<u64, Area>,
    pages: u64,
}

impl Areas {
    /// The areas from the lowest address up.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Area> {
        self.map.values()
    }

    /// Pages that areas span.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many areas there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The area that an address lies in.
    pub fn find(&self, address: u64) -> Option<&Area> {
        let (_, area) = self.map.range(..=address).next_back()?;
        (address < area.end).then_some(area)
    }

    pub(crate) fn find_mut(&mut self, address: u64) -> Option<&mut Area> {
        let (_, area) = self.map.range_mut(..=address).next_back()?;
        (address < area.end).then_some(area)
    }

    /// The areas with rewritten text that overlap a range.
    pub(super) fn rewritten_mut(
        &mut self,
        start: u64,
        end: u64,
    ) -> impl Iterator<Item = &mut Area> {
        self.map
            .range_mut(..end)
            .map(|(_, area)| area)
            .filter(move |area| area.end > start && area.text == TextUse::Rewritten)
    }

    /// The first area that begins at an address or above it.
    pub fn next_above(&self, address: u64) -> Option<&Area> {
        self.map.range(address..).next().map(|(_, area)| area)
    }

    /// The last area that ends at an address or below it.
    pub(crate) fn last_below(&self, address: u64) -> Option<&Area> {
        self.map.range(..address).next_back().map(|(_, area)| area).filter(|a| a.end <= address)
    }

    /// Whether nothing is mapped in a range.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        self.map.range(..end).next_back().is_none_or(|(_, area)| area.end <= start)
    }

    /// The areas that overlap a range, cut to it.
    pub fn overlapping(&self, start: u64, end: u64) -> Vec<Area> {
        let first = self.find(start).map_or(start, |area| area.start);
        self.map.range(first..end).map(|(_, area)| area.part(start, end)).collect()
    }

    /// Whether a range is mapped without a gap.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        while at < end {
            match self.find(at) {
                Some(area) => at = area.end,
                None => return false,
            }
        }
        true
    }

    fn put(&mut self, area: Area) {
        self.pages += (area.end - area.start) / PAGE_SIZE;
        self.map.insert(area.start, area);
    }

    fn take(&mut self, start: u64) -> Option<Area> {
        let area = self.map.remove(&start)?;
        self.pages -= (area.end - area.start) / PAGE_SIZE;
        Some(area)
    }

    /// Splits the area around an address there.
    pub(crate) fn split_at(&mut self, address: u64) {
        let Some(area) = self.find(address).filter(|area| area.start < address) else { return };
        let start = area.start;
        if let Some(area) = self.take(start) {
            self.put(area.part(area.start, address));
            let mut upper = area.part(address, area.end);
            upper.grows_down = false;
            if area.grows_down {
                // The lower part would be cut off from the stack: the upper part stays the stack.
                upper.grows_down = true;
            }
            self.put(upper);
        }
    }

    /// Removes a range; returns what was there.
    ///
    /// # Errors
    /// ENOMEM if an area would be split in two and there are too many already.
    pub(crate) fn remove(&mut self, start: u64, end: u64) -> Result<Vec<Area>, Errno> {
        let splits = self.find(start).is_some_and(|area| area.start < start && end < area.end);
        if splits && self.map.len() >= AREAS_MAX {
            return Err(Errno::NOMEM);
        }
        self.split_at(start);
        self.split_at(end);
        let starts: Vec<u64> = self.map.range(start..end).map(|(&start, _)| start).collect();
        Ok(starts.into_iter().filter_map(|start| self.take(start)).collect())
    }

    /// Adds an area to a free range, joined with its neighbours where they are alike.
    ///
    /// # Errors
    /// ENOMEM if there are too many.
    pub(crate) fn insert(&mut self, mut area: Area) -> Result<(), Errno> {
        if self.map.len() >= AREAS_MAX {
            return Err(Errno::NOMEM);
        }
        let before = self.last_below(area.start).filter(|before| before.continues_with(&area));
        let before = before.map(|before| before.start);
        if let Some(before) = before.and_then(|start| self.take(start)) {
            area = Area { end: area.end, ..before };
        }
        let after = self.map.get(&area.end).filter(|after| area.continues_with(after));
        let after = after.map(|after| after.start);
        if let Some(after) = after.and_then(|start| self.take(start)) {
            area.end = after.end;
        }
        self.put(area);
        Ok(())
    }

    /// Changes every area in a range, which must be covered for the change to make sense.
    ///
    /// # Errors
    /// ENOMEM if areas would be split and there are too many already.
    pub(crate) fn change(
        &mut self,
        start: u64,
        end: u64,
        mut change: impl FnMut(&mut Area),
    ) -> Result<(), Errno> {
        if self.map.len() + 2 >= AREAS_MAX {
            return Err(Errno::NOMEM);
        }
        for mut area in self.remove(start, end)? {
            change(&mut area);
            self.insert(area)?;
        }
        // What follows may have become a continuation of the last one changed.
        if let Some(after) = self.map.contains_key(&end).then(|| self.take(end)).flatten() {
            self.insert(after)?;
        }
        Ok(())
    }

    /// Grows or shrinks an area at its end (brk, mremap); the room must be free.
    pub(crate) fn resize(&mut self, start: u64, end: u64) {
        if let Some(mut area) = self.take(start) {
            area.end = end;
            self.put(area);
        }
    }

    /// Moves the start of a stack down.
    pub(crate) fn grow_down(&mut self, start: u64, new_start: u64) {
        if let Some(mut area) = self.take(start) {
            area.start = new_start;
            self.put(area);
        }
    }

    /// The highest free range of `bytes` that ends at or below `top`, with its start aligned.
    pub fn find_free(&self, bytes: u64, top: u64) -> Option<u64> {
        let mut end = top.min(HIGHEST);
        for area in self.map.range(..end).rev().map(|(_, area)| area) {
            let floor = area.end;
            if floor < end && end - floor >= bytes {
                return end.checked_sub(bytes).filter(|&start| start >= LOWEST);
            }
            // A stack keeps room to grow into.
            end = end.min(if area.grows_down {
                area.start.saturating_sub(STACK_GUARD)
            } else {
                area.start
            });
        }
        end.checked_sub(bytes).filter(|&start| start >= LOWEST)
    }
}

/// Free addresses that stay under a stack (stack_guard_gap).
pub(crate) const STACK_GUARD: u64 = 256 * PAGE_SIZE;
