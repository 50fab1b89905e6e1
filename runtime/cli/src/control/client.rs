// SPDX-License-Identifier: Apache-2.0
//! The command's side.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use trine_abi::control::Process;
use trine_link::Link;

use super::{
    Reply, Request, Status,
    messages::{PROCESS, REPLY, REQUEST, decode_process, encode_process, receive, send_json},
};
use crate::store::Directory;

/// How long a holder may take to say how its container is.
const STATE_DEADLINE: Duration = Duration::from_secs(5);

/// A connection to the process that holds a container.
#[derive(Debug)]
pub(crate) struct Client {
    link: Link,
}

impl Client {
    /// Connects; `None` if the holder is gone.
    ///
    /// # Errors
    /// If there is a holder that cannot be reached.
    pub(crate) fn connect(directory: &Directory) -> Result<Option<Self>> {
        let stream = directory.connect()?;
        Ok(stream.map(|stream| Self { link: Link::from_descriptor(OwnedFd::from(stream)) }))
    }

    /// Asks for the state, with a deadline, so that one holder that hangs does not hang a list.
    ///
    /// # Errors
    /// If the holder does not answer.
    pub(crate) fn state(directory: &Directory) -> Result<Option<(Status, Option<u32>)>> {
        let Some(stream) = directory.connect()? else {
            return Ok(None);
        };
        stream.set_read_timeout(Some(STATE_DEADLINE)).context("cannot set a deadline")?;
        let client = Self { link: Link::from_descriptor(OwnedFd::from(stream)) };
        match client.call(&Request::State)? {
            Reply::State { status, exit_code } => Ok(Some((status, exit_code))),
            other => unexpected(&other),
        }
    }

    /// Asks something, and returns an answer that is no failure.
    ///
    /// # Errors
    /// [`super::RemoteError`], or that the holder is gone.
    pub(crate) fn call(&self, request: &Request) -> Result<Reply> {
        exchange(&self.link, request, &[])
    }

    /// Asks something that is answered with [`Reply::Done`].
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(crate) fn ask(&self, request: &Request) -> Result<()> {
        match self.call(request)? {
            Reply::Done => Ok(()),
            other => unexpected(&other),
        }
    }

    /// Returns the container's first process.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(crate) fn first_process(&self) -> Result<Process> {
        send_json(&self.link, REQUEST, &Request::Process, &[])?;
        let message = receive(&self.link, PROCESS)?.context(GONE)?;
        decode_process(&message.payload)
    }

    /// Starts another process and returns its id.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(crate) fn exec(
        &self,
        request: &Request,
        process: Process,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<String> {
        send_json(&self.link, REQUEST, request, &[])?;
        self.link.send(PROCESS, &encode_process(process), &streams)?;
        match receive_reply(&self.link)? {
            Reply::Started { process } => Ok(process),
            other => unexpected(&other),
        }
    }

    /// Waits for the end of the process that [`Client::exec`] started.
    ///
    /// # Errors
    /// If the container ends without saying so.
    pub(crate) fn wait_exec(&self) -> Result<u32> {
        match receive_reply(&self.link)? {
            Reply::Exited { code } => Ok(code),
            other => unexpected(&other),
        }
    }

    /// Waits until the holder has ended.
    ///
    /// # Errors
    /// If it says something instead.
    pub(crate) fn wait_closed(&self) -> Result<()> {
        match self.link.receive()? {
            None => Ok(()),
            Some(message) => bail!("unexpected message of kind {} on the link", message.kind),
        }
    }
}

const GONE: &str = "the process that holds the container ended before it answered";

/// Sends a request and returns an answer that is no failure.
///
/// # Errors
/// [`super::RemoteError`], or that the holder is gone.
pub(crate) fn exchange(
    link: &Link,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Reply> {
    send_json(link, REQUEST, request, descriptors)?;
    receive_reply(link)
}

/// Receives an answer that is no failure.
///
/// # Errors
/// As [`exchange`].
pub(crate) fn receive_reply(link: &Link) -> Result<Reply> {
    let message = receive(link, REPLY)?.context(GONE)?;
    match serde_json::from_slice(&message.payload).context("malformed answer")? {
        Reply::Failed(error) => Err(error.into()),
        reply => Ok(reply),
    }
}

fn unexpected<T>(reply: &Reply) -> Result<T> {
    bail!("the process that holds the container gave an unexpected answer: {reply:?}")
}
