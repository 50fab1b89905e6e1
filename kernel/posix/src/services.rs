// SPDX-License-Identifier: Apache-2.0
//! What every object of the personality may use without knowing the kernel: frames, the clock,
//! the window, the log.

use alloc::{sync::Arc, vec::Vec};
use core::fmt;

use trine_machine::{Arena, window::Window};

use crate::sync::Lock;

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanoseconds: u32,
}

/// Shared services.
pub struct Services {
    /// Frames and images.
    pub arena: &'static Arena,
    /// Reads CLOCK_MONOTONIC in nanoseconds.
    pub monotonic_fn: fn() -> u64,
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC, in nanoseconds.
    pub realtime_offset_ns: u64,
    /// The window to the I/O server, if there is one.
    pub window: Lock<Option<Window>>,
    /// Tasks that were woken and are not in the run queue yet.
    pub woken: Lock<Vec<u32>>,
    /// Lines for the host's log.
    pub log: Lock<Vec<Vec<u8>>>,
}

impl Services {
    /// CLOCK_MONOTONIC in nanoseconds.
    pub fn monotonic_ns(&self) -> u64 {
        (self.monotonic_fn)()
    }

    /// CLOCK_REALTIME.
    pub fn now(&self) -> Timestamp {
        let ns = self.monotonic_ns().wrapping_add(self.realtime_offset_ns);
        Timestamp {
            seconds: (ns / 1_000_000_000).cast_signed(),
            nanoseconds: (ns % 1_000_000_000) as u32,
        }
    }

    /// Puts a line in the host's log; dropped while 64 wait.
    pub fn log(&self, line: fmt::Arguments<'_>) {
        let mut log = self.log.lock();
        if log.len() < 64 {
            log.push(alloc::format!("{line}").into_bytes());
        }
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

/// Services are shared by everything.
pub type ServicesRef = Arc<Services>;
