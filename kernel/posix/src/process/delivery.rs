// SPDX-License-Identifier: Apache-2.0
//! Sending and delivering signals.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{
    Process, TaskRef,
    signal::{
        Action, Default, SA_NOCLDSTOP, SA_NODEFER, SA_RESETHAND, SA_RESTART, SI_KERNEL, SIG_DFL,
        SIG_IGN, SIGCHLD, SIGCONT, SIGKILL, SIGSEGV, SIGSTOP, STOPPING, SigInfo, SignalSet,
        UNBLOCKABLE, bit, default_of,
    },
    task::Phase,
};
use crate::{Errno, Kernel, cx::Restart};

/// CLD_STOPPED.
const CLD_STOPPED: i32 = 5;
/// CLD_CONTINUED.
const CLD_CONTINUED: i32 = 6;
/// The first process of the container.
const INIT_PID: u32 = 1;

impl Kernel {
    /// Sends a signal to one thread.
    pub fn signal_task(&mut self, task: &TaskRef, info: SigInfo) {
        let process = task.process.clone();
        if !self.accept(&process, Some(task), info.signal) {
            return;
        }
        task.signals.lock().pending.push(info);
        process.signal_wait.wake_all();
        self.notify_thread(task, info.signal);
    }

    /// Sends a signal to a process.
    pub fn signal_process(&mut self, process: &Arc<Process>, info: SigInfo) {
        if !self.accept(process, None, info.signal) {
            return;
        }
        process.pending.lock().push(info);
        process.signal_wait.wake_all();
        let threads = process.threads.lock().clone();
        let wanted = bit(info.signal);
        let takes = |task: &&TaskRef| {
            let signals = task.signals.lock();
            signals.mask & wanted == 0 || signals.awaited & wanted != 0
        };
        let leader = threads.iter().find(|task| task.tid() == process.pid).filter(takes);
        if let Some(task) = leader.or_else(|| threads.iter().find(takes)) {
            self.notify_thread(task, info.signal);
        }
    }

    /// Sends a signal from the kernel to every process of a group (terminals).
    pub fn signal_group(&mut self, pgid: u32, signal: u32) {
        for process in self.services.registry.processes() {
            if process.pgid() == pgid {
                self.signal_process(&process, SigInfo::new(signal, SI_KERNEL));
            }
        }
    }

    /// What sending does before anything is queued; returns whether to queue it.
    fn accept(&mut self, process: &Arc<Process>, task: Option<&TaskRef>, signal: u32) -> bool {
        if bit(signal) == 0 || process.is_zombie() || process.group_exit.lock().is_some() {
            return false;
        }
        if signal == SIGKILL {
            self.kill_process(process, SIGKILL);
            return false;
        }
        if signal == SIGCONT {
            self.discard_pending(process, STOPPING);
            self.continue_process(process);
        } else if STOPPING & bit(signal) != 0 {
            self.discard_pending(process, bit(SIGCONT));
        }
        let actions = process.actions.lock().clone();
        let action = actions.lock().of(signal);
        let blocked = match task {
            Some(task) => task.signals.lock().mask & bit(signal) != 0,
            None => {
                process.any_thread().is_some_and(|task| task.signals.lock().mask & bit(signal) != 0)
            }
        };
        // A tracer hears of signals that are ignored, too.
        let traced = match task {
            Some(task) => task.is_traced(),
            None => process.threads.lock().iter().any(|task| task.is_traced()),
        };
        if blocked || traced {
            return true;
        }
        let ignored = match action.handler {
            SIG_IGN => true,
            // Nothing but a handler of its own can touch init (pid_namespaces(7)), except SIGKILL
            // and SIGSTOP from outside, which do not come this way.
            SIG_DFL if process.pid == INIT_PID => true,
            SIG_DFL => matches!(default_of(signal), Default::Ignore | Default::Continue),
            _ => false,
        };
        !ignored
    }

    fn discard_pending(&self, process: &Process, set: SignalSet) {
        process.pending.lock().discard(set);
        for task in process.threads.lock().iter() {
            task.signals.lock().pending.discard(set);
        }
    }

    /// Lets a thread look at its signals if it waits for something that they interrupt.
    fn notify_thread(&mut self, task: &TaskRef, signal: u32) {
        let concerns = {
            let signals = task.signals.lock();
            (!signals.mask | signals.awaited) & bit(signal) != 0
        };
        let run = task.run.lock();
        let interruptible =
            run.call.as_ref().is_none_or(|call| call.restart != Restart::Uninterruptible);
        if concerns && run.phase == Phase::Blocked && interruptible {
            drop(run);
            task.waiter.wake_now();
        }
    }

    /// Sends a signal that an instruction caused: it cannot be blocked or ignored.
    pub(crate) fn force_signal(&mut self, task: &TaskRef, info: SigInfo) {
        let actions = task.process.actions.lock().clone();
        let handler = actions.lock().of(info.signal).handler;
        let mut signals = task.signals.lock();
        let blocked = signals.mask & bit(info.signal) != 0;
        if task.is_traced() {
            // Its tracer decides first.
            signals.mask &= !bit(info.signal);
            signals.pending.push(info);
            drop(signals);
            if blocked || handler == SIG_IGN {
                let mut actions = actions.lock();
                if let Some(slot) = actions.0.get_mut(info.signal as usize - 1) {
                    slot.handler = SIG_DFL;
                }
            }
            return;
        }
        if blocked || handler == SIG_IGN || handler == SIG_DFL {
            signals.mask &= !bit(info.signal);
            drop(signals);
            // Even init dies of this.
            self.kill_by_signal(task, &info);
            return;
        }
        signals.pending.push(info);
    }

    /// Whether a task has signals to act on before it runs on.
    pub(crate) fn has_deliverable(&self, task: &TaskRef) -> bool {
        if task.exiting.load(Ordering::Relaxed) || task.trace_due.load(Ordering::Relaxed) {
            return true;
        }
        let uninterruptible =
            task.run.lock().call.is_some_and(|call| call.restart == Restart::Uninterruptible);
        let injected = task.is_traced()
            && task.trace.lock().as_ref().is_some_and(|trace| trace.inject.is_some());
        injected || !uninterruptible && task.pending_signals() & !task.signals.lock().mask != 0
    }

    /// Whether a pending signal would run a handler.
    pub(crate) fn has_deliverable_handler(&self, task: &TaskRef) -> bool {
        let set = task.pending_signals() & !task.signals.lock().mask;
        let actions = task.process.actions.lock().clone();
        let actions = actions.lock();
        (1..=64).any(|signal| set & bit(signal) != 0 && actions.of(signal).handler > SIG_IGN)
    }

    /// Acts on the pending signals of a task that is about to run.
    pub(crate) fn deliver_signals(&mut self, task: &TaskRef) {
        loop {
            let stopped = task.process.stopped.load(Ordering::Relaxed);
            if task.exiting.load(Ordering::Relaxed) || stopped || task.is_trace_stopped() {
                return;
            }
            let injected = task.trace.lock().as_mut().and_then(|trace| trace.inject.take());
            let info = match injected {
                Some(info) => info,
                None => {
                    let mask = task.signals.lock().mask;
                    let Some(info) = task.take_signal(!mask) else { return };
                    if !self.trace_signal(task, &info) {
                        return;
                    }
                    info
                }
            };
            let action = {
                let actions = task.process.actions.lock().clone();
                let mut actions = actions.lock();
                let action = actions.of(info.signal);
                if action.handler > SIG_IGN
                    && action.flags & SA_RESETHAND != 0
                    && let Some(slot) = actions.0.get_mut(info.signal as usize - 1)
                {
                    slot.handler = SIG_DFL;
                }
                action
            };
            match action.handler {
                SIG_IGN => {}
                SIG_DFL => self.default_action(task, &info),
                _ => self.run_handler(task, &info, &action),
            }
        }
    }

    fn default_action(&mut self, task: &TaskRef, info: &SigInfo) {
        let signal = info.signal;
        let process = task.process.clone();
        match default_of(signal) {
            Default::Ignore | Default::Continue => {}
            _ if process.pid == INIT_PID && signal != SIGSTOP => {}
            Default::Stop => {
                if signal != SIGSTOP && self.is_orphaned(process.pgid()) {
                    return;
                }
                self.stop_process(&process, signal);
            }
            Default::Terminate | Default::Core => self.kill_by_signal(task, info),
        }
    }

    fn run_handler(&mut self, task: &TaskRef, info: &SigInfo, action: &Action) {
        let interrupted = task.run.lock().call.take();
        if let Some(call) = interrupted {
            // A wake-up must not go to a waiter that no longer waits.
            self.leave_futex(task);
            let mut registers = task.registers.lock();
            let restarts = match call.restart {
                Restart::Always => action.flags & SA_RESTART != 0,
                Restart::Resume => true,
                Restart::NoHandler | Restart::Never | Restart::Uninterruptible => false,
            };
            if call.progress.done > 0 {
                registers.rax = call.progress.done;
            } else if restarts {
                // RAX still holds the number: the instruction is executed again.
                registers.rip = registers.rip.wrapping_sub(2);
            } else {
                registers.rax = Errno::INTR.to_result();
            }
        }
        // The frame shall not lead back into the middle of a sequence.
        task.rseq_due.store(true, Ordering::Relaxed);
        self.restart_sequence(task);
        let saved = {
            let mut signals = task.signals.lock();
            let mask = signals.mask;
            signals.saved_mask.take().unwrap_or(mask)
        };
        if self.push_frame(task, info, action, saved).is_err() {
            task.signals.lock().mask = saved;
            if info.signal == SIGSEGV {
                self.kill_process(&task.process.clone(), SIGSEGV);
            } else {
                self.force_signal(task, SigInfo::new(SIGSEGV, SI_KERNEL));
            }
            return;
        }
        let own = if action.flags & SA_NODEFER == 0 { bit(info.signal) } else { 0 };
        let mut signals = task.signals.lock();
        signals.mask = (signals.mask | action.mask | own) & !UNBLOCKABLE;
    }

    /// Stops a process (job control).
    pub(crate) fn stop_process(&mut self, process: &Arc<Process>, signal: u32) {
        if process.is_zombie() || process.stopped.load(Ordering::Relaxed) {
            return;
        }
        if self.trace_group_stop(process, signal) {
            return;
        }
        process.stopped.store(true, Ordering::Relaxed);
        {
            let mut report = process.report.lock();
            report.stopped = Some(signal);
            report.continued = false;
        }
        self.tell_parent(process, CLD_STOPPED, signal.cast_signed());
    }

    /// Lets a stopped process go on.
    pub(crate) fn continue_process(&mut self, process: &Arc<Process>) {
        if !process.stopped.swap(false, Ordering::Relaxed) {
            return;
        }
        {
            let mut report = process.report.lock();
            report.stopped = None;
            report.continued = true;
        }
        self.trace_group_continue(process);
        let threads = process.threads.lock().clone();
        for task in &threads {
            self.enqueue(task, true);
        }
        self.tell_parent(process, CLD_CONTINUED, SIGCONT.cast_signed());
    }

    /// SIGCHLD for a stop or a continuation.
    fn tell_parent(&mut self, process: &Arc<Process>, code: i32, status: i32) {
        let Some(parent) = process.parent() else { return };
        let actions = parent.actions.lock().clone();
        let silent = actions.lock().of(SIGCHLD).flags & SA_NOCLDSTOP != 0;
        if !silent {
            let info = self.child_info(process, code, status);
            self.signal_process(&parent, info);
        }
        parent.child_wait.wake_all();
    }

    /// siginfo of SIGCHLD.
    pub(crate) fn child_info(&self, process: &Process, code: i32, status: i32) -> SigInfo {
        const TICK_NS: u64 = 10_000_000;
        let uid = process.uid.load(Ordering::Relaxed);
        let (user, system) = process.cpu_ns();
        SigInfo::child(code, process.pid, uid, status, user / TICK_NS, system / TICK_NS)
    }

    /// Whether a process group has nobody in its session, outside the group, who could care for it.
    pub(crate) fn is_orphaned(&self, pgid: u32) -> bool {
        !self.services.registry.processes().iter().any(|process| {
            process.pgid() == pgid
                && !process.is_zombie()
                && process
                    .parent()
                    .is_some_and(|parent| parent.pgid() != pgid && parent.sid() == process.sid())
        })
    }

    /// Ends a process by a signal that one of its threads acts on, with a core dump if it has that.
    fn kill_by_signal(&mut self, task: &TaskRef, info: &SigInfo) {
        const DUMPED: u32 = 0x80;
        let dumped = if self.dump_core(task, info) { DUMPED } else { 0 };
        self.exit_group(&task.process.clone(), info.signal | dumped);
    }

    /// Ends a process by a signal.
    pub(crate) fn kill_process(&mut self, process: &Arc<Process>, signal: u32) {
        self.exit_group(process, signal);
    }
}
