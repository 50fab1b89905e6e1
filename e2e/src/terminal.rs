// SPDX-License-Identifier: Apache-2.0
//! A terminal, driven by a script: types, and waits for what appears.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::command::shorten;

/// A program on a terminal of its own.
#[derive(Debug)]
pub(crate) struct Session {
    child: Child,
    master: File,
    seen: Arc<Mutex<Vec<u8>>>,
    /// Where in `seen` the next wait starts.
    position: usize,
}

impl Session {
    /// Starts a program with a terminal of this size as its three standard streams.
    pub(crate) fn start(command: &mut Command, rows: u16, columns: u16) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .context("open a terminal")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path = ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = File::from(rustix::fs::open(&path, flags, Mode::empty())?);
        let master = File::from(master);
        tcsetwinsize(&master, size(rows, columns))?;
        let child = command
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave)
            .spawn()
            .context("run a program on a terminal")?;
        // The command keeps its copies of the terminal's end until it is dropped or changed.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (reader, sink) = (master.try_clone()?, Arc::clone(&seen));
        thread::spawn(move || collect(reader, &sink));
        Ok(Self { child, master, seen, position: 0 })
    }

    /// Types.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        self.master.write_all(text.as_bytes()).context("type on the terminal")
    }

    /// Waits until a text appears after the last one that was waited for.
    pub(crate) fn expect(&mut self, text: &str, patience: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let seen = lock(&self.seen).clone();
            let rest = &seen[self.position..];
            let found = rest.windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found {
                self.position += at + text.len();
                return Ok(());
            }
            if start.elapsed() > patience {
                let screen = String::from_utf8_lossy(rest).into_owned();
                bail!("{text:?} did not appear on the terminal, but {:?}", shorten(&screen));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Changes the size, and tells the program as a terminal emulator's kernel would.
    pub(crate) fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        tcsetwinsize(&self.master, size(rows, columns))?;
        // It is not the program's controlling terminal, so the signal does not come by itself.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        rustix::process::kill_process(pid.context("process id")?, Signal::WINCH)?;
        Ok(())
    }

    /// Waits for the program's end and returns its exit status.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            if start.elapsed() > patience {
                self.child.kill().ok();
                bail!("the program on the terminal did not end");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that has appeared so far.
    pub(crate) fn screen(&self) -> String {
        String::from_utf8_lossy(&lock(&self.seen)).into_owned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn lock(seen: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn collect(mut reader: File, sink: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    // EIO when the last user of the terminal has closed it.
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        lock(sink).extend_from_slice(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn session_types_sees_and_resizes() {
        let mut command = Command::new("sh");
        command.args(["-c", "stty size; read line; echo got $line; stty size; exit 3"]);
        let mut session = Session::start(&mut command, 30, 90).unwrap();
        session.expect("30 90", PATIENCE).unwrap();
        session.resize(40, 100).unwrap();
        session.send("word\n").unwrap();
        session.expect("got word", PATIENCE).unwrap();
        session.expect("40 100", PATIENCE).unwrap();
        assert_eq!(session.wait(PATIENCE).unwrap(), 3);
        assert!(session.screen().contains("30 90"));
    }

    #[test]
    fn session_says_what_appeared_instead() {
        let mut session = Session::start(Command::new("echo").arg("here"), 24, 80).unwrap();
        let error = session.expect("there", Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("here"), "{error}");
    }
}
