// SPDX-License-Identifier: Apache-2.0
//! Who runs next: round robin with slices of 10 ms; woken tasks go before those that were running.
//! All vCPUs take from the same queues.
//!
//! A vCPU that goes on to run application code while others wait wakes an idle vCPU for them: at once
//! for tasks that are new or had to give way; for woken ones at its second chance, because who wakes
//! somebody is often about to wait for him, and two tasks that take turns are best off on one vCPU.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use crate::{
    Kernel,
    mm::MmRef,
    process::{TaskRef, task::Phase},
    wait::{Ticket, WaitQueue},
};

/// How long a task runs while others want to, in nanoseconds.
const SLICE_NS: u64 = 10_000_000;
/// After so many woken tasks in a row, one of the others has its turn.
const WOKEN_MAX: u32 = 16;

/// What one vCPU does.
#[derive(Debug, Default)]
pub(crate) struct Vcpu {
    /// Goes on running.
    current: Option<TaskRef>,
    slice_end_ns: u64,
    /// Runs application code now.
    running: Option<TaskRef>,
    /// It was asked to stop doing so.
    is_kicked: bool,
    /// It sleeps until then, in nanoseconds of CLOCK_MONOTONIC.
    idle_until_ns: Option<u64>,
    /// It left tasks in the queue of woken ones when it last ran application code.
    left_woken: bool,
    /// When the last piece of CPU time was accounted.
    pub(super) accounted_ns: u64,
    /// It had nothing to run.
    pub(super) was_idle: bool,
}

/// The run queues.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// The vCPU that holds the kernel's lock.
    own: usize,
    vcpus: Vec<Vcpu>,
    woken: VecDeque<TaskRef>,
    ready: VecDeque<TaskRef>,
    woken_in_a_row: u32,
    /// Barriers (membarrier(2)) that wait for vCPUs, by bit.
    barriers: Vec<(u64, u64)>,
    last_barrier: u64,
    barrier_wait: WaitQueue,
}

impl Schedule {
    pub(crate) fn new(vcpus: u32, now_ns: u64) -> Self {
        let vcpu = || Vcpu { accounted_ns: now_ns, was_idle: true, ..Vcpu::default() };
        Self { vcpus: (0..vcpus.max(1)).map(|_| vcpu()).collect(), ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.woken.is_empty() && self.ready.is_empty()
    }

    /// The vCPU that holds the kernel's lock.
    pub(super) fn own(&mut self) -> &mut Vcpu {
        let own = self.own;
        self.vcpus.get_mut(own).expect("a vcpu that exists holds the lock")
    }

    /// Its number.
    pub(crate) fn own_index(&self) -> usize {
        self.own
    }

    fn others(&self) -> impl Iterator<Item = (usize, &Vcpu)> {
        self.vcpus.iter().enumerate().filter(|(index, _)| *index != self.own)
    }
}

impl Kernel {
    /// Queues a runnable task.
    pub(crate) fn enqueue(&mut self, task: &TaskRef, was_woken: bool) {
        let mut run = task.run.lock();
        if run.queued || run.has_vcpu || run.phase != Phase::Runnable {
            return;
        }
        run.queued = true;
        drop(run);
        let queue = if was_woken { &mut self.schedule.woken } else { &mut self.schedule.ready };
        queue.push_back(task.clone());
    }

    /// Makes the tasks runnable that were woken.
    pub(crate) fn drain_woken(&mut self) {
        if self.services.woken.lock().is_empty() {
            return;
        }
        let mut woken = core::mem::take(&mut self.woken);
        core::mem::swap(&mut woken, &mut *self.services.woken.lock());
        for tid in woken.drain(..) {
            let Some(task) = self.services.registry.task(tid) else { continue };
            {
                let mut run = task.run.lock();
                if run.phase != Phase::Blocked {
                    continue;
                }
                run.phase = Phase::Runnable;
            }
            self.enqueue(&task, true);
        }
        self.woken = woken;
    }

    /// The task that goes on, unless its slice is over.
    pub(crate) fn set_current(&mut self, task: &TaskRef) {
        task.run.lock().has_vcpu = true;
        self.schedule.own().current = Some(task.clone());
    }

    /// A vCPU has taken the kernel's lock.
    pub fn set_vcpu(&mut self, vcpu: usize) {
        self.schedule.own = vcpu;
        let own = self.schedule.own();
        own.idle_until_ns = None;
    }

    /// The vCPU that holds the kernel's lock (getcpu(2)).
    pub fn vcpu(&self) -> u32 {
        self.schedule.own_index() as u32
    }

    /// A task is about to run application code on this vCPU.
    pub(super) fn set_running(&mut self, task: &TaskRef) {
        let own = self.schedule.own();
        own.running = Some(task.clone());
        own.is_kicked = false;
    }

    /// The task that ran application code on this vCPU has stopped.
    pub(super) fn clear_running(&mut self) {
        let own = self.schedule.own;
        self.schedule.own().running = None;
        if self.schedule.barriers.is_empty() {
            return;
        }
        self.schedule.barriers.retain_mut(|(_, wanted)| {
            *wanted &= !(1 << own);
            *wanted != 0
        });
        self.schedule.barrier_wait.wake_all();
    }

    /// Makes every other vCPU that runs application code of a memory (or any) look around;
    /// [`Kernel::is_barrier_over`] tells when all have.  `None`: there is no such vCPU.
    pub(crate) fn start_barrier(&mut self, mm: Option<&MmRef>) -> Option<u64> {
        let concerns = |task: &TaskRef| {
            mm.is_none_or(|mm| task.mm().is_some_and(|other| Arc::ptr_eq(mm, &other)))
        };
        let mut wanted: u64 = 0;
        for (index, vcpu) in self.schedule.others() {
            if vcpu.running.as_ref().is_some_and(concerns) {
                wanted |= 1 << index;
            }
        }
        if wanted == 0 {
            return None;
        }
        self.schedule.last_barrier += 1;
        let id = self.schedule.last_barrier;
        self.schedule.barriers.push((id, wanted));
        Some(id)
    }

    /// Whether all vCPUs have looked around; else the ticket is woken as they do.
    pub(crate) fn is_barrier_over(&self, id: u64, ticket: &Ticket) -> bool {
        let pending = self.schedule.barriers.iter().any(|(other, _)| *other == id);
        if pending {
            self.schedule.barrier_wait.add(ticket);
        }
        !pending
    }

    /// The task that was to run is not run after all: tests have no vCPU.
    #[cfg(test)]
    pub(crate) fn put_down(&mut self, task: &TaskRef) {
        self.clear_running();
        Self::release_vcpu(task);
    }

    /// The task is not on a vCPU any more, and may go to another one.
    pub(super) fn release_vcpu(task: &TaskRef) {
        task.run.lock().has_vcpu = false;
    }

    /// Whether a task runs application code on another vCPU.
    pub(crate) fn runs_elsewhere(&self, task: &TaskRef) -> bool {
        self.schedule.others().any(|(_, vcpu)| {
            vcpu.running.as_ref().is_some_and(|running| Arc::ptr_eq(running, task))
        })
    }

    /// vCPUs, by bit, that have to look around before this one runs application code or sleeps:
    /// their task has a signal or must end, or they are idle and there is work.
    pub fn kicks(&mut self, will_run: bool) -> u32 {
        if self.schedule.vcpus.len() == 1 {
            return 0;
        }
        let mut kicks = 0;
        for index in 0..self.schedule.vcpus.len() {
            let Some(vcpu) = self.schedule.vcpus.get(index) else { continue };
            let Some(task) = vcpu.running.clone().filter(|_| !vcpu.is_kicked) else { continue };
            let must_stop = index != self.schedule.own
                && (task.exiting.load(Ordering::Relaxed)
                    || !task.may_use(index)
                    || self.schedule.barriers.iter().any(|(_, wanted)| wanted >> index & 1 == 1)
                    || task.process.stopped.load(Ordering::Relaxed)
                    || self.has_deliverable(&task));
            if must_stop && let Some(vcpu) = self.schedule.vcpus.get_mut(index) {
                vcpu.is_kicked = true;
                kicks |= 1 << index;
            }
        }
        kicks | self.wake_idle(will_run)
    }

    fn wake_idle(&mut self, will_run: bool) -> u32 {
        self.drain_woken();
        let schedule = &mut self.schedule;
        let left_woken = will_run && !schedule.woken.is_empty();
        let insist = core::mem::replace(&mut schedule.own().left_woken, left_woken);
        let own = schedule.own;
        let mut kicks = 0;
        let waiting = schedule.ready.iter().map(|task| (task, true));
        let waiting = waiting.chain(schedule.woken.iter().map(|task| (task, insist)));
        for (task, is_urgent) in waiting {
            // What may run here is for this vCPU, if it sleeps otherwise.
            if task.may_use(own) && !(will_run && is_urgent) {
                continue;
            }
            let idle = schedule.vcpus.iter_mut().enumerate().find(|(index, vcpu)| {
                *index != own && vcpu.idle_until_ns.is_some() && task.may_use(*index)
            });
            if let Some((index, vcpu)) = idle {
                vcpu.idle_until_ns = None;
                kicks |= 1 << index;
            }
        }
        kicks
    }

    /// This vCPU goes to sleep; returns until when: another one that sleeps may keep time already.
    pub fn sleep(&mut self) -> Option<u64> {
        let deadline = self.next_deadline();
        let kept = self.schedule.others().any(|(_, vcpu)| {
            vcpu.idle_until_ns.is_some_and(|until| until <= deadline.unwrap_or(u64::MAX))
        });
        let deadline = deadline.filter(|_| !kept);
        self.schedule.own().idle_until_ns = Some(deadline.unwrap_or(u64::MAX));
        deadline
    }

    /// Ends the slice of the task that goes on.
    pub(crate) fn preempt(&mut self) {
        if let Some(task) = self.schedule.own().current.take() {
            Self::release_vcpu(&task);
            self.enqueue(&task, false);
        }
    }

    pub(crate) fn pick(&mut self) -> Option<TaskRef> {
        let others = !self.schedule.is_empty();
        let now = self.services.monotonic_ns();
        let vcpu = self.schedule.own_index();
        let own = self.schedule.own();
        if let Some(task) = own.current.take() {
            let goes_on = (!others || now < own.slice_end_ns) && task.may_use(vcpu);
            if goes_on && task.phase() == Phase::Runnable {
                return Some(task);
            }
            Self::release_vcpu(&task);
            self.enqueue(&task, false);
        }
        let schedule = &mut self.schedule;
        let woken_first = schedule.woken_in_a_row < WOKEN_MAX || schedule.ready.is_empty();
        let task = if woken_first && !schedule.woken.is_empty() {
            schedule.woken_in_a_row += 1;
            take(&mut schedule.woken, vcpu).or_else(|| take(&mut schedule.ready, vcpu))
        } else {
            schedule.woken_in_a_row = 0;
            take(&mut schedule.ready, vcpu).or_else(|| take(&mut schedule.woken, vcpu))
        }?;
        task.rseq_due.store(true, Ordering::Relaxed);
        {
            let mut run = task.run.lock();
            run.queued = false;
            run.has_vcpu = true;
        }
        schedule.own().slice_end_ns = now + SLICE_NS;
        Some(task)
    }

    /// Whether a task that woke should go before the one that runs.
    pub(crate) fn has_woken(&self) -> bool {
        !self.schedule.woken.is_empty()
    }
}

/// Takes the first task out of a queue that may run on a vCPU.
fn take(queue: &mut VecDeque<TaskRef>, vcpu: usize) -> Option<TaskRef> {
    let index = queue.iter().position(|task| task.may_use(vcpu))?;
    queue.remove(index)
}
