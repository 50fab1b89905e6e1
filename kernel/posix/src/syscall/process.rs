// SPDX-License-Identifier: Apache-2.0
//! Processes and threads: fork, clone, exit, ids, sessions and groups.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::{
    Errno,
    cx::{Cx, Restart, Stop, SysResult},
    mm::HIGHEST,
    process::{
        Process, Task, TaskRef,
        creds::{CAP_SYS_ADMIN, CAP_SYS_RESOURCE},
        group::{RLIMIT_CPU, RLIMIT_NPROC},
        registry::PID_MAX,
        rseq::Rseq,
        signal::{SIGCHLD, UNBLOCKABLE},
        task::{Phase, Resources, Vfork},
        trace::{O_CLONE, O_FORK, O_VFORK, TRAP_FLAG},
    },
    sync::Lock,
};

/// The CLONE_NEW*.
const NAMESPACES: u64 = 0x7e02_0080;
const CLONE_VM: u64 = 0x100;
const CLONE_FS: u64 = 0x200;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PTRACE: u64 = 0x2000;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_SYSVSEM: u64 = 0x4_0000;
const CLONE_SETTLS: u64 = 0x8_0000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_DETACHED: u64 = 0x40_0000;
const CLONE_UNTRACED: u64 = 0x80_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
const CLONE_IO: u64 = 0x8000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

const KNOWN: u64 = CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_PIDFD
    | CLONE_PTRACE
    | CLONE_VFORK
    | CLONE_PARENT
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID
    | CLONE_DETACHED
    | CLONE_UNTRACED
    | CLONE_CHILD_SETTID
    | CLONE_IO
    | CLONE_CLEAR_SIGHAND;

/// What clone is asked for.
#[derive(Clone, Copy, Debug, Default)]
struct CloneArgs {
    flags: u64,
    exit_signal: u32,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
    /// Where the process descriptor is stored.
    pidfd: u64,
}

pub(super) fn sys_fork(cx: &mut Cx<'_>) -> SysResult {
    clone(cx, &CloneArgs { exit_signal: SIGCHLD, ..CloneArgs::default() })
}

pub(super) fn sys_vfork(cx: &mut Cx<'_>) -> SysResult {
    let flags = CLONE_VM | CLONE_VFORK;
    clone(cx, &CloneArgs { flags, exit_signal: SIGCHLD, ..CloneArgs::default() })
}

pub(super) fn sys_clone(
    cx: &mut Cx<'_>,
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
) -> SysResult {
    let exit_signal = (flags & 0xff) as u32;
    let flags = flags & 0xffff_ff00;
    if flags & CLONE_PIDFD != 0 && flags & (CLONE_PARENT_SETTID | CLONE_DETACHED) != 0 {
        // Both would be stored at the same address.
        return Err(Errno::INVAL.into());
    }
    let pidfd = parent_tid;
    clone(cx, &CloneArgs { flags, exit_signal, stack, parent_tid, child_tid, tls, pidfd })
}

pub(super) fn sys_clone3(cx: &mut Cx<'_>, address: u64, bytes: u64) -> SysResult {
    const SIZE_MIN: u64 = 64;
    const SIZE_KNOWN: usize = 88;
    if bytes < SIZE_MIN {
        return Err(Errno::INVAL.into());
    }
    if bytes > 4096 {
        return Err(Errno::TOO_BIG.into());
    }
    let mut raw = alloc::vec![0; bytes as usize];
    cx.read_bytes(address, &mut raw)?;
    if raw.len() > SIZE_KNOWN && raw[SIZE_KNOWN..].iter().any(|&byte| byte != 0) {
        return Err(Errno::TOO_BIG.into());
    }
    let word = |index: usize| {
        raw.get(index * 8..index * 8 + 8)
            .and_then(|word| word.try_into().ok())
            .map_or(0, u64::from_le_bytes)
    };
    // flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, ...
    let (flags, exit_signal, stack, stack_size) = (word(0), word(4), word(5), word(6));
    if exit_signal > 64 || (stack == 0) != (stack_size == 0) {
        return Err(Errno::INVAL.into());
    }
    if flags & (CLONE_THREAD | CLONE_PARENT) != 0 && exit_signal != 0 {
        return Err(Errno::INVAL.into());
    }
    if flags & (CLONE_DETACHED | 0xff) != 0 {
        return Err(Errno::INVAL.into());
    }
    check_chosen_ids(cx, word(8), word(9))?;
    let arguments = CloneArgs {
        flags,
        exit_signal: exit_signal as u32,
        stack: stack.wrapping_add(stack_size),
        parent_tid: word(3),
        child_tid: word(2),
        tls: word(7),
        pidfd: word(1),
    };
    clone(cx, &arguments)
}

/// Thread ids that the caller chooses are for checkpoint and restore, and refused; what is wrong with
/// them comes before that.
fn check_chosen_ids(cx: &Cx<'_>, at: u64, count: u64) -> Result<(), Errno> {
    if (at == 0) != (count == 0) || count > 1 {
        return Err(Errno::INVAL);
    }
    if count == 0 {
        return Ok(());
    }
    match cx.read_u32(at)? {
        1..PID_MAX => Err(Errno::PERM),
        _ => Err(Errno::INVAL),
    }
}

fn clone(cx: &mut Cx<'_>, arguments: &CloneArgs) -> SysResult {
    let flags = arguments.flags;
    let has = |flag: u64| flags & flag != 0;
    if cx.progress().value != 0 {
        return wait_for_vfork(cx);
    }
    let inconsistent = has(CLONE_SIGHAND) && !has(CLONE_VM)
        || has(CLONE_THREAD) && !has(CLONE_SIGHAND)
        || has(CLONE_CLEAR_SIGHAND) && has(CLONE_SIGHAND)
        || has(CLONE_PIDFD) && has(CLONE_THREAD)
        || has(CLONE_PARENT) && cx.task.process.pid == 1
        || flags & !KNOWN != 0;
    if inconsistent {
        return Err(Errno::INVAL.into());
    }
    check_task_limit(cx)?;
    if has(CLONE_SETTLS) && arguments.tls >= HIGHEST {
        return Err(Errno::PERM.into());
    }
    let services = cx.services();
    let tid = services.registry.allot_id().ok_or(Errno::AGAIN)?;
    let parent = cx.task.clone();
    let own = parent.resources.lock().clone().ok_or(Errno::SRCH)?;
    let resources = Resources {
        mm: if has(CLONE_VM) { own.mm } else { Arc::new(own.mm.fork()?) },
        files: if has(CLONE_FILES) {
            own.files
        } else {
            let copy = own.files.lock().clone();
            Arc::new(Lock::new(copy))
        },
        fs: if has(CLONE_FS) {
            own.fs
        } else {
            let copy = own.fs.lock().clone();
            Arc::new(Lock::new(copy))
        },
    };
    let process =
        if has(CLONE_THREAD) { parent.process.clone() } else { new_process(cx, tid, arguments) };
    let child = new_task(cx, tid, process.clone(), resources, arguments);
    if has(CLONE_PARENT_SETTID) {
        cx.write_u32(arguments.parent_tid, tid)?;
    }
    if has(CLONE_PIDFD) {
        super::pidfd::give(cx, &process, arguments.pidfd)?;
    }
    if has(CLONE_CHILD_SETTID) {
        // In the child's memory, which may be a copy.
        if let Some(mm) = child.mm() {
            let _ = mm.write_bytes(arguments.child_tid, &tid.to_le_bytes());
        }
    }
    process.threads.lock().push(child.clone());
    services.registry.add_task(&child);
    if !has(CLONE_THREAD) {
        services.registry.add_process(&process);
        if let Some(parent) = process.parent() {
            parent.children.lock().push(process.clone());
        }
    }
    child.run.lock().phase = Phase::Runnable;
    if parent.is_traced() && !has(CLONE_UNTRACED) {
        let (option, event) = if has(CLONE_VFORK) {
            (O_VFORK, 2)
        } else if arguments.exit_signal == SIGCHLD {
            (O_FORK, 1)
        } else {
            (O_CLONE, 3)
        };
        if cx.kernel.trace_child(&parent, &child, option) {
            cx.kernel.trace_event(&parent, option, event, u64::from(tid));
        }
    }
    cx.kernel.enqueue(&child, false);
    if has(CLONE_VFORK) {
        let vfork = Arc::new(Vfork::default());
        *child.vfork.lock() = Some(vfork.clone());
        parent.run.lock().vfork_child = Some(vfork);
        cx.progress().value = u64::from(tid);
        return wait_for_vfork(cx);
    }
    Ok(u64::from(tid))
}

fn wait_for_vfork(cx: &mut Cx<'_>) -> SysResult {
    let vfork = cx.task.run.lock().vfork_child.clone();
    match vfork {
        Some(vfork) if !vfork.is_done.load(Ordering::Relaxed) => {
            vfork.queue.add(&cx.ticket());
            Err(cx.block(None, Restart::Uninterruptible))
        }
        _ => {
            cx.task.run.lock().vfork_child = None;
            Ok(cx.progress().value)
        }
    }
}

fn check_task_limit(cx: &Cx<'_>) -> Result<(), Errno> {
    let services = &cx.kernel.services;
    let count = services.registry.task_count().max(services.registry.process_count());
    if count as u64 >= services.tasks_max() {
        return Err(Errno::AGAIN);
    }
    let limit = cx.task.process.limits.lock().soft(RLIMIT_NPROC);
    let creds = cx.creds();
    let exempt = creds.uid == 0 || creds.has_cap(CAP_SYS_RESOURCE) || creds.has_cap(CAP_SYS_ADMIN);
    if exempt || limit == u64::MAX {
        return Ok(());
    }
    let tasks = cx.kernel.services.registry.tasks();
    let own = tasks.iter().filter(|task| task.creds().uid == creds.uid).count();
    if own as u64 >= limit { Err(Errno::AGAIN) } else { Ok(()) }
}

fn new_process(cx: &Cx<'_>, pid: u32, arguments: &CloneArgs) -> Arc<Process> {
    let current = &cx.task.process;
    let parent = if arguments.flags & CLONE_PARENT != 0 {
        current.parent.lock().clone()
    } else {
        Arc::downgrade(current)
    };
    let process = Process::new(pid, parent, cx.kernel.services.monotonic_ns(), None);
    process.set_pgid(current.pgid());
    process.set_sid(current.sid());
    process.terminal.lock().clone_from(&current.terminal.lock());
    process.limits.lock().clone_from(&current.limits.lock());
    let has_limit = current.limits.lock().soft(RLIMIT_CPU) != u64::MAX;
    process.counts_cpu.store(has_limit, Ordering::Relaxed);
    let actions = current.actions.lock().clone();
    let shares = arguments.flags & CLONE_SIGHAND != 0;
    *process.actions.lock() = if shares {
        actions
    } else {
        let mut copy = actions.lock().clone();
        if arguments.flags & CLONE_CLEAR_SIGHAND != 0 {
            copy.reset_for_exec();
        }
        Arc::new(Lock::new(copy))
    };
    let exit_signal = if arguments.flags & CLONE_PARENT != 0 {
        // A sibling ends as its sibling does.
        current.exit_signal.load(Ordering::Relaxed)
    } else {
        arguments.exit_signal
    };
    process.exit_signal.store(exit_signal, Ordering::Relaxed);
    process.dumpable.store(current.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
    let adjustment = current.oom_score_adj.load(Ordering::Relaxed);
    process.oom_score_adj.store(adjustment, Ordering::Relaxed);
    process.personality.store(current.personality.load(Ordering::Relaxed), Ordering::Relaxed);
    process.policy.store(current.policy.load(Ordering::Relaxed), Ordering::Relaxed);
    process.io_priority.store(current.io_priority.load(Ordering::Relaxed), Ordering::Relaxed);
    process.nice.store(current.nice.load(Ordering::Relaxed), Ordering::Relaxed);
    process.uid.store(cx.creds().uid, Ordering::Relaxed);
    Arc::new(process)
}

fn new_task(
    cx: &Cx<'_>,
    tid: u32,
    process: Arc<Process>,
    resources: Resources,
    arguments: &CloneArgs,
) -> TaskRef {
    let parent = &cx.task;
    let services = cx.services();
    let child = Task::new(tid, &services, process, resources, parent.creds());
    let mut registers = *parent.registers.lock();
    registers.rax = 0;
    // A new thread is not stepped.
    registers.rflags &= !TRAP_FLAG;
    if arguments.stack != 0 {
        registers.rsp = arguments.stack;
    }
    *child.registers.lock() = registers;
    *child.fpu.lock() = cx.kernel.fpu_image(parent);
    let fs_base = if arguments.flags & CLONE_SETTLS != 0 {
        arguments.tls
    } else {
        parent.fs_base.load(Ordering::Relaxed)
    };
    child.set_fs_base(fs_base);
    child.affinity.store(parent.affinity.load(Ordering::Relaxed), Ordering::Relaxed);
    if arguments.flags & CLONE_VM == 0 {
        // The copy of the memory has a copy of the registered structure.
        *child.rseq.lock() = *parent.rseq.lock();
        child.rseq_due.store(true, Ordering::Relaxed);
    }
    child.gs_base.store(parent.gs_base.load(Ordering::Relaxed), Ordering::Relaxed);
    child.name.lock().clone_from(&parent.name.lock());
    let slack = parent.timer_slack_ns.load(Ordering::Relaxed);
    child.seccomp.lock().clone_from(&parent.seccomp.lock());
    child.has_seccomp.store(parent.has_seccomp.load(Ordering::Relaxed), Ordering::Relaxed);
    child.timer_slack_ns.store(slack, Ordering::Relaxed);
    {
        let own = parent.signals.lock();
        let mut signals = child.signals.lock();
        signals.mask = own.mask & !UNBLOCKABLE;
        let shares_memory = arguments.flags & (CLONE_VM | CLONE_VFORK) == CLONE_VM;
        if !shares_memory {
            signals.stack = own.stack;
        }
    }
    if arguments.flags & CLONE_CHILD_CLEARTID != 0 {
        child.clear_child_tid.store(arguments.child_tid, Ordering::Relaxed);
    }
    Arc::new(child)
}

/// Takes tables out of sharing.  There are no namespaces to make.
pub(super) fn sys_unshare(cx: &mut Cx<'_>, flags: u64) -> SysResult {
    const KNOWN: u64 = CLONE_FILES
        | CLONE_FS
        | CLONE_SYSVSEM
        | CLONE_VM
        | CLONE_SIGHAND
        | CLONE_THREAD
        | NAMESPACES;
    if flags & NAMESPACES != 0 && !cx.creds().has_cap(CAP_SYS_ADMIN) {
        return Err(Errno::PERM.into());
    }
    // What threads share by being threads cannot be taken apart.
    let alone = cx.task.process.threads.lock().len() == 1;
    let tied = flags & (CLONE_VM | CLONE_SIGHAND | CLONE_THREAD) != 0 && !alone;
    if flags & !KNOWN != 0 || flags & NAMESPACES != 0 || tied {
        return Err(Errno::INVAL.into());
    }
    if flags & CLONE_FILES != 0 {
        let copy = cx.files().lock().clone();
        cx.task.set_files(Arc::new(Lock::new(copy)));
    }
    if flags & CLONE_FS != 0 {
        let copy = cx.fs().lock().clone();
        if let Some(own) = cx.task.resources.lock().as_mut() {
            own.fs = Arc::new(Lock::new(copy));
        }
    }
    Ok(0)
}

/// The one set of namespaces is the caller's already.
pub(super) fn sys_setns(cx: &mut Cx<'_>, fd: i32, kind: u32) -> SysResult {
    super::file::get(cx, fd)?;
    let is_process = super::pidfd::process_of(cx, fd).is_ok();
    if !is_process || kind == 0 || u64::from(kind) & !NAMESPACES != 0 {
        return Err(Errno::INVAL.into());
    }
    if !cx.creds().has_cap(CAP_SYS_ADMIN) {
        return Err(Errno::PERM.into());
    }
    Err(Errno::INVAL.into())
}

pub(super) fn sys_exit(cx: &mut Cx<'_>, code: i32) -> SysResult {
    let status = (code.cast_unsigned() & 0xff) << 8;
    let task = cx.task.clone();
    task.exit_status.store(status, Ordering::Relaxed);
    cx.kernel.exit_thread(&task);
    Err(Stop::Jump)
}

pub(super) fn sys_exit_group(cx: &mut Cx<'_>, code: i32) -> SysResult {
    let status = (code.cast_unsigned() & 0xff) << 8;
    let task = cx.task.clone();
    cx.kernel.exit_group(&task.process, status);
    cx.kernel.exit_thread(&task);
    Err(Stop::Jump)
}

pub(super) fn sys_getpid(cx: &mut Cx<'_>) -> SysResult {
    Ok(u64::from(cx.task.process.pid))
}

pub(super) fn sys_gettid(cx: &mut Cx<'_>) -> SysResult {
    Ok(u64::from(cx.task.tid()))
}

pub(super) fn sys_getppid(cx: &mut Cx<'_>) -> SysResult {
    Ok(u64::from(cx.task.process.parent_pid()))
}

pub(super) fn sys_set_tid_address(cx: &mut Cx<'_>, address: u64) -> SysResult {
    cx.task.clear_child_tid.store(address, Ordering::Relaxed);
    Ok(u64::from(cx.task.tid()))
}

pub(super) fn sys_rseq(
    cx: &mut Cx<'_>,
    address: u64,
    bytes: u32,
    flags: u32,
    signature: u32,
) -> SysResult {
    const UNREGISTER: u32 = 1;
    const BYTES: u32 = 32;
    let new = Rseq { address, bytes, signature };
    let mut own = cx.task.rseq.lock();
    if flags & UNREGISTER != 0 {
        if flags != UNREGISTER {
            return Err(Errno::INVAL.into());
        }
        let known = own.filter(|own| own.address == address && own.bytes == bytes);
        if known.ok_or(Errno::INVAL)?.signature != signature {
            return Err(Errno::PERM.into());
        }
        *own = None;
        drop(own);
        // Off any CPU, as before it was registered.
        cx.write_bytes(address, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])?;
        return Ok(0);
    }
    if flags != 0 {
        return Err(Errno::INVAL.into());
    }
    if let Some(own) = *own {
        let other = own.address != address || own.bytes != bytes;
        return Err(match (other, own.signature == signature) {
            (true, _) => Errno::INVAL,
            (false, false) => Errno::PERM,
            (false, true) => Errno::BUSY,
        }
        .into());
    }
    if !address.is_multiple_of(u64::from(BYTES)) || bytes != BYTES {
        return Err(Errno::INVAL.into());
    }
    if address >= HIGHEST {
        return Err(Errno::FAULT.into());
    }
    *own = Some(new);
    cx.task.rseq_due.store(true, Ordering::Relaxed);
    Ok(0)
}

fn process_or_self(cx: &Cx<'_>, pid: i32) -> Result<Arc<Process>, Errno> {
    match pid {
        0 => Ok(cx.process()),
        pid => {
            let pid = u32::try_from(pid).map_err(|_| Errno::SRCH)?;
            cx.kernel.services.registry.process(pid).ok_or(Errno::SRCH)
        }
    }
}

pub(super) fn sys_getpgid(cx: &mut Cx<'_>, pid: i32) -> SysResult {
    Ok(u64::from(process_or_self(cx, pid)?.pgid()))
}

pub(super) fn sys_getpgrp(cx: &mut Cx<'_>) -> SysResult {
    Ok(u64::from(cx.task.process.pgid()))
}

pub(super) fn sys_getsid(cx: &mut Cx<'_>, pid: i32) -> SysResult {
    Ok(u64::from(process_or_self(cx, pid)?.sid()))
}

pub(super) fn sys_setpgid(cx: &mut Cx<'_>, pid: i32, pgid: i32) -> SysResult {
    let pgid = u32::try_from(pgid).map_err(|_| Errno::INVAL)?;
    let target = process_or_self(cx, pid)?;
    let own = cx.process();
    if !Arc::ptr_eq(&target, &own) {
        let is_child = target.parent().is_some_and(|parent| Arc::ptr_eq(&parent, &own));
        if !is_child || target.is_zombie() && pid < 0 {
            return Err(Errno::SRCH.into());
        }
        if target.sid() != own.sid() {
            return Err(Errno::PERM.into());
        }
        if target.has_execed.load(Ordering::Relaxed) {
            return Err(Errno::ACCES.into());
        }
    }
    if target.sid() == target.pid {
        return Err(Errno::PERM.into());
    }
    let pgid = if pgid == 0 { target.pid } else { pgid };
    if pgid != target.pid {
        let processes = cx.kernel.services.registry.processes();
        let exists = processes.iter().any(|p| p.pgid() == pgid && p.sid() == own.sid());
        if !exists {
            return Err(Errno::PERM.into());
        }
    }
    target.set_pgid(pgid);
    Ok(0)
}

pub(super) fn sys_setsid(cx: &mut Cx<'_>) -> SysResult {
    let own = cx.process();
    let processes = cx.kernel.services.registry.processes();
    if processes.iter().any(|process| process.pgid() == own.pid) {
        return Err(Errno::PERM.into());
    }
    own.set_sid(own.pid);
    own.set_pgid(own.pid);
    own.terminal.lock().take();
    Ok(u64::from(own.pid))
}
