// SPDX-License-Identifier: Apache-2.0
//! Futexes (futex(2)).
//!
//! A private futex is known by memory and address, a shared one by the physical address of its
//! word: a waiter holds the frame, so that address means nothing else while somebody waits.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use trine_machine::{Frame, Page};

use crate::{
    Errno, Kernel,
    cx::{Cx, Restart, SysResult},
    mm::{FaultKind, Mm, MmRef, PAGE_SIZE},
    process::Task,
    sync::Lock,
    syscall::time::read_timespec,
};

const WAIT: u32 = 0;
const WAKE: u32 = 1;
const REQUEUE: u32 = 3;
const CMP_REQUEUE: u32 = 4;
const WAKE_OP: u32 = 5;
const LOCK_PI: u32 = 6;
const UNLOCK_PI: u32 = 7;
const TRYLOCK_PI: u32 = 8;
const WAIT_BITSET: u32 = 9;
const WAKE_BITSET: u32 = 10;
const WAIT_REQUEUE_PI: u32 = 11;
const CMP_REQUEUE_PI: u32 = 12;
const LOCK_PI2: u32 = 13;
const PRIVATE: u32 = 128;
const CLOCK_REALTIME: u32 = 256;
const ANY: u32 = u32::MAX;

const OWNER_DIED: u32 = 0x4000_0000;
const WAITERS: u32 = 0x8000_0000;
const TID_MASK: u32 = 0x3fff_ffff;

mod pi;
mod robust;
mod waitv;

pub(super) use self::{
    robust::{sys_get_robust_list, sys_set_robust_list},
    waitv::sys_futex_waitv,
};

/// What a futex is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Private(u64, u64),
    Shared(u64),
}

/// What a waiter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A wake-up with any of these bits.
    Plain(u32),
    /// A lock that this thread owns (FUTEX_LOCK_PI).
    Pi(u32),
    /// To be moved to this lock (FUTEX_WAIT_REQUEUE_PI).
    Requeue(Key),
}

/// One waiting task.
#[derive(Debug)]
pub struct FutexWaiter {
    key: Lock<Key>,
    role: Lock<Role>,
    /// The word in the waiter's memory: of the lock, if it waits for one.
    address: AtomicU64,
    is_woken: AtomicBool,
    /// The task, to wake; it may have ended.
    task: Weak<Task>,
    /// Keeps the address of a shared futex from being used for something else.
    frame: Lock<Option<Frame>>,
}

impl FutexWaiter {
    /// The owner of the lock that it waits for.
    fn pi_owner(&self) -> Option<u32> {
        match *self.role.lock() {
            Role::Pi(owner) if !self.is_woken.load(Ordering::Relaxed) => Some(owner),
            _ => None,
        }
    }
}

fn new_waiter(
    task: &Arc<Task>,
    key: Key,
    address: u64,
    frame: Option<Frame>,
    role: Role,
) -> Arc<FutexWaiter> {
    Arc::new(FutexWaiter {
        key: Lock::new(key),
        role: Lock::new(role),
        address: AtomicU64::new(address),
        is_woken: AtomicBool::new(false),
        task: Arc::downgrade(task),
        frame: Lock::new(frame),
    })
}

/// All futexes that somebody waits for.
#[derive(Debug, Default)]
pub struct FutexTable {
    queues: BTreeMap<Key, VecDeque<Arc<FutexWaiter>>>,
}

impl FutexTable {
    fn add(&mut self, waiter: &Arc<FutexWaiter>) {
        let key = *waiter.key.lock();
        self.queues.entry(key).or_default().push_back(waiter.clone());
    }

    fn remove(&mut self, waiter: &Arc<FutexWaiter>) {
        let key = *waiter.key.lock();
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.retain(|other| !Arc::ptr_eq(other, waiter));
            if queue.is_empty() {
                self.queues.remove(&key);
            }
        }
    }

    fn wake(&mut self, key: Key, count: u32, bitset: u32) -> u32 {
        let Some(queue) = self.queues.get_mut(&key) else { return 0 };
        let mut woken = 0;
        let mut index = 0;
        while woken < count {
            let Some(waiter) = queue.get(index) else { break };
            if !matches!(*waiter.role.lock(), Role::Plain(bits) if bits & bitset != 0) {
                index += 1;
                continue;
            }
            let Some(waiter) = queue.remove(index) else { break };
            waiter.is_woken.store(true, Ordering::Relaxed);
            if let Some(task) = waiter.task.upgrade() {
                task.waiter.wake_now();
                woken += 1;
            }
        }
        if queue.is_empty() {
            self.queues.remove(&key);
        }
        woken
    }

    fn requeue(&mut self, from: Key, to: Key, frame: &Option<Frame>, count: u32) -> u32 {
        let mut moved = 0;
        while moved < count {
            let Some(queue) = self.queues.get_mut(&from) else { break };
            let Some(waiter) = queue.pop_front() else { break };
            if queue.is_empty() {
                self.queues.remove(&from);
            }
            *waiter.key.lock() = to;
            waiter.frame.lock().clone_from(frame);
            self.queues.entry(to).or_default().push_back(waiter);
            moved += 1;
        }
        moved
    }

    /// Whether all who wait are plain waiters.
    fn is_plain(&self, key: Key) -> bool {
        let plain = |waiter: &Arc<FutexWaiter>| matches!(*waiter.role.lock(), Role::Plain(_));
        self.queues.get(&key).is_none_or(|queue| queue.iter().all(plain))
    }

    fn first(&self, key: Key) -> Option<Arc<FutexWaiter>> {
        self.queues.get(&key)?.front().cloned()
    }

    fn has_pi(&self, key: Key) -> bool {
        let waits = |waiter: &Arc<FutexWaiter>| matches!(*waiter.role.lock(), Role::Pi(_));
        self.queues.get(&key).is_some_and(|queue| queue.iter().any(waits))
    }

    /// Takes the one out that waits longest for a lock.
    fn pop_pi(&mut self, key: Key) -> Option<Arc<FutexWaiter>> {
        let queue = self.queues.get(&key)?;
        let waiter =
            queue.iter().find(|waiter| matches!(*waiter.role.lock(), Role::Pi(_))).cloned()?;
        self.remove(&waiter);
        Some(waiter)
    }

    /// The rest waits for another owner now.
    fn set_pi_owner(&self, key: Key, owner: u32) {
        for waiter in self.queues.get(&key).into_iter().flatten() {
            let mut role = waiter.role.lock();
            if matches!(*role, Role::Pi(_)) {
                *role = Role::Pi(owner);
            }
        }
    }

    /// The locks of an owner that others wait for.
    fn pi_keys_of(&self, owner: u32) -> Vec<Key> {
        let waits = |waiter: &Arc<FutexWaiter>| *waiter.role.lock() == Role::Pi(owner);
        let queues = self.queues.iter().filter(|(_, queue)| queue.iter().any(waits));
        queues.map(|(key, _)| *key).collect()
    }
}

/// The frame that a word lies in, made writable for the caller if it has to be.
fn frame_of(mm: &Mm, address: u64, kind: FaultKind) -> Result<Page, Errno> {
    mm.populate(address & !(PAGE_SIZE - 1), address + 1, kind).map_err(|_| Errno::FAULT)?;
    let page = mm.space.lock().lookup(address & !(PAGE_SIZE - 1));
    page.map(|(page, _)| page).ok_or(Errno::FAULT)
}

fn key_of(mm: &MmRef, address: u64, is_private: bool) -> Result<(Key, Option<Frame>), Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::INVAL);
    }
    let is_shared = !is_private && mm.areas.lock().find(address).ok_or(Errno::FAULT)?.is_shared();
    if !is_shared {
        return Ok((Key::Private(mm.id, address), None));
    }
    let page = frame_of(mm, address, FaultKind::Read)?;
    let key = Key::Shared(page.address() + address % PAGE_SIZE);
    Ok(match page {
        Page::Frame(frame) => (key, Some(frame)),
        Page::Image(_) => (key, None),
    })
}

/// Changes a word atomically; returns what it was.
fn update(mm: &Mm, address: u64, change: impl Fn(u32) -> u32) -> Result<u32, Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::INVAL);
    }
    let Page::Frame(frame) = frame_of(mm, address, FaultKind::Write)? else {
        return Err(Errno::FAULT);
    };
    let word: &AtomicU32 = frame.word((address % PAGE_SIZE) as usize);
    let mut old = word.load(Ordering::SeqCst);
    loop {
        let result = word.compare_exchange(old, change(old), Ordering::SeqCst, Ordering::SeqCst);
        match result {
            Ok(before) => return Ok(before),
            Err(now) => old = now,
        }
    }
}

pub(super) fn sys_futex(
    cx: &mut Cx<'_>,
    address: u64,
    operation: u32,
    value: u32,
    timeout: u64,
    address2: u64,
    value3: u32,
) -> SysResult {
    let is_private = operation & PRIVATE != 0;
    let value2 = timeout as u32;
    let command = operation & !(PRIVATE | CLOCK_REALTIME);
    let has_clock = matches!(command, WAIT_BITSET | WAIT_REQUEUE_PI | LOCK_PI2);
    if operation & CLOCK_REALTIME != 0 && !has_clock {
        return Err(Errno::NOSYS.into());
    }
    match command {
        WAIT => wait(cx, address, operation, value, timeout, ANY),
        WAIT_BITSET => wait(cx, address, operation, value, timeout, value3),
        WAKE => wake(cx, address, is_private, value, ANY),
        WAKE_BITSET => wake(cx, address, is_private, value, value3),
        command @ (REQUEUE | CMP_REQUEUE) => {
            let mm = cx.mm();
            if value.cast_signed() < 0 || value2.cast_signed() < 0 {
                return Err(Errno::INVAL.into());
            }
            let (from, _) = key_of(&mm, address, is_private)?;
            let (to, frame) = key_of(&mm, address2, is_private)?;
            if command == CMP_REQUEUE && cx.read_u32(address)? != value3 {
                return Err(Errno::AGAIN.into());
            }
            if !cx.kernel.futexes.is_plain(from) {
                return Err(Errno::INVAL.into());
            }
            let woken = cx.kernel.futexes.wake(from, value, ANY);
            let moved = cx.kernel.futexes.requeue(from, to, &frame, value2);
            Ok(u64::from(woken + moved))
        }
        WAKE_OP => {
            let mm = cx.mm();
            let (first, _) = key_of(&mm, address, is_private)?;
            let (second, _) = key_of(&mm, address2, is_private)?;
            let passes = wake_operation(&mm, address2, value3)?;
            let mut woken = cx.kernel.futexes.wake(first, value, ANY);
            if passes {
                woken += cx.kernel.futexes.wake(second, value2, ANY);
            }
            Ok(u64::from(woken))
        }
        LOCK_PI | LOCK_PI2 => {
            let deadline = futex_deadline(cx, operation, timeout)?;
            pi::lock(cx, address, is_private, deadline)
        }
        TRYLOCK_PI => pi::try_lock(cx, address, is_private),
        UNLOCK_PI => pi::unlock(cx, address, is_private),
        WAIT_REQUEUE_PI => {
            let deadline = futex_deadline(cx, operation, timeout)?;
            pi::wait_requeue(cx, address, operation, value, deadline, address2)
        }
        CMP_REQUEUE_PI => pi::requeue(cx, address, is_private, (value, value2), address2, value3),
        _ => Err(Errno::NOSYS.into()),
    }
}

fn wake_operation(mm: &Mm, address: u64, encoded: u32) -> Result<bool, Errno> {
    let sign_extend = |bits: u32| ((bits << 20).cast_signed() >> 20).cast_unsigned();
    let (operation, compare) = (encoded >> 28, encoded >> 24 & 0xf);
    let mut operand = sign_extend(encoded >> 12 & 0xfff);
    let against = sign_extend(encoded & 0xfff).cast_signed();
    if operation & 8 != 0 {
        // FUTEX_OP_OPARG_SHIFT; only the low bits of the shift count (as Linux).
        operand = 1 << (operand & 31);
    }
    let change = |old: u32| match operation & 7 {
        0 => operand,
        1 => old.wrapping_add(operand),
        2 => old | operand,
        3 => old & !operand,
        _ => old ^ operand,
    };
    if operation & 7 > 4 || compare > 5 {
        return Err(Errno::NOSYS);
    }
    let old = update(mm, address, change)?.cast_signed();
    Ok(match compare {
        0 => old == against,
        1 => old != against,
        2 => old < against,
        3 => old <= against,
        4 => old > against,
        _ => old >= against,
    })
}

fn wake(cx: &mut Cx<'_>, address: u64, is_private: bool, count: u32, bitset: u32) -> SysResult {
    if bitset == 0 {
        return Err(Errno::INVAL.into());
    }
    let (key, _) = match key_of(&cx.mm(), address, is_private) {
        Ok(key) => key,
        // A private futex is only a number to WAKE.
        Err(Errno::FAULT) if is_private => return Ok(0),
        Err(errno) => return Err(errno.into()),
    };
    Ok(u64::from(cx.kernel.futexes.wake(key, count.max(1), bitset)))
}

fn wait(
    cx: &mut Cx<'_>,
    address: u64,
    operation: u32,
    value: u32,
    timeout: u64,
    bitset: u32,
) -> SysResult {
    if bitset == 0 {
        return Err(Errno::INVAL.into());
    }
    let task = cx.task.clone();
    let before = core::mem::take(&mut *task.futex.lock());
    for waiter in before {
        if cx.progress().value == 0 {
            // Left over from a call that ended otherwise.
            cx.kernel.futexes.remove(&waiter);
        } else if waiter.is_woken.load(Ordering::Relaxed) {
            return Ok(0);
        } else if cx.timed_out() {
            cx.kernel.futexes.remove(&waiter);
            return Err(Errno::TIMEDOUT.into());
        } else {
            task.futex.lock().push(waiter);
            let deadline = cx.progress().deadline_ns;
            return Err(cx.block(deadline, Restart::Always));
        }
    }
    let deadline = futex_deadline(cx, operation, timeout)?;
    let (key, frame) = key_of(&cx.mm(), address, operation & PRIVATE != 0)?;
    if cx.read_u32(address)? != value {
        return Err(Errno::AGAIN.into());
    }
    if deadline.is_some_and(|at| at <= cx.kernel.services.monotonic_ns()) {
        return Err(Errno::TIMEDOUT.into());
    }
    let waiter = new_waiter(&task, key, address, frame, Role::Plain(bitset));
    cx.kernel.futexes.add(&waiter);
    task.futex.lock().push(waiter);
    *cx.progress() = crate::cx::Progress { done: 0, deadline_ns: deadline, value: 1 };
    // With a relative time-out, a restart would wait from the start again (as ERESTART_RESTARTBLOCK
    // does not): such a call is interrupted for good.
    let relative = deadline.is_some() && operation & !(PRIVATE | CLOCK_REALTIME) == WAIT;
    Err(cx.block(deadline, if relative { Restart::Never } else { Restart::Always }))
}

fn futex_deadline(cx: &Cx<'_>, operation: u32, timeout: u64) -> Result<Option<u64>, Errno> {
    if timeout == 0 {
        return Ok(None);
    }
    let ns = read_timespec(cx, timeout)?;
    let services = &cx.kernel.services;
    Ok(Some(match operation & !(PRIVATE | CLOCK_REALTIME) {
        WAIT => services.monotonic_ns().saturating_add(ns),
        // Always a time of day.
        LOCK_PI => ns.saturating_sub(services.realtime_offset_ns),
        _ if operation & CLOCK_REALTIME != 0 => ns.saturating_sub(services.realtime_offset_ns),
        _ => ns,
    }))
}

impl Kernel {
    /// Wakes waiters of a word, whichever kind of futex they took it for.
    pub(crate) fn futex_wake_address(&mut self, mm: &MmRef, address: u64, count: u32) {
        if let Ok((key, _)) = key_of(mm, address, false) {
            self.futexes.wake(key, count, ANY);
        }
    }

    /// Takes a task out of the queue of the futex that it waits for.
    pub(crate) fn leave_futex(&mut self, task: &Task) {
        let waiters = core::mem::take(&mut *task.futex.lock());
        for waiter in &waiters {
            self.futexes.remove(waiter);
        }
    }
}
