// SPDX-License-Identifier: Apache-2.0
//! Who runs next: round robin with slices of 10 ms; woken tasks go before those that were running.

use alloc::collections::VecDeque;

use crate::{
    Kernel,
    process::{TaskRef, task::Phase},
};

/// How long a task runs while others want to, in nanoseconds.
const SLICE_NS: u64 = 10_000_000;
/// After so many woken tasks in a row, one of the others has its turn.
const WOKEN_MAX: u32 = 16;

/// The run queues.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// Goes on running.
    current: Option<TaskRef>,
    slice_end_ns: u64,
    woken: VecDeque<TaskRef>,
    ready: VecDeque<TaskRef>,
    woken_in_a_row: u32,
}

impl Schedule {
    pub(crate) fn is_empty(&self) -> bool {
        self.woken.is_empty() && self.ready.is_empty()
    }
}

impl Kernel {
    /// Queues a runnable task.
    pub(crate) fn enqueue(&mut self, task: &TaskRef, was_woken: bool) {
        let mut run = task.run.lock();
        if run.queued || run.phase != Phase::Runnable {
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
        self.schedule.current = Some(task.clone());
    }

    /// Ends the slice of the task that goes on.
    pub(crate) fn preempt(&mut self) {
        if let Some(task) = self.schedule.current.take() {
            self.enqueue(&task, false);
        }
    }

    pub(crate) fn pick(&mut self) -> Option<TaskRef> {
        let others = !self.schedule.is_empty();
        if let Some(task) = self.schedule.current.take() {
            let goes_on = !others || self.services.monotonic_ns() < self.schedule.slice_end_ns;
            if task.phase() == Phase::Runnable {
                if goes_on {
                    return Some(task);
                }
                self.enqueue(&task, false);
            }
        }
        let schedule = &mut self.schedule;
        let woken_first = schedule.woken_in_a_row < WOKEN_MAX || schedule.ready.is_empty();
        let task = if woken_first && !schedule.woken.is_empty() {
            schedule.woken_in_a_row += 1;
            schedule.woken.pop_front()
        } else {
            schedule.woken_in_a_row = 0;
            schedule.ready.pop_front().or_else(|| schedule.woken.pop_front())
        }?;
        task.run.lock().queued = false;
        schedule.slice_end_ns = self.services.monotonic_ns() + SLICE_NS;
        Some(task)
    }

    /// Whether a task that woke should go before the one that runs.
    pub(crate) fn has_woken(&self) -> bool {
        !self.schedule.woken.is_empty()
    }
}
