// SPDX-License-Identifier: Apache-2.0
//! Resource limits and usage.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::{
    Errno,
    cx::{Cx, SysResult},
    process::{
        Process,
        creds::CAP_SYS_RESOURCE,
        group::{RLIMIT_AS, RLIMIT_CPU, RLIMIT_DATA, RLIMIT_NOFILE, RLIMIT_STACK},
    },
};

const LIMITS: u32 = 16;
/// fs.nr_open.
const NR_OPEN: u64 = 1 << 20;
const TICK_NS: u64 = 10_000_000;

fn set(cx: &Cx<'_>, process: &Process, resource: u32, new: (u64, u64)) -> Result<(), Errno> {
    let (soft, hard) = new;
    if soft > hard {
        return Err(Errno::INVAL);
    }
    let index = resource as usize;
    let mut limits = process.limits.lock();
    let slot = limits.0.get_mut(index).ok_or(Errno::INVAL)?;
    if hard > slot.1 && !cx.task.creds().has_cap(CAP_SYS_RESOURCE)
        || index == RLIMIT_NOFILE && hard > NR_OPEN
    {
        return Err(Errno::PERM);
    }
    *slot = new;
    drop(limits);
    if index == RLIMIT_CPU {
        process.cpu_limit_next_s.store(0, Ordering::Relaxed);
        process.counts_cpu.store(true, Ordering::Relaxed);
    }
    if let Some(mm) = process.any_thread().and_then(|task| task.mm()) {
        match index {
            RLIMIT_STACK => mm.stack_limit.store(soft, Ordering::Relaxed),
            RLIMIT_AS => mm.limits[0].store(soft, Ordering::Relaxed),
            RLIMIT_DATA => mm.limits[1].store(soft, Ordering::Relaxed),
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn sys_prlimit64(
    cx: &mut Cx<'_>,
    pid: i32,
    resource: u32,
    new_at: u64,
    old_at: u64,
) -> SysResult {
    if resource >= LIMITS {
        return Err(Errno::INVAL.into());
    }
    let process = match u32::try_from(pid).map_err(|_| Errno::SRCH)? {
        0 => cx.process(),
        pid => {
            let task = cx.kernel.services.registry.task(pid).ok_or(Errno::SRCH)?;
            let (own, other) = (cx.creds(), task.creds());
            let same = [other.uid, other.euid, other.suid].iter().all(|&uid| uid == own.uid)
                && [other.gid, other.egid, other.sgid].iter().all(|&gid| gid == own.gid);
            if !same && !own.has_cap(CAP_SYS_RESOURCE) {
                return Err(Errno::PERM.into());
            }
            task.process.clone()
        }
    };
    let new = if new_at == 0 {
        None
    } else {
        Some((cx.read_u64(new_at)?, cx.read_u64(new_at.wrapping_add(8))?))
    };
    let old = process.limits.lock().0[resource as usize];
    if let Some(new) = new {
        set(cx, &process, resource, new)?;
    }
    if old_at != 0 {
        cx.write_u64(old_at, old.0)?;
        cx.write_u64(old_at.wrapping_add(8), old.1)?;
    }
    Ok(0)
}

pub(super) fn sys_getrlimit(cx: &mut Cx<'_>, resource: u32, at: u64) -> SysResult {
    sys_prlimit64(cx, 0, resource, 0, at)
}

pub(super) fn sys_setrlimit(cx: &mut Cx<'_>, resource: u32, at: u64) -> SysResult {
    if at == 0 {
        return Err(Errno::FAULT.into());
    }
    sys_prlimit64(cx, 0, resource, at, 0)
}

/// struct rusage of a process, or of a part of it with these times.
pub(super) fn encode_rusage(times_ns: (u64, u64), process: &Arc<Process>) -> [u8; 144] {
    let mut usage = [0; 144];
    let mut put = |index: usize, value: u64| {
        usage[index * 8..index * 8 + 8].copy_from_slice(&value.to_le_bytes());
    };
    for (index, ns) in [(0, times_ns.0), (2, times_ns.1)] {
        put(index, ns / 1_000_000_000);
        put(index + 1, ns % 1_000_000_000 / 1000);
    }
    let resident = process.any_thread().and_then(|task| task.mm()).map(|mm| mm.resident_pages());
    let peak = process.peak_pages.fetch_max(resident.unwrap_or(0), Ordering::Relaxed);
    put(4, peak.max(resident.unwrap_or(0)) * 4);
    put(8, process.faults.load(Ordering::Relaxed));
    usage
}

pub(super) fn sys_getrusage(cx: &mut Cx<'_>, who: i32, at: u64) -> SysResult {
    let process = cx.process();
    let times = match who {
        0 => process.cpu_ns(),
        -1 => (
            process.children_ns[0].load(Ordering::Relaxed),
            process.children_ns[1].load(Ordering::Relaxed),
        ),
        1 => (cx.task.user_ns.load(Ordering::Relaxed), cx.task.system_ns.load(Ordering::Relaxed)),
        _ => return Err(Errno::INVAL.into()),
    };
    cx.write_bytes(at, &encode_rusage(times, &process))?;
    Ok(0)
}

pub(super) fn sys_times(cx: &mut Cx<'_>, at: u64) -> SysResult {
    let process = cx.process();
    let (user, system) = process.cpu_ns();
    if at != 0 {
        let children = process.children_ns.each_ref().map(|ns| ns.load(Ordering::Relaxed));
        for (index, ns) in [user, system, children[0], children[1]].into_iter().enumerate() {
            cx.write_u64(at.wrapping_add(index as u64 * 8), ns / TICK_NS)?;
        }
    }
    Ok(cx.kernel.services.monotonic_ns() / TICK_NS)
}
