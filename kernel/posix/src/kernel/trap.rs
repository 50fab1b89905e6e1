// SPDX-License-Identifier: Apache-2.0
//! What happens when application code stops: system calls, faults, kicks; and what happens before
//! it goes on.

use core::sync::atomic::Ordering;

use trine_machine::context::Trap;

use super::Kernel;
use crate::{
    Errno,
    cx::{Cx, Restart, Stop},
    mm::{Fault, FaultKind},
    process::{
        TaskRef,
        signal::{SI_KERNEL, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP, SigInfo},
        task::{PendingCall, Phase},
    },
    syscall::{self, seccomp::Verdict},
};

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRALN: i32 = 1;
const BUS_ADRERR: i32 = 2;
const FPE_INTDIV: i32 = 1;
const FPE_FLTDIV: i32 = 3;
const FPE_FLTOVF: i32 = 4;
const FPE_FLTUND: i32 = 5;
const FPE_FLTRES: i32 = 6;
const FPE_FLTINV: i32 = 7;
const ILL_ILLOPN: i32 = 2;
const TRAP_TRACE: i32 = 2;

impl Kernel {
    /// Handles why a task stopped running.
    pub fn trap(&mut self, task: &TaskRef, trap: Trap) {
        self.account(task, true);
        self.clear_running();
        if task.phase() == Phase::Dead {
            // Ended while it ran (the kernel was out of memory).
            Self::release_vcpu(task);
            return;
        }
        self.set_current(task);
        self.check_cpu_time(&task.process);
        match trap {
            Trap::SystemCall => self.system_call(task, None),
            _ if leave_trampoline(task, trap) => {}
            Trap::PageFault { address, code } => self.page_fault(task, address, code),
            Trap::Exception { vector, code } => self.exception(task, vector, code),
            Trap::Kick => {
                self.tick();
                self.drain_woken();
                if self.has_woken() {
                    self.preempt();
                }
            }
        }
        self.account(task, false);
    }

    /// Books the time since the last call as the task's.
    pub(crate) fn account(&mut self, task: &TaskRef, is_user: bool) {
        let now = self.services.monotonic_ns();
        let accounted_ns = &mut self.schedule.own().accounted_ns;
        let spent = now.saturating_sub(core::mem::replace(accounted_ns, now));
        let counter = if is_user { &task.user_ns } else { &task.system_ns };
        counter.fetch_add(spent, Ordering::Relaxed);
    }

    /// Logs the first use of a system call that is not there.
    pub(crate) fn note_unknown_call(&mut self, number: u64, name: &str) {
        if self.unknown.len() < 512 && self.unknown.insert(number) {
            self.services.log(format_args!("system call {number} ({name}) is not implemented"));
        }
    }

    /// Makes a system call, or makes it again.
    fn system_call(&mut self, task: &TaskRef, again: Option<PendingCall>) {
        self.make_call(task, again, false);
    }

    /// `is_resumed`: the tracer has seen the call already.
    fn make_call(&mut self, task: &TaskRef, again: Option<PendingCall>, is_resumed: bool) {
        let (number, arguments) = {
            let r = task.registers.lock();
            (r.rax, [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9])
        };
        if again.is_none() && !is_resumed && task.is_traced() && self.trace_entry(task, number) {
            return;
        }
        if again.is_none() && task.has_seccomp.load(Ordering::Relaxed) {
            match self.judge_call(task, number, arguments) {
                Verdict::Go => {}
                Verdict::Value(value) => {
                    self.end_call(task, value);
                    return;
                }
                Verdict::Gone => return,
            }
        }
        task.waiter.renew();
        if again.is_none() {
            let old = task.journal.lock().clear();
            drop(old);
        }
        self.take_out_of_memory();
        self.services.registry.set_current(Some(task.clone()));
        let mut cx = Cx {
            kernel: self,
            task: task.clone(),
            progress: again.map(|call| call.progress).unwrap_or_default(),
            waited_until_ns: again.and_then(|call| call.deadline_ns),
            blocked: None,
        };
        let result = syscall::dispatch(&mut cx, number, arguments);
        let (progress, blocked) = (cx.progress, cx.blocked);
        self.send_terminal_signals();
        self.drop_stale_pages();
        if self.services.arena.take_shortage() {
            // The kernel's own memory grew into its reserve: somebody has to go before it is used up.
            self.out_of_memory();
        }
        let value = match result {
            Ok(value) => value,
            Err(Stop::Errno(Errno::PENDING)) => {
                // Woken when the answer is there; as on Linux, a call that waits for a file cannot
                // be interrupted, but the task can be killed.
                let restart = Restart::Uninterruptible;
                self.hold_call(task, PendingCall { progress, restart, deadline_ns: None });
                if !self.has_deliverable(task) {
                    task.run.lock().phase = Phase::Blocked;
                }
                return;
            }
            Err(Stop::Errno(errno)) => {
                if errno == Errno::NOMEM && self.take_out_of_memory() {
                    self.out_of_memory();
                    self.hold_call(
                        task,
                        PendingCall { progress, restart: Restart::Always, deadline_ns: None },
                    );
                    return;
                }
                errno.to_result()
            }
            Err(Stop::Jump) => {
                task.run.lock().call = None;
                if task.is_traced() {
                    self.trace_exit(task);
                }
                return;
            }
            Err(Stop::Block) => {
                let (deadline_ns, restart) = blocked.unwrap_or((None, Restart::Always));
                let call = PendingCall { progress, restart, deadline_ns };
                self.hold_call(task, call);
                if !self.has_deliverable(task) {
                    task.run.lock().phase = Phase::Blocked;
                    if let Some(at) = deadline_ns {
                        self.services.timers.wake_at(at, task.ticket());
                    }
                }
                return;
            }
        };
        self.end_call(task, value);
    }

    fn hold_call(&mut self, task: &TaskRef, call: PendingCall) {
        task.run.lock().call = Some(call);
    }

    /// Ends a system call with a value.
    fn end_call(&mut self, task: &TaskRef, value: u64) {
        task.run.lock().call = None;
        task.registers.lock().rax = value;
        let old = task.journal.lock().clear();
        drop(old);
        let mut signals = task.signals.lock();
        if let Some(mask) = signals.saved_mask.take() {
            signals.mask = mask;
        }
        drop(signals);
        if task.is_traced() {
            self.trace_exit(task);
        }
    }

    /// Brings a picked task to the point where it runs application code; returns false if it does
    /// not get there now.
    pub(crate) fn prepare(&mut self, task: &TaskRef) -> bool {
        loop {
            if task.phase() != Phase::Runnable {
                return false;
            }
            if task.exiting.load(Ordering::Relaxed) {
                if !task.is_held_at_exit() {
                    self.exit_thread(task);
                }
                return false;
            }
            if task.process.stopped.load(Ordering::Relaxed) || task.is_trace_stopped() {
                return false;
            }
            if task.is_traced() && self.go_on_traced(task) {
                continue;
            }
            let call = task.run.lock().call;
            if call.is_some() {
                self.system_call(task, call);
                if task.phase() != Phase::Runnable || task.is_trace_stopped() {
                    return false;
                }
            }
            if self.has_deliverable(task) {
                self.deliver_signals(task);
                continue;
            }
            if task.run.lock().call.is_none() {
                self.restart_sequence(task);
                if self.has_deliverable(task) {
                    continue;
                }
                return !task.exiting.load(Ordering::Relaxed);
            }
        }
    }

    /// Makes the call that a thread was stopped before; returns whether there was one.
    fn go_on_traced(&mut self, task: &TaskRef) -> bool {
        if self.enter_due_stop(task) {
            return true;
        }
        let was_due = task.trace.lock().as_ref().is_some_and(|trace| trace.makes_call);
        if !was_due {
            return false;
        }
        match self.take_traced_call(task) {
            Some(number) => {
                task.registers.lock().rax = number;
                self.make_call(task, None, true);
            }
            // The tracer took the call away: its result is what is in RAX.
            None => self.trace_exit(task),
        }
        true
    }

    fn page_fault(&mut self, task: &TaskRef, address: u64, code: u64) {
        let kind = fault_kind(code);
        let Some(mm) = task.mm() else { return };
        task.process.faults.fetch_add(1, Ordering::Relaxed);
        task.waiter.renew();
        self.services.registry.set_current(Some(task.clone()));
        let fault = match mm.fault(address, kind) {
            Ok(()) => {
                let old = task.journal.lock().clear();
                drop(old);
                return self.drop_stale_pages();
            }
            Err(Fault::Pending) => {
                if !task.exiting.load(Ordering::Relaxed) {
                    task.run.lock().phase = Phase::Blocked;
                }
                return;
            }
            Err(Fault::OutOfMemory) => {
                self.services.registry.set_current(Some(task.clone()));
                self.out_of_memory();
                return;
            }
            Err(fault) => fault,
        };
        let (signal, si_code) = match fault {
            Fault::NotAllowed => (SIGSEGV, SEGV_ACCERR),
            Fault::BeyondEnd => (SIGBUS, BUS_ADRERR),
            _ => (SIGSEGV, SEGV_MAPERR),
        };
        task.signals.lock().trap = (14, code & 0x17 | 4, address);
        self.force_signal(task, SigInfo::fault(signal, si_code, address));
    }

    /// `si_code` of a floating-point exception: the first that is raised and not masked.
    fn float_code(&self, task: &TaskRef, vector: u8) -> i32 {
        const CODES: [(u32, i32); 5] = [
            (1, FPE_FLTINV),
            (4, FPE_FLTDIV),
            (8, FPE_FLTOVF),
            (0x12, FPE_FLTUND),
            (0x20, FPE_FLTRES),
        ];
        let image = self.fpu_image(task);
        let half = |at: usize| u32::from(u16::from_le_bytes([image[at], image[at + 1]]));
        // The x87's status and control words, or MXCSR with its masks.
        let raised = if vector == 16 {
            half(2) & !half(0)
        } else {
            let mxcsr = half(24);
            mxcsr & !(mxcsr >> 7)
        };
        let found = CODES.iter().find(|(bits, _)| raised & 0x3f & bits != 0);
        found.map_or(FPE_FLTINV, |(_, code)| *code)
    }

    fn exception(&mut self, task: &TaskRef, vector: u8, code: u64) {
        let rip = task.registers.lock().rip;
        task.signals.lock().trap = (u64::from(vector), code, 0);
        let info = match vector {
            0 => SigInfo::fault(SIGFPE, FPE_INTDIV, rip),
            1 => SigInfo::fault(SIGTRAP, TRAP_TRACE, rip),
            3 => SigInfo::new(SIGTRAP, SI_KERNEL),
            6 => SigInfo::fault(SIGILL, ILL_ILLOPN, rip),
            16 | 19 => SigInfo::fault(SIGFPE, self.float_code(task, vector), rip),
            12 => SigInfo::new(SIGBUS, SI_KERNEL),
            17 => SigInfo::fault(SIGBUS, BUS_ADRALN, 0),
            _ => SigInfo::new(SIGSEGV, SI_KERNEL),
        };
        self.force_signal(task, info);
    }
}

/// What a page fault's error code says was tried.
fn fault_kind(code: u64) -> FaultKind {
    if code & 16 != 0 {
        FaultKind::Execute
    } else if code & 2 != 0 {
        FaultKind::Write
    } else {
        FaultKind::Read
    }
}

/// Moves a thread that stopped in a trampoline back to where it came from, so that nobody ever sees
/// it there.  If it stopped for something that cannot be put right (a GS base of the program's own,
/// a single step, a bad pointer), it goes on in the file's own text, and either that is over, or it
/// comes again where it belongs.  Says whether that is so.
fn leave_trampoline(task: &TaskRef, trap: Trap) -> bool {
    let Some(mm) = task.mm() else { return false };
    let origin = mm.origin(task.registers.lock().rip);
    let is_final = match trap {
        _ if origin.is_none() => return false,
        Trap::SystemCall | Trap::Kick => false,
        Trap::PageFault { address, code } => matches!(
            mm.fault(address, fault_kind(code)),
            Err(Fault::NotMapped | Fault::NotAllowed | Fault::BeyondEnd)
        ),
        Trap::Exception { .. } => true,
    };
    if let Some(origin) = origin {
        task.registers.lock().rip = origin;
    }
    if is_final {
        mm.use_own_text();
    }
    is_final
}
