// SPDX-License-Identifier: Apache-2.0
//! What every object of the personality may use without knowing the kernel: frames, the clock,
//! random numbers, the window, the log, and who is there.

use alloc::{sync::Arc, vec::Vec};
use core::{fmt, sync::atomic::AtomicBool};

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use trine_machine::{Arena, window::Window};

use crate::{
    forward::Requests,
    kernel::Timers,
    mm::Stale,
    process::{Registry, TaskRef},
    sync::Lock,
};

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
    pub(crate) requests: Requests,
    /// Tasks that were woken and are not in the run queue yet.
    pub woken: Lock<Vec<u32>>,
    /// Lines for the host's log.
    pub log: Lock<Vec<Vec<u8>>>,
    /// Who is woken when.
    pub timers: Timers,
    /// All tasks and processes, and the task whose system call is being served.
    pub registry: Registry,
    /// A copy to or from application memory found no free frame.
    pub(crate) out_of_memory: AtomicBool,
    /// Mapped pages that are no longer what their files have there.
    pub(crate) stale: Lock<Vec<Stale>>,
    /// Process timers that came due: process id, timer.
    pub(crate) due_timers: Lock<Vec<(u32, u32)>>,
    /// New memories use the rewritten text of the image: this machine and the configuration let
    /// them.
    pub rewritten_text: AtomicBool,
    random: Lock<ChaCha20Rng>,
}

impl Services {
    /// Makes the services; `seed` must be fresh and secret.
    pub fn new(
        arena: &'static Arena,
        monotonic_fn: fn() -> u64,
        realtime_offset_ns: u64,
        window: Option<Window>,
        seed: [u8; 32],
    ) -> ServicesRef {
        Arc::new(Self {
            arena,
            monotonic_fn,
            realtime_offset_ns,
            window: Lock::new(window),
            requests: Requests::new(),
            woken: Lock::new(Vec::new()),
            log: Lock::new(Vec::new()),
            timers: Timers::default(),
            registry: Registry::default(),
            out_of_memory: AtomicBool::new(false),
            stale: Lock::new(Vec::new()),
            due_timers: Lock::new(Vec::new()),
            rewritten_text: AtomicBool::new(false),
            random: Lock::new(ChaCha20Rng::from_seed(seed)),
        })
    }

    /// How many tasks there may be: as on Linux, an eighth of RAM at 16 KiB a task, so that they
    /// leave room for what they are to do.
    pub fn tasks_max(&self) -> u64 {
        (self.arena.ram_bytes() / (128 << 10)).max(64)
    }

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

    /// Fills `to` with random bytes that nobody can predict.
    pub fn random(&self, to: &mut [u8]) {
        self.random.lock().fill_bytes(to);
    }

    /// A random number.
    pub fn random_u64(&self) -> u64 {
        self.random.lock().next_u64()
    }

    /// The task whose system call is being served, if any: who "self" is.
    pub fn current(&self) -> Option<TaskRef> {
        self.registry.current()
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

/// Services are shared by everything.
pub type ServicesRef = Arc<Services>;
