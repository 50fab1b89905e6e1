// SPDX-License-Identifier: Apache-2.0
//! timerfd_create(2).

use alloc::sync::{Arc, Weak};
use core::{
    any::Any,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    Errno,
    fs::{
        file::{File, FileOps},
        types::Ready,
    },
    io::Sink,
    services::ServicesRef,
    sync::Lock,
    wait::{Ticket, WaitQueue, Wake},
};

/// How a timer is set: nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimerSetting {
    /// When it expires next; `None`: it is off.
    pub(crate) next_ns: Option<u64>,
    /// How often after that; 0: once.
    pub(crate) interval_ns: u64,
}

#[derive(Debug, Default)]
struct State {
    setting: TimerSetting,
    expirations: u64,
}

/// A timer to wait for.
#[derive(Debug)]
pub(crate) struct TimerFd {
    services: ServicesRef,
    state: Lock<State>,
    /// Grows with each setting; not in `state`, because timers are asked for it while that is held.
    generation: AtomicU64,
    wait: WaitQueue,
    this: Weak<TimerFd>,
    /// It counts CLOCK_REALTIME.
    pub(crate) realtime: bool,
}

impl TimerFd {
    /// A timer that is off.
    pub(crate) fn new(services: &ServicesRef, realtime: bool) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            services: Arc::clone(services),
            state: Lock::new(State::default()),
            generation: AtomicU64::new(0),
            wait: WaitQueue::new(),
            this: this.clone(),
            realtime,
        })
    }

    fn advance(&self, state: &mut State) {
        let now = self.services.monotonic_ns();
        let Some(next) = state.setting.next_ns.filter(|next| *next <= now) else { return };
        let interval = state.setting.interval_ns;
        let more = (now - next).checked_div(interval).unwrap_or(0);
        state.expirations = state.expirations.saturating_add(1 + more);
        state.setting.next_ns = (interval != 0).then(|| next + (more + 1) * interval);
    }

    fn arm(&self, state: &State) {
        if let (Some(next), Some(this)) = (state.setting.next_ns, self.this.upgrade()) {
            let generation = self.generation.load(Ordering::Relaxed);
            let ticket = Ticket { waiter: this, generation };
            self.services.timers.wake_at(next, ticket);
        }
    }

    /// How it is set; a setting with the time that is left.
    pub(crate) fn setting(&self) -> TimerSetting {
        let mut state = self.state.lock();
        self.advance(&mut state);
        state.setting
    }

    /// Sets it.
    pub(crate) fn set(&self, setting: TimerSetting) {
        let mut state = self.state.lock();
        self.generation.fetch_add(1, Ordering::Relaxed);
        state.expirations = 0;
        state.setting = setting;
        self.advance(&mut state);
        self.arm(&state);
        drop(state);
        self.wait.wake_all();
    }
}

impl Wake for TimerFd {
    fn wake(&self, generation: u64) -> bool {
        {
            if !self.is_current(generation) {
                return false;
            }
            let mut state = self.state.lock();
            self.advance(&mut state);
            self.arm(&state);
        }
        self.wait.wake_all();
        false
    }

    fn is_current(&self, generation: u64) -> bool {
        self.generation.load(Ordering::Relaxed) == generation
    }
}

impl FileOps for TimerFd {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        if sink.room() < 8 {
            return Err(Errno::INVAL);
        }
        let mut state = self.state.lock();
        self.advance(&mut state);
        if state.expirations == 0 {
            return Err(Errno::AGAIN);
        }
        if !super::put_whole(sink, &state.expirations.to_le_bytes()) {
            return Ok(0);
        }
        state.expirations = 0;
        Ok(8)
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        if let Some(ticket) = ticket {
            self.wait.add(ticket);
        }
        let mut state = self.state.lock();
        self.advance(&mut state);
        if state.expirations > 0 { Ready::READABLE } else { Ready::empty() }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for TimerFd {
    fn drop(&mut self) {
        self.wait.wake_all();
    }
}
