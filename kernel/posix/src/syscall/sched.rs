// SPDX-License-Identifier: Apache-2.0
//! Scheduling parameters, CPUs, priorities, membarrier.

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering;

use crate::{
    Errno,
    cx::{Cx, SysResult},
    process::{TaskRef, creds::CAP_SYS_NICE},
    syscall::time::write_timespec,
};

const SCHED_OTHER: u32 = 0;
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
const SCHED_RESET_ON_FORK: u32 = 0x4000_0000;

fn find(cx: &Cx<'_>, pid: i32) -> Result<TaskRef, Errno> {
    match u32::try_from(pid) {
        Err(_) => Err(Errno::INVAL),
        Ok(0) => Ok(cx.task.clone()),
        Ok(pid) => cx.kernel.services.registry.task(pid).ok_or(Errno::SRCH),
    }
}

pub(super) fn sys_sched_yield(cx: &mut Cx<'_>) -> SysResult {
    cx.kernel.preempt();
    Ok(0)
}

pub(super) fn sys_sched_getaffinity(cx: &mut Cx<'_>, pid: i32, bytes: u32, at: u64) -> SysResult {
    find(cx, pid).map_err(|_| Errno::SRCH)?;
    let cpus = cx.kernel.options.vcpus.max(1) as usize;
    if bytes as usize * 8 < cpus || !bytes.is_multiple_of(8) {
        return Err(Errno::INVAL.into());
    }
    let mut mask = vec![0; cpus.div_ceil(64) * 8];
    for cpu in 0..cpus {
        mask[cpu / 8] |= 1 << (cpu % 8);
    }
    cx.write_bytes(at, &mask)?;
    Ok(mask.len() as u64)
}

/// All CPUs are alike, and the choice is the kernel's: a mask that leaves one is accepted.
pub(super) fn sys_sched_setaffinity(cx: &mut Cx<'_>, pid: i32, bytes: u32, at: u64) -> SysResult {
    find(cx, pid).map_err(|_| Errno::SRCH)?;
    let mut mask: Vec<u8> = vec![0; (bytes as usize).min(128)];
    cx.read_bytes(at, &mut mask)?;
    let cpus = cx.kernel.options.vcpus.max(1) as usize;
    let any = (0..cpus).any(|cpu| mask.get(cpu / 8).is_some_and(|byte| byte >> (cpu % 8) & 1 == 1));
    if any { Ok(0) } else { Err(Errno::INVAL.into()) }
}

pub(super) fn sys_getcpu(cx: &mut Cx<'_>, cpu_at: u64, node_at: u64) -> SysResult {
    for at in [cpu_at, node_at] {
        if at != 0 {
            cx.write_u32(at, 0)?;
        }
    }
    Ok(0)
}

pub(super) fn sys_sched_getscheduler(cx: &mut Cx<'_>, pid: i32) -> SysResult {
    find(cx, pid)?;
    Ok(u64::from(SCHED_OTHER))
}

pub(super) fn sys_sched_setscheduler(
    cx: &mut Cx<'_>,
    pid: i32,
    policy: u32,
    param_at: u64,
) -> SysResult {
    find(cx, pid)?;
    let priority = cx.read_u32(param_at)?;
    match policy & !SCHED_RESET_ON_FORK {
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE if priority == 0 => Ok(0),
        SCHED_FIFO | SCHED_RR if (1..=99).contains(&priority) => Err(Errno::PERM.into()),
        _ => Err(Errno::INVAL.into()),
    }
}

pub(super) fn sys_sched_setparam(cx: &mut Cx<'_>, pid: i32, param_at: u64) -> SysResult {
    find(cx, pid)?;
    if cx.read_u32(param_at)? == 0 { Ok(0) } else { Err(Errno::INVAL.into()) }
}

pub(super) fn sys_sched_getparam(cx: &mut Cx<'_>, pid: i32, param_at: u64) -> SysResult {
    find(cx, pid)?;
    cx.write_u32(param_at, 0)?;
    Ok(0)
}

pub(super) fn sys_sched_get_priority_max(_cx: &mut Cx<'_>, policy: u32) -> SysResult {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok(99),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE => Ok(0),
        _ => Err(Errno::INVAL.into()),
    }
}

pub(super) fn sys_sched_get_priority_min(_cx: &mut Cx<'_>, policy: u32) -> SysResult {
    match policy {
        SCHED_FIFO | SCHED_RR => Ok(1),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE => Ok(0),
        _ => Err(Errno::INVAL.into()),
    }
}

pub(super) fn sys_sched_rr_get_interval(cx: &mut Cx<'_>, pid: i32, at: u64) -> SysResult {
    find(cx, pid)?;
    write_timespec(cx, at, 10_000_000)?;
    Ok(0)
}

fn priority_targets(cx: &Cx<'_>, which: u32, who: i32) -> Result<Vec<TaskRef>, Errno> {
    let who = who.cast_unsigned();
    let tasks = cx.kernel.services.registry.tasks();
    let own = &cx.task;
    let found: Vec<_> = match (which, who) {
        (0, 0) => vec![own.clone()],
        (0, pid) => tasks.into_iter().filter(|task| task.tid() == pid).collect(),
        (1, pgid) => {
            let pgid = if pgid == 0 { own.process.pgid() } else { pgid };
            tasks.into_iter().filter(|task| task.process.pgid() == pgid).collect()
        }
        (2, uid) => {
            let uid = if uid == 0 { own.creds().uid } else { uid };
            tasks.into_iter().filter(|task| task.creds().uid == uid).collect()
        }
        _ => return Err(Errno::INVAL),
    };
    if found.is_empty() { Err(Errno::SRCH) } else { Ok(found) }
}

/// nice values are kept and reported; with one run queue in turns they have no effect.
pub(super) fn sys_getpriority(cx: &mut Cx<'_>, which: u32, who: i32) -> SysResult {
    let targets = priority_targets(cx, which, who)?;
    let nice = targets.iter().map(|task| task.process.nice.load(Ordering::Relaxed).cast_signed());
    let lowest = nice.min().unwrap_or(0);
    Ok(u64::from((20 - lowest).cast_unsigned()))
}

pub(super) fn sys_setpriority(cx: &mut Cx<'_>, which: u32, who: i32, nice: i32) -> SysResult {
    let nice = nice.clamp(-20, 19);
    let creds = cx.creds();
    for task in priority_targets(cx, which, who)? {
        let old = task.process.nice.load(Ordering::Relaxed).cast_signed();
        let other = task.creds();
        let own = [other.uid, other.euid].contains(&creds.euid);
        if !own && !creds.has_cap(CAP_SYS_NICE) {
            return Err(Errno::PERM.into());
        }
        if nice < old && !creds.has_cap(CAP_SYS_NICE) {
            return Err(Errno::ACCES.into());
        }
        task.process.nice.store(nice.cast_unsigned(), Ordering::Relaxed);
    }
    Ok(0)
}

/// One vCPU runs a process's threads in turns, with a full barrier at each switch.
pub(super) fn sys_membarrier(_cx: &mut Cx<'_>, command: i32, flags: u32) -> SysResult {
    /// GLOBAL, GLOBAL_EXPEDITED, PRIVATE_EXPEDITED, and the registrations of the latter two.
    const SUPPORTED: i32 = 1 | 2 | 4 | 8 | 16;
    if flags != 0 {
        return Err(Errno::INVAL.into());
    }
    match command {
        0 => Ok(SUPPORTED as u64),
        command if command.count_ones() == 1 && command & SUPPORTED != 0 => Ok(0),
        _ => Err(Errno::INVAL.into()),
    }
}
