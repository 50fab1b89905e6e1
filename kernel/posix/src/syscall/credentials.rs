// SPDX-License-Identifier: Apache-2.0
//! User and group ids, capabilities (credentials(7), capabilities(7)).

use alloc::{vec, vec::Vec};

use super::prctl::change_creds;
use crate::{
    Errno,
    cx::{Cx, SysResult},
    process::{
        Creds,
        creds::{CAP_ALL, CAP_SETGID, CAP_SETUID},
    },
};

/// "Leave it as it is".
const SAME: u32 = u32::MAX;
/// Most supplementary groups.
const GROUPS_MAX: i32 = 65536;
const KEEP_CAPS: u32 = 1 << 4;
const NO_SETUID_FIXUP: u32 = 1 << 2;
/// Capabilities that go with the file system user: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER,
/// FSETID, LINUX_IMMUTABLE, MKNOD, MAC_OVERRIDE.
const FS_CAPS: u64 = 0x1f | 1 << 9 | 1 << 27 | 1 << 32;

/// What a change of user ids does to capabilities (capabilities(7)).
fn fix_caps(old: &Creds, new: &mut Creds) {
    if new.securebits & NO_SETUID_FIXUP != 0 {
        return;
    }
    let was_root = [old.uid, old.euid, old.suid].contains(&0);
    let is_root = [new.uid, new.euid, new.suid].contains(&0);
    if was_root && !is_root {
        if new.securebits & KEEP_CAPS == 0 {
            new.caps.permitted = 0;
            new.caps.effective = 0;
        }
        new.caps.ambient = 0;
    }
    if old.euid == 0 && new.euid != 0 {
        new.caps.effective = 0;
    } else if old.euid != 0 && new.euid == 0 {
        new.caps.effective = new.caps.permitted;
    }
}

fn set_uids(cx: &Cx<'_>, ids: [u32; 4]) {
    let old = cx.creds();
    change_creds(cx, |new| {
        [new.uid, new.euid, new.suid, new.fsuid] = ids;
        fix_caps(&old, new);
    });
    clear_dumpable(cx, old.euid != ids[1]);
}

fn set_gids(cx: &Cx<'_>, ids: [u32; 4]) {
    let old = cx.creds();
    change_creds(cx, |new| [new.gid, new.egid, new.sgid, new.fsgid] = ids);
    clear_dumpable(cx, old.egid != ids[1]);
}

fn clear_dumpable(cx: &Cx<'_>, changed: bool) {
    if changed {
        cx.task.process.dumpable.store(0, core::sync::atomic::Ordering::Relaxed);
    }
}

pub(super) fn sys_getuid(cx: &mut Cx<'_>) -> SysResult {
    Ok(u64::from(cx.creds().uid))
}

pub(super) fn sys_geteuid(cx: &mut Cx<'_>) -> SysResult {
    Ok(u64::from(cx.creds().euid))
}

pub(super) fn sys_getgid(cx: &mut Cx<'_>) -> SysResult {
    Ok(u64::from(cx.creds().gid))
}

pub(super) fn sys_getegid(cx: &mut Cx<'_>) -> SysResult {
    Ok(u64::from(cx.creds().egid))
}

pub(super) fn sys_setuid(cx: &mut Cx<'_>, uid: u32) -> SysResult {
    let old = cx.creds();
    if uid == SAME {
        return Err(Errno::INVAL.into());
    }
    if old.has_cap(CAP_SETUID) {
        set_uids(cx, [uid; 4]);
    } else if uid == old.uid || uid == old.suid {
        set_uids(cx, [old.uid, uid, old.suid, uid]);
    } else {
        return Err(Errno::PERM.into());
    }
    Ok(0)
}

pub(super) fn sys_setgid(cx: &mut Cx<'_>, gid: u32) -> SysResult {
    let old = cx.creds();
    if gid == SAME {
        return Err(Errno::INVAL.into());
    }
    if old.has_cap(CAP_SETGID) {
        set_gids(cx, [gid; 4]);
    } else if gid == old.gid || gid == old.sgid {
        set_gids(cx, [old.gid, gid, old.sgid, gid]);
    } else {
        return Err(Errno::PERM.into());
    }
    Ok(0)
}

/// setreuid and setregid: the new real, effective and saved ids.
fn re_ids(
    old: [u32; 3],
    real: u32,
    effective: u32,
    is_privileged: bool,
) -> Result<[u32; 4], Errno> {
    let [old_real, old_effective, old_saved] = old;
    let real_ok = real == SAME || is_privileged || [old_real, old_effective].contains(&real);
    let effective_ok = effective == SAME || is_privileged || old.contains(&effective);
    if !real_ok || !effective_ok {
        return Err(Errno::PERM);
    }
    let new_real = if real == SAME { old_real } else { real };
    let new_effective = if effective == SAME { old_effective } else { effective };
    let saves = real != SAME || effective != SAME && effective != old_real;
    let saved = if saves { new_effective } else { old_saved };
    Ok([new_real, new_effective, saved, new_effective])
}

pub(super) fn sys_setreuid(cx: &mut Cx<'_>, real: u32, effective: u32) -> SysResult {
    let old = cx.creds();
    let has_cap = old.has_cap(CAP_SETUID);
    set_uids(cx, re_ids([old.uid, old.euid, old.suid], real, effective, has_cap)?);
    Ok(0)
}

pub(super) fn sys_setregid(cx: &mut Cx<'_>, real: u32, effective: u32) -> SysResult {
    let old = cx.creds();
    let has_cap = old.has_cap(CAP_SETGID);
    set_gids(cx, re_ids([old.gid, old.egid, old.sgid], real, effective, has_cap)?);
    Ok(0)
}

fn res_ids(old: [u32; 3], new: [u32; 3], is_privileged: bool) -> Result<[u32; 4], Errno> {
    let allowed = |id: &u32| *id == SAME || is_privileged || old.contains(id);
    if !new.iter().all(allowed) {
        return Err(Errno::PERM);
    }
    let mut ids = old;
    for (slot, id) in ids.iter_mut().zip(new) {
        if id != SAME {
            *slot = id;
        }
    }
    Ok([ids[0], ids[1], ids[2], ids[1]])
}

pub(super) fn sys_setresuid(cx: &mut Cx<'_>, r: u32, e: u32, s: u32) -> SysResult {
    let old = cx.creds();
    let has_cap = old.has_cap(CAP_SETUID);
    set_uids(cx, res_ids([old.uid, old.euid, old.suid], [r, e, s], has_cap)?);
    Ok(0)
}

pub(super) fn sys_setresgid(cx: &mut Cx<'_>, r: u32, e: u32, s: u32) -> SysResult {
    let old = cx.creds();
    let has_cap = old.has_cap(CAP_SETGID);
    set_gids(cx, res_ids([old.gid, old.egid, old.sgid], [r, e, s], has_cap)?);
    Ok(0)
}

pub(super) fn sys_getresuid(cx: &mut Cx<'_>, r: u64, e: u64, s: u64) -> SysResult {
    let creds = cx.creds();
    for (at, id) in [(r, creds.uid), (e, creds.euid), (s, creds.suid)] {
        cx.write_u32(at, id)?;
    }
    Ok(0)
}

pub(super) fn sys_getresgid(cx: &mut Cx<'_>, r: u64, e: u64, s: u64) -> SysResult {
    let creds = cx.creds();
    for (at, id) in [(r, creds.gid), (e, creds.egid), (s, creds.sgid)] {
        cx.write_u32(at, id)?;
    }
    Ok(0)
}

pub(super) fn sys_setfsuid(cx: &mut Cx<'_>, uid: u32) -> SysResult {
    let old = cx.creds();
    let allowed = old.is_own_uid(uid) || uid == old.fsuid || old.has_cap(CAP_SETUID);
    if uid != SAME && allowed {
        change_creds(cx, |new| {
            new.fsuid = uid;
            if new.securebits & NO_SETUID_FIXUP == 0 {
                if old.fsuid == 0 && uid != 0 {
                    new.caps.effective &= !FS_CAPS;
                } else if old.fsuid != 0 && uid == 0 {
                    new.caps.effective |= new.caps.permitted & FS_CAPS;
                }
            }
        });
    }
    Ok(u64::from(old.fsuid))
}

pub(super) fn sys_setfsgid(cx: &mut Cx<'_>, gid: u32) -> SysResult {
    let old = cx.creds();
    if gid != SAME && (old.is_own_gid(gid) || gid == old.fsgid || old.has_cap(CAP_SETGID)) {
        change_creds(cx, |new| new.fsgid = gid);
    }
    Ok(u64::from(old.fsgid))
}

pub(super) fn sys_getgroups(cx: &mut Cx<'_>, count: i32, at: u64) -> SysResult {
    let creds = cx.creds();
    let groups = &creds.groups;
    if count < 0 || count != 0 && (count as usize) < groups.len() {
        return Err(Errno::INVAL.into());
    }
    if count != 0 {
        let raw: Vec<u8> = groups.iter().flat_map(|gid| gid.to_le_bytes()).collect();
        cx.write_bytes(at, &raw)?;
    }
    Ok(groups.len() as u64)
}

pub(super) fn sys_setgroups(cx: &mut Cx<'_>, count: i32, at: u64) -> SysResult {
    if !cx.creds().has_cap(CAP_SETGID) {
        return Err(Errno::PERM.into());
    }
    if !(0..=GROUPS_MAX).contains(&count) {
        return Err(Errno::INVAL.into());
    }
    let mut raw = vec![0; count as usize * 4];
    cx.read_bytes(at, &mut raw)?;
    let words = raw.chunks_exact(4).map(|word| word.try_into().map_or(0, u32::from_le_bytes));
    let mut groups: Vec<u32> = words.collect();
    groups.sort_unstable();
    change_creds(cx, |new| new.groups = groups);
    Ok(0)
}

const VERSION_1: u32 = 0x1998_0330;
const VERSION_2: u32 = 0x2007_1026;
const VERSION_3: u32 = 0x2008_0522;

/// Checks the header of capget and capset; returns how many 32-bit halves the sets have.
fn cap_header(cx: &Cx<'_>, at: u64) -> Result<(usize, i32), Errno> {
    let version = cx.read_u32(at)?;
    let pid = cx.read_u32(at.wrapping_add(4))?.cast_signed();
    match version {
        VERSION_1 => Ok((1, pid)),
        VERSION_2 | VERSION_3 => Ok((2, pid)),
        _ => {
            cx.write_u32(at, VERSION_3)?;
            Err(Errno::INVAL)
        }
    }
}

pub(super) fn sys_capget(cx: &mut Cx<'_>, header_at: u64, data_at: u64) -> SysResult {
    let (halves, pid) = match cap_header(cx, header_at) {
        Err(Errno::INVAL) if data_at == 0 => return Ok(0),
        other => other?,
    };
    let creds = match pid {
        0 => cx.creds(),
        pid if pid < 0 => return Err(Errno::INVAL.into()),
        pid => {
            let task = cx.kernel.services.registry.task(pid.unsigned_abs());
            task.ok_or(Errno::SRCH)?.creds()
        }
    };
    if data_at != 0 {
        for half in 0..halves {
            let sets = [creds.caps.effective, creds.caps.permitted, creds.caps.inheritable];
            for (index, set) in sets.into_iter().enumerate() {
                let at = data_at.wrapping_add((half * 12 + index * 4) as u64);
                cx.write_u32(at, (set >> (32 * half)) as u32)?;
            }
        }
    }
    Ok(0)
}

pub(super) fn sys_capset(cx: &mut Cx<'_>, header_at: u64, data_at: u64) -> SysResult {
    let (halves, pid) = cap_header(cx, header_at)?;
    if pid != 0 && pid.cast_unsigned() != cx.task.tid() {
        return Err(Errno::PERM.into());
    }
    let mut sets = [0_u64; 3];
    for half in 0..halves {
        for (index, set) in sets.iter_mut().enumerate() {
            let at = data_at.wrapping_add((half * 12 + index * 4) as u64);
            *set |= u64::from(cx.read_u32(at)?) << (32 * half);
        }
    }
    let [effective, permitted, inheritable] = sets.map(|set| set & CAP_ALL);
    let old = cx.creds().caps;
    let has_setpcap = cx.creds().has_cap(crate::process::creds::CAP_SETPCAP);
    let inheritable_ok = (has_setpcap || inheritable & !(old.inheritable | old.permitted) == 0)
        && inheritable & !(old.inheritable | old.bounding) == 0;
    if permitted & !old.permitted != 0 || effective & !permitted != 0 || !inheritable_ok {
        return Err(Errno::PERM.into());
    }
    change_creds(cx, |new| {
        new.caps.effective = effective;
        new.caps.permitted = permitted;
        new.caps.inheritable = inheritable;
        new.caps.ambient &= permitted & inheritable;
    });
    Ok(0)
}
