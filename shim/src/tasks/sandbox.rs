// SPDX-License-Identifier: Apache-2.0
//! The sandbox ("pause") container of a Kubernetes pod: no VM, the I/O process is the sandbox.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use trine::{Error, ExitStatus, ProcessState, Stdio};
use trine_abi::control::Process;

use crate::{
    cgroups,
    host::{Guest, OnExit, Pod},
};

const SIGINT: u32 = 2;
const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

/// The sandbox of a pod.
#[derive(Debug)]
pub struct Sandbox {
    id: String,
    pod: Arc<dyn Pod>,
    has_cgroup: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    started: bool,
    exit: Option<ExitStatus>,
    notify: Vec<OnExit>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("started", &self.started).field("exit", &self.exit).finish()
    }
}

impl Sandbox {
    /// The sandbox of a pod, which has a cgroup of its own or not.
    pub fn new(id: &str, pod: Arc<dyn Pod>, has_cgroup: bool) -> Self {
        Self { id: id.to_owned(), pod, has_cgroup, state: Mutex::default() }
    }

    /// Takes note that the I/O process has ended, for whatever reason.
    pub fn pod_ended(&self) {
        self.end(super::machine::KILLED);
    }

    fn end(&self, code: u32) {
        let mut state = self.lock();
        if state.exit.is_some() {
            return;
        }
        let exit = ExitStatus { code, at: SystemTime::now(), out_of_memory: false };
        state.exit = Some(exit);
        let notify = std::mem::take(&mut state.notify);
        // Whoever is told may ask back.
        drop(state);
        notify.iter().for_each(|notify| notify("", exit));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_init(&self, process: &str) -> Result<(), Error> {
        match process {
            "" => Ok(()),
            exec => Err(Error::NotFound { kind: "exec", id: exec.to_owned() }),
        }
    }

    fn wrong_state(&self, action: &'static str, state: &'static str) -> Error {
        Error::WrongState { action, what: format!("sandbox {:?}", self.id), state }
    }

    fn unsupported<T>(&self, what: &str) -> Result<T, Error> {
        Err(Error::Unsupported {
            what: format!("{what} of sandbox {:?}", self.id),
            hint: "it has no processes, use a container of the pod".to_owned(),
        })
    }
}

impl Guest for Sandbox {
    fn pid(&self) -> u32 {
        self.pod.io_pid()
    }

    fn process_state(&self, process: &str) -> Result<ProcessState, Error> {
        self.check_init(process)?;
        let state = self.lock();
        Ok(match state.exit {
            Some(exit) => ProcessState::Exited(exit),
            None if state.started => ProcessState::Running,
            None => ProcessState::Created,
        })
    }

    fn start(&self, process: &str) -> Result<(), Error> {
        self.check_init(process)?;
        let mut state = self.lock();
        if state.exit.is_some() {
            return Err(self.wrong_state("start", "stopped"));
        }
        state.started = true;
        Ok(())
    }

    fn exec(&self, _exec_id: &str, _process: Process, _stdio: Stdio) -> Result<(), Error> {
        self.unsupported("exec")
    }

    fn kill(&self, process: &str, signal: u32, _all: bool) -> Result<(), Error> {
        self.check_init(process)?;
        match signal {
            SIGKILL => self.end(super::machine::KILLED),
            // What Kubernetes' pause program does.
            SIGINT | SIGTERM => self.end(0),
            // The first process of a PID namespace ignores what it has no handler for.
            _ => {}
        }
        Ok(())
    }

    fn resize(&self, process: &str, _rows: u32, _columns: u32) -> Result<(), Error> {
        self.check_init(process)?;
        Err(self.wrong_state("resize the terminal of", "without a terminal"))
    }

    fn close_stdin(&self, process: &str) -> Result<(), Error> {
        self.check_init(process)
    }

    fn pause(&self) -> Result<(), Error> {
        self.unsupported("pause")
    }

    fn resume(&self) -> Result<(), Error> {
        self.unsupported("resume")
    }

    fn cgroup_paths(&self) -> Vec<(String, PathBuf)> {
        if self.has_cgroup { cgroups::of_process(self.pod.io_pid()) } else { Vec::new() }
    }

    fn update(&self, _resources: &str) -> Result<(), Error> {
        self.unsupported("update")
    }

    fn delete(&self, process: &str) -> Result<Option<ExitStatus>, Error> {
        self.check_init(process)?;
        let state = self.lock();
        if state.started && state.exit.is_none() {
            return Err(self.wrong_state("delete", "running"));
        }
        Ok(state.exit)
    }

    fn on_exit(&self, notify: OnExit) {
        let mut state = self.lock();
        // One that has ended will not end again.
        if state.exit.is_none() {
            state.notify.push(notify);
        }
    }
}
