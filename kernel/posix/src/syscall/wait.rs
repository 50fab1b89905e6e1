// SPDX-License-Identifier: Apache-2.0
//! wait4 and waitid.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    process::{Process, exit::child_code, signal::SIGCHLD},
    syscall::{limits::encode_rusage, pidfd::process_of},
};

const WNOHANG: u32 = 1;
const WUNTRACED: u32 = 2;
const WEXITED: u32 = 4;
const WCONTINUED: u32 = 8;
const WNOWAIT: u32 = 0x0100_0000;
const WNOTHREAD: u32 = 0x2000_0000;
const WALL: u32 = 0x4000_0000;
const WCLONE: u32 = 0x8000_0000;

/// CLD_TRAPPED.
const CLD_TRAPPED: i32 = 4;
/// CLD_STOPPED.
const CLD_STOPPED: i32 = 5;
/// CLD_CONTINUED.
const CLD_CONTINUED: i32 = 6;

/// Which children.
#[derive(Clone, Debug)]
enum Who {
    Any,
    Pid(u32),
    Group(u32),
    /// By a descriptor.
    Exactly(Arc<Process>),
}

/// What a child has to tell.
struct News {
    child: Arc<Process>,
    /// Its process id, or the thread id of a traced thread.
    pid: u32,
    /// Wait status.
    status: u32,
    /// `si_code` and `si_status`.
    code: (i32, i32),
    times_ns: (u64, u64),
    uid: u32,
}

fn matches(who: &Who, options: u32, child: &Process) -> bool {
    let chosen = match who {
        Who::Any => true,
        Who::Pid(pid) => child.pid == *pid,
        Who::Group(pgid) => child.pgid() == *pgid,
        Who::Exactly(process) => core::ptr::eq(&raw const **process, child),
    };
    let is_clone = child.exit_signal.load(Ordering::Relaxed) != SIGCHLD;
    chosen && (options & WALL != 0 || is_clone == (options & WCLONE != 0))
}

/// Finds a child with news; `Ok(None)` if there are children but no news.
fn look(cx: &mut Cx<'_>, who: &Who, options: u32) -> Result<Option<News>, Errno> {
    let process = cx.process();
    let children = process.children.lock().clone();
    let mut any = false;
    if let Some(news) = look_at_tracees(&process, who, options, &mut any) {
        return Ok(Some(news));
    }
    for child in children {
        if !matches(who, options, &child) {
            continue;
        }
        any = true;
        let keep = options & WNOWAIT != 0;
        let report = *child.report.lock();
        let news = if let Some(status) = report.exit {
            (options & WEXITED != 0).then(|| (status, child_code(status)))
        } else if let Some(signal) = report.stopped.filter(|_| {
            options & WUNTRACED != 0 && !child.threads.lock().iter().any(|task| task.is_traced())
        }) {
            if !keep {
                child.report.lock().stopped = None;
            }
            Some((signal << 8 | 0x7f, (CLD_STOPPED, signal.cast_signed())))
        } else if report.continued && options & WCONTINUED != 0 {
            if !keep {
                child.report.lock().continued = false;
            }
            Some((0xffff, (CLD_CONTINUED, 18)))
        } else {
            None
        };
        let Some((status, code)) = news else { continue };
        let times_ns = child.cpu_ns();
        let uid = child.uid.load(Ordering::Relaxed);
        if report.exit.is_some() && !keep {
            cx.kernel.reap(&child);
        }
        let pid = child.pid;
        return Ok(Some(News { child, pid, status, code, times_ns, uid }));
    }
    if any { Ok(None) } else { Err(Errno::CHILD) }
}

/// Finds a traced thread that has stopped or ended.
fn look_at_tracees(
    process: &Arc<Process>,
    who: &Who,
    options: u32,
    any: &mut bool,
) -> Option<News> {
    let chosen = |tid: u32, own: Option<&Process>| match who {
        Who::Any => true,
        Who::Pid(pid) => tid == *pid,
        Who::Group(pgid) => own.is_some_and(|own| own.pgid() == *pgid),
        Who::Exactly(other) => own.is_some_and(|own| core::ptr::eq(own, &raw const **other)),
    };
    let keep = options & WNOWAIT != 0;
    {
        let mut ended = process.ended_tracees.lock();
        let at = ended.iter().position(|(tid, _)| chosen(*tid, None));
        if let Some((tid, status)) = at.map(|at| if keep { ended[at] } else { ended.remove(at) }) {
            let code = child_code(status);
            let child = process.clone();
            return Some(News { child, pid: tid, status, code, times_ns: (0, 0), uid: 0 });
        }
    }
    let tracees = process.tracees.lock().clone();
    for task in tracees {
        if !chosen(task.tid(), Some(&task.process)) {
            continue;
        }
        *any = true;
        let report = {
            let mut trace = task.trace.lock();
            let slot = trace.as_mut().map(|trace| &mut trace.report);
            slot.and_then(|slot| if keep { *slot } else { slot.take() })
        };
        if let Some(status) = report {
            return Some(News {
                child: task.process.clone(),
                pid: task.tid(),
                status,
                code: (CLD_TRAPPED, (status >> 8).cast_signed()),
                times_ns: (0, 0),
                uid: task.creds().uid,
            });
        }
    }
    None
}

/// Waits for news; `Ok(None)` with WNOHANG.
fn wait(cx: &mut Cx<'_>, who: &Who, options: u32) -> SysResult<Option<News>> {
    if let Some(news) = look(cx, who, options)? {
        return Ok(Some(news));
    }
    if options & WNOHANG != 0 {
        return Ok(None);
    }
    cx.task.process.child_wait.add(&cx.ticket());
    Err(cx.block(None, Restart::Always))
}

pub(super) fn sys_wait4(
    cx: &mut Cx<'_>,
    pid: i32,
    status_at: u64,
    options: u32,
    usage_at: u64,
) -> SysResult {
    let known = WNOHANG | WUNTRACED | WCONTINUED | WNOTHREAD | WALL | WCLONE;
    if options & !known != 0 {
        return Err(Errno::INVAL.into());
    }
    let who = match pid {
        -1 => Who::Any,
        0 => Who::Group(cx.task.process.pgid()),
        i32::MIN => return Err(Errno::SRCH.into()),
        pid if pid < 0 => Who::Group(pid.unsigned_abs()),
        pid => Who::Pid(pid.unsigned_abs()),
    };
    let Some(news) = wait(cx, &who, options | WEXITED)? else { return Ok(0) };
    if status_at != 0 {
        cx.write_u32(status_at, news.status)?;
    }
    if usage_at != 0 {
        cx.write_bytes(usage_at, &encode_rusage(news.times_ns, &news.child))?;
    }
    Ok(u64::from(news.pid))
}

pub(super) fn sys_waitid(
    cx: &mut Cx<'_>,
    id_type: u32,
    id: i32,
    info_at: u64,
    options: u32,
    usage_at: u64,
) -> SysResult {
    let known = WNOHANG | WUNTRACED | WEXITED | WCONTINUED | WNOWAIT | WNOTHREAD | WALL | WCLONE;
    let wanted = WEXITED | WUNTRACED | WCONTINUED;
    if options & !known != 0 || options & wanted == 0 {
        return Err(Errno::INVAL.into());
    }
    let mut blocks = true;
    let who = match (id_type, id) {
        (0, _) => Who::Any,
        (1, 1..) => Who::Pid(id.unsigned_abs()),
        (2, 0) => Who::Group(cx.task.process.pgid()),
        (2, 1..) => Who::Group(id.unsigned_abs()),
        (3, 0..) => {
            let (process, is_blocking) = process_of(cx, id)?;
            blocks = is_blocking;
            Who::Exactly(process)
        }
        _ => return Err(Errno::INVAL.into()),
    };
    let news = wait(cx, &who, if blocks { options } else { options | WNOHANG })?;
    if news.is_none() && !blocks && options & WNOHANG == 0 {
        return Err(Errno::AGAIN.into());
    }
    if let Some(news) = news.as_ref().filter(|_| usage_at != 0) {
        cx.write_bytes(usage_at, &encode_rusage(news.times_ns, &news.child))?;
    }
    if info_at != 0 {
        let mut info = [0; 128];
        if let Some(news) = news {
            let (code, status) = news.code;
            info[0..4].copy_from_slice(&SIGCHLD.to_le_bytes());
            info[8..12].copy_from_slice(&code.to_le_bytes());
            info[16..20].copy_from_slice(&news.pid.to_le_bytes());
            info[20..24].copy_from_slice(&news.uid.to_le_bytes());
            info[24..28].copy_from_slice(&status.to_le_bytes());
        }
        cx.write_bytes(info_at, &info)?;
    }
    Ok(0)
}
