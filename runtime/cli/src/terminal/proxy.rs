// SPDX-License-Identifier: Apache-2.0
//! Between the caller's standard streams and the master of a container's terminal.

use std::{
    fs::File,
    io::{self, PipeReader, PipeWriter, Read as _, Write as _, pipe, stdin, stdout},
    os::fd::{AsFd as _, OwnedFd},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// End of file on a terminal.
const CTRL_D: &[u8] = b"\x04";
/// How long the last output may take from one side of the terminal to the other.
const SETTLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
const BUFFER_BYTES: usize = 16 << 10;

/// Two threads that carry bytes.
#[derive(Debug)]
pub(crate) struct Proxy {
    output: JoinHandle<()>,
    /// Closing it says that the process has ended.
    process_ended: PipeWriter,
}

impl Proxy {
    /// Starts to carry.
    ///
    /// # Errors
    /// If threads or descriptors run out.
    pub(crate) fn start(master: OwnedFd) -> Result<Self> {
        const CONTEXT: &str = "cannot start the threads that carry the terminal's bytes";
        let master = File::from(master);
        let input = master.try_clone().context(CONTEXT)?;
        let (ended, process_ended) = pipe().context(CONTEXT)?;
        // This one sits in a read that nothing interrupts: it ends with the program.
        thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || carry_input(input))
            .context(CONTEXT)?;
        let output = thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || carry_output(&master, &ended))
            .context(CONTEXT)?;
        Ok(Self { output, process_ended })
    }

    /// Waits until all output was carried.
    pub(crate) fn finish(self) {
        drop(self.process_ended);
        // It does not panic; and if it did, there is nothing left to carry.
        let _ = self.output.join();
    }
}

fn carry_input(mut master: File) {
    // An error means that the other side is gone.
    let _ = io::copy(&mut stdin().lock(), &mut master);
    let _ = master.write_all(CTRL_D);
}

fn carry_output(mut master: &File, ended: &PipeReader) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut has_ended = false;
    loop {
        match wait_readable(master, ended, has_ended) {
            Ready::Output => {}
            Ready::Ended => {
                has_ended = true;
                continue;
            }
            Ready::Nothing => return,
        }
        // EIO is how a terminal says that its other side was closed.
        let Ok(count @ 1..) = master.read(&mut buffer) else {
            return;
        };
        let mut stdout = stdout().lock();
        if stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush()).is_err() {
            return;
        }
    }
}

enum Ready {
    Output,
    Ended,
    Nothing,
}

fn wait_readable(master: &File, ended: &PipeReader, has_ended: bool) -> Ready {
    let mut descriptors = [
        PollFd::from_borrowed_fd(master.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(ended.as_fd(), PollFlags::IN),
    ];
    let (watched, timeout) = if has_ended {
        (&mut descriptors[..1], Some(&SETTLE))
    } else {
        (&mut descriptors[..], None)
    };
    match poll(watched, timeout) {
        Err(rustix::io::Errno::INTR) => return wait_readable(master, ended, has_ended),
        Err(_) | Ok(0) => return Ready::Nothing,
        Ok(_) => {}
    }
    if descriptors[0].revents().is_empty() { Ready::Ended } else { Ready::Output }
}
