// SPDX-License-Identifier: Apache-2.0
//! kcmp: whether two threads share something.

use alloc::sync::Arc;
use core::cmp::Ordering;

use crate::{
    Errno,
    cx::{Cx, SysResult},
    process::{TaskRef, access::may_trace},
};

const FILE: u32 = 0;
const VM: u32 = 1;
const FILES: u32 = 2;
const FS: u32 = 3;
const SIGHAND: u32 = 4;
const IO: u32 = 5;
const SYSVSEM: u32 = 6;

pub(super) fn sys_kcmp(
    cx: &mut Cx<'_>,
    first: i32,
    second: i32,
    kind: u32,
    index: u64,
    other: u64,
) -> SysResult {
    let (one, two) = (find(cx, first)?, find(cx, second)?);
    if !may_trace(&cx.task, &one.process) || !may_trace(&cx.task, &two.process) {
        return Err(Errno::PERM.into());
    }
    let resources_fn = |task: &TaskRef| task.resources.lock().clone().ok_or(Errno::SRCH);
    let (left, right) = (resources_fn(&one)?, resources_fn(&two)?);
    let order = match kind {
        FILE => {
            let number_fn = |index| i32::try_from(index).map_err(|_| Errno::BADF);
            let ours = left.files.lock().get(number_fn(index)?)?;
            let theirs = right.files.lock().get(number_fn(other)?)?;
            place(&ours).cmp(&place(&theirs))
        }
        VM => place(&left.mm).cmp(&place(&right.mm)),
        FILES => place(&left.files).cmp(&place(&right.files)),
        FS => place(&left.fs).cmp(&place(&right.fs)),
        SIGHAND => {
            let ours = one.process.actions.lock().clone();
            let theirs = two.process.actions.lock().clone();
            place(&ours).cmp(&place(&theirs))
        }
        // Nobody has a context for I/O.
        IO => Ordering::Equal,
        SYSVSEM => place(&one.process).cmp(&place(&two.process)),
        _ => return Err(Errno::INVAL.into()),
    };
    Ok(match order {
        Ordering::Equal => 0,
        Ordering::Less => 1,
        Ordering::Greater => 2,
    })
}

fn find(cx: &Cx<'_>, tid: i32) -> Result<TaskRef, Errno> {
    let tid = u32::try_from(tid).map_err(|_| Errno::SRCH)?;
    cx.kernel.services.registry.task(tid).ok_or(Errno::SRCH)
}

/// What says which object it is, and orders objects.
fn place<T: ?Sized>(object: &Arc<T>) -> usize {
    Arc::as_ptr(object).cast::<()>().addr()
}
