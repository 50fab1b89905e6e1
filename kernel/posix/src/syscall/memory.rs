// SPDX-License-Identifier: Apache-2.0
//! mmap and its family.

use alloc::vec::Vec;

use crate::{
    Errno,
    cx::{Cx, SysResult},
    fs::FileRef,
    mm::{
        Area, AreaKind, Fault, FaultKind, HIGHEST, LOWEST, MapRequest, Mm, PAGE_SIZE, Placement,
        Protection, SharedMemory,
    },
    process::{creds::CAP_IPC_LOCK, group::RLIMIT_MEMLOCK},
};

const MAP_SHARED: u32 = 1;
const MAP_PRIVATE: u32 = 2;
const MAP_SHARED_VALIDATE: u32 = 3;
const MAP_FIXED: u32 = 0x10;
const MAP_ANONYMOUS: u32 = 0x20;
const MAP_GROWSDOWN: u32 = 0x100;
const MAP_LOCKED: u32 = 0x2000;
const MAP_NORESERVE: u32 = 0x4000;
const MAP_POPULATE: u32 = 0x8000;
const MAP_NONBLOCK: u32 = 0x1_0000;
const MAP_HUGETLB: u32 = 0x4_0000;
const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;
const PROT_GROWSDOWN: u32 = 0x0100_0000;
const PROT_GROWSUP: u32 = 0x0200_0000;

/// F_SEAL_WRITE and F_SEAL_FUTURE_WRITE.
const SEALED_WRITES: u32 = 0x18;

const MREMAP_MAYMOVE: u32 = 1;
const MREMAP_FIXED: u32 = 2;
const MREMAP_DONTUNMAP: u32 = 4;

fn page_up(bytes: u64) -> Result<u64, Errno> {
    bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::NOMEM)
}

pub(super) fn sys_mmap(
    cx: &mut Cx<'_>,
    address: u64,
    bytes: u64,
    protection: u32,
    flags: u32,
    fd: i32,
    offset: u64,
) -> SysResult {
    if !offset.is_multiple_of(PAGE_SIZE) || bytes == 0 {
        return Err(Errno::INVAL.into());
    }
    let shared = match flags & 3 {
        MAP_SHARED | MAP_SHARED_VALIDATE => true,
        MAP_PRIVATE => false,
        _ => return Err(Errno::INVAL.into()),
    };
    let protection = Protection::from_bits(protection);
    let kind = if flags & MAP_ANONYMOUS != 0 {
        if shared { AreaKind::SharedAnonymous(SharedMemory::new(), 0) } else { AreaKind::Anonymous }
    } else {
        if flags & MAP_HUGETLB != 0 {
            return Err(Errno::INVAL.into());
        }
        let file = cx.files().lock().get(fd)?;
        if offset.checked_add(bytes).is_none_or(|end| end > i64::MAX.cast_unsigned()) {
            return Err(Errno::OVERFLOW.into());
        }
        let mode = file.flags();
        if !mode.reads() || shared && protection.write && !mode.writes() {
            return Err(Errno::ACCES.into());
        }
        if shared && protection.write && file.inode().seals(0).unwrap_or(0) & SEALED_WRITES != 0 {
            return Err(Errno::PERM.into());
        }
        if protection.execute && file.location().mount.noexec {
            return Err(Errno::PERM.into());
        }
        if !file.is_mappable() {
            return Err(Errno::NODEV.into());
        }
        // Brought up to date: pages of an older state are not used.
        file.inode().refresh()?;
        if shared {
            file.ops().map_shared(&file);
        }
        AreaKind::File { file, page: offset / PAGE_SIZE, shared }
    };
    let placement = if flags & MAP_FIXED_NOREPLACE != 0 {
        Placement::FixedIfFree(address)
    } else if flags & MAP_FIXED != 0 {
        Placement::Fixed(address)
    } else {
        Placement::Hint(address)
    };
    let mut request = MapRequest::new(placement, bytes, protection, kind);
    request.grows_down = flags & MAP_GROWSDOWN != 0;
    request.no_reserve = flags & MAP_NORESERVE != 0;
    let mm = cx.mm();
    let start = mm.map(request)?;
    let populate = flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE || flags & MAP_LOCKED != 0;
    if populate && protection.any() {
        let kind = if protection.write { FaultKind::Write } else { FaultKind::Read };
        // Best effort, as on Linux: the pages come with faults otherwise.
        let _ = mm.populate(start, start + page_up(bytes)?, kind);
    }
    Ok(start)
}

/// The files that are mapped shared in a range of addresses, and the range of each in bytes.
fn shared_files(cx: &Cx<'_>, start: u64, end: u64) -> Vec<(FileRef, u64, u64)> {
    let mm = cx.mm();
    let areas = mm.areas.lock().overlapping(start, end);
    let of_area = |area: Area| match &area.kind {
        AreaKind::File { file, shared: true, .. } => {
            let (from, to) = (area.start.max(start), area.end.min(end));
            let at = area.object_page(from) * PAGE_SIZE;
            (from < to).then(|| (file.clone(), at, at + (to - from)))
        }
        _ => None,
    };
    areas.into_iter().filter_map(of_area).collect()
}

/// Writes what shared mappings changed to their files, for those whose pages are not the files'.
fn write_back(cx: &Cx<'_>, start: u64, end: u64) -> Result<(), Errno> {
    for (file, from, to) in shared_files(cx, start, end) {
        file.ops().write_back(&file, from, to)?;
    }
    Ok(())
}

pub(super) fn sys_munmap(cx: &mut Cx<'_>, address: u64, bytes: u64) -> SysResult {
    if let Some(end) = address.checked_add(bytes) {
        write_back(cx, address, end)?;
    }
    cx.mm().unmap(address, bytes)?;
    Ok(0)
}

pub(super) fn sys_mprotect(
    cx: &mut Cx<'_>,
    address: u64,
    bytes: u64,
    protection: u32,
) -> SysResult {
    let grows = protection & (PROT_GROWSDOWN | PROT_GROWSUP);
    if protection & !(7 | 8 | PROT_GROWSDOWN | PROT_GROWSUP) != 0
        || grows == PROT_GROWSDOWN | PROT_GROWSUP
    {
        return Err(Errno::INVAL.into());
    }
    let mm = cx.mm();
    let mut start = address;
    if grows == PROT_GROWSDOWN && address.is_multiple_of(PAGE_SIZE) {
        // The whole stack from its lowest address on.
        let areas = mm.areas.lock();
        let area = areas.find(address).ok_or(Errno::NOMEM)?;
        if !area.grows_down {
            return Err(Errno::INVAL.into());
        }
        start = area.start;
    }
    let bytes = bytes.checked_add(address.wrapping_sub(start)).ok_or(Errno::NOMEM)?;
    mm.protect(start, bytes, Protection::from_bits(protection))?;
    Ok(0)
}

pub(super) fn sys_brk(cx: &mut Cx<'_>, to: u64) -> SysResult {
    Ok(cx.mm().set_break(to))
}

pub(super) fn sys_mremap(
    cx: &mut Cx<'_>,
    old: u64,
    old_bytes: u64,
    new_bytes: u64,
    flags: u32,
    new: u64,
) -> SysResult {
    if flags & !(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) != 0 {
        return Err(Errno::INVAL.into());
    }
    let keep_old = flags & MREMAP_DONTUNMAP != 0;
    if keep_old && (flags & MREMAP_MAYMOVE == 0 || old_bytes != new_bytes) {
        return Err(Errno::INVAL.into());
    }
    let fixed = (flags & MREMAP_FIXED != 0).then_some(new);
    let may_move = flags & MREMAP_MAYMOVE != 0;
    Ok(cx.mm().remap(old, old_bytes, new_bytes, may_move, fixed, keep_old)?)
}

pub(super) fn sys_msync(cx: &mut Cx<'_>, address: u64, bytes: u64, flags: u32) -> SysResult {
    const MS_ASYNC: u32 = 1;
    const MS_INVALIDATE: u32 = 2;
    const MS_SYNC: u32 = 4;
    let bad = flags & !(MS_ASYNC | MS_INVALIDATE | MS_SYNC) != 0
        || flags & MS_ASYNC != 0 && flags & MS_SYNC != 0;
    if bad || !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::INVAL.into());
    }
    let end = address.checked_add(page_up(bytes)?).ok_or(Errno::NOMEM)?;
    let covered = cx.mm().areas.lock().covers(address, end);
    if !covered {
        return Err(Errno::NOMEM.into());
    }
    write_back(cx, address, end)?;
    if flags & MS_SYNC != 0 {
        for (file, _, _) in shared_files(cx, address, end) {
            file.ops().sync(&file, true)?;
        }
    }
    Ok(0)
}

pub(super) fn sys_mincore(cx: &mut Cx<'_>, address: u64, bytes: u64, at: u64) -> SysResult {
    if !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::INVAL.into());
    }
    let end = address.checked_add(page_up(bytes)?).ok_or(Errno::NOMEM)?;
    let mm = cx.mm();
    if !mm.areas.lock().covers(address, end) {
        return Err(Errno::NOMEM.into());
    }
    let mut page = address;
    let mut at = at;
    while page < end {
        let mut chunk = [0; 256];
        let mut count = 0;
        for slot in &mut chunk {
            if page >= end {
                break;
            }
            *slot = u8::from(mm.space.lock().is_mapped(page));
            page += PAGE_SIZE;
            count += 1;
        }
        cx.write_bytes(at, &chunk[..count])?;
        at = at.wrapping_add(count as u64);
    }
    Ok(0)
}

pub(super) fn sys_madvise(cx: &mut Cx<'_>, address: u64, bytes: u64, advice: u32) -> SysResult {
    advise(&cx.mm(), address, bytes, advice)?;
    Ok(0)
}

/// madvise on any memory.
pub(super) fn advise(mm: &Mm, address: u64, bytes: u64, advice: u32) -> Result<(), Errno> {
    if !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::INVAL);
    }
    let end = address
        .checked_add(bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::INVAL)?)
        .ok_or(Errno::INVAL)?;
    let covered = |mm: &Mm| {
        if mm.areas.lock().covers(address, end) { Ok(()) } else { Err(Errno::NOMEM) }
    };
    match advice {
        // NORMAL, RANDOM, SEQUENTIAL, WILLNEED, MERGEABLE, UNMERGEABLE, HUGEPAGE, NOHUGEPAGE,
        // DONTDUMP, DODUMP, COLD, PAGEOUT, COLLAPSE: hints, which change nothing here.
        0..=3 | 12..=17 | 20 | 21 | 25 => covered(mm)?,
        // DONTNEED, and FREE, which may free at once.
        4 | 8 => {
            if advice == 8 {
                let areas = mm.areas.lock().overlapping(address, end);
                if areas.iter().any(|area| !matches!(area.kind, AreaKind::Anonymous)) {
                    return Err(Errno::INVAL);
                }
            }
            mm.discard(address, end)?;
        }
        // REMOVE: punches a hole in shared memory.
        9 => {
            let areas = mm.areas.lock().overlapping(address, end);
            for area in areas {
                let AreaKind::SharedAnonymous(memory, _) = &area.kind else {
                    return Err(Errno::INVAL);
                };
                memory.remove(area.object_page(area.start), area.object_page(area.end));
                mm.space.lock().unmap(area.start, area.end);
            }
        }
        // DONTFORK, DOFORK.
        10 | 11 => {
            covered(mm)?;
            mm.areas.lock().change(address, end, |area| area.no_fork = advice == 10)?;
        }
        // WIPEONFORK, KEEPONFORK.
        18 | 19 => {
            covered(mm)?;
            let areas = mm.areas.lock().overlapping(address, end);
            let private = areas.iter().all(|area| matches!(area.kind, AreaKind::Anonymous));
            if advice == 18 && !private {
                return Err(Errno::INVAL);
            }
            mm.areas.lock().change(address, end, |area| area.wipe_on_fork = advice == 18)?;
        }
        // POPULATE_READ, POPULATE_WRITE.
        22 | 23 => {
            covered(mm)?;
            let kind = if advice == 23 { FaultKind::Write } else { FaultKind::Read };
            mm.populate(address, end, kind).map_err(|fault| match fault {
                Fault::OutOfMemory => Errno::NOMEM,
                Fault::BeyondEnd => Errno::FAULT,
                _ => Errno::INVAL,
            })?;
        }
        _ => return Err(Errno::INVAL),
    }
    Ok(())
}

/// Checks that the caller may lock so many bytes.
fn check_lock(cx: &Cx<'_>, bytes: u64) -> Result<(), Errno> {
    let limit = cx.process().limits.lock().soft(RLIMIT_MEMLOCK);
    if cx.creds().has_cap(CAP_IPC_LOCK) {
        return Ok(());
    }
    match limit {
        0 => Err(Errno::PERM),
        limit if bytes > limit => Err(Errno::NOMEM),
        _ => Ok(()),
    }
}

pub(super) fn sys_mlock(cx: &mut Cx<'_>, address: u64, bytes: u64) -> SysResult {
    check_lock(cx, bytes)?;
    lock(cx, address, bytes)
}

pub(super) fn sys_mlock2(cx: &mut Cx<'_>, address: u64, bytes: u64, flags: u32) -> SysResult {
    const MLOCK_ONFAULT: u32 = 1;
    if flags & !MLOCK_ONFAULT != 0 {
        return Err(Errno::INVAL.into());
    }
    check_lock(cx, bytes)?;
    lock(cx, address, if flags == 0 { bytes } else { 0 })
}

pub(super) fn sys_munlock(cx: &mut Cx<'_>, address: u64, bytes: u64) -> SysResult {
    lock(cx, address, bytes)
}

/// Protection keys need a CPU feature that guests do not have: there is none to be had.
pub(super) fn sys_pkey_alloc(_cx: &mut Cx<'_>, flags: u32, rights: u32) -> SysResult {
    let bad = flags != 0 || rights & !3 != 0;
    Err(if bad { Errno::INVAL } else { Errno::NOSPC }.into())
}

pub(super) fn sys_pkey_free(_cx: &mut Cx<'_>, _key: i32) -> SysResult {
    Err(Errno::INVAL.into())
}

pub(super) fn sys_pkey_mprotect(
    cx: &mut Cx<'_>,
    address: u64,
    bytes: u64,
    protection: u32,
    key: i32,
) -> SysResult {
    if key != -1 {
        return Err(Errno::INVAL.into());
    }
    sys_mprotect(cx, address, bytes, protection)
}

/// Memory is never swapped here, so resident is locked.
fn lock(cx: &Cx<'_>, address: u64, bytes: u64) -> SysResult {
    let start = address & !(PAGE_SIZE - 1);
    let end = page_up(address.checked_add(bytes).ok_or(Errno::INVAL)?)?;
    let mm = cx.mm();
    if !mm.areas.lock().covers(start, end) || start < LOWEST && end > start || end > HIGHEST {
        return Err(Errno::NOMEM.into());
    }
    let _ = mm.populate(start, end, FaultKind::Read);
    Ok(0)
}

pub(super) fn sys_mlockall(cx: &mut Cx<'_>, flags: u32) -> SysResult {
    const MCL_CURRENT: u32 = 1;
    const MCL_ONFAULT: u32 = 4;
    if flags == 0 || flags & !7 != 0 || flags == MCL_ONFAULT {
        return Err(Errno::INVAL.into());
    }
    let current = if flags & MCL_CURRENT != 0 { cx.mm().virtual_pages() * PAGE_SIZE } else { 0 };
    check_lock(cx, current)?;
    Ok(0)
}

pub(super) fn sys_munlockall(_cx: &mut Cx<'_>) -> SysResult {
    Ok(0)
}
