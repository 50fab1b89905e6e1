// SPDX-License-Identifier: Apache-2.0
//! What becomes of the futexes that a thread holds when it ends (robust_list.h of the kernel's
//! documentation).

use core::sync::atomic::Ordering;

use super::{OWNER_DIED, TID_MASK, WAITERS, update};
use crate::{
    Errno, Kernel,
    cx::{Cx, SysResult},
    mm::MmRef,
    process::{Task, access::may_trace},
};

/// Most entries of a robust list (ROBUST_LIST_LIMIT).
const ROBUST_MAX: usize = 2048;

pub(in crate::syscall) fn sys_set_robust_list(cx: &mut Cx<'_>, head: u64, bytes: u64) -> SysResult {
    if bytes != 24 {
        return Err(Errno::INVAL.into());
    }
    cx.task.robust_list.store(head, Ordering::Relaxed);
    Ok(0)
}

pub(in crate::syscall) fn sys_get_robust_list(
    cx: &mut Cx<'_>,
    tid: i32,
    head_at: u64,
    bytes_at: u64,
) -> SysResult {
    let task = match tid {
        0 => cx.task.clone(),
        tid => cx.kernel.services.registry.task(tid.cast_unsigned()).ok_or(Errno::SRCH)?,
    };
    if !may_trace(&cx.task, &task.process) {
        return Err(Errno::PERM.into());
    }
    cx.write_u64(bytes_at, 24)?;
    cx.write_u64(head_at, task.robust_list.load(Ordering::Relaxed))?;
    Ok(0)
}

impl Kernel {
    /// Marks the robust futexes that an ending thread holds, and hands over those that others wait
    /// for with priority inheritance.
    pub(crate) fn walk_robust_list(&mut self, task: &Task) {
        self.leave_futex(task);
        self.hand_over_all(task.tid());
        let head = task.robust_list.swap(0, Ordering::Relaxed);
        let Some(mm) = task.mm().filter(|_| head != 0) else { return };
        let read = |address: u64| {
            let mut word = [0; 8];
            mm.read_bytes(address, &mut word).ok().map(|()| u64::from_le_bytes(word))
        };
        let (Some(mut entry), Some(offset), Some(pending)) =
            (read(head), read(head.wrapping_add(8)), read(head.wrapping_add(16)))
        else {
            return;
        };
        let tid = task.tid();
        for _ in 0..ROBUST_MAX {
            let address = entry & !1;
            if address == head {
                break;
            }
            let next = read(address);
            if address != pending & !1 {
                self.owner_died(&mm, address.wrapping_add(offset), tid, entry & 1 != 0);
            }
            match next {
                Some(next) => entry = next,
                None => break,
            }
        }
        if pending & !1 != 0 {
            self.owner_died(&mm, (pending & !1).wrapping_add(offset), tid, pending & 1 != 0);
        }
    }

    fn owner_died(&mut self, mm: &MmRef, address: u64, tid: u32, is_pi: bool) {
        let change =
            |old: u32| if old & TID_MASK == tid { old & WAITERS | OWNER_DIED } else { old };
        let Ok(old) = update(mm, address, change) else { return };
        if old & TID_MASK == tid && old & WAITERS != 0 && !is_pi {
            self.futex_wake_address(mm, address, 1);
        }
    }
}
