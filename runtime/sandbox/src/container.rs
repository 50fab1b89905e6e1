// SPDX-License-Identifier: Apache-2.0
//! A container: one VM, its first process and its execs.

use std::time::SystemTime;

use trine_abi::control::{Process, ProcessInfo};
use trine_vmm::protocol::Stages;

use crate::{Error, Stdio};

/// State of a container as a whole (OCI names).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Loaded, not started.
    Created,
    /// Running.
    Running,
    /// vCPUs stopped.
    Paused,
    /// Its first process has ended.
    Stopped,
}

/// State of one process; "" names the first, else an exec id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// Registered, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited(ExitStatus),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// 0 to 255: exit code, or 128 + signal.
    pub code: u32,
    /// When.
    pub at: SystemTime,
    /// Memory ran out.
    pub out_of_memory: bool,
}

/// A container.  Every method takes `&self`; `process` is "" for the first process or an exec id.
#[derive(Debug)]
pub struct Container {}

impl Container {
    /// The id.
    pub fn id(&self) -> &str {
        todo!()
    }

    /// Host process id of the VMM: the container's task pid, alive until [`Container::delete`].
    pub fn pid(&self) -> u32 {
        todo!()
    }

    /// State from memory, never from the guest.
    pub fn state(&self) -> ContainerState {
        todo!()
    }

    /// State of one process.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn process_state(&self, _process: &str) -> Result<ProcessState, Error> {
        todo!()
    }

    /// Starts the first process or a registered exec.
    ///
    /// # Errors
    /// [`Error::WrongState`]; for an exec also [`Error::Program`].
    pub fn start(&self, _process: &str) -> Result<(), Error> {
        todo!()
    }

    /// Registers an exec; nothing runs.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::WrongState`] if the container does not run.
    pub fn exec(&self, _exec_id: &str, _process: Process, _stdio: Stdio) -> Result<(), Error> {
        todo!()
    }

    /// Sends a signal; SIGKILL to the first process ends the VM even if the guest hangs.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the process has ended; [`Error::WrongState`] for an exec that was
    /// never started; [`Error::Invalid`] for a bad signal number.
    pub fn kill(&self, _process: &str, _signal: u32, _all: bool) -> Result<(), Error> {
        todo!()
    }

    /// Sets the size of a process's terminal; may come before its start.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] without a terminal.
    pub fn resize(&self, _process: &str, _rows: u32, _columns: u32) -> Result<(), Error> {
        todo!()
    }

    /// Ends a process's standard input after the bytes that are under way.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn close_stdin(&self, _process: &str) -> Result<(), Error> {
        todo!()
    }

    /// Stops the vCPUs.
    ///
    /// # Errors
    /// [`Error::WrongState`].
    pub fn pause(&self) -> Result<(), Error> {
        todo!()
    }

    /// Lets the vCPUs run.
    ///
    /// # Errors
    /// [`Error::WrongState`].
    pub fn resume(&self) -> Result<(), Error> {
        todo!()
    }

    /// Waits until a process has ended and its output was handed over; at once if it already has.
    ///
    /// # Errors
    /// [`Error::NotFound`], also when the exec is deleted meanwhile.
    pub fn wait(&self, _process: &str) -> Result<ExitStatus, Error> {
        todo!()
    }

    /// Processes in the container, from the guest (deadline 2 s).
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::VmEnded`].
    pub fn processes(&self) -> Result<Vec<ProcessInfo>, Error> {
        todo!()
    }

    /// When the stages of the start were reached; zeroes until then.
    pub fn stages(&self) -> Stages {
        todo!()
    }

    /// The cgroup directories of the VM, by controller ("" for cgroup v2), for statistics.
    pub fn cgroup_paths(&self) -> Vec<(String, std::path::PathBuf)> {
        todo!()
    }

    /// Applies OCI `linux.resources` (JSON) to the host cgroup.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Host`].
    pub fn update(&self, _resources: &str) -> Result<(), Error> {
        todo!()
    }

    /// Forgets an exec that has ended or was never started, or, for "", reaps the VMM and removes
    /// the container's cgroup.  Returns the exit status if there was one.
    ///
    /// # Errors
    /// [`Error::WrongState`] while it runs.
    pub fn delete(&self, _process: &str) -> Result<Option<ExitStatus>, Error> {
        todo!()
    }

    /// Calls `notify` once for every process exit and out-of-memory event from now on, in order, on
    /// a thread of the library: `(process, status)`.
    pub fn on_exit(&self, _notify: Box<dyn Fn(&str, ExitStatus) + Send + Sync>) {
        todo!()
    }
}
