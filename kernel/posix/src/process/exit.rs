// SPDX-License-Identifier: Apache-2.0
//! How threads and processes end, and who inherits what they leave.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::Ordering;

use trine_abi::control::Event;

use super::{
    Process, Task, TaskRef,
    signal::{SA_NOCLDWAIT, SI_KERNEL, SIG_IGN, SIGCHLD, SIGCONT, SIGHUP, SIGKILL, SigInfo},
    task::Phase,
};
use crate::Kernel;

/// The first process of the container, which inherits orphans.
const INIT_PID: u32 = 1;
/// Pages of a process that is not worth ending for them.
const SMALL_PAGES: u64 = 64;
/// CLD_EXITED.
pub(crate) const CLD_EXITED: i32 = 1;
/// CLD_KILLED.
pub(crate) const CLD_KILLED: i32 = 2;
/// CLD_DUMPED.
pub(crate) const CLD_DUMPED: i32 = 3;

/// `si_code` and `si_status` of a wait status.
pub(crate) fn child_code(status: u32) -> (i32, i32) {
    match status & 0x7f {
        0 => (CLD_EXITED, (status >> 8 & 0xff).cast_signed()),
        signal if status & 0x80 != 0 => (CLD_DUMPED, signal.cast_signed()),
        signal => (CLD_KILLED, signal.cast_signed()),
    }
}

impl Kernel {
    /// Ends every thread of a process; the first status counts.
    pub(crate) fn exit_group(&mut self, process: &Arc<Process>, status: u32) {
        process.group_exit.lock().get_or_insert(status);
        process.stopped.store(false, Ordering::Relaxed);
        let threads = process.threads.lock().clone();
        for task in &threads {
            self.end_soon(task);
        }
    }

    /// Makes a thread end as soon as it would run.
    pub(crate) fn end_soon(&mut self, task: &TaskRef) {
        task.exiting.store(true, Ordering::Relaxed);
        {
            let mut run = task.run.lock();
            if matches!(run.phase, Phase::New | Phase::Blocked) {
                run.phase = Phase::Runnable;
            }
        }
        self.enqueue(task, true);
    }

    /// Ends one thread, and the process if it was the last.
    pub(crate) fn exit_thread(&mut self, task: &TaskRef) {
        if task.is_traced() {
            let own = task.exit_status.load(Ordering::Relaxed);
            let status = task.process.group_exit.lock().unwrap_or(own);
            if task.phase() != Phase::Dead && self.trace_exiting(task, status) {
                return;
            }
        }
        {
            let mut run = task.run.lock();
            if run.phase == Phase::Dead {
                return;
            }
            run.phase = Phase::Dead;
            run.call = None;
        }
        let process = task.process.clone();
        self.release_memory(task);
        let resources = task.resources.lock().take();
        if let Some(resources) = &resources {
            let pages = resources.mm.resident_pages();
            process.peak_pages.fetch_max(pages, Ordering::Relaxed);
        }
        drop(resources);
        process.ended_ns[0].fetch_add(task.user_ns.load(Ordering::Relaxed), Ordering::Relaxed);
        process.ended_ns[1].fetch_add(task.system_ns.load(Ordering::Relaxed), Ordering::Relaxed);
        process.uid.store(task.creds().uid, Ordering::Relaxed);
        let last = {
            let mut threads = process.threads.lock();
            threads.retain(|other| !Arc::ptr_eq(other, task));
            threads.is_empty()
        };
        let status = process.group_exit.lock().unwrap_or(task.exit_status.load(Ordering::Relaxed));
        self.trace_thread_ended(task, status, last);
        self.services.registry.remove_task(task.tid());
        // Closing a terminal may have hung it up.
        self.send_terminal_signals();
        if last {
            let own = task.exit_status.load(Ordering::Relaxed);
            let status = process.group_exit.lock().unwrap_or(own);
            self.end_process(&process, status);
        } else {
            // A thread of this process may wait until it is alone (execve).
            process.thread_wait.wake_all();
        }
    }

    /// What a thread owes others that share its memory: robust futexes, the word that pthread_join
    /// waits for, and the vfork parent.
    pub(crate) fn release_memory(&mut self, task: &Task) {
        self.walk_robust_list(task);
        let address = task.clear_child_tid.swap(0, Ordering::Relaxed);
        if let Some(mm) = task.mm().filter(|_| address != 0)
            && mm.write_bytes(address, &[0; 4]).is_ok()
        {
            self.futex_wake_address(&mm, address, 1);
        }
        if let Some(vfork) = task.vfork.lock().take() {
            vfork.finish();
        }
    }

    fn end_process(&mut self, process: &Arc<Process>, status: u32) {
        let groups = self.groups_that_depend_on(process);
        self.give_children_away(process);
        self.tracer_ended(process);
        self.undo_semaphores(process.pid);
        process.timers.lock().clear();
        self.leave_session(process);
        process.report.lock().exit = Some(status);
        process.end_wait.wake_all();
        for pgid in groups {
            self.wake_if_orphaned(pgid);
        }
        if let Some(key) = process.key {
            self.key_ended(key, status);
        }
        let is_init = process.pid == INIT_PID;
        if is_init {
            self.init_status = Some(status);
            for other in self.services.registry.processes() {
                if !other.is_zombie() {
                    self.exit_group(&other, SIGKILL);
                }
            }
        }
        match process.parent() {
            Some(parent) if !parent.is_zombie() => self.report_to_parent(process, &parent, status),
            _ => self.reap(process),
        }
    }

    fn report_to_parent(&mut self, process: &Arc<Process>, parent: &Arc<Process>, status: u32) {
        let signal = process.exit_signal.load(Ordering::Relaxed);
        let actions = parent.actions.lock().clone();
        let action = actions.lock().of(SIGCHLD);
        let unwanted =
            signal == SIGCHLD && (action.handler == SIG_IGN || action.flags & SA_NOCLDWAIT != 0);
        let (code, value) = child_code(status);
        let info = self.child_info(process, code, value);
        if unwanted {
            self.reap(process);
        }
        if signal != 0 && !(unwanted && action.handler == SIG_IGN) {
            self.signal_process(parent, SigInfo { signal, ..info });
        }
        parent.child_wait.wake_all();
    }

    /// Forgets a zombie.
    pub(crate) fn reap(&mut self, process: &Arc<Process>) {
        if let Some(parent) = process.parent() {
            let (user, system) = process.cpu_ns();
            let inherited = |index: usize| process.children_ns[index].load(Ordering::Relaxed);
            parent.children_ns[0].fetch_add(user + inherited(0), Ordering::Relaxed);
            parent.children_ns[1].fetch_add(system + inherited(1), Ordering::Relaxed);
            parent.children.lock().retain(|child| !Arc::ptr_eq(child, process));
        }
        self.services.registry.remove_process(process.pid);
    }

    /// Gives a process's children to the next subreaper above it, or to init.
    fn give_children_away(&mut self, process: &Arc<Process>) {
        let children: Vec<_> = core::mem::take(&mut *process.children.lock());
        if children.is_empty() {
            return;
        }
        let heir = self.heir(process);
        for child in children {
            match &heir {
                Some(heir) => {
                    *child.parent.lock() = Arc::downgrade(heir);
                    heir.children.lock().push(child.clone());
                }
                None => *child.parent.lock() = Weak::new(),
            }
            child.exit_signal.store(SIGCHLD, Ordering::Relaxed);
            let threads = child.threads.lock().clone();
            for thread in &threads {
                let signal = thread.parent_death_signal.load(Ordering::Relaxed);
                if signal != 0 {
                    self.signal_task(thread, SigInfo::new(signal, SI_KERNEL));
                }
            }
            let status = child.report.lock().exit;
            if let Some(status) = status {
                match &heir {
                    Some(heir) => self.report_to_parent(&child, heir, status),
                    None => self.reap(&child),
                }
            }
        }
    }

    fn heir(&self, process: &Arc<Process>) -> Option<Arc<Process>> {
        let mut above = process.parent();
        while let Some(ancestor) = above {
            if ancestor.subreaper.load(Ordering::Relaxed) && !ancestor.is_zombie() {
                return Some(ancestor);
            }
            above = ancestor.parent();
        }
        self.services
            .registry
            .process(INIT_PID)
            .filter(|init| !init.is_zombie() && !Arc::ptr_eq(init, process))
    }

    /// The process groups that may become orphaned by a process's end: its own, and those of its
    /// children.
    fn groups_that_depend_on(&self, process: &Process) -> Vec<u32> {
        let mut groups: Vec<u32> = process
            .children
            .lock()
            .iter()
            .map(|child| child.pgid())
            .chain([process.pgid()])
            .filter(|&pgid| !self.is_orphaned(pgid))
            .collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// SIGHUP and SIGCONT to a group that has just become orphaned and has a stopped member.
    pub(crate) fn wake_if_orphaned(&mut self, pgid: u32) {
        let members: Vec<_> = self
            .services
            .registry
            .processes()
            .into_iter()
            .filter(|member| member.pgid() == pgid && !member.is_zombie())
            .collect();
        let stopped = members.iter().any(|member| member.stopped.load(Ordering::Relaxed));
        if stopped && self.is_orphaned(pgid) {
            for member in &members {
                self.signal_process(member, SigInfo::new(SIGHUP, SI_KERNEL));
                self.signal_process(member, SigInfo::new(SIGCONT, SI_KERNEL));
            }
        }
    }

    /// A session leader that ends takes the terminal from its session.
    fn leave_session(&mut self, process: &Arc<Process>) {
        let terminal = process.terminal.lock().take();
        if process.sid() != process.pid {
            return;
        }
        let Some(terminal) = terminal else { return };
        if let Some(foreground) = crate::fs::tty::release_session(&terminal, process.sid()) {
            self.signal_group(foreground, SIGHUP);
        }
        for other in self.services.registry.processes() {
            if other.sid() == process.sid() {
                other.terminal.lock().take();
            }
        }
    }

    /// Frees memory by killing the largest process.
    pub(crate) fn out_of_memory(&mut self) {
        let processes = self.services.registry.processes();
        let ends_elsewhere = |process: &Arc<Process>| {
            process.group_exit.lock().is_some()
                && process.threads.lock().iter().any(|thread| self.runs_elsewhere(thread))
        };
        if processes.iter().any(ends_elsewhere) {
            // Memory comes free as soon as another vCPU has stopped.
            return;
        }
        // What ends anyhow comes before who does not.
        let ending = processes.iter().filter(|process| process.group_exit.lock().is_some());
        let ending: Vec<_> = ending.cloned().collect();
        if ending.iter().any(|process| self.end_now(process)) {
            return;
        }
        let size = |process: &Arc<Process>| {
            if process.group_exit.lock().is_some() {
                return None;
            }
            let task = process.any_thread()?;
            // A thread costs the kernel about as much.
            let threads = process.threads.lock().len() as u64;
            Some(task.mm()?.resident_pages() + threads * 4)
        };
        let ram_pages = (self.services.arena.ram_bytes() / 4096).cast_signed();
        let sized: Vec<_> =
            processes.iter().filter_map(|process| Some((process, size(process)?))).collect();
        let is_init = |process: &Process| process.pid == INIT_PID;
        let pages_of = |init: bool| -> u64 {
            let some = sized.iter().filter(|(process, _)| is_init(process) == init);
            some.map(|(_, pages)| pages).sum()
        };
        // Init only if nobody else is worth it: very small ones are when there are many of them.
        let least = if pages_of(false) > pages_of(true) { 0 } else { SMALL_PAGES };
        let victim = sized
            .iter()
            .map(|(process, size)| (!is_init(process), *size, *process))
            .max_by_key(|(other, size, process)| {
                let adjustment = i64::from(process.oom_score_adj.load(Ordering::Relaxed));
                let badness = size.cast_signed() + adjustment * ram_pages / 1000;
                // -1000 is for who shall never be chosen.
                (adjustment > -1000, *other && *size > least, badness)
            });
        if let Some((_, pages, process)) = victim {
            self.services.log(format_args!(
                "out of memory: killed process {} with {} KiB resident",
                process.pid,
                pages * 4
            ));
            self.events.push(Event::OutOfMemory { pid: process.pid });
            self.exit_group(process, SIGKILL);
            let process = Arc::clone(process);
            self.end_now(&process);
        }
    }

    /// Ends the threads of a process that is to end: its memory has to be free before whoever needs
    /// it tries again.  The task that is being served ends by itself, on its way back to application
    /// code.  Returns whether there was any other.
    fn end_now(&mut self, process: &Arc<Process>) -> bool {
        let current = self.services.registry.current();
        let threads = process.threads.lock().clone();
        let mut any = false;
        for thread in &threads {
            let is_current = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, thread));
            if !is_current && !self.runs_elsewhere(thread) {
                if let Some(trace) = thread.trace.lock().as_mut() {
                    // Memory cannot wait for a tracer.
                    trace.has_seen_exit = true;
                }
                self.exit_thread(thread);
                any = true;
            }
        }
        any
    }

    /// Takes the mark that a copy to or from application memory found no frame.
    pub(crate) fn take_out_of_memory(&self) -> bool {
        self.services.out_of_memory.swap(false, Ordering::Relaxed)
    }
}
