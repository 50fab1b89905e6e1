// SPDX-License-Identifier: Apache-2.0
//! Pairs, modes and sizes.

use std::{
    io::{stderr, stdin, stdout},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{
        OptionalActions, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
    },
};

use crate::{failure::WithRemedy as _, held::Held};

/// How often the size of a terminal is looked at whose master somebody else has.  (SIGWINCH is only
/// for processes that have it as their controlling terminal, and they can have one.)
const SIZE_INTERVAL: Duration = Duration::from_millis(250);

/// A pseudoterminal: what is written to one side is read from the other.
#[derive(Debug)]
pub(crate) struct Pty {
    /// The user's side.
    pub(crate) master: OwnedFd,
    /// The container's side.
    pub(crate) slave: OwnedFd,
}

impl Pty {
    /// Makes a pair, raw, with the given size.
    ///
    /// # Errors
    /// If the host has no pseudoterminals left.
    pub(crate) fn open(size: Option<Winsize>) -> Result<Self> {
        const FLAGS: OpenptFlags =
            OpenptFlags::RDWR.union(OpenptFlags::NOCTTY).union(OpenptFlags::CLOEXEC);
        let open = || -> rustix::io::Result<Self> {
            let master = openpt(FLAGS)?;
            grantpt(&master)?;
            unlockpt(&master)?;
            let slave = ioctl_tiocgptpeer(&master, FLAGS)?;
            let mut mode = tcgetattr(&slave)?;
            mode.make_raw();
            tcsetattr(&slave, OptionalActions::Now, &mode)?;
            if let Some(size) = size {
                tcsetwinsize(&slave, size)?;
            }
            Ok(Self { master, slave })
        };
        open().context("cannot make a terminal").remedy("mount /dev/pts, or end some that have one")
    }
}

/// Returns the size of the terminal that the caller sits at.
pub(crate) fn caller_size() -> Option<Winsize> {
    let size_of = |descriptor: BorrowedFd<'_>| tcgetwinsize(descriptor).ok();
    size_of(stdin().as_fd())
        .or_else(|| size_of(stdout().as_fd()))
        .or_else(|| size_of(stderr().as_fd()))
}

/// The caller's terminal in raw mode, until dropped.
#[derive(Debug)]
pub(crate) struct RawMode {
    saved: Option<Termios>,
}

impl RawMode {
    /// Makes standard input raw if it is a terminal.
    ///
    /// # Errors
    /// If its mode cannot be set.
    pub(crate) fn enter() -> Result<Self> {
        let stdin = stdin();
        if !isatty(&stdin) {
            return Ok(Self { saved: None });
        }
        let saved = tcgetattr(&stdin).context("cannot read the terminal's mode")?;
        let mut raw = saved.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).context("cannot set the terminal's mode")?;
        Ok(Self { saved: Some(saved) })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            // If the terminal is gone, so is the need.
            let _ = tcsetattr(stdin(), OptionalActions::Drain, saved);
        }
    }
}

/// Follows the size of a terminal until its process or its other side is gone.
///
/// # Errors
/// If no thread can be started.
pub(crate) fn watch_size(held: &Arc<Held>, process: &str, slave: OwnedFd) -> Result<()> {
    let (held, process) = (Arc::downgrade(held), process.to_owned());
    let watch = move || follow_size(&held, &process, &slave);
    thread::Builder::new()
        .name("size".to_owned())
        .spawn(watch)
        .context("cannot start the thread that follows the terminal's size")?;
    Ok(())
}

fn follow_size(held: &Weak<Held>, process: &str, slave: &impl AsFd) {
    let mut last = (0, 0);
    while let Ok(size) = tcgetwinsize(slave) {
        let Some(held) = held.upgrade() else {
            return;
        };
        let now = (size.ws_row, size.ws_col);
        if now != last && now != (0, 0) {
            last = now;
            if held.container().resize(process, u32::from(now.0), u32::from(now.1)).is_err() {
                return;
            }
        }
        let state = held.container().process_state(process);
        if !matches!(state, Ok(trine::ProcessState::Created | trine::ProcessState::Running)) {
            return;
        }
        drop(held);
        thread::sleep(SIZE_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Write as _},
    };

    use super::*;

    #[test]
    fn pty_passes_control_bytes_unchanged_both_ways() {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = Pty::open(Some(size)).expect("pty");
        assert_eq!(tcgetwinsize(&pty.slave).map(|got| (got.ws_row, got.ws_col)), Ok((30, 100)));
        let (mut master, mut slave) = (File::from(pty.master), File::from(pty.slave));
        // ^C, ^D, ^Z and CR mean something to a terminal that is not raw.
        master.write_all(b"\x03\x04\x1a\r\n").expect("write");
        let mut got = [0; 5];
        slave.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"\x03\x04\x1a\r\n");
        slave.write_all(b"a\nb").expect("write");
        let mut got = [0; 3];
        master.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"a\nb");
    }
}
