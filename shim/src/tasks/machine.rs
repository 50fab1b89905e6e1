// SPDX-License-Identifier: Apache-2.0
//! The state of one task and the order of its events, without any waiting.
//!
//! ```text
//!            begin_start        started           exited
//!  Created ─────────────▶ Starting ──▶ Running ──────────▶ Stopped ──▶ deleted
//!     ▲                     │ start_failed                    ▲
//!     └─────────────────────┘ (first process)                 │
//!     │                     └─────────────── (exec) ──────────┤
//!     └──────────────── exited (killed before its start) ─────┘
//! ```
//!
//! Two things may come too early, and are kept back here: the exit of a process whose start is not
//! reported yet, and the exit of the first process while execs still run (containerd forgets a task
//! that exits, and with it the execs whose exits it waits for).

use std::{collections::BTreeMap, time::SystemTime};

use containerd_shim_protos::types::mount::Mount;

use crate::events::{Event, StdioPaths};

/// Exit status of a process that ended with its VM: 128 + SIGKILL.
pub const KILLED: u32 = 137;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0 to 255.
    pub status: u32,
    /// When.
    pub at: SystemTime,
}

/// State of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not started.
    Created,
    /// Its start is under way.
    Starting,
    /// Started.
    Running,
    /// Ended.
    Stopped(Exit),
}

/// Why something cannot be done now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such process.
    #[error("{what} not found")]
    NotFound {
        /// Which.
        what: String,
    },
    /// There is one already.
    #[error("{what} already exists")]
    AlreadyExists {
        /// Which.
        what: String,
    },
    /// It is in another state.
    #[error("cannot {action} {what}: it is {state}")]
    State {
        /// What was asked.
        action: &'static str,
        /// Of what.
        what: String,
        /// The state it is in.
        state: &'static str,
    },
}

/// What a step brings about, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// containerd is to be told.
    Event(Event),
    /// Those who wait for a process are to be told how it ended; "" is the first process.
    Ended(String, Exit),
    /// Those who wait for a process that is no more are to be told.
    Gone(String),
}

/// What is known of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// State.
    pub phase: Phase,
    /// Its streams.
    pub stdio: StdioPaths,
    /// The task is paused.
    pub paused: bool,
}

#[derive(Debug)]
struct Process {
    phase: Phase,
    stdio: StdioPaths,
    /// An exit that came before the start was reported.
    early_exit: Option<Exit>,
}

impl Process {
    fn new(stdio: StdioPaths) -> Self {
        Self { phase: Phase::Created, stdio, early_exit: None }
    }

    fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running)
    }
}

/// A task.
#[derive(Debug)]
pub struct Machine {
    id: String,
    pid: u32,
    init: Process,
    execs: BTreeMap<String, Process>,
    paused: bool,
    is_deleted: bool,
    /// The exit of the first process, while execs still run.
    held_exit: Option<Exit>,
    outcomes: Vec<Outcome>,
}

impl Machine {
    /// Begins with a task that was created.
    pub fn new(id: &str, bundle: &str, rootfs: Vec<Mount>, stdio: StdioPaths, pid: u32) -> Self {
        let event = Event::Create {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            rootfs,
            stdio: stdio.clone(),
            pid,
        };
        Self {
            id: id.to_owned(),
            pid,
            init: Process::new(stdio),
            execs: BTreeMap::new(),
            paused: false,
            is_deleted: false,
            held_exit: None,
            outcomes: vec![Outcome::Event(event)],
        }
    }

    /// Host process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Takes what the steps so far brought about.
    pub fn take_outcomes(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// Returns what is known of a process.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn view(&self, process: &str) -> Result<View, Refusal> {
        let found = self.process(process)?;
        Ok(View { phase: found.phase, stdio: found.stdio.clone(), paused: self.paused })
    }

    /// Returns the execs that run.
    pub fn running_execs(&self) -> Vec<String> {
        let running = self.execs.iter().filter(|(_, exec)| exec.phase == Phase::Running);
        running.map(|(exec_id, _)| exec_id.clone()).collect()
    }

    /// Says whether the exit of the first process is kept back.
    pub fn holds_exit(&self) -> bool {
        self.held_exit.is_some()
    }

    /// Registers an exec; [`Machine::exec_added`] or [`Machine::exec_refused`] follows.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn begin_exec(&mut self, exec_id: &str, stdio: StdioPaths) -> Result<(), Refusal> {
        if self.execs.contains_key(exec_id) {
            return Err(Refusal::AlreadyExists { what: self.name(exec_id) });
        }
        self.check_init_runs("exec in")?;
        self.execs.insert(exec_id.to_owned(), Process::new(stdio));
        Ok(())
    }

    /// Reports an exec that was registered.
    ///
    /// # Errors
    /// [`Refusal::State`] if the first process has ended meanwhile; the exec is forgotten then.
    pub fn exec_added(&mut self, exec_id: &str) -> Result<(), Refusal> {
        if let Phase::Stopped(_) = self.init.phase {
            self.exec_refused(exec_id);
            return Err(self.refuse("exec in", ""));
        }
        let (id, exec_id) = (self.id.clone(), exec_id.to_owned());
        self.outcomes.push(Outcome::Event(Event::ExecAdded { id, exec_id }));
        Ok(())
    }

    /// Forgets an exec that could not be registered.
    pub fn exec_refused(&mut self, exec_id: &str) {
        self.execs.remove(exec_id);
        self.outcomes.push(Outcome::Gone(exec_id.to_owned()));
        self.release_held_exit();
    }

    /// Begins a start; [`Machine::started`] or [`Machine::start_failed`] follows.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn begin_start(&mut self, process: &str) -> Result<(), Refusal> {
        match self.process(process)?.phase {
            Phase::Created => {}
            _ => return Err(self.refuse("start", process)),
        }
        if !process.is_empty() {
            self.check_init_runs("start an exec in")?;
        }
        self.process_mut(process)?.phase = Phase::Starting;
        Ok(())
    }

    /// Reports a start, and the end if that came first.
    pub fn started(&mut self, process: &str) {
        let Ok(found) = self.process_mut(process) else { return };
        found.phase = Phase::Running;
        let early_exit = found.early_exit.take();
        let (id, pid) = (self.id.clone(), self.pid);
        self.outcomes.push(Outcome::Event(if process.is_empty() {
            Event::Start { id, pid }
        } else {
            Event::ExecStarted { id, exec_id: process.to_owned(), pid }
        }));
        if let Some(exit) = early_exit {
            self.exited(process, exit, false);
        }
    }

    /// Takes note that a process could not be started: an exec is over, with `exit`, and nobody
    /// hears of it but those who wait; the first process can be started again, or has ended.
    pub fn start_failed(&mut self, process: &str, exit: Exit) {
        let Ok(found) = self.process_mut(process) else { return };
        let early_exit = found.early_exit.take();
        if process.is_empty() {
            found.phase = Phase::Created;
            if let Some(exit) = early_exit {
                self.exited(process, exit, false);
            }
        } else {
            self.stop_silently(process, exit);
            self.release_held_exit();
        }
    }

    /// Takes note of the end of a process; only the first one counts.
    pub fn exited(&mut self, process: &str, exit: Exit, out_of_memory: bool) {
        let Ok(found) = self.process_mut(process) else { return };
        let phase = found.phase;
        if matches!(phase, Phase::Stopped(_)) {
            return;
        }
        if out_of_memory {
            let id = self.id.clone();
            self.outcomes.push(Outcome::Event(Event::OutOfMemory { id }));
        }
        if phase == Phase::Created && !process.is_empty() {
            // It never started, so containerd knows of nothing that could end.
            self.stop_silently(process, exit);
        } else if phase == Phase::Starting {
            if let Ok(found) = self.process_mut(process) {
                found.early_exit.get_or_insert(exit);
            }
        } else if process.is_empty() && self.execs.values().any(Process::is_live) {
            self.held_exit.get_or_insert(exit);
        } else {
            self.stop(process, exit);
            self.release_held_exit();
        }
    }

    /// Ends the execs that still run although the first process has ended, so that its end can be
    /// reported.
    pub fn give_up_execs(&mut self, at: SystemTime) {
        if self.held_exit.is_none() {
            return;
        }
        let live: Vec<_> = self
            .execs
            .iter()
            .filter(|(_, exec)| exec.is_live())
            .map(|(id, _)| id.clone())
            .collect();
        for exec_id in live {
            self.exited(&exec_id, Exit { status: KILLED, at }, false);
        }
        self.release_held_exit();
    }

    /// Checks that a signal can be sent to a process.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if it has ended; [`Refusal::State`] for an exec that was not started.
    pub fn check_kill(&self, process: &str) -> Result<(), Refusal> {
        match self.process(process)?.phase {
            Phase::Created if !process.is_empty() => Err(self.refuse("kill", process)),
            Phase::Stopped(_) => Err(self.ended(process)),
            _ if process.is_empty() && self.held_exit.is_some() => Err(self.ended(process)),
            _ => Ok(()),
        }
    }

    /// Checks that a process has not ended.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check_not_stopped(&self, action: &'static str, process: &str) -> Result<(), Refusal> {
        match self.process(process)?.phase {
            Phase::Stopped(_) => Err(self.refuse(action, process)),
            _ => Ok(()),
        }
    }

    /// Checks that the task can be paused, or, if it is, resumed.
    ///
    /// # Errors
    /// [`Refusal::State`].
    pub fn check_pause(&self, pause: bool) -> Result<(), Refusal> {
        let action = if pause { "pause" } else { "resume" };
        let is_running = self.init.phase == Phase::Running && self.held_exit.is_none();
        if is_running && self.paused != pause { Ok(()) } else { Err(self.refuse(action, "")) }
    }

    /// Reports that the task was paused or resumed.
    pub fn set_paused(&mut self, paused: bool) {
        if matches!(self.init.phase, Phase::Stopped(_)) {
            return;
        }
        self.paused = paused;
        let id = self.id.clone();
        let event = if paused { Event::Paused { id } } else { Event::Resumed { id } };
        self.outcomes.push(Outcome::Event(event));
    }

    /// Checks that a process can be deleted, and returns how it ended; `None` if it never started.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check_delete(&self, process: &str) -> Result<Option<Exit>, Refusal> {
        match self.process(process)?.phase {
            Phase::Created => Ok(None),
            Phase::Stopped(exit) => Ok(Some(exit)),
            Phase::Starting | Phase::Running => Err(self.refuse("delete", process)),
        }
    }

    /// Forgets a process that was deleted; for the first one, reports the end of the task.  Whoever
    /// still waits for one that never ran is told `exit`.
    pub fn deleted(&mut self, process: &str, exit: Exit) {
        if self.process(process).is_ok_and(|process| process.phase == Phase::Created) {
            self.stop_silently(process, exit);
        }
        if !process.is_empty() {
            self.execs.remove(process);
            self.outcomes.push(Outcome::Gone(process.to_owned()));
            return;
        }
        self.is_deleted = true;
        let event = Event::Delete { id: self.id.clone(), pid: self.pid, exit };
        self.outcomes.push(Outcome::Event(event));
        for exec_id in std::mem::take(&mut self.execs).into_keys() {
            self.outcomes.push(Outcome::Gone(exec_id));
        }
        self.outcomes.push(Outcome::Gone(String::new()));
    }

    fn stop(&mut self, process: &str, exit: Exit) {
        let Ok(found) = self.process_mut(process) else { return };
        found.phase = Phase::Stopped(exit);
        if process.is_empty() {
            self.paused = false;
            // Nobody can start them any more, and nobody should wait for them.
            for exec_id in self.execs.keys().cloned().collect::<Vec<_>>() {
                if self.execs[&exec_id].phase == Phase::Created {
                    self.stop_silently(&exec_id, exit);
                }
            }
        }
        self.outcomes.push(Outcome::Event(Event::Exit {
            id: self.id.clone(),
            exec_id: process.to_owned(),
            pid: self.pid,
            exit,
        }));
        self.outcomes.push(Outcome::Ended(process.to_owned(), exit));
    }

    fn stop_silently(&mut self, process: &str, exit: Exit) {
        if let Ok(found) = self.process_mut(process) {
            found.phase = Phase::Stopped(exit);
            self.outcomes.push(Outcome::Ended(process.to_owned(), exit));
        }
    }

    fn release_held_exit(&mut self) {
        if self.execs.values().any(Process::is_live) {
            return;
        }
        if let Some(exit) = self.held_exit.take() {
            self.stop("", exit);
        }
    }

    fn check_init_runs(&self, action: &'static str) -> Result<(), Refusal> {
        let runs = self.init.phase == Phase::Running && self.held_exit.is_none() && !self.paused;
        if runs { Ok(()) } else { Err(self.refuse(action, "")) }
    }

    fn process(&self, process: &str) -> Result<&Process, Refusal> {
        if self.is_deleted {
            return Err(Refusal::NotFound { what: self.name(process) });
        }
        if process.is_empty() {
            return Ok(&self.init);
        }
        self.execs.get(process).ok_or_else(|| Refusal::NotFound { what: self.name(process) })
    }

    fn process_mut(&mut self, process: &str) -> Result<&mut Process, Refusal> {
        let what = self.name(process);
        if self.is_deleted {
            return Err(Refusal::NotFound { what });
        }
        if process.is_empty() {
            return Ok(&mut self.init);
        }
        self.execs.get_mut(process).ok_or(Refusal::NotFound { what })
    }

    fn name(&self, process: &str) -> String {
        if process.is_empty() {
            format!("container {:?}", self.id)
        } else {
            format!("exec {process:?} of container {:?}", self.id)
        }
    }

    fn ended(&self, process: &str) -> Refusal {
        Refusal::NotFound { what: format!("process of {}, which has ended,", self.name(process)) }
    }

    fn refuse(&self, action: &'static str, process: &str) -> Refusal {
        let state = match self.process(process).map(|process| process.phase) {
            Ok(Phase::Created) => "created, not started",
            Ok(Phase::Starting) => "being started",
            Ok(Phase::Running) if process.is_empty() && self.held_exit.is_some() => "ending",
            Ok(Phase::Running) if self.paused => "paused",
            Ok(Phase::Running) => "running",
            Ok(Phase::Stopped(_)) => "stopped",
            Err(refusal) => return refusal,
        };
        Refusal::State { action, what: self.name(process), state }
    }
}

#[cfg(test)]
mod tests;
