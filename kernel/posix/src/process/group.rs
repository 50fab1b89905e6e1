// SPDX-License-Identifier: Apache-2.0
//! A process: what the threads of a thread group share.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering},
};

use super::{
    TaskRef,
    signal::{Actions, Pending, SIGCHLD},
    task::Phase,
};
use crate::{
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

/// The controlling terminal: the terminal code's own object.
pub type Terminal = Arc<dyn Any + Send + Sync>;

/// No limit.
pub const RLIM_INFINITY: u64 = u64::MAX;
/// RLIMIT_CPU.
pub const RLIMIT_CPU: usize = 0;
/// RLIMIT_SIGPENDING.
pub const RLIMIT_SIGPENDING: usize = 11;
/// RLIMIT_DATA.
pub const RLIMIT_DATA: usize = 2;
/// RLIMIT_FSIZE.
pub const RLIMIT_FSIZE: usize = 1;
/// RLIMIT_STACK.
pub const RLIMIT_STACK: usize = 3;
/// RLIMIT_CORE.
pub const RLIMIT_CORE: usize = 4;
/// RLIMIT_NPROC.
pub const RLIMIT_NPROC: usize = 6;
/// RLIMIT_NOFILE.
pub const RLIMIT_NOFILE: usize = 7;
/// RLIMIT_MSGQUEUE.
pub const RLIMIT_MSGQUEUE: usize = 12;
/// RLIMIT_MEMLOCK.
pub const RLIMIT_MEMLOCK: usize = 8;
/// RLIMIT_RTPRIO.
pub const RLIMIT_RTPRIO: usize = 14;
/// RLIMIT_AS.
pub const RLIMIT_AS: usize = 9;

/// Resource limits: (soft, hard) by `RLIMIT_*` number.
#[derive(Clone, Debug)]
pub struct Limits(pub [(u64, u64); 16]);

impl Default for Limits {
    fn default() -> Self {
        let mut limits = [(RLIM_INFINITY, RLIM_INFINITY); 16];
        limits[RLIMIT_STACK] = (8 << 20, RLIM_INFINITY);
        limits[RLIMIT_CORE] = (0, RLIM_INFINITY);
        limits[RLIMIT_NOFILE] = (1024, 1 << 20);
        limits[8] = (8 << 20, 8 << 20); // MEMLOCK
        limits[11] = (4096, 4096); // SIGPENDING
        limits[12] = (819_200, 819_200); // MSGQUEUE
        limits[13] = (0, 0); // NICE
        limits[14] = (0, 0); // RTPRIO
        Self(limits)
    }
}

impl Limits {
    /// The soft limit.
    pub fn soft(&self, resource: usize) -> u64 {
        self.0.get(resource).map_or(RLIM_INFINITY, |limit| limit.0)
    }
}

/// What waitpid has to tell.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    /// All threads ended: the wait status.
    pub(crate) exit: Option<u32>,
    /// The process stopped by this signal, and nobody was told.
    pub(crate) stopped: Option<u32>,
    /// The process continued, and nobody was told.
    pub(crate) continued: bool,
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Its living threads.
    pub threads: Lock<Vec<TaskRef>>,
    /// Children, zombies among them.
    pub(crate) children: Lock<Vec<Arc<Process>>>,
    pub(crate) parent: Lock<Weak<Process>>,
    pgid: AtomicU32,
    sid: AtomicU32,
    /// Controlling terminal.
    pub terminal: Lock<Option<Terminal>>,
    /// Resource limits.
    pub limits: Lock<Limits>,
    /// Signal actions; shared between processes by CLONE_SIGHAND.
    pub actions: Lock<Arc<Lock<Actions>>>,
    /// Signals sent to the process.
    pub pending: Lock<Pending>,
    /// Woken when a child has something to report.
    pub child_wait: WaitQueue,
    /// Woken when a thread of it ends.
    pub(crate) thread_wait: WaitQueue,
    /// Woken when the process is over (pidfds).
    pub(crate) end_wait: WaitQueue,
    /// Woken when a signal arrives (signalfd).
    pub signal_wait: WaitQueue,
    /// Stopped by job control.
    pub stopped: AtomicBool,
    pub(crate) report: Lock<Report>,
    /// Exit status once the whole group is to end.
    pub(crate) group_exit: Lock<Option<u32>>,
    /// The signal that its end sends to its parent.
    pub(crate) exit_signal: AtomicU32,
    /// Has called execve since fork (setpgid by the parent fails then).
    pub(crate) has_execed: AtomicBool,
    /// PR_SET_CHILD_SUBREAPER.
    pub(crate) subreaper: AtomicBool,
    /// PR_SET_DUMPABLE.
    pub(crate) dumpable: AtomicU32,
    /// CPU time of ended threads: application, kernel.
    pub(crate) ended_ns: [AtomicU64; 2],
    /// CPU time of children that were waited for: application, kernel.
    pub(crate) children_ns: [AtomicU64; 2],
    /// CLOCK_MONOTONIC at its start.
    pub start_ns: u64,
    /// Key on the control channel of a process that the VMM started.
    pub(crate) key: Option<u32>,
    /// Largest resident set, in pages.
    pub(crate) peak_pages: AtomicU64,
    /// nice value.
    pub(crate) nice: AtomicU32,
    /// /proc/PID/oom_score_adj.
    pub(crate) oom_score_adj: AtomicI32,
    /// Threads that it traces.
    pub(crate) tracees: Lock<Vec<TaskRef>>,
    /// Traced threads that ended, with their wait status, and it was not told.
    pub(crate) ended_tracees: Lock<Vec<(u32, u32)>>,
    /// Whether anything is due by its CPU time (timers, limits, sleeps).
    pub(crate) counts_cpu: AtomicBool,
    /// Who sleeps until it has used so many nanoseconds of CPU time.
    pub(crate) cpu_sleeps: Lock<Vec<(u64, Ticket)>>,
    /// When SIGXCPU comes next, in seconds of CPU time.
    pub(crate) cpu_limit_next_s: AtomicU64,
    /// personality(2).
    pub(crate) personality: AtomicU32,
    /// Scheduling policy, and above it by 32 bits the real-time priority.
    pub(crate) policy: AtomicU64,
    /// ioprio_set(2).
    pub(crate) io_priority: AtomicU32,
    /// Commands of membarrier(2) that it registered for.
    pub(crate) membarrier: AtomicU32,
    /// Real user, for SIGCHLD and /proc.
    pub(crate) uid: AtomicU32,
    /// Interval and POSIX timers.
    pub(crate) timers: Lock<super::timers::ProcessTimers>,
    /// Minor faults.
    pub(crate) faults: AtomicU64,
}

impl Process {
    pub(crate) fn new(pid: u32, parent: Weak<Process>, start_ns: u64, key: Option<u32>) -> Self {
        Self {
            pid,
            threads: Lock::new(Vec::new()),
            children: Lock::new(Vec::new()),
            parent: Lock::new(parent),
            pgid: AtomicU32::new(pid),
            sid: AtomicU32::new(pid),
            terminal: Lock::new(None),
            limits: Lock::new(Limits::default()),
            actions: Lock::new(Arc::new(Lock::new(Actions::new()))),
            pending: Lock::new(Pending::default()),
            child_wait: WaitQueue::new(),
            thread_wait: WaitQueue::new(),
            end_wait: WaitQueue::new(),
            signal_wait: WaitQueue::new(),
            stopped: AtomicBool::new(false),
            report: Lock::new(Report::default()),
            group_exit: Lock::new(None),
            exit_signal: AtomicU32::new(SIGCHLD),
            has_execed: AtomicBool::new(false),
            subreaper: AtomicBool::new(false),
            dumpable: AtomicU32::new(1),
            ended_ns: [AtomicU64::new(0), AtomicU64::new(0)],
            children_ns: [AtomicU64::new(0), AtomicU64::new(0)],
            start_ns,
            key,
            peak_pages: AtomicU64::new(0),
            nice: AtomicU32::new(0),
            oom_score_adj: AtomicI32::new(0),
            tracees: Lock::new(Vec::new()),
            ended_tracees: Lock::new(Vec::new()),
            counts_cpu: AtomicBool::new(false),
            cpu_sleeps: Lock::new(Vec::new()),
            cpu_limit_next_s: AtomicU64::new(0),
            personality: AtomicU32::new(0),
            policy: AtomicU64::new(0),
            io_priority: AtomicU32::new(0),
            membarrier: AtomicU32::new(0),
            uid: AtomicU32::new(0),
            timers: Lock::new(super::timers::ProcessTimers::default()),
            faults: AtomicU64::new(0),
        }
    }

    /// Process group.
    pub fn pgid(&self) -> u32 {
        self.pgid.load(Ordering::Relaxed)
    }

    /// Session.
    pub fn sid(&self) -> u32 {
        self.sid.load(Ordering::Relaxed)
    }

    pub(crate) fn set_pgid(&self, pgid: u32) {
        self.pgid.store(pgid, Ordering::Relaxed);
    }

    pub(crate) fn set_sid(&self, sid: u32) {
        self.sid.store(sid, Ordering::Relaxed);
    }

    /// The parent, if it is in the container.
    pub fn parent(&self) -> Option<Arc<Process>> {
        self.parent.lock().upgrade()
    }

    /// The parent's process id, or 0.
    pub fn parent_pid(&self) -> u32 {
        self.parent().map_or(0, |parent| parent.pid)
    }

    /// The thread that stands for the process: the leader, or any other that lives.
    pub fn any_thread(&self) -> Option<TaskRef> {
        let threads = self.threads.lock();
        threads.iter().find(|task| task.tid() == self.pid).or_else(|| threads.first()).cloned()
    }

    /// Whether all its threads ended and nobody waited for it yet.
    pub fn is_zombie(&self) -> bool {
        self.report.lock().exit.is_some()
    }

    /// The state letter of proc(5).
    pub fn state_letter(&self) -> u8 {
        if self.is_zombie() {
            return b'Z';
        }
        if self.stopped.load(Ordering::Relaxed) {
            return b'T';
        }
        if self.any_thread().is_some_and(|task| task.is_trace_stopped()) {
            return b't';
        }
        match self.any_thread().map(|task| task.phase()) {
            Some(Phase::Runnable) => b'R',
            Some(Phase::Dead) => b'X',
            Some(Phase::Blocked | Phase::New) | None => b'S',
        }
    }

    /// CPU time in nanoseconds: application and kernel.
    pub fn cpu_ns(&self) -> (u64, u64) {
        let mut user = self.ended_ns[0].load(Ordering::Relaxed);
        let mut system = self.ended_ns[1].load(Ordering::Relaxed);
        for task in self.threads.lock().iter() {
            user += task.user_ns.load(Ordering::Relaxed);
            system += task.system_ns.load(Ordering::Relaxed);
        }
        (user, system)
    }
}
