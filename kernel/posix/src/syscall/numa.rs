// SPDX-License-Identifier: Apache-2.0
//! Memory policies (numa(7)): there is one node, and everything is on it.

use alloc::vec;

use crate::{
    Errno,
    cx::{Cx, SysResult},
    mm::PAGE_SIZE,
};

const MPOL_DEFAULT: u32 = 0;
const MPOL_PREFERRED: u32 = 1;
const MPOL_LOCAL: u32 = 4;
const MPOL_PREFERRED_MANY: u32 = 5;
/// MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES, MPOL_F_NUMA_BALANCING.
const MODE_FLAGS: u32 = 0xe000;
/// Most bits of a node mask.
const NODES_MAX: u64 = 1024;

/// Checks a mode and its nodes.
fn check(cx: &Cx<'_>, mode: u32, mask_at: u64, bits: u64) -> Result<(), Errno> {
    let mode = mode & !MODE_FLAGS;
    if mode > MPOL_PREFERRED_MANY {
        return Err(Errno::INVAL);
    }
    let (mut has_node, mut has_others) = (false, false);
    if mask_at != 0 && bits > 1 {
        if bits > NODES_MAX * 8 {
            return Err(Errno::INVAL);
        }
        // The last bit does not count (an old mistake that everybody relies on).
        for word in 0..(bits - 1).div_ceil(64) {
            let nodes = cx.read_u64(mask_at.wrapping_add(word * 8))?;
            has_node |= word == 0 && nodes & 1 != 0;
            has_others |= nodes & if word == 0 { !1 } else { u64::MAX } != 0;
        }
    }
    let needs_none = matches!(mode, MPOL_DEFAULT | MPOL_LOCAL);
    let good = match (needs_none, has_node, has_others) {
        (true, has_node, has_others) => !has_node && !has_others,
        // An empty mask means the local node.
        (false, false, false) => mode == MPOL_PREFERRED,
        (false, has_node, _) => has_node,
    };
    if good { Ok(()) } else { Err(Errno::INVAL) }
}

pub(super) fn sys_mbind(
    cx: &mut Cx<'_>,
    start: u64,
    bytes: u64,
    mode: u32,
    mask_at: u64,
    bits: u64,
    flags: u32,
) -> SysResult {
    let end = start.checked_add(bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::INVAL)?);
    let end = end.ok_or(Errno::INVAL)?;
    if !start.is_multiple_of(PAGE_SIZE) || flags & !7 != 0 {
        return Err(Errno::INVAL.into());
    }
    check(cx, mode, mask_at, bits)?;
    if cx.mm().areas.lock().covers(start, end) { Ok(0) } else { Err(Errno::FAULT.into()) }
}

pub(super) fn sys_set_mempolicy(cx: &mut Cx<'_>, mode: u32, mask_at: u64, bits: u64) -> SysResult {
    check(cx, mode, mask_at, bits)?;
    Ok(0)
}

pub(super) fn sys_get_mempolicy(
    cx: &mut Cx<'_>,
    mode_at: u64,
    mask_at: u64,
    bits: u64,
    address: u64,
    flags: u32,
) -> SysResult {
    const NODE: u32 = 1;
    const ADDR: u32 = 2;
    const MEMS_ALLOWED: u32 = 4;
    let bad = flags & !(NODE | ADDR | MEMS_ALLOWED) != 0
        || flags & MEMS_ALLOWED != 0 && flags != MEMS_ALLOWED
        || flags & ADDR == 0 && address != 0
        || mask_at != 0 && bits == 0;
    if bad {
        return Err(Errno::INVAL.into());
    }
    if flags & ADDR != 0 && cx.mm().areas.lock().find(address).is_none() {
        return Err(Errno::FAULT.into());
    }
    if mode_at != 0 {
        // The default policy is 0, and so is the node.
        cx.write_u32(mode_at, 0)?;
    }
    if mask_at != 0 {
        let mut mask = vec![0; (bits.min(NODES_MAX).div_ceil(64) * 8) as usize];
        if flags & MEMS_ALLOWED != 0
            && let Some(first) = mask.first_mut()
        {
            *first = 1;
        }
        cx.write_bytes(mask_at, &mask)?;
    }
    Ok(0)
}

pub(super) fn sys_migrate_pages(
    cx: &mut Cx<'_>,
    pid: i32,
    _bits: u64,
    _old: u64,
    _new: u64,
) -> SysResult {
    let pid = u32::try_from(pid).map_err(|_| Errno::SRCH)?;
    if pid != 0 && cx.kernel.services.registry.task(pid).is_none() {
        return Err(Errno::SRCH.into());
    }
    Ok(0)
}

pub(super) fn sys_move_pages(
    cx: &mut Cx<'_>,
    pid: i32,
    count: u64,
    pages_at: u64,
    nodes_at: u64,
    status_at: u64,
    flags: u32,
) -> SysResult {
    if flags & !6 != 0 {
        return Err(Errno::INVAL.into());
    }
    let pid = u32::try_from(pid).map_err(|_| Errno::SRCH)?;
    let task = match pid {
        0 => cx.task.clone(),
        pid => cx.kernel.services.registry.task(pid).ok_or(Errno::SRCH)?,
    };
    let mm = task.mm().ok_or(Errno::SRCH)?;
    if count > 1 << 20 {
        return Err(Errno::TOO_BIG.into());
    }
    for index in 0..count {
        let page = cx.read_u64(pages_at.wrapping_add(index * 8))? & !(PAGE_SIZE - 1);
        if nodes_at != 0 && cx.read_u32(nodes_at.wrapping_add(index * 4))? != 0 {
            return Err(Errno::NODEV.into());
        }
        let present = mm.space.lock().is_mapped(page);
        let status = if present { 0 } else { -i32::from(Errno::NOENT.number() as u16) };
        cx.write_u32(status_at.wrapping_add(index * 4), status.cast_unsigned())?;
    }
    Ok(0)
}
