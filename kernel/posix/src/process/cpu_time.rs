// SPDX-License-Identifier: Apache-2.0
//! What happens when CPU time passes: timers of CPU clocks, ITIMER_VIRTUAL and ITIMER_PROF,
//! RLIMIT_CPU, sleeps on CPU clocks.
//!
//! Nothing of this costs anything for a process that does not use it.  For one that does, a point in
//! time at which it may be due is set whenever a thread of it begins to run, and looking happens when
//! its CPU time is accounted.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering};

use super::{
    Process, TaskRef,
    group::{RLIM_INFINITY, RLIMIT_CPU},
    signal::{SI_KERNEL, SIGKILL, SIGXCPU, SigInfo},
    timers::TimerClock,
};
use crate::{
    Kernel,
    wait::{Ticket, Wake},
};

const SECOND_NS: u64 = 1_000_000_000;

/// Makes a vCPU stop when CPU time may be due; there is nobody to wake.
#[derive(Debug, Default)]
pub(crate) struct CpuAlarm {
    generation: AtomicU64,
}

impl Wake for CpuAlarm {
    fn wake(&self, _generation: u64) -> bool {
        false
    }

    fn is_current(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Relaxed) == generation
    }
}

impl Process {
    /// Reads a CPU clock of the process, in nanoseconds.
    pub(crate) fn read_cpu_clock(&self, clock: TimerClock) -> u64 {
        let (user, system) = self.cpu_ns();
        match clock {
            TimerClock::User => user,
            TimerClock::Thread(tid) => {
                let threads = self.threads.lock();
                threads.iter().find(|task| task.tid() == tid).map_or(0, |task| task.cpu_ns())
            }
            _ => user + system,
        }
    }

    /// How much CPU time may pass, in nanoseconds, until something is due.
    fn cpu_time_left(&self) -> Option<u64> {
        let timers: Vec<(TimerClock, u64)> = self
            .timers
            .lock()
            .0
            .values()
            .filter(|timer| timer.clock.is_cpu() && timer.deadline_ns != 0)
            .map(|timer| (timer.clock, timer.deadline_ns))
            .collect();
        let timers =
            timers.iter().map(|(clock, at)| at.saturating_sub(self.read_cpu_clock(*clock)));
        let total = self.read_cpu_clock(TimerClock::Process);
        let sleeps: Vec<u64> = self.cpu_sleeps.lock().iter().map(|(at, _)| *at).collect();
        let limit = self.limits.lock().0[RLIMIT_CPU];
        let next = self.cpu_limit_next_s.load(Ordering::Relaxed).max(limit.0).min(limit.1);
        let limit = (limit.0 != RLIM_INFINITY).then(|| next.saturating_mul(SECOND_NS));
        let totals = sleeps.into_iter().chain(limit).map(|at| at.saturating_sub(total));
        timers.chain(totals).min()
    }
}

impl Kernel {
    /// A thread of a process that counts its CPU time is about to run.
    pub(crate) fn arm_cpu_alarm(&self, task: &TaskRef) {
        if !task.process.counts_cpu.load(Ordering::Relaxed) {
            return;
        }
        let generation = task.cpu_alarm.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(left) = task.process.cpu_time_left() else {
            task.process.counts_cpu.store(false, Ordering::Relaxed);
            return;
        };
        let at = self.services.monotonic_ns().saturating_add(left).saturating_add(1);
        let ticket = Ticket { waiter: task.cpu_alarm.clone(), generation };
        self.services.timers.wake_at(at, ticket);
    }

    /// CPU time of a process was accounted: does what is due.
    pub(crate) fn check_cpu_time(&mut self, process: &Arc<Process>) {
        if !process.counts_cpu.load(Ordering::Relaxed) || process.is_zombie() {
            return;
        }
        let numbers: Vec<(u32, TimerClock, u64)> = process
            .timers
            .lock()
            .0
            .iter()
            .filter(|(_, timer)| timer.clock.is_cpu() && timer.deadline_ns != 0)
            .map(|(number, timer)| (*number, timer.clock, timer.deadline_ns))
            .collect();
        for (number, clock, deadline) in numbers {
            let now = process.read_cpu_clock(clock);
            if now >= deadline {
                self.fire_timer(process, number, now);
            }
        }
        let total = process.read_cpu_clock(TimerClock::Process);
        let due: Vec<Ticket> = {
            let mut sleeps = process.cpu_sleeps.lock();
            let due =
                sleeps.iter().filter(|(at, _)| *at <= total).map(|(_, ticket)| ticket.clone());
            let due = due.collect();
            sleeps.retain(|(at, _)| *at > total);
            due
        };
        for ticket in due {
            ticket.waiter.wake(ticket.generation);
        }
        self.check_cpu_limit(process, total / SECOND_NS);
    }

    fn check_cpu_limit(&mut self, process: &Arc<Process>, seconds: u64) {
        let (soft, hard) = process.limits.lock().0[RLIMIT_CPU];
        if soft == RLIM_INFINITY {
            return;
        }
        if seconds >= hard {
            self.kill_process(process, SIGKILL);
            return;
        }
        // Once at the limit, then once a second.
        let next = process.cpu_limit_next_s.load(Ordering::Relaxed).max(soft);
        if seconds >= next {
            process.cpu_limit_next_s.store(seconds + 1, Ordering::Relaxed);
            self.signal_process(process, SigInfo::new(SIGXCPU, SI_KERNEL));
        }
    }
}
