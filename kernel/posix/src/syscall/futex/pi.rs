// SPDX-License-Identifier: Apache-2.0
//! Futexes with priority inheritance: the word holds the owner's thread id, and the kernel hands the
//! lock over.
//!
//! All threads have the same priority here, so there is nothing to inherit; what counts is that the
//! lock goes to who waits longest, that the owner's end passes it on, and that a circle of waiters is
//! an error.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{
    FutexWaiter, Key, OWNER_DIED, PRIVATE, Role, TID_MASK, WAITERS, key_of, new_waiter, update,
};
use crate::{
    Errno, Kernel,
    cx::{Cx, Restart, SysResult},
    mm::MmRef,
    process::TaskRef,
};

/// What an attempt to take a lock found.
enum Taken {
    Yes,
    /// This thread has it.
    Owner(u32),
}

/// Takes the lock for a thread if nobody has it; else marks that somebody waits, if `waits`.
fn take(mm: &MmRef, address: u64, tid: u32, keeps: u32, waits: bool) -> Result<Taken, Errno> {
    let old = update(mm, address, |old| match old & TID_MASK {
        0 => tid | old & OWNER_DIED | keeps,
        _ if waits => old | WAITERS,
        _ => old,
    })?;
    Ok(match old & TID_MASK {
        0 => Taken::Yes,
        owner => Taken::Owner(owner),
    })
}

impl Kernel {
    /// Checks that an owner lives, and does not wait (through others) for the thread that is about to
    /// wait for it.
    fn check_chain(&self, tid: u32, owner: u32) -> Result<(), Errno> {
        if owner == tid {
            return Err(Errno::DEADLK);
        }
        let registry = &self.services.registry;
        let mut at = registry.task(owner).ok_or(Errno::SRCH)?;
        // As Linux: chains beyond this are taken for circles (max_lock_depth).
        for _ in 0..1024 {
            let next = at.futex.lock().first().and_then(|waiter| waiter.pi_owner());
            match next {
                None => return Ok(()),
                Some(next) if next == tid => return Err(Errno::DEADLK),
                Some(next) => match registry.task(next) {
                    Some(task) => at = task,
                    None => return Ok(()),
                },
            }
        }
        Err(Errno::DEADLK)
    }

    /// Gives the lock to the one that waits longest; false if nobody waits.
    fn hand_over(&mut self, key: Key, died: u32) -> bool {
        loop {
            let Some(waiter) = self.futexes.pop_pi(key) else { return false };
            let more = self.futexes.has_pi(key);
            let Some(task) = waiter.task.upgrade() else { continue };
            let Some(mm) = task.mm() else { continue };
            let new = task.tid() | if more { WAITERS } else { 0 } | died;
            let address = waiter.address.load(Ordering::Relaxed);
            if update(&mm, address, |old| new | old & OWNER_DIED).is_err() {
                continue;
            }
            self.futexes.set_pi_owner(key, task.tid());
            waiter.is_woken.store(true, Ordering::Relaxed);
            task.waiter.wake_now();
            return true;
        }
    }

    /// Hands over all locks that an ending thread has and others wait for.
    pub(super) fn hand_over_all(&mut self, tid: u32) {
        for key in self.futexes.pi_keys_of(tid) {
            self.hand_over(key, OWNER_DIED);
        }
    }
}

/// FUTEX_LOCK_PI and FUTEX_LOCK_PI2.
pub(super) fn lock(
    cx: &mut Cx<'_>,
    address: u64,
    is_private: bool,
    deadline: Option<u64>,
) -> SysResult {
    let task = cx.task.clone();
    if let Some(result) = resume(cx, &task, Errno::TIMEDOUT) {
        return result;
    }
    let (key, frame) = key_of(&cx.mm(), address, is_private)?;
    let keeps = if cx.kernel.futexes.has_pi(key) { WAITERS } else { 0 };
    let owner = match take(&cx.mm(), address, task.tid(), keeps, false)? {
        Taken::Yes => return Ok(0),
        Taken::Owner(owner) => owner,
    };
    cx.kernel.check_chain(task.tid(), owner)?;
    if deadline.is_some_and(|at| at <= cx.kernel.services.monotonic_ns()) {
        return Err(Errno::TIMEDOUT.into());
    }
    match take(&cx.mm(), address, task.tid(), keeps, true)? {
        Taken::Yes => return Ok(0),
        Taken::Owner(now) if now != owner => return Err(Errno::AGAIN.into()),
        Taken::Owner(_) => {}
    }
    let waiter = new_waiter(&task, key, address, frame, Role::Pi(owner));
    cx.kernel.futexes.add(&waiter);
    task.futex.lock().push(waiter);
    *cx.progress() = crate::cx::Progress { done: 0, deadline_ns: deadline, value: 1 };
    Err(cx.block(deadline, Restart::Resume))
}

/// What a call that has waited does when it is made again; `None`: it is a new call.
fn resume(cx: &mut Cx<'_>, task: &TaskRef, late: Errno) -> Option<SysResult> {
    let before = core::mem::take(&mut *task.futex.lock());
    let waiter = before.into_iter().next()?;
    if cx.progress().value == 0 {
        // Left over from a call that ended otherwise.
        cx.kernel.futexes.remove(&waiter);
        return None;
    }
    if waiter.is_woken.load(Ordering::Relaxed) {
        return Some(Ok(0));
    }
    if cx.timed_out() {
        cx.kernel.futexes.remove(&waiter);
        return Some(Err(late.into()));
    }
    task.futex.lock().push(waiter);
    let deadline = cx.progress().deadline_ns;
    Some(Err(cx.block(deadline, Restart::Resume)))
}

/// FUTEX_TRYLOCK_PI.
pub(super) fn try_lock(cx: &mut Cx<'_>, address: u64, is_private: bool) -> SysResult {
    let (key, _) = key_of(&cx.mm(), address, is_private)?;
    let tid = cx.task.tid();
    let keeps = if cx.kernel.futexes.has_pi(key) { WAITERS } else { 0 };
    match take(&cx.mm(), address, tid, keeps, false)? {
        Taken::Yes => Ok(0),
        Taken::Owner(owner) if owner == tid => Err(Errno::DEADLK.into()),
        Taken::Owner(_) => Err(Errno::AGAIN.into()),
    }
}

/// FUTEX_UNLOCK_PI.
pub(super) fn unlock(cx: &mut Cx<'_>, address: u64, is_private: bool) -> SysResult {
    let mm = cx.mm();
    let (key, _) = key_of(&mm, address, is_private)?;
    if cx.read_u32(address)? & TID_MASK != cx.task.tid() {
        return Err(Errno::PERM.into());
    }
    if !cx.kernel.hand_over(key, 0) {
        update(&mm, address, |_| 0)?;
    }
    Ok(0)
}

/// FUTEX_WAIT_REQUEUE_PI: waits at one word, to be moved to a lock.
pub(super) fn wait_requeue(
    cx: &mut Cx<'_>,
    address: u64,
    operation: u32,
    value: u32,
    deadline: Option<u64>,
    lock_at: u64,
) -> SysResult {
    let task = cx.task.clone();
    if let Some(result) = resume(cx, &task, Errno::TIMEDOUT) {
        return result;
    }
    let is_private = operation & PRIVATE != 0;
    if address == lock_at {
        return Err(Errno::INVAL.into());
    }
    let (key, frame) = key_of(&cx.mm(), address, is_private)?;
    let (target, _) = key_of(&cx.mm(), lock_at, is_private)?;
    if cx.read_u32(address)? != value {
        return Err(Errno::AGAIN.into());
    }
    if deadline.is_some_and(|at| at <= cx.kernel.services.monotonic_ns()) {
        return Err(Errno::TIMEDOUT.into());
    }
    let waiter = new_waiter(&task, key, lock_at, frame, Role::Requeue(target));
    cx.kernel.futexes.add(&waiter);
    task.futex.lock().push(waiter);
    *cx.progress() = crate::cx::Progress { done: 0, deadline_ns: deadline, value: 1 };
    // A handler that comes before the move makes the caller look at its condition again.
    Err(cx.block(deadline, Restart::Resume))
}

/// FUTEX_CMP_REQUEUE_PI: moves waiters to a lock; the first gets it if it is free.
pub(super) fn requeue(
    cx: &mut Cx<'_>,
    address: u64,
    is_private: bool,
    (wake, move_max): (u32, u32),
    lock_at: u64,
    expected: u32,
) -> SysResult {
    let mm = cx.mm();
    if wake != 1 || address == lock_at || move_max.cast_signed() < 0 {
        return Err(Errno::INVAL.into());
    }
    let (from, _) = key_of(&mm, address, is_private)?;
    let (to, frame) = key_of(&mm, lock_at, is_private)?;
    if cx.read_u32(address)? != expected {
        return Err(Errno::AGAIN.into());
    }
    let mut done = 0;
    while done <= u64::from(move_max) {
        let Some(waiter) = cx.kernel.futexes.first(from) else { break };
        if !matches!(*waiter.role.lock(), Role::Requeue(target) if target == to) {
            return Err(Errno::INVAL.into());
        }
        cx.kernel.futexes.remove(&waiter);
        let Some(task) = waiter.task.upgrade() else { continue };
        let more = cx.kernel.futexes.first(from).is_some() && move_max > 0;
        let keeps = if more || cx.kernel.futexes.has_pi(to) { WAITERS } else { 0 };
        match take(&mm, lock_at, task.tid(), keeps, true)? {
            Taken::Yes => wake_owner(&waiter, &task),
            Taken::Owner(owner) => {
                if let Err(errno) = cx.kernel.check_chain(task.tid(), owner) {
                    // Back where it was: it waits for another move.
                    cx.kernel.futexes.add(&waiter);
                    return Err(errno.into());
                }
                *waiter.role.lock() = Role::Pi(owner);
                *waiter.key.lock() = to;
                waiter.frame.lock().clone_from(&frame);
                cx.kernel.futexes.add(&waiter);
            }
        }
        done += 1;
    }
    Ok(done)
}

fn wake_owner(waiter: &Arc<FutexWaiter>, task: &TaskRef) {
    waiter.is_woken.store(true, Ordering::Relaxed);
    task.waiter.wake_now();
}
