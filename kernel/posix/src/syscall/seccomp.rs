// SPDX-License-Identifier: Apache-2.0
//! seccomp, and what is done with a call that a filter has an opinion on.

use alloc::{sync::Arc, vec, vec::Vec};
use core::sync::atomic::Ordering;

use super::prctl::change_creds;
use crate::{
    Errno, Kernel,
    cx::{Cx, SysResult},
    process::{
        TaskRef,
        creds::CAP_SYS_ADMIN,
        seccomp::{
            ALLOW, ARCH, Call, ERRNO, Filter, Instruction, KILL_PROCESS, KILL_THREAD, LOG, Seccomp,
            TRACE, TRAP,
        },
        signal::{SIGKILL, SIGSYS, SigInfo},
    },
};

const SET_MODE_STRICT: u32 = 0;
const SET_MODE_FILTER: u32 = 1;
const GET_ACTION_AVAIL: u32 = 2;
const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 2;
const FLAG_SPEC_ALLOW: u32 = 4;
const FLAG_TSYNC_ESRCH: u32 = 0x10;
/// read, write, exit, rt_sigreturn.
const STRICT_CALLS: [u64; 4] = [0, 1, 60, 15];
/// SYS_SECCOMP.
const SYS_SECCOMP: i32 = 1;
const ERRNO_MAX: u32 = 4095;

pub(super) fn sys_seccomp(cx: &mut Cx<'_>, operation: u32, flags: u32, at: u64) -> SysResult {
    match operation {
        SET_MODE_STRICT if flags == 0 && at == 0 => set_strict(cx),
        SET_MODE_FILTER => set_filter(cx, flags, at),
        GET_ACTION_AVAIL if flags == 0 => {
            let known = [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE, LOG, ALLOW];
            let action = cx.read_u32(at)?;
            if known.contains(&action) { Ok(0) } else { Err(Errno::OPNOTSUPP.into()) }
        }
        _ => Err(Errno::INVAL.into()),
    }
}

/// Allows only the few calls of the strict mode.
pub(super) fn set_strict(cx: &mut Cx<'_>) -> SysResult {
    let mut own = cx.task.seccomp.lock();
    if matches!(*own, Seccomp::Filters(_)) {
        return Err(Errno::INVAL.into());
    }
    *own = Seccomp::Strict;
    drop(own);
    cx.task.has_seccomp.store(true, Ordering::Relaxed);
    Ok(0)
}

/// Installs a filter.
pub(super) fn set_filter(cx: &mut Cx<'_>, flags: u32, at: u64) -> SysResult {
    // A listener (user notification) would be a descriptor of its own kind.
    if flags & !(FLAG_TSYNC | FLAG_LOG | FLAG_SPEC_ALLOW | FLAG_TSYNC_ESRCH) != 0 {
        return Err(Errno::INVAL.into());
    }
    let count = cx.read_u32(at)? as u16;
    let program_at = cx.read_u64(at.wrapping_add(8))?;
    let mut raw = vec![0; usize::from(count) * 8];
    cx.read_bytes(program_at, &mut raw)?;
    let program: Vec<Instruction> = raw
        .chunks_exact(8)
        .map(|word| word.iter().rev().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte)))
        .map(Instruction::decode)
        .collect();
    let creds = cx.creds();
    if !creds.no_new_privileges && !creds.has_cap(CAP_SYS_ADMIN) {
        return Err(Errno::ACCES.into());
    }
    let before = match &*cx.task.seccomp.lock() {
        Seccomp::Off => None,
        Seccomp::Strict => return Err(Errno::INVAL.into()),
        Seccomp::Filters(filter) => Some(filter.clone()),
    };
    let filter = Filter::new(program, before.clone())?;
    if flags & FLAG_TSYNC != 0 {
        let others = cx.task.process.threads.lock().clone();
        let others: Vec<_> =
            others.into_iter().filter(|task| !Arc::ptr_eq(task, &cx.task)).collect();
        // Everybody must be somewhere on the caller's own way.
        let differs = others.iter().find(|task| match &*task.seccomp.lock() {
            Seccomp::Off => false,
            Seccomp::Strict => true,
            Seccomp::Filters(other) => {
                !before.as_ref().is_some_and(|before| before.descends_from(other))
            }
        });
        if let Some(task) = differs {
            let tid = u64::from(task.tid());
            return if flags & FLAG_TSYNC_ESRCH != 0 { Err(Errno::SRCH.into()) } else { Ok(tid) };
        }
        for task in &others {
            install(task, &filter);
            if creds.no_new_privileges {
                let mut other = (*task.creds()).clone();
                other.no_new_privileges = true;
                *task.creds.lock() = Arc::new(other);
            }
        }
        if creds.no_new_privileges {
            change_creds(cx, |creds| creds.no_new_privileges = true);
        }
    }
    install(&cx.task, &filter);
    Ok(0)
}

/// Makes a filter hold for a thread.
pub(crate) fn install(task: &TaskRef, filter: &Arc<Filter>) {
    let before = core::mem::replace(&mut *task.seccomp.lock(), Seccomp::Filters(filter.clone()));
    drop(before);
    task.has_seccomp.store(true, Ordering::Relaxed);
}

/// What a filter made of a call.
pub(crate) enum Verdict {
    /// It is made.
    Go,
    /// It returns this instead.
    Value(u64),
    /// It does not return: a signal was sent, or the thread is over.
    Gone,
}

impl Kernel {
    /// Asks a thread's filters about a call that it is about to make.
    pub(crate) fn judge_call(
        &mut self,
        task: &TaskRef,
        number: u64,
        arguments: [u64; 6],
    ) -> Verdict {
        let filter = match &*task.seccomp.lock() {
            Seccomp::Off => return Verdict::Go,
            Seccomp::Strict => None,
            Seccomp::Filters(filter) if filter.allows(number) => return Verdict::Go,
            Seccomp::Filters(filter) => Some(filter.clone()),
        };
        let Some(filter) = filter else {
            if STRICT_CALLS.contains(&number) {
                return Verdict::Go;
            }
            return self.end_by_filter(task, SIGKILL, false);
        };
        let instruction = task.registers.lock().rip;
        let verdict = filter.judge(&Call { number: number as u32, instruction, arguments });
        let data = verdict & 0xffff;
        match verdict & 0xffff_0000 {
            ALLOW => Verdict::Go,
            LOG => {
                self.services.log(format_args!("seccomp: process {} calls {number}", task.tid()));
                Verdict::Go
            }
            ERRNO => Verdict::Value(u64::from(data.min(ERRNO_MAX)).wrapping_neg()),
            TRAP => {
                let info = SigInfo {
                    errno: data.cast_signed(),
                    ..SigInfo::call(SIGSYS, SYS_SECCOMP, instruction, number as u32, ARCH)
                };
                self.force_signal(task, info);
                Verdict::Gone
            }
            // Nobody listens.
            TRACE => Verdict::Value(Errno::NOSYS.to_result()),
            KILL_THREAD => self.end_by_filter(task, SIGSYS, false),
            _ => self.end_by_filter(task, SIGSYS, true),
        }
    }

    fn end_by_filter(&mut self, task: &TaskRef, signal: u32, whole: bool) -> Verdict {
        let alone = task.process.threads.lock().len() == 1;
        if whole || alone {
            self.kill_process(&task.process.clone(), signal);
        } else {
            task.exit_status.store(signal, Ordering::Relaxed);
            self.end_soon(task);
        }
        Verdict::Gone
    }
}
