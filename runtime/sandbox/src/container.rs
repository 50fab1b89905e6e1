// SPDX-License-Identifier: Apache-2.0
//! A container: one VM, its first process and its execs.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use trine_abi::control::{Command, NO_HANDLE, Process, ProcessInfo};
use trine_vmm::protocol::{Request, Stages};

use crate::{
    ContainerState, Error, ExitStatus, ProcessState, Stdio,
    cgroup::Resources,
    pod::Shared,
    state::{Life, Load, Phase, load_code},
    stdio::OpenStdio,
    vm::Vm,
};

/// How long a guest may take to load a program.
pub(crate) const LOAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a VMM may take to pause, and a guest to list its processes.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// How long a VM that was told to end may take to be gone, its output handed over.
const END_PATIENCE: Duration = Duration::from_secs(4);
/// How long a VMM whose guest powered off may take to end.
const EXIT_PATIENCE: Duration = Duration::from_millis(500);
const MAX_SIGNAL: u32 = 64;
const SIGKILL: u32 = 9;

/// What [`Container::on_exit`] calls: `(process, status)`.
pub type ExitCallback = Box<dyn Fn(&str, ExitStatus) + Send + Sync>;

/// A container.  Every method takes `&self`; `process` is "" for the first process or an exec id.
#[derive(Debug)]
pub struct Container {
    id: String,
    vm: Arc<Vm>,
    pod: Weak<Shared>,
}

impl Container {
    pub(crate) fn new(id: String, vm: Arc<Vm>, pod: Weak<Shared>) -> Self {
        Self { id, vm, pod }
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Host process id of the VMM: the container's task pid, alive until [`Container::delete`].
    pub fn pid(&self) -> u32 {
        self.vm.process.pid()
    }

    /// State from memory, never from the guest.
    pub fn state(&self) -> ContainerState {
        self.vm.lock().container()
    }

    /// State of one process.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn process_state(&self, process: &str) -> Result<ProcessState, Error> {
        Ok(match self.vm.lock().record(process)?.life {
            Life::Created | Life::Starting => ProcessState::Created,
            Life::Running => ProcessState::Running,
            Life::Exited(status) => ProcessState::Exited(status),
        })
    }

    /// Why the VM ended, one line, if it was not by the end of its first process.
    pub fn end_reason(&self) -> Option<String> {
        self.vm.lock().end_reason.clone()
    }

    /// Starts the first process or a registered exec.
    ///
    /// # Errors
    /// [`Error::WrongState`]; for an exec also [`Error::Program`].
    pub fn start(&self, process: &str) -> Result<(), Error> {
        if !process.is_empty() {
            return self.start_exec(process);
        }
        let key = self.vm.change(|state| {
            state.expect(ContainerState::Created, "start")?;
            if state.is_vm_gone {
                return Err(state.wrong("start", "stopped"));
            }
            state.phase = Phase::Running;
            let init = state.record_mut("")?;
            init.life = Life::Running;
            Ok(init.key)
        })?;
        self.vm.command(&Command::Start { key })
    }

    fn start_exec(&self, id: &str) -> Result<(), Error> {
        let (mut process, stdio) = self.vm.change(|state| {
            state.expect(ContainerState::Running, "start an exec")?;
            let record = state.record_mut(id)?;
            match (record.life, record.pending.take()) {
                (Life::Created, Some(pending)) => {
                    record.life = Life::Starting;
                    Ok(pending)
                }
                _ => {
                    let what = format!("exec {id:?}");
                    Err(Error::WrongState { action: "start", what, state: "started already" })
                }
            }
        })?;
        let key = process.key;
        let stdio = OpenStdio::open(stdio, process.terminal, || self.vm.next_number());
        let loaded = stdio.and_then(|stdio| {
            process.stdio = stdio.handles;
            self.load(id, process, &stdio)
        });
        if let Err(error) = loaded {
            self.give_up(id, &error);
            return Err(error);
        }
        let is_running = self.vm.change(|state| {
            let record = state.record_mut(id)?;
            let is_starting = record.life == Life::Starting;
            if is_starting {
                record.life = Life::Running;
            }
            Ok::<_, Error>(is_starting)
        })?;
        if !is_running {
            return Err(self.vm.ended());
        }
        self.vm.command(&Command::Start { key })
    }

    /// Has the guest load an exec.
    fn load(&self, id: &str, process: Process, stdio: &OpenStdio) -> Result<(), Error> {
        let is_stdin_closed = self.vm.change(|state| {
            let record = state.record_mut(id)?;
            record.handles = stdio.handles;
            Ok::<_, Error>(record.is_stdin_closed)
        })?;
        // First the streams: the guest reads ahead from a terminal as soon as it knows of it.
        if !stdio.specs.is_empty() {
            self.vm.io.add(self.vm.number, self.vm.next_number(), stdio)?;
        }
        self.vm.command(&Command::Spawn(process))?;
        if is_stdin_closed {
            self.close_input(stdio.handles[0])?;
        }
        let loaded = self.vm.wait_for(Some(LOAD_PATIENCE), |state| {
            if state.is_vm_gone {
                return Some(None);
            }
            let Ok(record) = state.record(id) else {
                return Some(None);
            };
            match &record.load {
                Load::Pending => None,
                Load::Loaded => Some(Some(Ok(()))),
                Load::Failed { errno, reason } => {
                    Some(Some(Err(record.load_error(*errno, reason))))
                }
            }
        });
        match loaded {
            Some(Some(result)) => result,
            Some(None) => Err(self.vm.ended()),
            None => Err(Error::Timeout {
                what: format!("container {:?}", self.id),
                seconds: LOAD_PATIENCE.as_secs(),
            }),
        }
    }

    /// An exec that could not be started has ended; nobody is told but who waits.
    fn give_up(&self, id: &str, error: &Error) {
        let code = match error {
            Error::Program { errno, .. } => load_code(*errno),
            _ => load_code(0),
        };
        let handles = self.vm.change(|state| state.fail_exec(id, code));
        self.remove_streams(handles);
    }

    fn remove_streams(&self, handles: [u32; 3]) {
        for handle in handles.into_iter().filter(|&handle| handle != NO_HANDLE) {
            // Without an I/O process there is no stream either.
            let _ = self.vm.io.remove(self.vm.number, handle);
        }
    }

    /// Registers an exec; nothing runs.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::WrongState`] if the container does not run.
    pub fn exec(&self, exec_id: &str, process: Process, stdio: Stdio) -> Result<(), Error> {
        if exec_id.is_empty() || process.args.is_empty() {
            let what = if exec_id.is_empty() { "exec id" } else { "process.args" };
            return Err(Error::Invalid { what: what.into(), reason: "it is empty".into() });
        }
        self.vm.change(|state| state.add_exec(exec_id, process, stdio))
    }

    /// Sends a signal; SIGKILL to the first process ends the VM even if the guest hangs.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the process has ended; [`Error::WrongState`] for an exec that was
    /// never started; [`Error::Invalid`] for a bad signal number.
    pub fn kill(&self, process: &str, signal: u32, all: bool) -> Result<(), Error> {
        if !(1..=MAX_SIGNAL).contains(&signal) {
            return Err(Error::Invalid {
                what: format!("signal {signal}"),
                reason: format!("use 1 to {MAX_SIGNAL}"),
            });
        }
        let key = self.vm.lock().check_kill(process)?;
        if signal == SIGKILL && process.is_empty() {
            self.vm.end("it was killed");
            return Ok(());
        }
        self.vm.command(&Command::Kill { key, signal, all })
    }

    /// Sets the size of a process's terminal; may come before its start.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] without a terminal.
    pub fn resize(&self, process: &str, rows: u32, columns: u32) -> Result<(), Error> {
        let key = self.vm.change(|state| {
            let record = state.record_mut(process)?;
            let refuse = |state| {
                let what = format!("process {process:?}");
                Err(Error::WrongState { action: "resize the terminal", what, state })
            };
            match (record.has_terminal, record.life, &mut record.pending) {
                (false, ..) => refuse("without a terminal"),
                (true, Life::Exited(_), _) => refuse("stopped"),
                (true, _, Some((pending, _))) => {
                    (pending.rows, pending.columns) = (rows, columns);
                    Ok(None)
                }
                (true, _, None) => Ok(Some(record.key)),
            }
        })?;
        key.map_or(Ok(()), |key| self.vm.command(&Command::Resize { key, rows, columns }))
    }

    /// Ends a process's standard input after the bytes that are under way.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn close_stdin(&self, process: &str) -> Result<(), Error> {
        let handle = self.vm.change(|state| {
            let record = state.record_mut(process)?;
            record.is_stdin_closed = true;
            let is_there = !matches!(record.life, Life::Exited(_));
            Ok::<_, Error>(if is_there { record.handles[0] } else { NO_HANDLE })
        })?;
        self.close_input(handle)
    }

    fn close_input(&self, handle: u32) -> Result<(), Error> {
        if handle == NO_HANDLE {
            return Ok(());
        }
        self.vm.io.close(self.vm.number, handle)
    }

    /// Stops the vCPUs.
    ///
    /// # Errors
    /// [`Error::WrongState`].
    pub fn pause(&self) -> Result<(), Error> {
        self.vm.lock().expect(ContainerState::Running, "pause")?;
        self.set_paused(Request::Pause, true)
    }

    /// Lets the vCPUs run.
    ///
    /// # Errors
    /// [`Error::WrongState`].
    pub fn resume(&self) -> Result<(), Error> {
        self.vm.lock().expect(ContainerState::Paused, "resume")?;
        self.set_paused(Request::Resume, false)
    }

    fn set_paused(&self, request: Request, wanted: bool) -> Result<(), Error> {
        self.vm.request(request)?;
        let done = self.vm.wait_for(Some(ANSWER_PATIENCE), |state| {
            (state.is_vm_gone || state.is_paused == wanted).then_some(state.is_vm_gone)
        });
        match done {
            Some(false) => Ok(()),
            Some(true) => Err(self.vm.ended()),
            None => {
                Err(Error::Timeout { what: "trine-vmm".into(), seconds: ANSWER_PATIENCE.as_secs() })
            }
        }
    }

    /// Waits until a process has ended and its output was handed over; at once if it already has.
    ///
    /// # Errors
    /// [`Error::NotFound`], also when the exec is deleted meanwhile.
    pub fn wait(&self, process: &str) -> Result<ExitStatus, Error> {
        let ended = self.vm.wait_for(None, |state| match state.record(process) {
            Err(error) => Some(Err(error)),
            Ok(record) => match record.life {
                Life::Exited(status) if record.is_announced => Some(Ok(status)),
                // Deleted before it was started.
                _ if process.is_empty() && state.is_deleted => {
                    Some(Err(Error::NotFound { kind: "container", id: state.id.clone() }))
                }
                _ => None,
            },
        });
        ended.unwrap_or_else(|| Err(self.vm.ended()))
    }

    /// Processes in the container, from the guest (deadline 2 s).
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::VmEnded`].
    pub fn processes(&self) -> Result<Vec<ProcessInfo>, Error> {
        let wanted = self.vm.next_number();
        self.vm.command(&Command::ListProcesses { request: wanted })?;
        let list = self.vm.wait_for(Some(ANSWER_PATIENCE), |state| {
            if state.is_vm_gone {
                return Some(None);
            }
            let answer = state.list.take_if(|(request, _)| *request == wanted)?;
            Some(Some(answer.1))
        });
        match list {
            Some(Some(list)) => Ok(list),
            Some(None) => Err(self.vm.ended()),
            None => Err(Error::Timeout {
                what: format!("container {:?}", self.id),
                seconds: ANSWER_PATIENCE.as_secs(),
            }),
        }
    }

    /// When the stages of the start were reached; zeroes until then.
    pub fn stages(&self) -> Stages {
        self.vm.lock().stages
    }

    /// The cgroup directories of the VM, by controller ("" for cgroup v2), for statistics.
    pub fn cgroup_paths(&self) -> Vec<(String, PathBuf)> {
        self.vm.cgroup.as_ref().map_or_else(Vec::new, |cgroup| cgroup.paths())
    }

    /// Applies OCI `linux.resources` (JSON) to the host cgroup.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Host`].
    pub fn update(&self, resources: &str) -> Result<(), Error> {
        let resources = Resources::parse(resources)?;
        let cgroup = self.vm.cgroup.as_ref().ok_or_else(|| Error::Invalid {
            what: format!("update of container {:?}", self.id),
            reason: "it has no cgroup of its own; create it with one".into(),
        })?;
        cgroup.update(&resources, self.pid())
    }

    /// Forgets an exec that has ended or was never started, or, for "", reaps the VMM and removes
    /// the container's cgroup.  Returns the exit status if there was one.
    ///
    /// # Errors
    /// [`Error::WrongState`] while it runs.
    pub fn delete(&self, process: &str) -> Result<Option<ExitStatus>, Error> {
        if process.is_empty() { self.delete_container() } else { self.delete_exec(process) }
    }

    fn delete_exec(&self, id: &str) -> Result<Option<ExitStatus>, Error> {
        let record = self.vm.change(|state| {
            state.check_delete_exec(id)?;
            Ok::<_, Error>(state.remove_exec(id))
        })?;
        let Some(record) = record else {
            return Ok(None);
        };
        self.remove_streams(record.handles);
        Ok(match record.life {
            Life::Exited(status) => Some(status),
            _ => None,
        })
    }

    fn delete_container(&self) -> Result<Option<ExitStatus>, Error> {
        let phase = self.vm.change(|state| {
            if state.is_deleted {
                return Err(Error::NotFound { kind: "container", id: self.id.clone() });
            }
            match state.phase {
                Phase::Running => Err(state.wrong("delete", state.container().name())),
                phase => {
                    state.is_discarded |= phase != Phase::Stopped;
                    state.is_deleted = true;
                    Ok(phase)
                }
            }
        })?;
        let status = self.discard(phase != Phase::Stopped);
        if let Some(pod) = self.pod.upgrade() {
            pod.forget(&self.id);
        }
        self.vm.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.remove())?;
        Ok(status)
    }

    /// Sees the VM and its threads to their end.
    pub(crate) fn discard(&self, by_force: bool) -> Option<ExitStatus> {
        if by_force {
            self.vm.end("it was deleted");
        }
        // Who deletes from within a callback is the one we would wait for: the wait is bounded.
        let status = self.vm.wait_for(Some(END_PATIENCE), |state| {
            let record = state.record("").ok()?;
            match record.life {
                Life::Exited(status) if record.is_announced => Some(status),
                _ => None,
            }
        });
        self.vm.process.wait(EXIT_PATIENCE);
        self.vm.process.reap();
        status.filter(|_| !by_force)
    }

    /// Calls `notify` once for every process exit and out-of-memory event from now on, in order, on
    /// a thread of the library: `(process, status)`.  An out-of-memory event is an exit whose
    /// status says so.  An exec that could not be started has no exit.
    pub fn on_exit(&self, notify: ExitCallback) {
        self.vm.on_exit(notify.into());
    }
}
