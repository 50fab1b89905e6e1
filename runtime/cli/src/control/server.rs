// SPDX-License-Identifier: Apache-2.0
//! The holder's side.

use std::{
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Error, Result};
use trine::{Stdio, Stream};
use trine_link::{Link, Message};

use super::{
    RemoteError, Reply, Request,
    messages::{PROCESS, REPLY, REQUEST, decode_process, encode_process, receive, send_json},
};
use crate::{failure, held::Held};

/// Serves everyone who connects, until the process ends.  Who may connect is decided by the mode of
/// the directory that the socket is in.
pub(crate) fn serve(listener: &UnixListener, held: &Arc<Held>) {
    for stream in listener.incoming().flatten() {
        let held = Arc::clone(held);
        let connection = move || {
            // A peer that breaks off or talks nonsense harms its own connection only.
            let _ = converse(stream, &held);
        };
        // Without a thread the peer sees its connection closed, which is an answer.
        let _ = thread::Builder::new().name("control".to_owned()).spawn(connection);
    }
}

/// Turns a result into an answer.
pub(crate) fn reply_of(result: Result<Reply>) -> Reply {
    result.unwrap_or_else(|error| {
        Reply::Failed(RemoteError {
            message: failure::one_line(&error),
            program_errno: failure::program_errno(&error),
        })
    })
}

fn converse(stream: UnixStream, held: &Arc<Held>) -> Result<()> {
    let link = Link::from_descriptor(OwnedFd::from(stream));
    while let Some(message) = receive(&link, REQUEST)? {
        match serde_json::from_slice(&message.payload).context("malformed request")? {
            Request::Exec { detach, watch_terminal } => exec(&link, held, detach, watch_terminal)?,
            Request::Process => {
                link.send(PROCESS, &encode_process(held.first_process().clone()), &[])?;
            }
            Request::Delete { force } => {
                let result = held.delete(force);
                let is_deleted = result.is_ok();
                let sent = answer(&link, result.map(|()| Reply::Done));
                if is_deleted {
                    held.announce_deletion();
                }
                sent?;
            }
            request => answer(&link, held.answer(&request))?,
        }
    }
    Ok(())
}

fn answer(link: &Link, result: Result<Reply>) -> Result<()> {
    send_json(link, REPLY, &reply_of(result), &[])
}

/// Starts a process and stays with it, so that it is forgotten when it has ended.
fn exec(link: &Link, held: &Arc<Held>, detach: bool, watch_terminal: bool) -> Result<()> {
    let message = receive(link, PROCESS)?.context("a process did not follow its request")?;
    let started = exec_start(message, held, watch_terminal);
    let process = match started {
        Ok(process) => process,
        Err(error) => return answer(link, Err(error)),
    };
    // The process runs: nobody listening is no reason to lose track of it.
    let told = answer(link, Ok(Reply::Started { process: process.clone() }));
    let ended = held.wait_exec(&process);
    if detach || told.is_err() {
        return told;
    }
    answer(link, ended.map(|code| Reply::Exited { code }))
}

fn exec_start(message: Message, held: &Arc<Held>, watch_terminal: bool) -> Result<String> {
    let process = decode_process(&message.payload)?;
    let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(message.descriptors)
        .map_err(|_| Error::msg("an exec needs three streams"))?;
    let terminal = if watch_terminal {
        Some(stdin.try_clone().context("cannot duplicate the terminal")?)
    } else {
        None
    };
    let stdio = Stdio {
        stdin: Stream::Descriptor(stdin),
        stdout: Stream::Descriptor(stdout),
        stderr: Stream::Descriptor(stderr),
    };
    held.exec(process, stdio, terminal)
}
