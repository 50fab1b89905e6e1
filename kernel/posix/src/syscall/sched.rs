// SPDX-License-Identifier: Apache-2.0
//! Scheduling parameters, CPUs, priorities, membarrier.

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering;

use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    process::{
        TaskRef,
        creds::{CAP_SYS_ADMIN, CAP_SYS_NICE},
        group::RLIMIT_RTPRIO,
    },
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

/// The vCPUs that there are, by bit.
fn all_vcpus(cx: &Cx<'_>) -> u64 {
    let vcpus = cx.kernel.options.vcpus.max(1);
    if vcpus >= 64 { u64::MAX } else { (1 << vcpus) - 1 }
}

pub(super) fn sys_sched_getaffinity(cx: &mut Cx<'_>, pid: i32, bytes: u32, at: u64) -> SysResult {
    let task = find(cx, pid).map_err(|_| Errno::SRCH)?;
    if bytes as u64 * 8 < u64::from(cx.kernel.options.vcpus.max(1)) || !bytes.is_multiple_of(8) {
        return Err(Errno::INVAL.into());
    }
    let mask = task.affinity.load(Ordering::Relaxed) & all_vcpus(cx);
    cx.write_u64(at, mask)?;
    Ok(8)
}

/// Whether the caller may change how another thread is scheduled.
fn may_change(cx: &Cx<'_>, task: &TaskRef) -> Result<(), Errno> {
    let (own, other) = (cx.creds(), task.creds());
    let same = [other.uid, other.euid].contains(&own.euid);
    if same || own.has_cap(CAP_SYS_NICE) { Ok(()) } else { Err(Errno::PERM) }
}

pub(super) fn sys_sched_setaffinity(cx: &mut Cx<'_>, pid: i32, bytes: u32, at: u64) -> SysResult {
    let task = find(cx, pid).map_err(|_| Errno::SRCH)?;
    let mut raw = [0; 8];
    let given = (bytes as usize).min(raw.len());
    cx.read_bytes(at, &mut raw[..given])?;
    may_change(cx, &task)?;
    let mask = u64::from_le_bytes(raw) & all_vcpus(cx);
    if mask == 0 {
        return Err(Errno::INVAL.into());
    }
    task.affinity.store(mask, Ordering::Relaxed);
    Ok(0)
}

pub(super) fn sys_getcpu(cx: &mut Cx<'_>, cpu_at: u64, node_at: u64) -> SysResult {
    let vcpu = cx.kernel.vcpu();
    for (at, value) in [(cpu_at, vcpu), (node_at, 0)] {
        if at != 0 {
            cx.write_u32(at, value)?;
        }
    }
    Ok(0)
}

/// Policy and real-time priority of a thread.
fn policy_of(task: &TaskRef) -> (u32, u32) {
    let both = task.process.policy.load(Ordering::Relaxed);
    (both as u32, (both >> 32) as u32)
}

/// Keeps policy and priority to report them: all threads take turns, whatever they are.
fn set_policy(cx: &Cx<'_>, task: &TaskRef, policy: u32, priority: u32) -> Result<(), Errno> {
    let kind = policy & !SCHED_RESET_ON_FORK;
    let is_realtime = matches!(kind, SCHED_FIFO | SCHED_RR);
    let good = match kind {
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE => priority == 0,
        SCHED_FIFO | SCHED_RR => (1..=99).contains(&priority),
        _ => false,
    };
    if !good {
        return Err(Errno::INVAL);
    }
    may_change(cx, task)?;
    let limit = task.process.limits.lock().soft(RLIMIT_RTPRIO);
    if is_realtime && u64::from(priority) > limit && !cx.creds().has_cap(CAP_SYS_NICE) {
        return Err(Errno::PERM);
    }
    let both = u64::from(policy) | u64::from(priority) << 32;
    task.process.policy.store(both, Ordering::Relaxed);
    Ok(())
}

pub(super) fn sys_sched_getscheduler(cx: &mut Cx<'_>, pid: i32) -> SysResult {
    Ok(u64::from(policy_of(&find(cx, pid)?).0))
}

pub(super) fn sys_sched_setscheduler(
    cx: &mut Cx<'_>,
    pid: i32,
    policy: u32,
    param_at: u64,
) -> SysResult {
    let task = find(cx, pid)?;
    let priority = cx.read_u32(param_at)?;
    set_policy(cx, &task, policy, priority)?;
    Ok(0)
}

pub(super) fn sys_sched_setparam(cx: &mut Cx<'_>, pid: i32, param_at: u64) -> SysResult {
    let task = find(cx, pid)?;
    let priority = cx.read_u32(param_at)?;
    set_policy(cx, &task, policy_of(&task).0, priority)?;
    Ok(0)
}

pub(super) fn sys_sched_getparam(cx: &mut Cx<'_>, pid: i32, param_at: u64) -> SysResult {
    let task = find(cx, pid)?;
    cx.write_u32(param_at, policy_of(&task).1)?;
    Ok(0)
}

/// struct sched_attr in its first version.
const ATTR_BYTES: usize = 48;

pub(super) fn sys_sched_setattr(cx: &mut Cx<'_>, pid: i32, at: u64, flags: u32) -> SysResult {
    let bytes = match cx.read_u32(at)? {
        0 => ATTR_BYTES,
        bytes => bytes as usize,
    };
    if flags != 0 || pid < 0 {
        return Err(Errno::INVAL.into());
    }
    if !(ATTR_BYTES..=4096).contains(&bytes) {
        cx.write_u32(at, ATTR_BYTES as u32)?;
        return Err(Errno::TOO_BIG.into());
    }
    let mut raw = vec![0; bytes];
    cx.read_bytes(at, &mut raw)?;
    if raw[ATTR_BYTES + 8.min(bytes - ATTR_BYTES)..].iter().any(|byte| *byte != 0) {
        return Err(Errno::TOO_BIG.into());
    }
    let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
    let task = find(cx, pid)?;
    let reset = if word(8) & 1 != 0 { SCHED_RESET_ON_FORK } else { 0 };
    set_policy(cx, &task, word(4) | reset, word(20))?;
    if matches!(word(4), SCHED_OTHER | SCHED_BATCH) {
        sys_setpriority(cx, 0, pid, word(16).cast_signed())?;
    }
    Ok(0)
}

pub(super) fn sys_sched_getattr(
    cx: &mut Cx<'_>,
    pid: i32,
    at: u64,
    bytes: u32,
    flags: u32,
) -> SysResult {
    if flags != 0 || pid < 0 || (bytes as usize) < ATTR_BYTES || bytes > 4096 {
        return Err(Errno::INVAL.into());
    }
    let task = find(cx, pid)?;
    let (policy, priority) = policy_of(&task);
    let mut raw = [0; ATTR_BYTES];
    let nice = task.process.nice.load(Ordering::Relaxed);
    let reset = u32::from(policy & SCHED_RESET_ON_FORK != 0);
    let kind = policy & !SCHED_RESET_ON_FORK;
    for (at, word) in [(0, ATTR_BYTES as u32), (4, kind), (8, reset), (16, nice), (20, priority)] {
        raw[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    cx.write_bytes(at, &raw)?;
    Ok(0)
}

/// I/O priorities are kept and reported; there is no queue of I/O that they would order.
pub(super) fn sys_ioprio_set(cx: &mut Cx<'_>, which: u32, who: i32, value: u32) -> SysResult {
    let class = value >> 13;
    if class > 3 || class == 0 && value & 0x1fff != 0 {
        return Err(Errno::INVAL.into());
    }
    if class == 1 && !cx.creds().has_cap(CAP_SYS_ADMIN) && !cx.creds().has_cap(CAP_SYS_NICE) {
        return Err(Errno::PERM.into());
    }
    for task in priority_targets(cx, which.wrapping_sub(1), who)? {
        may_change(cx, &task)?;
        task.process.io_priority.store(value, Ordering::Relaxed);
    }
    Ok(0)
}

pub(super) fn sys_ioprio_get(cx: &mut Cx<'_>, which: u32, who: i32) -> SysResult {
    let targets = priority_targets(cx, which.wrapping_sub(1), who)?;
    let values = targets.iter().map(|task| task.process.io_priority.load(Ordering::Relaxed));
    Ok(values.max().unwrap_or(0).into())
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

pub(super) fn sys_membarrier(cx: &mut Cx<'_>, command: i32, flags: u32) -> SysResult {
    const QUERY: u32 = 0;
    const GLOBAL: u32 = 1;
    const GLOBAL_EXPEDITED: u32 = 2;
    const REGISTER_GLOBAL: u32 = 4;
    const PRIVATE: u32 = 8;
    const REGISTER_PRIVATE: u32 = 0x10;
    const PRIVATE_SYNC: u32 = 0x20;
    const REGISTER_SYNC: u32 = 0x40;
    const PRIVATE_RSEQ: u32 = 0x80;
    const REGISTER_RSEQ: u32 = 0x100;
    const SUPPORTED: u32 = 0x1ff;
    const FLAG_CPU: u32 = 1;
    let command = command.cast_unsigned();
    if flags != 0 && !(command == PRIVATE_RSEQ && flags == FLAG_CPU) {
        return Err(Errno::INVAL.into());
    }
    let process = cx.process();
    match command {
        QUERY => return Ok(u64::from(SUPPORTED)),
        REGISTER_GLOBAL | REGISTER_PRIVATE | REGISTER_SYNC | REGISTER_RSEQ => {
            process.membarrier.fetch_or(command, Ordering::Relaxed);
            return Ok(0);
        }
        GLOBAL | GLOBAL_EXPEDITED => {}
        PRIVATE | PRIVATE_SYNC | PRIVATE_RSEQ => {
            if process.membarrier.load(Ordering::Relaxed) & command << 1 == 0 {
                return Err(Errno::PERM.into());
            }
        }
        _ => return Err(Errno::INVAL.into()),
    }
    // Every vCPU that runs such code traps, which is a barrier; so does a switch of tasks.
    let ticket = cx.ticket();
    let id = match cx.progress().value {
        0 => {
            let mm = cx.mm();
            let all = matches!(command, GLOBAL | GLOBAL_EXPEDITED);
            if command == PRIVATE_RSEQ {
                for task in process.threads.lock().iter() {
                    task.rseq_due.store(true, Ordering::Relaxed);
                }
            }
            let Some(id) = cx.kernel.start_barrier((!all).then_some(&mm)) else { return Ok(0) };
            cx.progress().value = id;
            id
        }
        id => id,
    };
    if cx.kernel.is_barrier_over(id, &ticket) {
        return Ok(0);
    }
    Err(cx.block(None, Restart::Uninterruptible))
}
