// SPDX-License-Identifier: Apache-2.0
//! The messages.

use std::{os::fd::BorrowedFd, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use trine_abi::control::{Command, Config, Process};
use trine_link::{Link, Message};

use crate::plan::Outline;

/// Kind of a JSON [`Request`].
pub(crate) const REQUEST: u8 = 1;
/// Kind of a JSON [`Reply`].
pub(crate) const REPLY: u8 = 2;
/// Kind of an encoded `Command::Configure`.
pub(crate) const CONFIG: u8 = 3;
/// Kind of an encoded `Command::Spawn`.
pub(crate) const PROCESS: u8 = 4;

/// What is asked of a holder.  `process` is "" for the first process or an exec id.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// To a supervisor, and first: create this container.
    Hold {
        /// `<root>` of the state.
        root: PathBuf,
        /// The container.
        outline: Box<Outline>,
        /// The streams are a terminal, whose size is to be watched.
        watch_terminal: bool,
    },
    /// How is it?
    State,
    /// Run the first process.
    Start,
    /// Send a signal.
    Kill {
        /// To which process.
        process: String,
        /// Signal number.
        signal: u32,
        /// To all processes instead.
        all: bool,
    },
    /// Delete the container, then end.
    Delete {
        /// Kill it first if it runs.
        force: bool,
    },
    /// Return the first process as a template for an exec.
    Process,
    /// Run another process.
    Exec {
        /// Do not say when it ends.
        detach: bool,
        /// The streams are a terminal, whose size is to be watched.
        watch_terminal: bool,
    },
    /// Set a terminal's size.
    Resize {
        /// Whose.
        process: String,
        /// Rows.
        rows: u32,
        /// Columns.
        columns: u32,
    },
    /// Stop the vCPUs.
    Pause,
    /// Let them run.
    Resume,
    /// List the processes in the container.
    Processes,
    /// Apply OCI `linux.resources`.
    Update {
        /// As JSON.
        resources: String,
    },
    /// Load the policy anew.
    ReloadPolicy {
        /// From this file from now on.
        file: Option<PathBuf>,
    },
}

/// What a holder answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// It is done.
    Done,
    /// The container is created.
    Held {
        /// Process id of the VMM.
        pid: u32,
    },
    /// To [`Request::State`].
    State {
        /// Now.
        status: Status,
        /// Exit status of the first process, if it has ended.
        exit_code: Option<u32>,
    },
    /// The exec runs.
    Started {
        /// Its id.
        process: String,
    },
    /// The exec has ended.
    Exited {
        /// Exit status.
        code: u32,
    },
    /// To [`Request::Processes`].
    Processes(Vec<ProcessRow>),
    /// It failed.
    Failed(RemoteError),
}

/// Status of a container, in OCI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Being created.
    Creating,
    /// Loaded, not started.
    Created,
    /// Running.
    Running,
    /// vCPUs stopped.
    Paused,
    /// Ended.
    Stopped,
}

impl Status {
    /// The word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A process inside a container, as it told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessRow {
    /// Process id in the container.
    pub(crate) pid: u32,
    /// Parent.
    pub(crate) parent: u32,
    /// User id.
    pub(crate) uid: u32,
    /// State letter, as in proc(5).
    pub(crate) state: char,
    /// CPU time in nanoseconds.
    pub(crate) cpu_ns: u64,
    /// Resident memory in bytes.
    pub(crate) resident_bytes: u64,
    /// Command line, separated by spaces, printable.
    pub(crate) command: String,
}

/// An error of a holder.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct RemoteError {
    /// One line.
    pub(crate) message: String,
    /// Linux error number, if the program could not be loaded.
    pub(crate) program_errno: Option<u32>,
}

/// Sends a JSON message.
///
/// # Errors
/// If the peer is gone.
pub(crate) fn send_json(
    link: &Link,
    kind: u8,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> Result<()> {
    let payload = serde_json::to_vec(message).context("cannot format a message")?;
    link.send(kind, &payload, descriptors)?;
    Ok(())
}

/// Receives a message of one kind; `None` if the peer has closed.
///
/// # Errors
/// If it is of another kind, or the link fails.
pub(crate) fn receive(link: &Link, kind: u8) -> Result<Option<Message>> {
    let Some(message) = link.receive()? else {
        return Ok(None);
    };
    if message.kind != kind {
        bail!("unexpected message of kind {} on the control link", message.kind);
    }
    Ok(Some(message))
}

/// Encodes what a container is like.
pub(crate) fn encode_config(config: Config) -> Vec<u8> {
    Command::Configure(config).encode()
}

/// Decodes what a container is like.
///
/// # Errors
/// If it is something else.
pub(crate) fn decode_config(payload: &[u8]) -> Result<Config> {
    match Command::decode(payload) {
        Ok(Command::Configure(config)) => Ok(config),
        _ => bail!("malformed container configuration on the control link"),
    }
}

/// Encodes a process.
pub(crate) fn encode_process(process: Process) -> Vec<u8> {
    Command::Spawn(process).encode()
}

/// Decodes a process.
///
/// # Errors
/// If it is something else.
pub(crate) fn decode_process(payload: &[u8]) -> Result<Process> {
    match Command::decode(payload) {
        Ok(Command::Spawn(process)) => Ok(process),
        _ => bail!("malformed process on the control link"),
    }
}
