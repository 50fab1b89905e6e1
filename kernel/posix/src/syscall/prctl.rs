// SPDX-License-Identifier: Apache-2.0
//! prctl and arch_prctl.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::seccomp;
use crate::{
    Errno,
    cx::{Cx, SysResult},
    mm::{AreaKind, HIGHEST, LOWEST, PAGE_SIZE},
    process::{
        Creds,
        creds::{CAP_LAST, CAP_SETPCAP, CAP_SYS_RESOURCE},
        signal::SIGNAL_MAX,
        task::TIMER_SLACK_NS,
    },
};

const PR_SET_PDEATHSIG: u32 = 1;
const PR_GET_PDEATHSIG: u32 = 2;
const PR_GET_DUMPABLE: u32 = 3;
const PR_SET_DUMPABLE: u32 = 4;
const PR_GET_KEEPCAPS: u32 = 7;
const PR_SET_KEEPCAPS: u32 = 8;
const PR_SET_NAME: u32 = 15;
const PR_GET_NAME: u32 = 16;
const PR_GET_SECCOMP: u32 = 21;
const PR_SET_SECCOMP: u32 = 22;
const PR_CAPBSET_READ: u32 = 23;
const PR_CAPBSET_DROP: u32 = 24;
const PR_GET_SECUREBITS: u32 = 27;
const PR_SET_SECUREBITS: u32 = 28;
const PR_SET_TIMERSLACK: u32 = 29;
const PR_GET_TIMERSLACK: u32 = 30;
const PR_SET_CHILD_SUBREAPER: u32 = 36;
const PR_GET_CHILD_SUBREAPER: u32 = 37;
const PR_SET_NO_NEW_PRIVS: u32 = 38;
const PR_GET_NO_NEW_PRIVS: u32 = 39;
const PR_GET_TID_ADDRESS: u32 = 40;
const PR_SET_THP_DISABLE: u32 = 41;
const PR_GET_THP_DISABLE: u32 = 42;
const PR_CAP_AMBIENT: u32 = 47;
const PR_SET_VMA: u32 = 0x5356_4d41;
const PR_GET_TIMING: u32 = 13;
const PR_SET_TIMING: u32 = 14;
const PR_GET_TSC: u32 = 25;
const PR_SET_TSC: u32 = 26;
const PR_PERF_DISABLE: u32 = 31;
const PR_PERF_ENABLE: u32 = 32;
const PR_MCE_KILL: u32 = 33;
const PR_MCE_KILL_GET: u32 = 34;
const PR_SET_MM: u32 = 35;
const PR_GET_SPECULATION_CTRL: u32 = 52;
const PR_SET_SPECULATION_CTRL: u32 = 53;
const PR_SET_PTRACER: u32 = 0x5961_6d61;

const TSC_ENABLE: u32 = 1;
/// PR_MCE_KILL_DEFAULT.
const MCE_DEFAULT: u64 = 2;
const KEEP_CAPS: u32 = 1 << 4;
const NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;

/// Changes the calling thread's credentials.
pub(super) fn change_creds(cx: &Cx<'_>, change: impl FnOnce(&mut Creds)) {
    let mut creds = (*cx.creds()).clone();
    change(&mut creds);
    cx.task.process.uid.store(creds.uid, Ordering::Relaxed);
    *cx.task.creds.lock() = Arc::new(creds);
}

fn cap_bit(cap: u64) -> Result<u64, Errno> {
    if cap <= u64::from(CAP_LAST) { Ok(1 << cap) } else { Err(Errno::INVAL) }
}

pub(super) fn sys_prctl(cx: &mut Cx<'_>, option: u32, a: u64, b: u64, c: u64, d: u64) -> SysResult {
    let process = cx.process();
    let creds = cx.creds();
    match option {
        PR_SET_PDEATHSIG => {
            if a > u64::from(SIGNAL_MAX) {
                return Err(Errno::INVAL.into());
            }
            cx.task.parent_death_signal.store(a as u32, Ordering::Relaxed);
        }
        PR_GET_PDEATHSIG => {
            cx.write_u32(a, cx.task.parent_death_signal.load(Ordering::Relaxed))?;
        }
        PR_GET_DUMPABLE => return Ok(u64::from(process.dumpable.load(Ordering::Relaxed))),
        PR_SET_DUMPABLE => {
            if a > 1 {
                return Err(Errno::INVAL.into());
            }
            process.dumpable.store(a as u32, Ordering::Relaxed);
        }
        PR_GET_KEEPCAPS => return Ok(u64::from(creds.securebits & KEEP_CAPS != 0)),
        PR_SET_KEEPCAPS => {
            if a > 1 {
                return Err(Errno::INVAL.into());
            }
            let bit = if a == 1 { KEEP_CAPS } else { 0 };
            change_creds(cx, |creds| creds.securebits = creds.securebits & !KEEP_CAPS | bit);
        }
        PR_SET_NAME => {
            let mut name = [0; 16];
            for (index, slot) in name.iter_mut().take(15).enumerate() {
                let mut byte = [0];
                cx.read_bytes(a.wrapping_add(index as u64), &mut byte)?;
                if byte[0] == 0 {
                    break;
                }
                *slot = byte[0];
            }
            *cx.task.name.lock() = name;
        }
        PR_GET_NAME => {
            let name = *cx.task.name.lock();
            cx.write_bytes(a, &name)?;
        }
        PR_GET_SECCOMP => return Ok(u64::from(cx.task.seccomp.lock().mode())),
        PR_SET_SECCOMP => {
            return match a {
                1 => seccomp::set_strict(cx),
                2 => seccomp::set_filter(cx, 0, b),
                _ => Err(Errno::INVAL.into()),
            };
        }
        PR_CAPBSET_READ => return Ok(u64::from(creds.caps.bounding & cap_bit(a)? != 0)),
        PR_CAPBSET_DROP => {
            if !creds.has_cap(CAP_SETPCAP) {
                return Err(Errno::PERM.into());
            }
            let bit = cap_bit(a)?;
            change_creds(cx, |creds| creds.caps.bounding &= !bit);
        }
        PR_GET_SECUREBITS => return Ok(u64::from(creds.securebits)),
        PR_SET_SECUREBITS => {
            // A lock bit never goes, and what it locks stays.
            let locks = creds.securebits & 0xaa;
            let locked = locks >> 1;
            let new = a as u32;
            let breaks = new & locks != locks || (new ^ creds.securebits) & locked != 0;
            if !creds.has_cap(CAP_SETPCAP) || breaks || a > 0xff {
                return Err(Errno::PERM.into());
            }
            change_creds(cx, |creds| creds.securebits = new);
        }
        PR_SET_TIMERSLACK => {
            // 0 or less is what the thread began with.
            let slack = if a.cast_signed() <= 0 { TIMER_SLACK_NS } else { a };
            cx.task.timer_slack_ns.store(slack, Ordering::Relaxed);
        }
        PR_GET_TIMERSLACK => return Ok(cx.task.timer_slack_ns.load(Ordering::Relaxed)),
        // Advice, and counters that are not there.
        PR_SET_THP_DISABLE | PR_SET_PTRACER | PR_PERF_DISABLE | PR_PERF_ENABLE => {}
        PR_GET_THP_DISABLE | PR_GET_TIMING => return Ok(0),
        PR_SET_TIMING if a == 0 => {}
        PR_GET_TSC => cx.write_u32(a, TSC_ENABLE)?,
        PR_SET_TSC if a == u64::from(TSC_ENABLE) => {}
        PR_MCE_KILL if a <= 1 && c == 0 && d == 0 => {}
        PR_MCE_KILL_GET if a == 0 && b == 0 && c == 0 && d == 0 => return Ok(MCE_DEFAULT),
        // The host deals with speculation, and nothing can be chosen here (PR_SPEC_NOT_AFFECTED).
        PR_GET_SPECULATION_CTRL if a <= 2 => return Ok(0),
        PR_GET_SPECULATION_CTRL | PR_SET_SPECULATION_CTRL if a > 2 => {
            return Err(Errno::NODEV.into());
        }
        PR_SET_SPECULATION_CTRL => return Err(Errno::NXIO.into()),
        PR_SET_MM => set_layout(cx, a, b, c)?,
        PR_SET_CHILD_SUBREAPER => process.subreaper.store(a != 0, Ordering::Relaxed),
        PR_GET_CHILD_SUBREAPER => {
            cx.write_u32(a, u32::from(process.subreaper.load(Ordering::Relaxed)))?;
        }
        PR_SET_NO_NEW_PRIVS => {
            if a != 1 || b != 0 || c != 0 || d != 0 {
                return Err(Errno::INVAL.into());
            }
            change_creds(cx, |creds| creds.no_new_privileges = true);
        }
        PR_GET_NO_NEW_PRIVS => return Ok(u64::from(creds.no_new_privileges)),
        PR_GET_TID_ADDRESS => {
            cx.write_u64(a, cx.task.clear_child_tid.load(Ordering::Relaxed))?;
        }
        PR_CAP_AMBIENT => return ambient(cx, a, b),
        PR_SET_VMA if a == 0 => name_areas(cx, b, c, d)?,
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}

/// PR_SET_VMA_ANON_NAME: the name is seen in /proc/self/maps.
fn name_areas(cx: &Cx<'_>, start: u64, bytes: u64, name_at: u64) -> Result<(), Errno> {
    const NAME_MAX: usize = 80;
    let label = if name_at == 0 {
        None
    } else {
        let name = cx.read_string(name_at, NAME_MAX).map_err(|errno| match errno {
            Errno::NAMETOOLONG => Errno::INVAL,
            other => other,
        })?;
        let printable = |byte: &u8| (0x20..0x7f).contains(byte) && !b"\\`$[]".contains(byte);
        if !name.iter().all(printable) {
            return Err(Errno::INVAL);
        }
        let name = core::str::from_utf8(&name).map_err(|_| Errno::INVAL)?;
        Some(Arc::from(name))
    };
    let end = start
        .checked_add(bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::INVAL)?)
        .ok_or(Errno::INVAL)?;
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::INVAL);
    }
    let mm = cx.mm();
    let mut areas = mm.areas.lock();
    let parts = areas.overlapping(start, end);
    if parts.iter().any(|area| matches!(area.kind, AreaKind::File { .. } | AreaKind::Fixed)) {
        return Err(Errno::BADF);
    }
    areas.change(start, end, |area| area.label.clone_from(&label))?;
    if areas.covers(start, end) { Ok(()) } else { Err(Errno::NOMEM) }
}

/// PR_SET_MM: where /proc looks for the parts of a program.
fn set_layout(cx: &Cx<'_>, what: u64, value: u64, bytes: u64) -> Result<(), Errno> {
    if !cx.creds().has_cap(CAP_SYS_RESOURCE) {
        return Err(Errno::PERM);
    }
    const AUXV_BYTES_MAX: u64 = 48 * 8;
    const AUXV: u64 = 12;
    let mm = cx.mm();
    if what == AUXV {
        if bytes > AUXV_BYTES_MAX {
            return Err(Errno::INVAL);
        }
        let mut auxv = alloc::vec![0; bytes as usize];
        cx.read_bytes(value, &mut auxv)?;
        mm.layout.lock().auxv = auxv;
        return Ok(());
    }
    if !(LOWEST..HIGHEST).contains(&value) {
        return Err(Errno::INVAL);
    }
    let mut layout = mm.layout.lock();
    let slot = match what {
        1 => &mut layout.code.0,
        2 => &mut layout.code.1,
        3 => &mut layout.data.0,
        4 => &mut layout.data.1,
        5 => &mut layout.stack_start,
        8 => &mut layout.arguments.0,
        9 => &mut layout.arguments.1,
        10 => &mut layout.environment.0,
        11 => &mut layout.environment.1,
        _ => return Err(Errno::INVAL),
    };
    *slot = value;
    Ok(())
}

fn ambient(cx: &Cx<'_>, command: u64, cap: u64) -> SysResult {
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR_ALL: u64 = 4;
    let creds = cx.creds();
    if command == CLEAR_ALL {
        if cap != 0 {
            return Err(Errno::INVAL.into());
        }
        change_creds(cx, |creds| creds.caps.ambient = 0);
        return Ok(0);
    }
    let bit = cap_bit(cap)?;
    match command {
        IS_SET => return Ok(u64::from(creds.caps.ambient & bit != 0)),
        RAISE => {
            let held = creds.caps.permitted & creds.caps.inheritable & bit != 0;
            if !held || creds.securebits & NO_CAP_AMBIENT_RAISE != 0 {
                return Err(Errno::PERM.into());
            }
            change_creds(cx, |creds| creds.caps.ambient |= bit);
        }
        LOWER => change_creds(cx, |creds| creds.caps.ambient &= !bit),
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}

pub(super) fn sys_arch_prctl(cx: &mut Cx<'_>, code: u32, address: u64) -> SysResult {
    const SET_GS: u32 = 0x1001;
    const SET_FS: u32 = 0x1002;
    const GET_FS: u32 = 0x1003;
    const GET_GS: u32 = 0x1004;
    match code {
        SET_FS | SET_GS if address >= HIGHEST => return Err(Errno::PERM.into()),
        SET_FS => cx.task.fs_base.store(address, Ordering::Relaxed),
        SET_GS => {
            // Rewritten text needs GS for itself.
            cx.mm().use_own_text();
            cx.task.gs_base.store(address, Ordering::Relaxed);
        }
        GET_FS => cx.write_u64(address, cx.task.fs_base.load(Ordering::Relaxed))?,
        GET_GS => cx.write_u64(address, cx.task.gs_base.load(Ordering::Relaxed))?,
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}
