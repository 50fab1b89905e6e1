// SPDX-License-Identifier: Apache-2.0
//! A container in the hands of this process: the supervisor's, or a `run` in the foreground.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use trine::{
    Container, ContainerState, Error, ExitStatus, Pod, ProcessState, Stdio, policy::Source,
};
use trine_abi::control::{Process, ProcessInfo};

use crate::{
    control::{ProcessRow, Reply, Request, Status},
    failure,
    plan::Plan,
    remains,
    store::{Directory, Owner, Record},
    terminal,
};

/// The signal that nothing survives.
pub(crate) const SIGKILL: u32 = 9;

/// Who removes a container from disk and memory when another command deletes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remover {
    /// The thread that serves the deletion.
    Server,
    /// The foreground `run`, which waits for the end anyway.
    Foreground,
}

/// A container, its pod and its directory.
#[derive(Debug)]
pub(crate) struct Held {
    directory: Directory,
    cgroups: Vec<PathBuf>,
    pod: Arc<Pod>,
    container: Arc<Container>,
    first_process: Process,
    remover: Remover,
    is_kill_wanted: AtomicBool,
    next_exec: AtomicU64,
    is_deleted: Mutex<bool>,
    deletion: Condvar,
}

impl Held {
    /// Creates a container and completes its record.
    ///
    /// # Errors
    /// With everything undone but the directory, which is its maker's.
    pub(crate) fn create(
        plan: Plan,
        stdio: Stdio,
        directory: Directory,
        remover: Remover,
    ) -> Result<Self> {
        let first_process = plan.process.clone();
        let mut record = plan.outline.record.clone();
        let has_cgroup = plan.outline.cgroup.is_some();
        let pod = Pod::create(plan.pod_options())?;
        let container = pod.create_container(plan.container_spec(stdio))?;

        record.owner = Owner::current();
        record.vmm = Owner::of(container.pid());
        if has_cgroup {
            record.cgroups = container.cgroup_paths().into_iter().map(|(_, path)| path).collect();
        }
        let held = Self {
            cgroups: record.cgroups.clone(),
            directory,
            pod,
            container,
            first_process,
            remover,
            is_kill_wanted: AtomicBool::new(false),
            next_exec: AtomicU64::new(1),
            is_deleted: Mutex::new(false),
            deletion: Condvar::new(),
        };
        if let Err(error) = held.complete(&record) {
            return Err(match held.end() {
                Ok(()) => error,
                Err(cleanup) => {
                    error.context(format!("cleanup failed too ({})", failure::one_line(&cleanup)))
                }
            });
        }
        Ok(held)
    }

    fn complete(&self, record: &Record) -> Result<()> {
        self.directory.write_record(record)
    }

    /// The container.  Signals go through [`Held::kill`].
    pub(crate) fn container(&self) -> &Container {
        &self.container
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Its first process.
    pub(crate) fn first_process(&self) -> &Process {
        &self.first_process
    }

    /// Answers what needs no more than an answer.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn answer(&self, request: &Request) -> Result<Reply> {
        let container = &self.container;
        match request {
            Request::State => return Ok(self.state()),
            Request::Processes => {
                return Ok(Reply::Processes(container.processes()?.iter().map(row).collect()));
            }
            Request::Start => container.start("")?,
            Request::Kill { process, signal, all } => self.kill(process, *signal, *all)?,
            Request::Resize { process, rows, columns } => {
                container.resize(process, *rows, *columns)?;
            }
            Request::Pause => container.pause()?,
            Request::Resume => container.resume()?,
            Request::Update { resources } => container.update(resources)?,
            Request::ReloadPolicy { file } => {
                self.pod.reload_policy(file.clone().map(Source::File))?;
            }
            Request::Hold { .. }
            | Request::Process
            | Request::Exec { .. }
            | Request::Delete { .. } => {
                bail!("request is out of place");
            }
        }
        Ok(Reply::Done)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If there is nobody to send it to.
    pub(crate) fn kill(&self, process: &str, signal: u32, all: bool) -> Result<()> {
        if signal == SIGKILL && process.is_empty() {
            self.is_kill_wanted.store(true, Ordering::Relaxed);
        }
        match self.container.kill(process, signal, all) {
            Err(Error::NotFound { .. }) if process.is_empty() => bail!(
                "cannot signal container {:?}: it is not running: `trine delete` removes it",
                self.container.id()
            ),
            other => Ok(other?),
        }
    }

    /// Why the VM ended, if neither its first process nor anybody here wanted that.
    pub(crate) fn failure_reason(&self) -> Option<String> {
        let reason = self.container.end_reason()?;
        (!self.is_kill_wanted.load(Ordering::Relaxed)).then_some(reason)
    }

    fn state(&self) -> Reply {
        let status = match self.container.state() {
            ContainerState::Created => Status::Created,
            ContainerState::Running => Status::Running,
            ContainerState::Paused => Status::Paused,
            ContainerState::Stopped => Status::Stopped,
        };
        let exit_code = match self.container.process_state("") {
            Ok(ProcessState::Exited(exit)) => Some(exit.code),
            _ => None,
        };
        Reply::State { status, exit_code }
    }

    /// Starts another process; returns its id.
    ///
    /// # Errors
    /// What the library says; nothing is left of the process then.
    pub(crate) fn exec(
        self: &Arc<Self>,
        process: Process,
        stdio: Stdio,
        terminal: Option<OwnedFd>,
    ) -> Result<String> {
        let id = format!("exec-{}", self.next_exec.fetch_add(1, Ordering::Relaxed));
        self.container.exec(&id, process, stdio)?;
        if let Err(error) = self.container.start(&id) {
            // The error to report is why it did not start.
            let _ = self.container.delete(&id);
            return Err(error.into());
        }
        if let Some(terminal) = terminal {
            terminal::watch_size(self, &id, terminal)?;
        }
        Ok(id)
    }

    /// Waits for the end of an exec, and forgets it.
    ///
    /// # Errors
    /// If the VM ended without telling.
    pub(crate) fn wait_exec(&self, id: &str) -> Result<u32> {
        let status = self.container.wait(id)?;
        self.container.delete(id)?;
        Ok(status.code)
    }

    /// Waits for the end of the first process.
    ///
    /// # Errors
    /// What the library says.
    pub(crate) fn wait(&self) -> Result<ExitStatus> {
        Ok(self.container.wait("")?)
    }

    /// Deletes the container, as its [`Remover`] wants it.
    ///
    /// # Errors
    /// If it runs and `force` is not given, or something cannot be removed.
    pub(crate) fn delete(&self, force: bool) -> Result<()> {
        let state = self.container.state();
        // As with runc, one that was never started needs no force.
        if matches!(state, ContainerState::Running | ContainerState::Paused) && !force {
            let word = if state == ContainerState::Paused { "paused" } else { "running" };
            bail!(
                "cannot delete container {:?}: it is {word}: stop it with `trine kill`, or use \
                 --force",
                self.container.id()
            );
        }
        match self.remover {
            Remover::Server => {
                self.end()?;
                self.directory.remove()
            }
            Remover::Foreground => self.kill_and_wait(),
        }
    }

    /// Ends VM and pod, from whatever state; also what an earlier try has left.
    ///
    /// # Errors
    /// If something of them cannot be removed.
    pub(crate) fn end(&self) -> Result<()> {
        self.kill_and_wait()?;
        let deleted = match self.container.delete("") {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other.map(drop),
        };
        self.pod.stop()?;
        deleted?;
        remains::remove_cgroups(&self.cgroups)
    }

    fn kill_and_wait(&self) -> Result<()> {
        if self.container.state() == ContainerState::Stopped {
            return Ok(());
        }
        self.is_kill_wanted.store(true, Ordering::Relaxed);
        match self.container.kill("", SIGKILL, false) {
            // It ended by itself meanwhile.
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error).context("cannot kill the container"),
        }
        self.container.wait("")?;
        Ok(())
    }

    /// Says that the container is gone.
    pub(crate) fn announce_deletion(&self) {
        *self.lock_deleted() = true;
        self.deletion.notify_all();
    }

    /// Waits until the container was deleted by a command.
    pub(crate) fn wait_deleted(&self) {
        let mut is_deleted = self.lock_deleted();
        while !*is_deleted {
            is_deleted = self.deletion.wait(is_deleted).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock_deleted(&self) -> MutexGuard<'_, bool> {
        self.is_deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn row(info: &ProcessInfo) -> ProcessRow {
    // The guest wrote this: it must not reach a terminal as it is.
    let command = String::from_utf8_lossy(&info.command).replace('\0', " ");
    let state = char::from(info.state);
    ProcessRow {
        pid: info.pid,
        parent: info.parent,
        uid: info.uid,
        state: if state.is_ascii_alphabetic() { state } else { '?' },
        cpu_ns: info.cpu_ns,
        resident_bytes: info.resident_bytes,
        command: failure::flatten(&command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_of_a_hostile_guest_is_printable() {
        let info = ProcessInfo {
            pid: 7,
            state: 0x1b,
            command: b"sh\0-c\0\x1b]0;x\x07\nid \xff\0".to_vec(),
            ..ProcessInfo::default()
        };
        let row = row(&info);
        assert_eq!((row.state, row.command.as_str()), ('?', "sh -c ]0;x id \u{fffd}"));
    }
}
