// SPDX-License-Identifier: Apache-2.0
//! The three streams of a process: the caller's own, or a terminal.

use std::{
    io::{stderr, stdin, stdout},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use rustix::termios::{Winsize, tcsetwinsize};
use trine_abi::control::Process;

use crate::terminal::{self, Proxy, Pty, RawMode};

/// Streams to give away, and what this process keeps of them.
#[derive(Debug)]
pub(crate) struct Streams {
    /// stdin, stdout, stderr of the process.
    pub(crate) descriptors: [OwnedFd; 3],
    /// The master, if this process carries the terminal's bytes.
    master: Option<Arc<OwnedFd>>,
    /// Whether somebody else has the master.
    pub(crate) is_handed_over: bool,
}

/// Where the master of a terminal goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attach<'a> {
    /// This process stays and carries the bytes.
    Caller,
    /// To this socket, or it is an error that there is a terminal.
    Socket(Option<&'a Path>),
}

impl Streams {
    /// Makes the streams that a process wants, and sets its terminal's first size.
    ///
    /// # Errors
    /// If a terminal is wanted and has no place to go, or the other way round.
    pub(crate) fn make(process: &mut Process, attach: Attach<'_>) -> Result<Self> {
        match (process.terminal, attach) {
            (false, Attach::Socket(Some(socket))) => bail!(
                "--console-socket {} is of no use without a terminal: set process.terminal, or \
                 leave it out",
                socket.display()
            ),
            (false, _) => Self::of_caller(),
            (true, Attach::Caller) => Self::carried(process),
            (true, Attach::Socket(Some(socket))) => Self::handed_over(process, socket),
            (true, Attach::Socket(None)) => bail!(
                "a terminal needs --console-socket when nobody stays with the process: give one, \
                 or do without the terminal"
            ),
        }
    }

    fn of_caller() -> Result<Self> {
        let duplicate = || -> std::io::Result<[OwnedFd; 3]> {
            Ok([
                stdin().as_fd().try_clone_to_owned()?,
                stdout().as_fd().try_clone_to_owned()?,
                stderr().as_fd().try_clone_to_owned()?,
            ])
        };
        let descriptors = duplicate().context("cannot duplicate the standard streams")?;
        Ok(Self { descriptors, master: None, is_handed_over: false })
    }

    fn carried(process: &mut Process) -> Result<Self> {
        let size = terminal::caller_size();
        if let Some(size) = size {
            (process.rows, process.columns) = (u32::from(size.ws_row), u32::from(size.ws_col));
        }
        let Pty { master, slave } = Pty::open(size)?;
        let descriptors = three_of(slave)?;
        Ok(Self { descriptors, master: Some(Arc::new(master)), is_handed_over: false })
    }

    fn handed_over(process: &Process, socket: &Path) -> Result<Self> {
        let size = Winsize {
            ws_row: process.rows as u16,
            ws_col: process.columns as u16,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let Pty { master, slave } = Pty::open((process.rows > 0).then_some(size))?;
        terminal::send_master(socket, &master)?;
        Ok(Self { descriptors: three_of(slave)?, master: None, is_handed_over: true })
    }

    /// Takes what this process keeps.
    pub(crate) fn split(self) -> ([OwnedFd; 3], Option<Arc<OwnedFd>>) {
        (self.descriptors, self.master)
    }
}

fn three_of(descriptor: OwnedFd) -> Result<[OwnedFd; 3]> {
    let duplicate = || descriptor.try_clone().context("cannot duplicate the terminal");
    Ok([duplicate()?, duplicate()?, descriptor])
}

/// The caller's terminal, connected to a container's.
#[derive(Debug)]
pub(crate) struct Session {
    proxy: Proxy,
    // Restored last, when all output is out.
    _raw: RawMode,
}

impl Session {
    /// Connects them.
    ///
    /// # Errors
    /// If modes or threads cannot be had.
    pub(crate) fn begin(master: &OwnedFd) -> Result<Self> {
        let raw = RawMode::enter()?;
        let master = master.try_clone().context("cannot duplicate the terminal")?;
        Ok(Self { proxy: Proxy::start(master)?, _raw: raw })
    }

    /// Carries what is left, and gives the caller's terminal back.
    pub(crate) fn end(self) {
        self.proxy.finish();
    }
}

/// Follows the caller's terminal: returns its size, after giving it to the master too.
pub(crate) fn follow_size(master: &OwnedFd) -> Option<(u32, u32)> {
    let size = terminal::caller_size()?;
    // Only who asks the host's side of the terminal would see that this failed.
    let _ = tcsetwinsize(master, size);
    Some((u32::from(size.ws_row), u32::from(size.ws_col)))
}
