// SPDX-License-Identifier: Apache-2.0
//! mmap, munmap, mprotect, brk, mremap, madvise on a memory.

use core::sync::atomic::Ordering;

use trine_machine::{Access, Page};

use super::{
    Area, AreaKind, Fault, FaultKind, HIGHEST, LOWEST, Mm, PAGE_SIZE, Protection, TextUse,
};
use crate::Errno;

/// Private writable memory beyond this is an obvious mistake (overcommit heuristics), in bytes.
const OVERCOMMIT_MAX: u64 = 1 << 40;

/// F_SEAL_WRITE of memfd_create(2).
const SEAL_WRITE: u32 = 8;

/// Where a mapping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Anywhere; near this address if it is not 0 and free.
    Hint(u64),
    /// Here, in place of what is there (MAP_FIXED).
    Fixed(u64),
    /// Here, if nothing is there (MAP_FIXED_NOREPLACE).
    FixedIfFree(u64),
}

/// A mapping to make.
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// Where.
    pub placement: Placement,
    /// Length in bytes, rounded up to pages.
    pub bytes: u64,
    /// Rights.
    pub protection: Protection,
    /// What.
    pub kind: AreaKind,
    /// A name for /proc/self/maps.
    pub name: &'static str,
    /// Grows down.
    pub grows_down: bool,
    /// MAP_NORESERVE: no overcommit check.
    pub no_reserve: bool,
}

impl MapRequest {
    /// A request with the usual options.
    pub fn new(placement: Placement, bytes: u64, protection: Protection, kind: AreaKind) -> Self {
        Self { placement, bytes, protection, kind, name: "", grows_down: false, no_reserve: false }
    }
}

/// Rounds up to pages.
pub(crate) fn page_up(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(PAGE_SIZE)
}

fn checked_range(start: u64, bytes: u64) -> Option<u64> {
    start.checked_add(bytes).filter(|&end| end <= HIGHEST)
}

impl Mm {
    /// Makes a mapping; returns its address.
    ///
    /// # Errors
    /// EINVAL, ENOMEM, EEXIST as mmap(2); EPERM below the lowest address.
    pub fn map(&self, request: MapRequest) -> Result<u64, Errno> {
        let bytes = page_up(request.bytes).filter(|&bytes| bytes > 0);
        let bytes = match (request.bytes, bytes) {
            (0, _) => return Err(Errno::INVAL),
            (_, Some(bytes)) if bytes <= HIGHEST => bytes,
            _ => return Err(Errno::NOMEM),
        };
        self.check_limits(&request, bytes)?;
        let mut areas = self.areas.lock();
        let start = match request.placement {
            Placement::Fixed(start) | Placement::FixedIfFree(start) => {
                if !start.is_multiple_of(PAGE_SIZE) {
                    return Err(Errno::INVAL);
                }
                let end = checked_range(start, bytes).ok_or(Errno::NOMEM)?;
                if start < LOWEST {
                    return Err(Errno::PERM);
                }
                if matches!(request.placement, Placement::FixedIfFree(_)) {
                    if !areas.is_free(start, end) {
                        return Err(Errno::EXIST);
                    }
                } else if !areas.is_free(start, end) {
                    let removed = areas.remove(start, end)?;
                    self.space.lock().unmap(start, end);
                    self.forget_text(&mut areas, &removed);
                    drop(removed);
                }
                start
            }
            Placement::Hint(hint) => {
                let hint = hint & !(PAGE_SIZE - 1);
                let fits = hint >= LOWEST
                    && checked_range(hint, bytes).is_some_and(|end| areas.is_free(hint, end));
                let base = self.layout.lock().mmap_base;
                if fits {
                    hint
                } else {
                    areas
                        .find_free(bytes, base)
                        .or_else(|| areas.find_free(bytes, HIGHEST))
                        .ok_or(Errno::NOMEM)?
                }
            }
        };
        let mut area = Area::new(start, start + bytes, request.protection, request.kind);
        area.name = request.name;
        area.grows_down = request.grows_down;
        self.rewrite(&mut areas, &mut area)?;
        areas.insert(area)?;
        Ok(start)
    }

    fn check_limits(&self, request: &MapRequest, bytes: u64) -> Result<(), Errno> {
        let total = self.areas.lock().pages() * PAGE_SIZE;
        if total.saturating_add(bytes) > self.limits[0].load(Ordering::Relaxed) {
            return Err(Errno::NOMEM);
        }
        let private_data = request.protection.write && matches!(request.kind, AreaKind::Anonymous);
        if private_data {
            let limit = self.limits[1].load(Ordering::Relaxed);
            if limit != u64::MAX && self.data_bytes().saturating_add(bytes) > limit {
                return Err(Errno::NOMEM);
            }
            if !request.no_reserve && bytes > OVERCOMMIT_MAX {
                return Err(Errno::NOMEM);
            }
        }
        Ok(())
    }

    fn data_bytes(&self) -> u64 {
        let areas = self.areas.lock();
        let data = areas.iter().filter(|area| area.protection.write && !area.is_shared());
        data.map(|area| area.end - area.start).sum()
    }

    /// Removes what is mapped in a range.
    ///
    /// # Errors
    /// EINVAL for a bad range, ENOMEM for too many areas.
    pub fn unmap(&self, start: u64, bytes: u64) -> Result<(), Errno> {
        let bytes = page_up(bytes).filter(|&bytes| bytes > 0).ok_or(Errno::INVAL)?;
        if !start.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::INVAL);
        }
        let end = start.checked_add(bytes).ok_or(Errno::INVAL)?;
        if end > trine_abi::layout::USER_END {
            return Err(Errno::INVAL);
        }
        let removed = {
            let mut areas = self.areas.lock();
            let removed = areas.remove(start, end)?;
            self.space.lock().unmap(start, end);
            self.forget_text(&mut areas, &removed);
            removed
        };
        // Files may be closed by this, which must happen without the locks.
        drop(removed);
        Ok(())
    }

    /// Changes the rights of a range.
    ///
    /// # Errors
    /// ENOMEM if there is a gap; EACCES for writes to a shared read-only file.
    pub fn protect(&self, start: u64, bytes: u64, protection: Protection) -> Result<(), Errno> {
        if !start.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::INVAL);
        }
        let bytes = page_up(bytes).ok_or(Errno::NOMEM)?;
        if bytes == 0 {
            return Ok(());
        }
        let end = checked_range(start, bytes).ok_or(Errno::NOMEM)?;
        let mut areas = self.areas.lock();
        if !areas.covers(start, end) {
            return Err(Errno::NOMEM);
        }
        for area in areas.overlapping(start, end) {
            match &area.kind {
                AreaKind::File { file, shared: true, .. }
                    if protection.write
                        && (!file.flags().writes()
                            || file.inode().seals(0).unwrap_or(0) & SEAL_WRITE != 0) =>
                {
                    return Err(Errno::ACCES);
                }
                AreaKind::Fixed if protection.write => return Err(Errno::ACCES),
                _ => {}
            }
        }
        if protection.write || !protection.execute {
            // Before the areas are split: those that begin outside go back as well.
            self.restore_text(&mut areas, start, end);
        }
        areas.change(start, end, |area| area.protection = protection)?;
        self.space.lock().protect(start, end, protection.access());
        Ok(())
    }

    /// Moves the break; returns where it is then.
    pub fn set_break(&self, to: u64) -> u64 {
        let (start, current) = {
            let layout = self.layout.lock();
            (layout.brk_start, layout.brk)
        };
        if to < start || to >= HIGHEST {
            return current;
        }
        let (Some(old_end), Some(new_end)) = (page_up(current), page_up(to)) else {
            return current;
        };
        if new_end > old_end {
            let data = Protection { read: true, write: true, execute: false };
            let mut request = MapRequest::new(
                Placement::FixedIfFree(old_end),
                new_end - old_end,
                data,
                AreaKind::Anonymous,
            );
            request.name = "[heap]";
            if self.map(request).is_err() {
                return current;
            }
        } else if new_end < old_end && self.unmap(new_end, old_end - new_end).is_err() {
            return current;
        }
        self.layout.lock().brk = to;
        to
    }

    /// Resizes or moves a mapping.
    ///
    /// # Errors
    /// As mremap(2).
    pub fn remap(
        &self,
        old: u64,
        old_bytes: u64,
        new_bytes: u64,
        may_move: bool,
        fixed: Option<u64>,
        keep_old: bool,
    ) -> Result<u64, Errno> {
        let new_bytes = page_up(new_bytes).filter(|&bytes| bytes > 0).ok_or(Errno::INVAL)?;
        let old_bytes = page_up(old_bytes).ok_or(Errno::INVAL)?;
        if !old.is_multiple_of(PAGE_SIZE) || fixed.is_some() && !may_move {
            return Err(Errno::INVAL);
        }
        let area = self.areas.lock().find(old).cloned().ok_or(Errno::FAULT)?;
        if matches!(area.kind, AreaKind::Fixed) {
            return Err(Errno::FAULT);
        }
        let source_bytes = if old_bytes == 0 {
            // A second mapping of a shared object.
            if !area.is_shared() || !may_move {
                return Err(Errno::INVAL);
            }
            new_bytes
        } else {
            old_bytes
        };
        if old_bytes != 0 && old.checked_add(old_bytes).is_none_or(|end| end > area.end) {
            return Err(Errno::FAULT);
        }
        if fixed.is_none() && !keep_old && old_bytes != 0 {
            if new_bytes <= old_bytes {
                if new_bytes < old_bytes {
                    self.unmap(old + new_bytes, old_bytes - new_bytes)?;
                }
                return Ok(old);
            }
            if old + old_bytes == area.end {
                let mut areas = self.areas.lock();
                let end = checked_range(old, new_bytes);
                if end.is_some_and(|end| areas.is_free(area.end, end)) {
                    let end = old + new_bytes;
                    areas.resize(area.start, end);
                    return Ok(old);
                }
            }
        }
        if !may_move {
            return Err(Errno::NOMEM);
        }
        self.move_mapping(&area, old, source_bytes, new_bytes, fixed, keep_old || old_bytes == 0)
    }

    fn move_mapping(
        &self,
        area: &Area,
        old: u64,
        old_bytes: u64,
        new_bytes: u64,
        fixed: Option<u64>,
        keep_old: bool,
    ) -> Result<u64, Errno> {
        let placement = match fixed {
            Some(to) => {
                let overlaps =
                    to < old.saturating_add(old_bytes) && old < to.saturating_add(new_bytes);
                if overlaps {
                    return Err(Errno::INVAL);
                }
                Placement::Fixed(to)
            }
            None => Placement::Hint(0),
        };
        if area.text != TextUse::None {
            // Its jumps would not find the trampolines.
            self.use_own_text();
        }
        let part = area.part(old, area.end);
        let mut request = MapRequest::new(placement, new_bytes, area.protection, part.kind);
        request.name = area.name;
        request.no_reserve = true;
        let new = self.map(request)?;
        {
            let mut areas = self.areas.lock();
            let (no_fork, wipe) = (area.no_fork, area.wipe_on_fork);
            areas.change(new, new + new_bytes, |area| {
                area.no_fork = no_fork;
                area.wipe_on_fork = wipe;
            })?;
        }
        if area.is_shared() && keep_old {
            return Ok(new);
        }
        let moved = old_bytes.min(new_bytes);
        let result = self.space.lock().move_pages(old, old + moved, new);
        if !keep_old {
            self.unmap(old, old_bytes)?;
        }
        result.map_err(|_| Errno::NOMEM)?;
        Ok(new)
    }

    /// Drops the pages of a range: anonymous ones read as zero afterwards, those of files as the
    /// file (MADV_DONTNEED).
    ///
    /// # Errors
    /// ENOMEM if there is a gap.
    pub fn discard(&self, start: u64, end: u64) -> Result<(), Errno> {
        let areas = self.areas.lock();
        for area in areas.overlapping(start, end) {
            if !matches!(area.kind, AreaKind::Fixed) {
                self.space.lock().unmap(area.start, area.end);
            }
        }
        if areas.covers(start, end) { Ok(()) } else { Err(Errno::NOMEM) }
    }

    /// Maps every page of a range (MAP_POPULATE, MADV_POPULATE_*).
    ///
    /// # Errors
    /// The fault of the first page that cannot be.
    pub fn populate(&self, start: u64, end: u64, kind: FaultKind) -> Result<(), Fault> {
        let mut at = start;
        while at < end {
            let ready = self.space.lock().lookup(at).is_some_and(|(_, access)| {
                access.read && (kind == FaultKind::Read || access.write)
            });
            if !ready {
                self.fault(at, kind)?;
            }
            at += PAGE_SIZE;
        }
        Ok(())
    }

    /// Puts the kernel's own pages at a place (vDSO).
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn map_fixed_pages(
        &self,
        start: u64,
        pages: &[Page],
        protection: Protection,
        name: &'static str,
    ) -> Result<(), Errno> {
        let bytes = pages.len() as u64 * PAGE_SIZE;
        let mut request =
            MapRequest::new(Placement::FixedIfFree(start), bytes, protection, AreaKind::Fixed);
        request.name = name;
        self.map(request)?;
        let mut space = self.space.lock();
        let access = Access { write: false, ..protection.access() };
        for (index, page) in pages.iter().enumerate() {
            space
                .map(start + index as u64 * PAGE_SIZE, page.clone(), access)
                .map_err(|_| Errno::NOMEM)?;
        }
        Ok(())
    }
}
