// SPDX-License-Identifier: Apache-2.0
//! Whether one process may look into another (ptrace(2), "access mode checking").

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{Creds, Process, TaskRef, creds::CAP_SYS_PTRACE};

/// Whether a caller with these credentials may look into a thread; `of_files`: its file system ids
/// count (/proc), not its real ones (ptrace and its kin).
pub(crate) fn may_access(own: &Creds, of_files: bool, target: &TaskRef) -> bool {
    if own.has_cap(CAP_SYS_PTRACE) {
        return true;
    }
    let (uid, gid) = if of_files { (own.fsuid, own.fsgid) } else { (own.uid, own.gid) };
    let other = target.creds();
    [other.uid, other.euid, other.suid].iter().all(|id| *id == uid)
        && [other.gid, other.egid, other.sgid].iter().all(|id| *id == gid)
        && other.caps.permitted & !own.caps.permitted == 0
        && target.process.dumpable.load(Ordering::Relaxed) == 1
}

/// Whether a task may trace a process, or take from it what tracing would give.
pub(crate) fn may_trace(own: &TaskRef, process: &Arc<Process>) -> bool {
    if Arc::ptr_eq(&own.process, process) {
        return true;
    }
    process.any_thread().is_some_and(|target| may_access(&own.creds(), false, &target))
}
