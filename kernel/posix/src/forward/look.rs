// SPDX-License-Identifier: Apache-2.0
//! How long to look for an answer before sleeping.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use trine_machine::{contention, window::Window};

use crate::services::Services;

/// How long a call looks for its answer at first, in nanoseconds.
pub(super) const SPIN_NS: u64 = 40_000;
/// How long it looks when that never paid.
const SPIN_MIN_NS: u64 = 10_000;
/// How long an idle machine looks for completions, in nanoseconds.
const IDLE_SPIN_NS: u64 = 30_000;
/// A sleep that was shorter than this, in nanoseconds, was not worth it.
const SHORT_SLEEP_NS: u64 = 100_000;
/// How long a call waits without a task that could block, in nanoseconds.
pub(super) const PATIENCE_NS: u64 = 10_000_000_000;

impl Services {
    /// Runs something that cannot be made again: its forwarded calls wait for their answers.
    pub(crate) fn with_patience<R>(&self, run_fn: impl FnOnce() -> R) -> R {
        let before = self.requests.is_patient.swap(true, Ordering::Relaxed);
        let result = run_fn();
        self.requests.is_patient.store(before, Ordering::Relaxed);
        result
    }

    /// Whether the answer of a request comes while looking for it is worth it.
    pub(crate) fn look_for(self: &Arc<Self>, id: u32) -> bool {
        if self.requests.is_patient.load(Ordering::Relaxed) {
            return self.spin(id, PATIENCE_NS);
        }
        self.spin_briefly(id)
    }

    /// Looks for any completion for a moment, as long as that has paid lately: what a program waits
    /// for from the network often comes sooner than it takes to sleep and wake up.
    pub fn look_before_sleep(&self) -> bool {
        let span = self.requests.idle_spin_ns.load(Ordering::Relaxed);
        if span == 0 {
            return false;
        }
        let until = self.monotonic_ns().saturating_add(span);
        loop {
            let there = self.window.lock().as_ref().is_some_and(Window::has_news);
            if there {
                self.requests.idle_spin_ns.store(IDLE_SPIN_NS, Ordering::Relaxed);
                return true;
            }
            if self.monotonic_ns() >= until {
                let next = if span / 2 < SPIN_MIN_NS { 0 } else { span / 2 };
                self.requests.idle_spin_ns.store(next, Ordering::Relaxed);
                return false;
            }
            core::hint::spin_loop();
        }
    }

    /// The machine slept from then on: a sleep that a completion ended so soon would better have
    /// been a look.
    pub fn woke_after(&self, asleep_ns: u64) {
        let slept_ns = self.monotonic_ns().saturating_sub(asleep_ns);
        let there = self.window.lock().as_ref().is_some_and(Window::has_news);
        if there && slept_ns < SHORT_SLEEP_NS {
            self.requests.idle_spin_ns.store(IDLE_SPIN_NS, Ordering::Relaxed);
        }
    }

    /// Looks for the completion of a request for so long, in nanoseconds.
    pub(super) fn spin(self: &Arc<Self>, id: u32, span_ns: u64) -> bool {
        self.spin_while(id, span_ns, || true)
    }

    /// Looks for the completion of a request for so long at most, and as long as a condition holds.
    fn spin_while(self: &Arc<Self>, id: u32, span_ns: u64, goes_on_fn: fn() -> bool) -> bool {
        let until_ns = self.monotonic_ns().saturating_add(span_ns);
        loop {
            let found = self.window.lock().as_mut().and_then(|window| window.poll());
            match found {
                Some((request, completion)) if request.id() == id => {
                    self.complete(request, completion);
                    return true;
                }
                Some(other) => self.requests.seen.lock().push_back(other),
                None if !goes_on_fn() || self.monotonic_ns() >= until_ns => return false,
                None => core::hint::spin_loop(),
            }
        }
    }

    /// Looks for the completion of a request as long as is worth it, and no other vCPU needs the
    /// kernel's lock, which whoever looks holds.
    fn spin_briefly(self: &Arc<Self>, id: u32) -> bool {
        let spin = self.requests.spin_ns.load(Ordering::Relaxed);
        let found = self.spin_while(id, spin, || !contention::is_wanted());
        if !found && contention::is_wanted() {
            return false;
        }
        let next = if found { (spin * 2).min(SPIN_NS) } else { (spin / 2).max(SPIN_MIN_NS) };
        self.requests.spin_ns.store(next, Ordering::Relaxed);
        found
    }
}
