// SPDX-License-Identifier: Apache-2.0
//! futex_waitv: waiting for any of several futexes.

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering;

use super::{ANY, PRIVATE, Role, key_of, new_waiter};
use crate::{
    Errno,
    cx::{Cx, Progress, Restart, SysResult},
    syscall::time::read_timespec,
};

const WAITERS_MAX: u32 = 128;
/// FUTEX_32: the size of the word.
const SIZE_32: u32 = 2;
const CLOCK_REALTIME: u32 = 0;
const CLOCK_MONOTONIC: u32 = 1;

pub(in crate::syscall) fn sys_futex_waitv(
    cx: &mut Cx<'_>,
    list_at: u64,
    count: u32,
    flags: u32,
    timeout: u64,
    clock: u32,
) -> SysResult {
    let task = cx.task.clone();
    if flags != 0 || !(1..=WAITERS_MAX).contains(&count) || list_at == 0 {
        return Err(Errno::INVAL.into());
    }
    let before = core::mem::take(&mut *task.futex.lock());
    if !before.is_empty() {
        let woken = before.iter().position(|waiter| waiter.is_woken.load(Ordering::Relaxed));
        let waited = cx.progress().value != 0;
        let late = cx.timed_out();
        if waited && woken.is_none() && !late {
            *task.futex.lock() = before;
            let deadline = cx.progress().deadline_ns;
            return Err(cx.block(deadline, Restart::Always));
        }
        for waiter in &before {
            cx.kernel.futexes.remove(waiter);
        }
        match woken.filter(|_| waited) {
            Some(index) => return Ok(index as u64),
            None if waited => return Err(Errno::TIMEDOUT.into()),
            // Left over from a call that ended otherwise.
            None => {}
        }
    }
    let services = cx.services();
    let deadline = if timeout == 0 {
        None
    } else {
        let ns = read_timespec(cx, timeout)?;
        Some(match clock {
            CLOCK_REALTIME => ns.saturating_sub(services.realtime_offset_ns),
            CLOCK_MONOTONIC => ns,
            _ => return Err(Errno::INVAL.into()),
        })
    };
    let mut raw = vec![0; count as usize * 24];
    cx.read_bytes(list_at, &mut raw)?;
    let mut waiters = Vec::with_capacity(count as usize);
    for entry in raw.chunks_exact(24) {
        let word = |at: usize| {
            entry[at..at + 8].iter().rev().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte))
        };
        let (value, address) = (word(0), word(8));
        let (flags, reserved) = (word(16) as u32, (word(16) >> 32) as u32);
        if flags & !(SIZE_32 | PRIVATE) != 0 || flags & SIZE_32 == 0 || reserved != 0 {
            return Err(Errno::INVAL.into());
        }
        let (key, frame) = key_of(&cx.mm(), address, flags & PRIVATE != 0)?;
        if cx.read_u32(address)? != value as u32 {
            return Err(Errno::AGAIN.into());
        }
        waiters.push(new_waiter(&task, key, address, frame, Role::Plain(ANY)));
    }
    if deadline.is_some_and(|at| at <= services.monotonic_ns()) {
        return Err(Errno::TIMEDOUT.into());
    }
    for waiter in &waiters {
        cx.kernel.futexes.add(waiter);
    }
    *task.futex.lock() = waiters;
    *cx.progress() = Progress { done: 0, deadline_ns: deadline, value: 1 };
    Err(cx.block(deadline, Restart::Always))
}
