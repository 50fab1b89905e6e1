// SPDX-License-Identifier: Apache-2.0
//! prctl and arch_prctl.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::{
    Errno,
    cx::{Cx, SysResult},
    mm::HIGHEST,
    process::{
        Creds,
        creds::{CAP_LAST, CAP_SETPCAP},
        signal::SIGNAL_MAX,
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
const PR_SET_PTRACER: u32 = 0x5961_6d61;

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
        PR_GET_SECCOMP => return Ok(0),
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
        PR_SET_TIMERSLACK | PR_SET_THP_DISABLE | PR_SET_PTRACER => {}
        PR_GET_TIMERSLACK => return Ok(50_000),
        PR_GET_THP_DISABLE => return Ok(0),
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
        // Names for anonymous memory are only seen in /proc/self/maps.
        PR_SET_VMA if a == 0 => {}
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
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
        SET_GS => cx.task.gs_base.store(address, Ordering::Relaxed),
        GET_FS => cx.write_u64(address, cx.task.fs_base.load(Ordering::Relaxed))?,
        GET_GS => cx.write_u64(address, cx.task.gs_base.load(Ordering::Relaxed))?,
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}
