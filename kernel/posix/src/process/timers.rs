// SPDX-License-Identifier: Apache-2.0
//! Interval timers and POSIX timers of a process: they expire into a list that the kernel turns
//! into signals.

use alloc::{collections::BTreeMap, sync::Arc};
use core::sync::atomic::{AtomicU64, Ordering};

use super::{
    Process,
    signal::{SI_KERNEL, SigInfo},
};
use crate::{
    Kernel,
    services::ServicesRef,
    wait::{Ticket, Wake},
};

/// Number of ITIMER_REAL among a process's timers; POSIX timers have their own id plus 1.
pub(crate) const ITIMER_REAL: u32 = 0;
/// Number of ITIMER_VIRTUAL.
pub(crate) const ITIMER_VIRTUAL: u32 = u32::MAX - 1;
/// Number of ITIMER_PROF.
pub(crate) const ITIMER_PROF: u32 = u32::MAX;

fn is_interval_timer(number: u32) -> bool {
    matches!(number, ITIMER_REAL | ITIMER_VIRTUAL | ITIMER_PROF)
}

/// What a timer goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimerClock {
    /// CLOCK_MONOTONIC and its kin.
    Monotonic,
    /// CLOCK_REALTIME and its kin.
    Realtime,
    /// CPU time of the process.
    Process,
    /// CPU time of the process's application code.
    User,
    /// CPU time of a thread.
    Thread(u32),
}

impl TimerClock {
    /// Whether it counts CPU time.
    pub(crate) fn is_cpu(self) -> bool {
        matches!(self, Self::Process | Self::User | Self::Thread(_))
    }
}

/// What a timer does when it expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notify {
    /// Nothing (SIGEV_NONE).
    Nothing,
    /// A signal to the process: number and sigev_value.
    Process(u32, u64),
    /// A signal to one thread (SIGEV_THREAD_ID).
    Thread(u32, u64, u32),
}

/// One timer.
#[derive(Debug)]
pub(crate) struct Timer {
    pub(crate) notify: Notify,
    /// Next expiry on CLOCK_MONOTONIC, or in CPU time; 0 = disarmed.
    pub(crate) deadline_ns: u64,
    /// 0 = once.
    pub(crate) interval_ns: u64,
    /// Expiries that the last signal stood for beyond the first.
    pub(crate) overrun: u32,
    /// What it goes by.
    pub(crate) clock: TimerClock,
    alarm: Arc<Alarm>,
}

/// What the heap of timers wakes.
#[derive(Debug)]
struct Alarm {
    pid: u32,
    number: u32,
    generation: AtomicU64,
    services: ServicesRef,
}

impl Wake for Alarm {
    fn wake(&self, generation: u64) -> bool {
        if self.is_current(generation) {
            self.services.due_timers.lock().push((self.pid, self.number));
        }
        false
    }

    fn is_current(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Relaxed) == generation
    }
}

impl Timer {
    pub(crate) fn new(services: &ServicesRef, pid: u32, number: u32, notify: Notify) -> Self {
        let alarm =
            Alarm { pid, number, generation: AtomicU64::new(0), services: services.clone() };
        Self {
            notify,
            deadline_ns: 0,
            interval_ns: 0,
            overrun: 0,
            clock: TimerClock::Monotonic,
            alarm: Arc::new(alarm),
        }
    }

    /// Sets the next expiry; 0 disarms.
    pub(crate) fn arm(&mut self, deadline_ns: u64, interval_ns: u64) {
        self.deadline_ns = deadline_ns;
        self.interval_ns = interval_ns;
        let generation = self.alarm.generation.fetch_add(1, Ordering::Relaxed) + 1;
        if deadline_ns != 0 && !self.clock.is_cpu() {
            let ticket = Ticket { waiter: self.alarm.clone(), generation };
            self.alarm.services.timers.wake_at(deadline_ns, ticket);
        }
    }

    /// Nanoseconds until the next expiry, and the interval; 0 if disarmed.
    pub(crate) fn remaining(&self, now_ns: u64) -> (u64, u64) {
        let left = match self.deadline_ns {
            0 => 0,
            at => at.saturating_sub(now_ns).max(1),
        };
        (left, self.interval_ns)
    }

    /// Moves on to the next expiry after `now_ns`.
    fn advance(&mut self, now_ns: u64) {
        if self.interval_ns == 0 {
            self.overrun = 0;
            self.arm(0, 0);
            return;
        }
        let late = now_ns.saturating_sub(self.deadline_ns) / self.interval_ns;
        self.overrun = u32::try_from(late).unwrap_or(u32::MAX);
        let passed = self.interval_ns.saturating_mul(late.saturating_add(1));
        let next = self.deadline_ns.saturating_add(passed);
        self.arm(next, self.interval_ns);
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.alarm.generation.fetch_add(1, Ordering::Relaxed);
    }
}

/// The timers of a process, by number.
#[derive(Debug, Default)]
pub(crate) struct ProcessTimers(pub(crate) BTreeMap<u32, Timer>);

impl ProcessTimers {
    /// Ends all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Ends the POSIX timers (execve keeps the interval timers).
    pub(crate) fn clear_posix(&mut self) {
        self.0.retain(|&number, _| is_interval_timer(number));
    }
}

impl Kernel {
    /// Sends the signals of timers that came due.
    pub(crate) fn expire_process_timers(&mut self) {
        loop {
            let Some((pid, number)) = self.services.due_timers.lock().pop() else { return };
            let Some(process) = self.services.registry.process(pid) else { continue };
            let now = self.services.monotonic_ns();
            self.fire_timer(&process, number, now);
        }
    }

    /// A timer has expired: sends its signal, and sets it for the next time.
    pub(crate) fn fire_timer(&mut self, process: &Arc<Process>, number: u32, now_ns: u64) {
        let fired = {
            let mut timers = process.timers.lock();
            timers.0.get_mut(&number).map(|timer| {
                timer.advance(now_ns);
                (timer.notify, timer.overrun)
            })
        };
        let Some((notify, overrun)) = fired else { return };
        let id = number.wrapping_sub(1).cast_signed();
        let info = |signal: u32, value: u64| {
            if is_interval_timer(number) {
                SigInfo::new(signal, SI_KERNEL)
            } else {
                SigInfo::timer(signal, id, overrun.cast_signed(), value)
            }
        };
        match notify {
            Notify::Nothing => {}
            Notify::Process(signal, value) => {
                self.signal_process(process, info(signal, value));
            }
            Notify::Thread(signal, value, tid) => {
                if let Some(task) = self.services.registry.task(tid) {
                    self.signal_task(&task, info(signal, value));
                }
            }
        }
    }
}
