// SPDX-License-Identifier: Apache-2.0
//! The whole: what the binary around the personality calls.
//!
//! ```text
//! loop {                                          // on each vCPU, under one lock
//!     commands -> command(); completions -> completion(); take_events() -> VMM
//!     match next_task() {
//!         Some(task) => { kicks(); run it without the lock; trap(&task, why) }
//!         None       => { kicks(); sleep without the lock until sleep() or a kick; tick() }
//!     }
//! }
//! ```

mod command;
mod schedule;
mod timers;
mod trap;

use alloc::{collections::BTreeSet, string::String, sync::Arc, vec::Vec};

use trine_abi::{control::Event, window::Completion};
use trine_machine::window::Request;

pub(crate) use self::command::Spawned;
use self::schedule::Schedule;
pub use self::timers::Timers;
use crate::{
    Errno,
    fs::FsContext,
    mm::vdso::Vdso,
    process::{Task, TaskRef, seccomp::Filter},
    services::ServicesRef,
    syscall::{futex::FutexTable, ipc::Ipc},
};

/// How the machine gets at a task's floating-point state.
#[derive(Clone, Copy, Debug)]
pub struct FpuOps {
    /// Brings [`Task::fpu`] up to date if the CPU holds newer state of this task.
    pub save_fn: fn(&Task),
    /// [`Task::fpu`] was written: the CPU must load it before the task runs.
    pub changed_fn: fn(&Task),
    /// Bytes of the area (XSAVE standard format, at least 576), or 512 for FXSAVE only.
    pub bytes: usize,
    /// State components (XCR0 bits); 0 = FXSAVE only.
    pub mask: u64,
}

impl Default for FpuOps {
    /// No CPU: for tests on a host.
    fn default() -> Self {
        Self { save_fn: |_| {}, changed_fn: |_| {}, bytes: 576, mask: 3 }
    }
}

/// CLOCK_MONOTONIC as a function of the TSC, for the vDSO:
/// `ns = base_ns + ((tsc - tsc_base) * mult >> 32)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TscClock {
    /// TSC value at `base_ns`.
    pub tsc_base: u64,
    /// Nanoseconds a tick, times 2^32; 0 = the TSC cannot be used.
    pub mult: u64,
    /// CLOCK_MONOTONIC at `tsc_base`, in nanoseconds.
    pub base_ns: u64,
}

/// What the kernel is told at its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootOptions {
    /// vCPUs.
    pub vcpus: u32,
    /// CPUID.1:EDX, for AT_HWCAP.
    pub hwcap: u32,
    /// AT_HWCAP2: bit 1 = FSGSBASE instructions work.
    pub hwcap2: u32,
    /// Clock.
    pub clock: TscClock,
    /// Floating-point state.
    pub fpu: FpuOps,
}

/// The kernel.
#[derive(Debug)]
pub struct Kernel {
    /// What every object may use.
    pub services: ServicesRef,
    /// What the kernel was told at its start.
    pub options: BootOptions,
    pub(crate) schedule: Schedule,
    pub(crate) futexes: FutexTable,
    pub(crate) ipc: Ipc,
    pub(crate) events: Vec<Event>,
    pub(crate) container: Option<FsContext>,
    /// The filter on the system calls of all that the VMM starts.
    pub(crate) filter: Option<Arc<Filter>>,
    /// Why the container could not be configured.
    pub(crate) configure_error: Option<(Errno, String)>,
    pub(crate) spawned: Vec<Spawned>,
    pub(crate) vdso: Option<Arc<Vdso>>,
    /// The container's first process ended with this status.
    pub(crate) init_status: Option<u32>,
    /// System calls that were logged as missing.
    unknown: BTreeSet<u64>,
    /// Scratch memory of [`Kernel::drain_woken`].
    woken: Vec<u32>,
}

impl Kernel {
    /// Makes a kernel without processes.
    pub fn new(services: ServicesRef, options: BootOptions) -> Self {
        let vdso = Vdso::new(&services, &options.clock).map(Arc::new);
        Self {
            schedule: Schedule::new(options.vcpus, services.monotonic_ns()),
            services,
            options,
            futexes: FutexTable::default(),
            ipc: Ipc::default(),
            events: Vec::new(),
            container: None,
            filter: None,
            configure_error: None,
            spawned: Vec::new(),
            vdso,
            init_status: None,
            unknown: BTreeSet::new(),
            woken: Vec::new(),
        }
    }

    /// Handles an answer of the I/O server.
    pub fn completion(&mut self, request: Request, completion: Completion) {
        self.services.complete(request, completion);
        self.send_terminal_signals();
    }

    /// Takes what the VMM is to be told.
    pub fn take_events(&mut self) -> Vec<Event> {
        let lines = core::mem::take(&mut *self.services.log.lock());
        self.events.extend(lines.into_iter().map(|text| Event::Log { text }));
        self.report_exits();
        core::mem::take(&mut self.events)
    }

    /// Takes the next task that is ready to run application code.
    pub fn next_task(&mut self) -> Option<TaskRef> {
        let now = self.services.monotonic_ns();
        let own = self.schedule.own();
        if core::mem::take(&mut own.was_idle) {
            // Nobody used the time that passed.
            own.accounted_ns = now;
        }
        loop {
            self.drain_woken();
            self.expire_process_timers();
            let Some(task) = self.pick() else {
                self.schedule.own().was_idle = true;
                self.services.registry.set_current(None);
                return None;
            };
            if self.prepare(&task) {
                self.services.registry.set_current(None);
                self.account(&task, false);
                self.arm_cpu_alarm(&task);
                self.set_running(&task);
                return Some(task);
            }
            Self::release_vcpu(&task);
            self.account(&task, false);
        }
    }

    /// The next point of CLOCK_MONOTONIC, in nanoseconds, at which [`Kernel::tick`] has to be
    /// called.
    pub fn next_deadline(&self) -> Option<u64> {
        self.services.timers.next_deadline()
    }

    /// Wakes what waits for this time.
    pub fn tick(&mut self) {
        self.services.timers.expire(self.services.monotonic_ns());
        self.expire_process_timers();
    }

    /// Whether the task that runs has to share the CPU.
    pub fn wants_tick(&self) -> bool {
        !self.schedule.is_empty() || !self.services.woken.lock().is_empty()
    }

    /// The exit status of the container's first process, when it and everything that the VMM
    /// started has ended, and all that they wrote was handed over.  [`Kernel::take_events`] then
    /// has the last events.
    pub fn finished(&self) -> Option<u32> {
        self.init_status.filter(|_| self.all_ended())
    }
}
