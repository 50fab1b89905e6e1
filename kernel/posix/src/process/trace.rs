// SPDX-License-Identifier: Apache-2.0
//! Tracing (ptrace(2)): when a traced thread stops, what its tracer is told, and how it goes on.
//!
//! A thread in a ptrace stop is a runnable thread that is not picked; its registers are plain data,
//! which the tracer reads and writes.  Stops that come together wait for each other in a queue.

use alloc::{
    collections::VecDeque,
    sync::{Arc, Weak},
};
use core::sync::atomic::Ordering;

use super::{
    Process, Task, TaskRef,
    signal::{SI_KERNEL, SI_USER, SIGCHLD, SIGKILL, SIGSTOP, SIGTRAP, SigInfo, bit},
    task::Phase,
};
use crate::{Errno, Kernel};

/// PTRACE_O_TRACESYSGOOD.
pub(crate) const O_SYSGOOD: u32 = 1;
/// PTRACE_O_TRACEFORK.
pub(crate) const O_FORK: u32 = 2;
/// PTRACE_O_TRACEVFORK.
pub(crate) const O_VFORK: u32 = 4;
/// PTRACE_O_TRACECLONE.
pub(crate) const O_CLONE: u32 = 8;
/// PTRACE_O_TRACEEXEC.
pub(crate) const O_EXEC: u32 = 0x10;
/// PTRACE_O_TRACEEXIT.
pub(crate) const O_EXIT: u32 = 0x40;
/// PTRACE_O_EXITKILL.
pub(crate) const O_EXITKILL: u32 = 0x10_0000;

/// PTRACE_EVENT_EXEC.
pub(crate) const EVENT_EXEC: u32 = 4;
/// PTRACE_EVENT_EXIT.
const EVENT_EXIT: u32 = 6;
/// PTRACE_EVENT_STOP.
pub(crate) const EVENT_STOP: u32 = 128;
/// CLD_TRAPPED.
const CLD_TRAPPED: i32 = 4;
/// CLD_STOPPED.
const CLD_STOPPED: i32 = 5;
/// TRAP_TRACE.
const TRAP_TRACE: i32 = 2;
/// FLAGS.TF.
pub(crate) const TRAP_FLAG: u64 = 1 << 8;
/// What a call that a signal interrupted seems to have returned, for a debugger: ERESTARTSYS,
/// ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK.
pub(crate) const RESTARTS: [i64; 4] = [-512, -513, -514, -516];

/// Why a thread is in a ptrace stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Before a signal is acted on.
    Signal(SigInfo),
    /// Before a system call.
    Entry,
    /// After one.
    Exit,
    /// PTRACE_EVENT_*, what PTRACE_GETEVENTMSG tells, and the signal that it comes with.
    Event(u32, u64, u32),
}

/// How a thread goes on from a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Until something happens.
    Run,
    /// To the next system call, or its end.
    Calls,
    /// By one instruction.
    Step,
}

/// A thread's tracer, and what holds between the two.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) tracer: Weak<Process>,
    pub(crate) options: u32,
    /// PTRACE_SEIZE.
    pub(crate) is_seized: bool,
    pub(crate) stop: Option<Stop>,
    /// Wait status that the tracer was not told yet.
    pub(crate) report: Option<u32>,
    pub(crate) mode: Mode,
    pub(crate) message: u64,
    /// The signal to act on now, as the tracer decided.
    pub(crate) inject: Option<SigInfo>,
    /// The system call that the thread is in, or -1.
    pub(crate) call: u64,
    /// The entry of the call was reported, and it has not ended.
    pub(crate) in_call: bool,
    /// The call is to be made when the thread goes on.
    pub(crate) makes_call: bool,
    /// Its end was reported: nothing holds it any longer but that stop.
    pub(crate) has_seen_exit: bool,
    queue: VecDeque<Stop>,
}

impl Trace {
    pub(crate) fn new(tracer: &Arc<Process>, options: u32, is_seized: bool) -> Self {
        Self {
            tracer: Arc::downgrade(tracer),
            options,
            is_seized,
            stop: None,
            report: None,
            mode: Mode::Run,
            message: 0,
            inject: None,
            call: u64::MAX,
            in_call: false,
            makes_call: false,
            has_seen_exit: false,
            queue: VecDeque::new(),
        }
    }
}

impl Task {
    /// Whether it is traced.
    pub(crate) fn is_traced(&self) -> bool {
        self.traced.load(Ordering::Relaxed)
    }

    /// Whether it is in a ptrace stop.
    pub(crate) fn is_trace_stopped(&self) -> bool {
        self.trace_stopped.load(Ordering::Relaxed)
    }

    /// Whether it waits for its tracer to let it end.
    pub(crate) fn is_held_at_exit(&self) -> bool {
        self.is_trace_stopped()
            && self.trace.lock().as_ref().is_some_and(|trace| trace.has_seen_exit)
    }

    /// Its tracer.
    pub(crate) fn tracer(&self) -> Option<Arc<Process>> {
        self.trace.lock().as_ref().and_then(|trace| trace.tracer.upgrade())
    }
}

impl Kernel {
    /// Makes a process the tracer of a thread.
    ///
    /// # Errors
    /// EPERM if it has one.
    pub(crate) fn attach(
        &mut self,
        tracer: &Arc<Process>,
        task: &TaskRef,
        options: u32,
        is_seized: bool,
    ) -> Result<(), Errno> {
        {
            let mut trace = task.trace.lock();
            if trace.is_some() || task.phase() == Phase::Dead {
                return Err(Errno::PERM);
            }
            *trace = Some(Trace::new(tracer, options, is_seized));
        }
        if let Some(mm) = task.mm() {
            mm.use_own_text();
        }
        task.traced.store(true, Ordering::Relaxed);
        tracer.tracees.lock().push(task.clone());
        Ok(())
    }

    /// Ends the tracing of a thread, which goes on with a signal or without.
    pub(crate) fn detach(&mut self, task: &TaskRef, signal: u32) {
        let Some(mut trace) = task.trace.lock().take() else { return };
        if let Some(tracer) = trace.tracer.upgrade() {
            tracer.tracees.lock().retain(|other| !Arc::ptr_eq(other, task));
        }
        task.traced.store(false, Ordering::Relaxed);
        task.registers.lock().rflags &= !TRAP_FLAG;
        if trace.makes_call && trace.call.cast_signed() >= 0 {
            // Its call was not made yet.
            let mut registers = task.registers.lock();
            registers.rax = trace.call;
            registers.rip = registers.rip.wrapping_sub(2);
        }
        finish_call(task, &mut trace);
        if let Some(info) = injected(&trace, signal) {
            task.signals.lock().pending.push(info);
        }
        self.leave_stop(task);
    }

    fn leave_stop(&mut self, task: &TaskRef) {
        task.trace_stopped.store(false, Ordering::Relaxed);
        self.enqueue(task, true);
    }

    /// Stops a traced thread, now or after the stops that wait already; its tracer is told.
    pub(crate) fn trace_stop(&mut self, task: &TaskRef, stop: Stop) {
        let is_elsewhere = self.runs_elsewhere(task);
        {
            let mut guard = task.trace.lock();
            let Some(trace) = guard.as_mut() else { return };
            if trace.stop.is_some() {
                trace.queue.push_back(stop);
                return;
            }
            if is_elsewhere {
                // It stops when its vCPU has looked around.
                trace.queue.push_back(stop);
                task.trace_due.store(true, Ordering::Relaxed);
                return;
            }
            if let Stop::Event(_, message, _) = stop {
                trace.message = message;
            }
            trace.report = Some(status_of(&stop, trace.options));
            trace.stop = Some(stop);
        }
        task.registers.lock().rflags &= !TRAP_FLAG;
        task.trace_stopped.store(true, Ordering::Relaxed);
        self.tell_tracer(task, CLD_TRAPPED);
    }

    fn tell_tracer(&mut self, task: &TaskRef, code: i32) {
        let Some(tracer) = task.tracer() else { return };
        let status = task.trace.lock().as_ref().and_then(|trace| trace.report).unwrap_or(0);
        let signal = (status >> 8 & 0x7f).cast_signed();
        let info = SigInfo::child(code, task.tid(), task.creds().uid, signal, 0, 0);
        self.signal_process(&tracer, SigInfo { signal: SIGCHLD, ..info });
        tracer.child_wait.wake_all();
    }

    /// Lets a thread go on from its stop.
    pub(crate) fn trace_resume(&mut self, task: &TaskRef, mode: Mode, signal: u32) {
        let next = {
            let mut guard = task.trace.lock();
            let Some(trace) = guard.as_mut() else { return };
            trace.inject = injected(trace, signal);
            trace.mode = mode;
            trace.report = None;
            trace.stop = None;
            if !trace.in_call {
                finish_call(task, trace);
            }
            trace.queue.pop_front()
        };
        if let Some(stop) = next {
            self.trace_stop(task, stop);
            return;
        }
        if mode == Mode::Step {
            task.registers.lock().rflags |= TRAP_FLAG;
        }
        self.leave_stop(task);
    }

    /// A traced thread is about to make a system call; returns whether it stops first.
    pub(crate) fn trace_entry(&mut self, task: &TaskRef, number: u64) -> bool {
        {
            let mut guard = task.trace.lock();
            let Some(trace) = guard.as_mut() else { return false };
            trace.call = number;
            if trace.mode != Mode::Calls {
                return false;
            }
            trace.in_call = true;
            trace.makes_call = true;
        }
        task.registers.lock().rax = Errno::NOSYS.to_result();
        self.trace_stop(task, Stop::Entry);
        true
    }

    /// The call that a thread was stopped before, as its tracer left it; `None` if it is not to be
    /// made.
    pub(crate) fn take_traced_call(&mut self, task: &TaskRef) -> Option<u64> {
        let mut guard = task.trace.lock();
        let trace = guard.as_mut()?;
        if !core::mem::take(&mut trace.makes_call) {
            return None;
        }
        (trace.call.cast_signed() >= 0).then_some(trace.call)
    }

    /// A traced thread's system call has ended.
    pub(crate) fn trace_exit(&mut self, task: &TaskRef) {
        let stops = {
            let mut guard = task.trace.lock();
            let Some(trace) = guard.as_mut() else { return };
            let stops = core::mem::take(&mut trace.in_call) && trace.mode == Mode::Calls;
            if !stops {
                trace.call = u64::MAX;
            }
            if trace.mode == Mode::Step {
                // The instruction that was stepped over.
                let rip = task.registers.lock().rip;
                task.signals.lock().pending.push(SigInfo::fault(SIGTRAP, TRAP_TRACE, rip));
            }
            stops
        };
        if stops {
            self.trace_stop(task, Stop::Exit);
        }
    }

    /// Whether a signal is to be acted on now; else its tracer is asked first.
    pub(crate) fn trace_signal(&mut self, task: &TaskRef, info: &SigInfo) -> bool {
        if info.signal == SIGKILL || !task.is_traced() {
            return true;
        }
        let interrupts = {
            let mut guard = task.trace.lock();
            guard.as_mut().is_some_and(|trace| {
                trace.mode == Mode::Calls && core::mem::take(&mut trace.in_call)
            })
        };
        if interrupts {
            // The call ends first, as far as the tracer can see.
            self.trace_stop(task, Stop::Exit);
        }
        self.trace_stop(task, Stop::Signal(*info));
        false
    }

    /// Reports an event of an option that the tracer has set.
    pub(crate) fn trace_event(&mut self, task: &TaskRef, option: u32, event: u32, message: u64) {
        let wants = task.trace.lock().as_ref().is_some_and(|trace| trace.options & option != 0);
        if wants {
            self.trace_stop(task, Stop::Event(event, message, SIGTRAP));
        }
    }

    /// A traced thread runs another program.
    pub(crate) fn trace_exec(&mut self, task: &TaskRef, old_tid: u32) {
        let Some((options, is_seized)) =
            task.trace.lock().as_ref().map(|trace| (trace.options, trace.is_seized))
        else {
            return;
        };
        if options & O_EXEC != 0 {
            self.trace_stop(task, Stop::Event(EVENT_EXEC, u64::from(old_tid), SIGTRAP));
        } else if !is_seized {
            task.signals.lock().pending.push(SigInfo::new(SIGTRAP, SI_USER));
        }
    }

    /// A new thread is traced as the one that made it, if the tracer asked for it.
    pub(crate) fn trace_child(&mut self, parent: &TaskRef, child: &TaskRef, option: u32) -> bool {
        let inherited = parent.trace.lock().as_ref().and_then(|trace| {
            let wants = trace.options & option != 0;
            wants.then(|| (trace.tracer.upgrade(), trace.options, trace.is_seized))
        });
        let Some((Some(tracer), options, is_seized)) = inherited else { return false };
        if self.attach(&tracer, child, options, is_seized).is_err() {
            return false;
        }
        if is_seized {
            self.trace_stop(child, Stop::Event(EVENT_STOP, 0, SIGTRAP));
        } else {
            let stop = SigInfo::new(SIGSTOP, SI_KERNEL);
            child.signals.lock().pending.push(stop);
        }
        true
    }

    /// Stops a thread that runs or waits, as soon as it can (PTRACE_INTERRUPT).
    pub(crate) fn trace_interrupt(&mut self, task: &TaskRef) {
        self.trace_stop(task, Stop::Event(EVENT_STOP, 0, SIGTRAP));
    }

    /// Enters a stop that was asked for while the thread ran; returns whether there was one.
    pub(crate) fn enter_due_stop(&mut self, task: &TaskRef) -> bool {
        if !task.trace_due.swap(false, Ordering::Relaxed) {
            return false;
        }
        let next = task.trace.lock().as_mut().and_then(|trace| trace.queue.pop_front());
        let Some(stop) = next else { return false };
        self.trace_stop(task, stop);
        true
    }

    /// A process stopped (job control) or goes on: what its traced threads report.  Returns whether
    /// all of its threads are held by tracers that decide about stops themselves.
    pub(crate) fn trace_group_stop(&mut self, process: &Arc<Process>, signal: u32) -> bool {
        let threads = process.threads.lock().clone();
        let mut all_attached = !threads.is_empty();
        for task in &threads {
            let Some(is_seized) = task.trace.lock().as_ref().map(|trace| trace.is_seized) else {
                all_attached = false;
                continue;
            };
            if is_seized {
                all_attached = false;
                self.trace_stop(task, Stop::Event(EVENT_STOP, 0, signal));
            } else {
                self.trace_stop(task, Stop::Signal(SigInfo::new(signal, CLD_STOPPED)));
            }
        }
        all_attached
    }

    /// A process goes on after a stop: its seized threads report that.
    pub(crate) fn trace_group_continue(&mut self, process: &Arc<Process>) {
        let threads = process.threads.lock().clone();
        for task in &threads {
            let listens = task
                .trace
                .lock()
                .as_ref()
                .is_some_and(|trace| trace.is_seized && trace.stop.is_none());
            if listens {
                self.trace_stop(task, Stop::Event(EVENT_STOP, 0, SIGTRAP));
            }
        }
    }

    /// A thread is about to end; returns whether its tracer wants to see it first.
    pub(crate) fn trace_exiting(&mut self, task: &TaskRef, status: u32) -> bool {
        let wants = {
            let mut guard = task.trace.lock();
            let Some(trace) = guard.as_mut() else { return false };
            if core::mem::replace(&mut trace.has_seen_exit, true) {
                return false;
            }
            // Whatever it was stopped for, it does not go on.
            (trace.stop, trace.report) = (None, None);
            (trace.in_call, trace.makes_call) = (false, false);
            trace.queue.clear();
            trace.options & O_EXIT != 0
        };
        if wants {
            task.exiting.store(true, Ordering::Relaxed);
            self.trace_stop(task, Stop::Event(EVENT_EXIT, u64::from(status), SIGTRAP));
        }
        wants
    }

    /// A traced thread is over: its tracer is told, unless it is told as the parent.
    pub(crate) fn trace_thread_ended(&mut self, task: &TaskRef, status: u32, is_last: bool) {
        let Some(trace) = task.trace.lock().take() else { return };
        task.traced.store(false, Ordering::Relaxed);
        let Some(tracer) = trace.tracer.upgrade() else { return };
        tracer.tracees.lock().retain(|other| !Arc::ptr_eq(other, task));
        let parent = task.process.parent();
        let is_parent = parent.is_some_and(|parent| Arc::ptr_eq(&parent, &tracer));
        let leader = task.process.pid;
        let mut ended = tracer.ended_tracees.lock();
        if task.tid() != leader {
            ended.push((task.tid(), status));
        }
        // The leader's end is that of the process.
        if is_last && !is_parent {
            ended.push((leader, status));
        }
        drop(ended);
        tracer.child_wait.wake_all();
    }

    /// A tracer is over: its tracees go on without, or end with it.
    pub(crate) fn tracer_ended(&mut self, tracer: &Arc<Process>) {
        let tracees = tracer.tracees.lock().clone();
        for task in &tracees {
            let options = task.trace.lock().as_ref().map_or(0, |trace| trace.options);
            self.detach(task, 0);
            if options & O_EXITKILL != 0 {
                self.kill_process(&task.process.clone(), SIGKILL);
            }
        }
    }
}

/// The signal that a tracer lets through at a stop.
fn injected(trace: &Trace, signal: u32) -> Option<SigInfo> {
    if bit(signal) == 0 {
        return None;
    }
    Some(match trace.stop {
        Some(Stop::Signal(info)) if info.signal == signal => info,
        _ => SigInfo::new(signal, SI_USER),
    })
}

/// A debugger may have put back the registers of a call that was interrupted: it is made again.
fn finish_call(task: &Task, trace: &mut Trace) {
    let mut registers = task.registers.lock();
    let restarts = RESTARTS.contains(&registers.rax.cast_signed());
    if restarts && trace.call.cast_signed() >= 0 && task.run.lock().call.is_none() {
        registers.rax = trace.call;
        registers.rip = registers.rip.wrapping_sub(2);
    }
    if !trace.makes_call {
        trace.call = u64::MAX;
    }
}

/// The wait status of a stop.
fn status_of(stop: &Stop, options: u32) -> u32 {
    let code = match stop {
        Stop::Signal(info) => info.signal,
        Stop::Entry | Stop::Exit if options & O_SYSGOOD != 0 => SIGTRAP | 0x80,
        Stop::Entry | Stop::Exit => SIGTRAP,
        Stop::Event(event, _, signal) => signal | event << 8,
    };
    code << 8 | 0x7f
}
