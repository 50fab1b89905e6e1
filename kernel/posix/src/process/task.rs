// SPDX-License-Identifier: Apache-2.0
//! A task: one thread.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use trine_machine::Registers;

use super::{
    Creds, Process,
    cpu_time::CpuAlarm,
    rseq::Rseq,
    seccomp::Seccomp,
    signal::{Pending, SigInfo, SignalSet},
    trace::Trace,
};
use crate::{
    cx::{Progress, Restart},
    forward::Journal,
    fs::{FdTable, FsContext},
    mm::MmRef,
    services::ServicesRef,
    sync::Lock,
    syscall::futex::FutexWaiter,
    wait::{Ticket, Wake},
};

/// The timer slack of a thread that did not set it, in nanoseconds.
pub(crate) const TIMER_SLACK_NS: u64 = 50_000;

/// A task is shared by the run queue, its process and the registry.
pub type TaskRef = Arc<Task>;

/// What wakes a task.
#[derive(Debug)]
pub struct Waiter {
    tid: AtomicU32,
    generation: AtomicU64,
    woken: AtomicBool,
    services: ServicesRef,
}

impl Waiter {
    pub(crate) fn new(tid: u32, services: ServicesRef) -> Self {
        Self {
            tid: AtomicU32::new(tid),
            generation: AtomicU64::new(0),
            woken: AtomicBool::new(false),
            services,
        }
    }

    /// Ends the current wait: its tickets do nothing from now on.
    pub(crate) fn renew(&self) -> u64 {
        self.woken.store(false, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Which wait is current.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Wakes the task whatever it waits for.
    pub(crate) fn wake_now(&self) {
        if !self.woken.swap(true, Ordering::Relaxed) {
            self.services.woken.lock().push(self.tid.load(Ordering::Relaxed));
        }
    }
}

impl Wake for Waiter {
    fn wake(&self, generation: u64) -> bool {
        if generation == self.generation() {
            self.wake_now();
        }
        false
    }

    fn is_current(&self, generation: u64) -> bool {
        generation == self.generation() && !self.woken.load(Ordering::Relaxed)
    }
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Loaded, not started.
    New,
    /// Runs, or would if it were its turn.
    Runnable,
    /// Waits in a system call.
    Blocked,
    /// Over.
    Dead,
}

/// A system call that must be made again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingCall {
    pub(crate) progress: Progress,
    pub(crate) restart: Restart,
    pub(crate) deadline_ns: Option<u64>,
}

/// The scheduler's view of a task.
#[derive(Debug)]
pub struct Run {
    /// How far it is.
    pub phase: Phase,
    pub(crate) queued: bool,
    /// A vCPU runs it, serves its system call, or will go on with it next: nobody else may.
    pub(crate) has_vcpu: bool,
    pub(crate) call: Option<PendingCall>,
    /// A vfork child that the task waits for.
    pub(crate) vfork_child: Option<Arc<Vfork>>,
}

/// What a vfork parent waits for.
#[derive(Debug, Default)]
pub(crate) struct Vfork {
    /// The child has its own memory, or is over.
    pub(crate) is_done: AtomicBool,
    pub(crate) queue: crate::wait::WaitQueue,
}

impl Vfork {
    /// Lets the parent go on.
    pub(crate) fn finish(&self) {
        self.is_done.store(true, Ordering::Relaxed);
        self.queue.wake_all();
    }
}

/// sigaltstack(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AltStack {
    /// Lowest address.
    pub base: u64,
    /// Bytes.
    pub bytes: u64,
    /// `SS_*`.
    pub flags: u32,
}

/// The signal state of one thread.
#[derive(Debug, Default)]
pub struct TaskSignals {
    /// Blocked signals.
    pub mask: SignalSet,
    /// The mask that comes back when the current system call ends (sigsuspend, ppoll).
    pub saved_mask: Option<SignalSet>,
    /// Sent to this thread.
    pub pending: Pending,
    /// Alternate stack.
    pub stack: AltStack,
    /// Signals that sigtimedwait waits for.
    pub awaited: SignalSet,
    /// The last exception: vector, error code, CR2.
    pub trap: (u64, u64, u64),
}

/// What a living task uses.
#[derive(Clone, Debug)]
pub(crate) struct Resources {
    pub(crate) mm: MmRef,
    pub(crate) files: Arc<Lock<FdTable>>,
    pub(crate) fs: Arc<Lock<FsContext>>,
}

/// A thread.
#[derive(Debug)]
pub struct Task {
    /// The process that it belongs to.
    pub process: Arc<Process>,
    /// Its registers while it does not run.
    pub registers: Lock<Registers>,
    /// Its other FP and SIMD state while it does not run, in XSAVE's standard format; empty = the
    /// initial state.  XMM and MXCSR in `registers` override it.
    pub fpu: Lock<Vec<u8>>,
    /// FS base.
    pub fs_base: AtomicU64,
    /// GS base.
    pub gs_base: AtomicU64,
    /// Scheduling state.
    pub run: Lock<Run>,
    /// Signal state.
    pub signals: Lock<TaskSignals>,
    /// PR_SET_NAME.
    pub name: Lock<[u8; 16]>,
    /// Where 0 is stored and a futex is woken when the thread ends.
    pub clear_child_tid: AtomicU64,
    /// set_robust_list(2).
    pub robust_list: AtomicU64,
    /// CPU time in nanoseconds: application.
    pub user_ns: AtomicU64,
    /// CPU time in nanoseconds: kernel.
    pub system_ns: AtomicU64,
    /// PR_SET_TIMERSLACK, in nanoseconds.
    pub(crate) timer_slack_ns: AtomicU64,
    /// PR_SET_PDEATHSIG.
    pub parent_death_signal: AtomicU32,
    /// Set when the task must end as soon as it would run.
    pub(crate) exiting: AtomicBool,
    /// Wait status of a thread that called exit(2).
    pub(crate) exit_status: AtomicU32,
    pub(crate) waiter: Arc<Waiter>,
    pub(crate) resources: Lock<Option<Resources>>,
    pub(crate) creds: Lock<Arc<Creds>>,
    pub(crate) futex: Lock<Vec<Arc<FutexWaiter>>>,
    /// Its tracer; whether it has one, and whether it is in a ptrace stop.
    pub(crate) trace: Lock<Option<Trace>>,
    pub(crate) traced: AtomicBool,
    pub(crate) trace_stopped: AtomicBool,
    /// It runs elsewhere, and is to look around.
    pub(crate) trace_due: AtomicBool,
    /// Filters on its system calls, and whether there are any.
    pub(crate) seccomp: Lock<Seccomp>,
    pub(crate) has_seccomp: AtomicBool,
    /// Stops it when CPU time may be due.
    pub(crate) cpu_alarm: Arc<CpuAlarm>,
    /// rseq(2), and whether it was interrupted since it last looked.
    pub(crate) rseq: Lock<Option<Rseq>>,
    pub(crate) rseq_due: AtomicBool,
    /// vCPUs that it may run on, by bit.
    pub(crate) affinity: AtomicU64,
    /// The forwarded calls of its system call.
    pub(crate) journal: Lock<Journal>,
    /// The parent that waits for this vfork child.
    pub(crate) vfork: Lock<Option<Arc<Vfork>>>,
}

impl Task {
    pub(crate) fn new(
        tid: u32,
        services: &ServicesRef,
        process: Arc<Process>,
        resources: Resources,
        creds: Arc<Creds>,
    ) -> Self {
        Self {
            process,
            registers: Lock::new(Registers::default()),
            fpu: Lock::new(Vec::new()),
            fs_base: AtomicU64::new(0),
            gs_base: AtomicU64::new(0),
            run: Lock::new(Run {
                phase: Phase::New,
                queued: false,
                has_vcpu: false,
                call: None,
                vfork_child: None,
            }),
            signals: Lock::new(TaskSignals::default()),
            name: Lock::new([0; 16]),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            user_ns: AtomicU64::new(0),
            system_ns: AtomicU64::new(0),
            timer_slack_ns: AtomicU64::new(TIMER_SLACK_NS),
            parent_death_signal: AtomicU32::new(0),
            exiting: AtomicBool::new(false),
            exit_status: AtomicU32::new(0),
            waiter: Arc::new(Waiter::new(tid, services.clone())),
            resources: Lock::new(Some(resources)),
            creds: Lock::new(creds),
            futex: Lock::new(Vec::new()),
            trace: Lock::new(None),
            traced: AtomicBool::new(false),
            trace_stopped: AtomicBool::new(false),
            trace_due: AtomicBool::new(false),
            seccomp: Lock::new(Seccomp::Off),
            has_seccomp: AtomicBool::new(false),
            cpu_alarm: Arc::new(CpuAlarm::default()),
            rseq: Lock::new(None),
            rseq_due: AtomicBool::new(false),
            affinity: AtomicU64::new(u64::MAX),
            journal: Lock::new(Journal::default()),
            vfork: Lock::new(None),
        }
    }

    /// Its CPU time in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> u64 {
        self.user_ns.load(Ordering::Relaxed) + self.system_ns.load(Ordering::Relaxed)
    }

    /// Whether it may run on a vCPU.
    pub(crate) fn may_use(&self, vcpu: usize) -> bool {
        self.affinity.load(Ordering::Relaxed) >> vcpu & 1 == 1
    }

    /// Thread id.
    pub fn tid(&self) -> u32 {
        self.waiter.tid.load(Ordering::Relaxed)
    }

    /// Takes over another thread id (execve from a thread that is not the leader).
    pub(crate) fn set_tid(&self, tid: u32) {
        self.waiter.tid.store(tid, Ordering::Relaxed);
    }

    /// Its memory; `None` when it is over.
    pub fn mm(&self) -> Option<MmRef> {
        self.resources.lock().as_ref().map(|resources| resources.mm.clone())
    }

    /// Its descriptors; `None` when it is over.
    pub fn files(&self) -> Option<Arc<Lock<FdTable>>> {
        self.resources.lock().as_ref().map(|resources| resources.files.clone())
    }

    /// Replaces its descriptors (close_range with CLOSE_RANGE_UNSHARE); what it had is closed if
    /// nobody else has it.
    pub(crate) fn set_files(&self, files: Arc<Lock<FdTable>>) {
        let before = {
            let mut resources = self.resources.lock();
            resources.as_mut().map(|own| core::mem::replace(&mut own.files, files))
        };
        drop(before);
    }

    /// Its directories; `None` when it is over.
    pub fn fs(&self) -> Option<Arc<Lock<FsContext>>> {
        self.resources.lock().as_ref().map(|resources| resources.fs.clone())
    }

    /// Its credentials.
    pub fn creds(&self) -> Arc<Creds> {
        self.creds.lock().clone()
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.run.lock().phase
    }

    /// A ticket for its current wait.
    pub fn ticket(&self) -> Ticket {
        Ticket { waiter: self.waiter.clone(), generation: self.waiter.generation() }
    }

    /// Signals that are pending for the thread or its process.
    pub fn pending_signals(&self) -> SignalSet {
        self.signals.lock().pending.set() | self.process.pending.lock().set()
    }

    /// Takes a pending signal of a set (signalfd, sigtimedwait).
    pub fn take_signal(&self, allowed: SignalSet) -> Option<SigInfo> {
        let own = self.signals.lock().pending.take(allowed);
        own.or_else(|| self.process.pending.lock().take(allowed))
    }
}
