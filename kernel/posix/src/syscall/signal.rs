// SPDX-License-Identifier: Apache-2.0
//! Signals: actions, masks, sending, waiting.

use alloc::{sync::Arc, vec::Vec};

use crate::{
    Errno,
    cx::{Cx, Restart, Stop, SysResult},
    process::{
        Creds, Process, TaskRef,
        creds::CAP_KILL,
        frame::{SS_AUTODISARM, SS_DISABLE, SS_ONSTACK, is_on_stack, stack_flags},
        group::RLIMIT_SIGPENDING,
        signal::{
            Action, SI_KERNEL, SI_TKILL, SI_USER, SIGCONT, SIGKILL, SIGNAL_MAX, SIGRTMIN, SIGSEGV,
            SIGSTOP, SigInfo, SignalSet, UNBLOCKABLE, bit,
        },
        task::AltStack,
    },
    syscall::time::read_timespec,
};

const SIG_BLOCK: u32 = 0;
const SIG_UNBLOCK: u32 = 1;
const SIG_SETMASK: u32 = 2;
/// MINSIGSTKSZ.
const STACK_MIN: u64 = 2048;

fn check_set_size(bytes: u64) -> Result<(), Errno> {
    if bytes == 8 { Ok(()) } else { Err(Errno::INVAL) }
}

pub(super) fn sys_rt_sigaction(
    cx: &mut Cx<'_>,
    signal: u32,
    new_at: u64,
    old_at: u64,
    set_bytes: u64,
) -> SysResult {
    check_set_size(set_bytes)?;
    if bit(signal) == 0 || new_at != 0 && matches!(signal, SIGKILL | SIGSTOP) {
        return Err(Errno::INVAL.into());
    }
    let new = if new_at == 0 {
        None
    } else {
        let mut raw = [0; 32];
        cx.read_bytes(new_at, &mut raw)?;
        let word =
            |index: usize| raw[index * 8..index * 8 + 8].try_into().map_or(0, u64::from_le_bytes);
        Some(Action {
            handler: word(0),
            flags: word(1),
            restorer: word(2),
            mask: word(3) & !UNBLOCKABLE,
        })
    };
    let process = cx.process();
    let actions = process.actions.lock().clone();
    let old = actions.lock().of(signal);
    if let Some(new) = new {
        actions.lock().0[signal as usize - 1] = new;
        if actions.lock().ignores(signal) {
            // Pending signals that are now ignored are gone, blocked or not (POSIX).
            process.pending.lock().discard(bit(signal));
            for task in process.threads.lock().iter() {
                task.signals.lock().pending.discard(bit(signal));
            }
        }
    }
    if old_at != 0 {
        let words = [old.handler, old.flags, old.restorer, old.mask];
        let raw: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        cx.write_bytes(old_at, &raw)?;
    }
    Ok(0)
}

pub(super) fn sys_rt_sigprocmask(
    cx: &mut Cx<'_>,
    how: u32,
    new_at: u64,
    old_at: u64,
    set_bytes: u64,
) -> SysResult {
    check_set_size(set_bytes)?;
    let old = cx.task.signals.lock().mask;
    if new_at != 0 {
        let set = cx.read_u64(new_at)? & !UNBLOCKABLE;
        let new = match how {
            SIG_BLOCK => old | set,
            SIG_UNBLOCK => old & !set,
            SIG_SETMASK => set,
            _ => return Err(Errno::INVAL.into()),
        };
        cx.task.signals.lock().mask = new;
    }
    if old_at != 0 {
        cx.write_u64(old_at, old)?;
    }
    Ok(0)
}

pub(super) fn sys_rt_sigreturn(cx: &mut Cx<'_>) -> SysResult {
    let task = cx.task.clone();
    if cx.kernel.pop_frame(&task).is_err() {
        cx.kernel.force_signal(&task, SigInfo::new(SIGSEGV, SI_KERNEL));
    }
    Err(Stop::Jump)
}

/// Calls are restarted by being made again, never through this.
pub(super) fn sys_restart_syscall(_cx: &mut Cx<'_>) -> SysResult {
    Err(Errno::INTR.into())
}

pub(super) fn sys_rt_sigpending(cx: &mut Cx<'_>, at: u64, set_bytes: u64) -> SysResult {
    if set_bytes > 8 {
        return Err(Errno::INVAL.into());
    }
    let pending = cx.task.pending_signals() & cx.task.signals.lock().mask;
    cx.write_bytes(at, &pending.to_le_bytes()[..set_bytes as usize])?;
    Ok(0)
}

pub(super) fn sys_pause(cx: &mut Cx<'_>) -> SysResult {
    Err(cx.block(None, Restart::NoHandler))
}

pub(super) fn sys_rt_sigsuspend(cx: &mut Cx<'_>, at: u64, set_bytes: u64) -> SysResult {
    check_set_size(set_bytes)?;
    let mask = cx.read_u64(at)?;
    cx.set_temporary_mask(mask);
    Err(cx.block(None, Restart::NoHandler))
}

pub(super) fn sys_rt_sigtimedwait(
    cx: &mut Cx<'_>,
    set_at: u64,
    info_at: u64,
    timeout_at: u64,
    set_bytes: u64,
) -> SysResult {
    check_set_size(set_bytes)?;
    let set: SignalSet = cx.read_u64(set_at)? & !UNBLOCKABLE;
    if cx.progress().value == 0 {
        if timeout_at != 0 {
            let ns = read_timespec(cx, timeout_at)?;
            let deadline = cx.kernel.services.monotonic_ns().saturating_add(ns);
            cx.progress().deadline_ns = Some(deadline);
        }
        cx.progress().value = 1;
    }
    cx.task.signals.lock().awaited = 0;
    if let Some(info) = cx.task.take_signal(set) {
        if info_at != 0 {
            cx.write_bytes(info_at, &info.encode())?;
        }
        return Ok(u64::from(info.signal));
    }
    let deadline = cx.progress().deadline_ns;
    if deadline.is_some_and(|at| cx.kernel.services.monotonic_ns() >= at) {
        return Err(Errno::AGAIN.into());
    }
    if cx.interrupted() {
        return Err(Errno::INTR.into());
    }
    cx.task.signals.lock().awaited = set;
    Err(cx.block(deadline, Restart::Never))
}

pub(super) fn sys_sigaltstack(cx: &mut Cx<'_>, new_at: u64, old_at: u64) -> SysResult {
    let rsp = cx.task.registers.lock().rsp;
    let old = cx.task.signals.lock().stack;
    let on_stack = is_on_stack(&old, rsp);
    if new_at != 0 {
        let base = cx.read_u64(new_at)?;
        let flags = cx.read_u32(new_at.wrapping_add(8))?;
        let bytes = cx.read_u64(new_at.wrapping_add(16))?;
        if on_stack {
            return Err(Errno::PERM.into());
        }
        let new = match flags & !SS_AUTODISARM {
            SS_DISABLE => AltStack::default(),
            0 | SS_ONSTACK => {
                if bytes < STACK_MIN {
                    return Err(Errno::NOMEM.into());
                }
                AltStack { base, bytes, flags: flags & SS_AUTODISARM }
            }
            _ => return Err(Errno::INVAL.into()),
        };
        cx.task.signals.lock().stack = new;
    }
    if old_at != 0 {
        let mut raw = [0; 24];
        raw[0..8].copy_from_slice(&old.base.to_le_bytes());
        raw[8..12].copy_from_slice(&stack_flags(&old, on_stack).to_le_bytes());
        raw[16..24].copy_from_slice(&old.bytes.to_le_bytes());
        cx.write_bytes(old_at, &raw)?;
    }
    Ok(0)
}

fn may_signal(own: &Creds, cx: &Cx<'_>, target: &Process, signal: u32) -> bool {
    let Some(task) = target.any_thread() else { return true };
    let other = task.creds();
    let same = [own.uid, own.euid].iter().any(|uid| [other.uid, other.suid].contains(uid));
    same || own.has_cap(CAP_KILL) || signal == SIGCONT && cx.task.process.sid() == target.sid()
}

pub(super) fn own_info(cx: &Cx<'_>, signal: u32, code: i32) -> SigInfo {
    SigInfo::from_sender(signal, code, cx.task.process.pid, cx.creds().uid)
}

pub(super) fn send(cx: &mut Cx<'_>, targets: &[Arc<Process>], info: SigInfo) -> SysResult {
    let own = cx.creds();
    if targets.is_empty() {
        return Err(Errno::SRCH.into());
    }
    let mut sent = false;
    for target in targets {
        if may_signal(&own, cx, target, info.signal) {
            sent = true;
            send_to_process(cx, target, info);
        }
    }
    if sent { Ok(0) } else { Err(Errno::PERM.into()) }
}

/// Within the container nothing kills init but itself (pid_namespaces(7)).
fn send_to_process(cx: &mut Cx<'_>, target: &Arc<Process>, info: SigInfo) {
    let protected = target.pid == 1 && matches!(info.signal, SIGKILL | SIGSTOP);
    if info.signal != 0 && !protected {
        cx.kernel.signal_process(target, info);
    }
}

pub(super) fn sys_kill(cx: &mut Cx<'_>, pid: i32, signal: u32) -> SysResult {
    if signal > SIGNAL_MAX {
        return Err(Errno::INVAL.into());
    }
    let info = own_info(cx, signal, SI_USER);
    let registry = &cx.kernel.services.registry;
    let targets: Vec<_> = match pid {
        i32::MIN => return Err(Errno::SRCH.into()),
        -1 => {
            let own = cx.task.process.pid;
            let others = registry.processes().into_iter();
            others.filter(|process| process.pid != 1 && process.pid != own).collect()
        }
        pid if pid <= 0 => {
            let pgid = if pid == 0 { cx.task.process.pgid() } else { pid.unsigned_abs() };
            registry.processes().into_iter().filter(|process| process.pgid() == pgid).collect()
        }
        pid => {
            let id = pid.unsigned_abs();
            let found = registry.process(id);
            found
                .or_else(|| registry.task(id).map(|task| task.process.clone()))
                .into_iter()
                .collect()
        }
    };
    send(cx, &targets, info)
}

fn find_thread(cx: &Cx<'_>, tgid: i32, tid: i32) -> Result<TaskRef, Errno> {
    if tid <= 0 || tgid == 0 || tgid < -1 {
        return Err(Errno::INVAL);
    }
    let task = cx.kernel.services.registry.task(tid.unsigned_abs()).ok_or(Errno::SRCH)?;
    if tgid > 0 && task.process.pid != tgid.unsigned_abs() {
        return Err(Errno::SRCH);
    }
    Ok(task)
}

fn send_to_thread(cx: &mut Cx<'_>, tgid: i32, tid: i32, info: SigInfo) -> SysResult {
    if info.signal > SIGNAL_MAX {
        return Err(Errno::INVAL.into());
    }
    let task = find_thread(cx, tgid, tid)?;
    if !may_signal(&cx.creds(), cx, &task.process, info.signal) {
        return Err(Errno::PERM.into());
    }
    let protected = task.process.pid == 1 && matches!(info.signal, SIGKILL | SIGSTOP);
    if info.signal != 0 && !protected {
        cx.kernel.signal_task(&task, info);
    }
    Ok(0)
}

pub(super) fn sys_tkill(cx: &mut Cx<'_>, tid: i32, signal: u32) -> SysResult {
    let info = own_info(cx, signal, SI_TKILL);
    send_to_thread(cx, -1, tid, info)
}

pub(super) fn sys_tgkill(cx: &mut Cx<'_>, tgid: i32, tid: i32, signal: u32) -> SysResult {
    if tgid <= 0 {
        return Err(Errno::INVAL.into());
    }
    let info = own_info(cx, signal, SI_TKILL);
    send_to_thread(cx, tgid, tid, info)
}

pub(super) fn queued_info(cx: &Cx<'_>, pid: i32, signal: u32, at: u64) -> Result<SigInfo, Errno> {
    let mut raw = [0; 128];
    cx.read_bytes(at, &mut raw)?;
    let info = SigInfo::decode(signal, &raw);
    let forged = info.code >= 0 || info.code == SI_TKILL;
    if forged && cx.task.process.pid != pid.cast_unsigned() {
        return Err(Errno::PERM);
    }
    Ok(info)
}

/// Checks that a real-time signal can be queued (RLIMIT_SIGPENDING of the sender's user counts).
fn check_queue(cx: &Cx<'_>, target: &Process, signal: u32) -> Result<(), Errno> {
    if signal < SIGRTMIN {
        return Ok(());
    }
    let threads = target.threads.lock().clone();
    let own: usize = threads.iter().map(|task| task.signals.lock().pending.len()).sum();
    let queued = own + target.pending.lock().len();
    let limit = cx.process().limits.lock().soft(RLIMIT_SIGPENDING);
    if queued as u64 >= limit { Err(Errno::AGAIN) } else { Ok(()) }
}

pub(super) fn sys_rt_sigqueueinfo(cx: &mut Cx<'_>, pid: i32, signal: u32, at: u64) -> SysResult {
    if signal > SIGNAL_MAX {
        return Err(Errno::INVAL.into());
    }
    let info = queued_info(cx, pid, signal, at)?;
    let target = cx.kernel.services.registry.process(pid.cast_unsigned()).ok_or(Errno::SRCH)?;
    check_queue(cx, &target, signal)?;
    send(cx, &[target], info)
}

pub(super) fn sys_rt_tgsigqueueinfo(
    cx: &mut Cx<'_>,
    tgid: i32,
    tid: i32,
    signal: u32,
    at: u64,
) -> SysResult {
    let info = queued_info(cx, tgid, signal, at)?;
    let process = find_thread(cx, tgid, tid)?.process.clone();
    check_queue(cx, &process, signal)?;
    send_to_thread(cx, tgid, tid, info)
}
