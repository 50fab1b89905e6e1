// SPDX-License-Identifier: Apache-2.0
//! What is known of a container and its processes, and how it changes.
//!
//! ```text
//! container   Booting ──Spawned──> Created ──start──> Running <──> Paused
//!                 └──────────────────┴──────────────────┴───────────┴──> Stopped
//! process     Created ──start──> Starting ──Spawned──> Running ──Exited──> Exited ──> announced
//! ```
//!
//! This is the whole of the logic that a hostile guest can reach with its events, and it does no
//! I/O.  Whatever the guest says, and in whatever order: a process exits once, only after it ran,
//! and the first process exits last.

use std::{collections::BTreeMap, time::SystemTime};

use trine_abi::control::{INIT_KEY, NO_HANDLE, Process, ProcessInfo};
use trine_vmm::protocol::Stages;

use crate::{Error, Stdio};

/// Exit code of what was killed by SIGKILL, by us or with its VM.
pub(crate) const KILLED: u32 = 137;

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

impl ContainerState {
    /// The name, as in OCI.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
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

/// Exit code of a wait status, which came from the guest.
pub(crate) fn exit_code(wait_status: u32) -> u32 {
    match wait_status & 0x7f {
        0 => (wait_status >> 8) & 0xff,
        signal => 128 + signal,
    }
}

/// Exit code of a program that could not be loaded, as shells have it.
pub(crate) fn load_code(errno: u32) -> u32 {
    if errno == 2 { 127 } else { 126 }
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Created,
    Starting,
    Running,
    Exited(ExitStatus),
}

/// What the guest said of loading a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Pending,
    Loaded,
    Failed { errno: u32, reason: String },
}

/// One process.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) key: u32,
    pub(crate) life: Life,
    pub(crate) load: Load,
    /// Everybody who wants to know of the exit may be told.
    pub(crate) is_announced: bool,
    pub(crate) has_terminal: bool,
    /// Window handles of its streams.
    pub(crate) handles: [u32; 3],
    /// Its input was to end before there was one.
    pub(crate) is_stdin_closed: bool,
    /// What an exec needs for its start.
    pub(crate) pending: Option<(Process, Stdio)>,
    program: String,
    guest_pid: Option<u32>,
    out_of_memory: bool,
}

impl Record {
    fn new(key: u32, process: &Process, handles: [u32; 3]) -> Self {
        let program = process.args.first().map_or_else(String::new, |name| printable(name));
        Self {
            key,
            life: Life::Created,
            load: Load::Pending,
            is_announced: false,
            has_terminal: process.terminal,
            handles,
            is_stdin_closed: false,
            pending: None,
            program,
            guest_pid: None,
            out_of_memory: false,
        }
    }

    /// What failed to load, as an error.
    pub(crate) fn load_error(&self, errno: u32, reason: &str) -> Error {
        Error::Program { program: self.program.clone(), errno, reason: reason.to_owned() }
    }

    fn is_alive(&self) -> bool {
        matches!(self.life, Life::Starting | Life::Running)
    }

    fn exit(&mut self, code: u32, out_of_memory: bool, at: SystemTime) -> ExitStatus {
        let status = ExitStatus { code, at, out_of_memory: out_of_memory || self.out_of_memory };
        self.life = Life::Exited(status);
        self.pending = None;
        status
    }
}

/// Who ended, and how.
pub(crate) type Exit = (String, ExitStatus);

/// A container.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) id: String,
    pub(crate) phase: Phase,
    pub(crate) is_paused: bool,
    /// The VMM has closed its link; it is ending, or has ended.
    pub(crate) is_vm_gone: bool,
    /// SIGKILL was asked for: what waits to be written is given little time.
    pub(crate) is_killed: bool,
    /// Delete was called before a start: nobody is told of an exit.
    pub(crate) is_discarded: bool,
    /// Deleted: nothing of it is left on the host.
    pub(crate) is_deleted: bool,
    /// When the stages of the start were reached.
    pub(crate) stages: Stages,
    /// Why the VM ended, if that was not its own decision.
    pub(crate) end_reason: Option<String>,
    /// Memory ran out, for whichever process.
    pub(crate) out_of_memory: bool,
    /// The answer to the last request for the list of processes.
    pub(crate) list: Option<(u32, Vec<ProcessInfo>)>,
    init: Record,
    execs: BTreeMap<String, Record>,
    next_key: u32,
}

/// Where the container as a whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Booting,
    Created,
    Running,
    Stopped,
}

impl State {
    /// A container whose first process is being loaded.
    pub(crate) fn new(id: String, process: &Process, handles: [u32; 3]) -> Self {
        Self {
            id,
            phase: Phase::Booting,
            is_paused: false,
            is_vm_gone: false,
            is_killed: false,
            is_discarded: false,
            is_deleted: false,
            stages: Stages::default(),
            end_reason: None,
            out_of_memory: false,
            list: None,
            init: Record::new(INIT_KEY, process, handles),
            execs: BTreeMap::new(),
            next_key: INIT_KEY + 1,
        }
    }

    /// The state for the outside.
    pub(crate) fn container(&self) -> ContainerState {
        match self.phase {
            Phase::Booting | Phase::Created => ContainerState::Created,
            Phase::Running if self.is_paused => ContainerState::Paused,
            Phase::Running => ContainerState::Running,
            Phase::Stopped => ContainerState::Stopped,
        }
    }

    /// Fails unless the container is in the state that `action` needs.
    pub(crate) fn expect(&self, wanted: ContainerState, action: &'static str) -> Result<(), Error> {
        let state = self.container();
        if state == wanted { Ok(()) } else { Err(self.wrong(action, state.name())) }
    }

    /// The error of an action that does not fit the container's state.
    pub(crate) fn wrong(&self, action: &'static str, state: &'static str) -> Error {
        Error::WrongState { action, what: format!("container {:?}", self.id), state }
    }

    /// A process.
    pub(crate) fn record(&self, process: &str) -> Result<&Record, Error> {
        match process {
            "" => Ok(&self.init),
            id => self.execs.get(id).ok_or_else(|| not_found(id)),
        }
    }

    /// A process, to be changed.
    pub(crate) fn record_mut(&mut self, process: &str) -> Result<&mut Record, Error> {
        match process {
            "" => Ok(&mut self.init),
            id => self.execs.get_mut(id).ok_or_else(|| not_found(id)),
        }
    }

    /// Registers an exec.
    pub(crate) fn add_exec(
        &mut self,
        id: &str,
        mut process: Process,
        stdio: Stdio,
    ) -> Result<(), Error> {
        if self.execs.contains_key(id) {
            return Err(Error::AlreadyExists { kind: "exec", id: id.to_owned() });
        }
        if self.phase != Phase::Running {
            return Err(self.wrong("exec", self.container().name()));
        }
        process.key = self.next_key;
        self.next_key = self.next_key.checked_add(1).ok_or_else(|| Error::Invalid {
            what: "exec".into(),
            reason: "this container has had 2^32 of them; make another".into(),
        })?;
        let mut record = Record::new(process.key, &process, [NO_HANDLE; 3]);
        record.pending = Some((process, stdio));
        self.execs.insert(id.to_owned(), record);
        Ok(())
    }

    /// Forgets an exec.
    pub(crate) fn remove_exec(&mut self, id: &str) -> Option<Record> {
        self.execs.remove(id)
    }

    fn by_key(&mut self, key: u32) -> Option<(&str, &mut Record)> {
        if key == INIT_KEY {
            return Some(("", &mut self.init));
        }
        let mut execs = self.execs.iter_mut();
        execs.find(|(_, record)| record.key == key).map(|(id, record)| (id.as_str(), record))
    }

    /// The guest has loaded a process.
    pub(crate) fn loaded(&mut self, key: u32, pid: u32) {
        if let Some((_, record)) = self.by_key(key)
            && record.load == Load::Pending
        {
            record.load = Load::Loaded;
            record.guest_pid = Some(pid);
            if key == INIT_KEY && self.phase == Phase::Booting {
                self.phase = Phase::Created;
            }
        }
    }

    /// The guest could not load a process.
    pub(crate) fn load_failed(&mut self, key: u32, errno: u32, reason: &[u8]) {
        if let Some((_, record)) = self.by_key(key)
            && record.load == Load::Pending
        {
            record.load = Load::Failed { errno, reason: printable(reason) };
        }
    }

    /// The guest killed a process because memory ran out.
    pub(crate) fn ran_out_of_memory(&mut self, pid: u32) {
        self.out_of_memory = true;
        let mut records = self.execs.values_mut().chain([&mut self.init]);
        if let Some(record) = records.find(|record| record.guest_pid == Some(pid)) {
            record.out_of_memory = true;
        }
    }

    /// An exec ended, by the guest's word.
    pub(crate) fn exec_exited(&mut self, key: u32, wait_status: u32) -> Option<Exit> {
        let (id, record) = self.by_key(key).filter(|_| key != INIT_KEY)?;
        let id = id.to_owned();
        let status = (record.life == Life::Running)
            .then(|| record.exit(exit_code(wait_status), false, SystemTime::now()))?;
        Some((id, status))
    }

    /// An exec could not be started: it has ended, and who waits is woken.  Returns its handles.
    pub(crate) fn fail_exec(&mut self, id: &str, code: u32) -> [u32; 3] {
        let Some(record) = self.execs.get_mut(id) else {
            return [NO_HANDLE; 3];
        };
        if record.life == Life::Starting {
            record.exit(code, false, SystemTime::now());
            record.is_announced = true;
        }
        record.handles
    }

    /// The container is at its end: ends every exec.  Those that ran are returned, to be told of;
    /// those that never did are only woken.
    pub(crate) fn end_execs(&mut self) -> Vec<Exit> {
        let at = SystemTime::now();
        let mut exits = Vec::new();
        for (id, record) in &mut self.execs {
            match record.life {
                Life::Running => exits.push((id.clone(), record.exit(KILLED, false, at))),
                Life::Created | Life::Starting => {
                    record.exit(KILLED, false, at);
                    record.is_announced = true;
                }
                Life::Exited(_) => {}
            }
        }
        exits
    }

    /// The first process ended; `None` if it had already.
    pub(crate) fn init_exited(&mut self, code: u32) -> Option<Exit> {
        if matches!(self.init.life, Life::Exited(_)) {
            return None;
        }
        // Which of its processes was killed for memory is the guest's business: for the container
        // it counts if it took the first process along.
        let out_of_memory = self.out_of_memory && code == KILLED;
        self.phase = Phase::Stopped;
        let status = self.init.exit(code, out_of_memory, SystemTime::now());
        Some((String::new(), status))
    }

    /// The exit of a process has been told.
    pub(crate) fn announced(&mut self, process: &str) {
        if let Ok(record) = self.record_mut(process) {
            record.is_announced = true;
        }
    }

    /// Whether a signal can be sent to a process.
    pub(crate) fn check_kill(&self, process: &str) -> Result<u32, Error> {
        let record = self.record(process)?;
        match record.life {
            Life::Exited(_) if process.is_empty() => {
                Err(Error::NotFound { kind: "running container", id: self.id.clone() })
            }
            Life::Exited(_) => Err(Error::NotFound { kind: "running exec", id: process.into() }),
            Life::Created | Life::Starting if !process.is_empty() => Err(Error::WrongState {
                action: "kill",
                what: format!("exec {process:?}"),
                state: "created",
            }),
            _ => Ok(record.key),
        }
    }

    /// Whether an exec may be forgotten.
    pub(crate) fn check_delete_exec(&self, id: &str) -> Result<(), Error> {
        let record = self.record(id)?;
        if record.is_alive() || (record.life != Life::Created && !record.is_announced) {
            let what = format!("exec {id:?}");
            return Err(Error::WrongState { action: "delete", what, state: "running" });
        }
        Ok(())
    }
}

fn not_found(id: &str) -> Error {
    Error::NotFound { kind: "exec", id: id.to_owned() }
}

/// Bytes from a guest as one printable line of bounded length.
pub(crate) fn printable(bytes: &[u8]) -> String {
    const LONGEST: usize = 1024;
    let text = String::from_utf8_lossy(bytes.get(..LONGEST).unwrap_or(bytes));
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests;
