// SPDX-License-Identifier: Apache-2.0
//! A terminal whose far end is on the host: the container's own.
//!
//! The line discipline is here in the guest; the host's terminal is raw.

use alloc::sync::{Arc, Weak};

use super::{Far, Tty, discipline::INPUT_MAX};
use crate::{
    Errno,
    fs::{
        file::{File, FileRef},
        mount::Vfs,
        pipe::PIPE_BUF,
        stream::{Channel, Listener},
        types::OpenFlags,
    },
    io::SliceSource,
    process::Process,
};

/// The two directions of the far end.
#[derive(Debug)]
pub(crate) struct Wire {
    input: Arc<Channel>,
    output: Arc<Channel>,
}

impl Wire {
    /// Hands output over, as far as there is room.
    pub(super) fn pump(&self, tty: &Tty) {
        loop {
            let bytes = tty.peek_output(4 * PIPE_BUF);
            if bytes.is_empty() {
                return;
            }
            match self.output.write(&mut SliceSource(&bytes)) {
                Ok(done) if done > 0 => tty.took_output(done),
                Err(Errno::AGAIN) | Ok(_) => return,
                // Nobody is there to see it.
                Err(_) => tty.took_output(bytes.len()),
            }
        }
    }

    /// Asks for input while it fits.
    pub(super) fn refill(&self, tty: &Tty) {
        if tty.state.lock().discipline.input_room() >= INPUT_MAX / 2 {
            self.input.want_input();
        }
    }

    pub(super) fn close(&self) {
        self.input.abandon();
        self.output.abandon();
    }
}

impl Listener for Tty {
    fn progressed(&self) {
        let Far::Console(wire) = &self.far else { return };
        if let Some(bytes) = wire.input.take_input()
            && !bytes.is_empty()
        {
            // What does not fit is lost, as on a real line.
            self.receive(&bytes);
        }
        self.pump();
        wire.refill(self);
        self.wait.wake_all();
    }
}

/// A console: keep it as long as its processes run.
#[derive(Debug)]
pub struct Console {
    tty: Arc<Tty>,
    vfs: Arc<Vfs>,
}

impl Console {
    /// Makes a terminal of two handles.
    pub fn new(vfs: &Arc<Vfs>, input: u32, output: u32, rows: u32, columns: u32) -> Self {
        let size = |value: u32, default: u16| match value {
            0 => default,
            value => value.min(0xffff) as u16,
        };
        let wire = Wire {
            input: Channel::new(&vfs.streams, input),
            output: Channel::new(&vfs.streams, output),
        };
        let channels = [Arc::clone(&wire.input), Arc::clone(&wire.output)];
        let size = [size(rows, 24), size(columns, 80), 0, 0];
        let tty = vfs.ptys.make_console(vfs, size, Far::Console(wire));
        for channel in &channels {
            let listener: Weak<dyn Listener> =
                Arc::downgrade(&(Arc::clone(&tty) as Arc<dyn Listener>));
            channel.set_listener(listener);
        }
        channels[0].want_input();
        Self { tty, vfs: Arc::clone(vfs) }
    }

    /// Opens it for a process, which it controls if the process leads a session.
    ///
    /// # Errors
    /// `EIO` if it is hung up.
    pub fn open(&self, process: &Process, uid: u32) -> Result<FileRef, Errno> {
        let ops = self.tty.open(OpenFlags::RDWR | OpenFlags::NOCTTY)?;
        if process.sid() == process.pid {
            self.tty.control(process);
        }
        self.tty.set_ownership(Some(uid), None, None);
        let place = self.vfs.find_pts(&self.tty);
        Ok(File::new(&self.vfs, place, ops, OpenFlags::RDWR))
    }

    /// Sets its size and tells the foreground group.
    pub fn resize(&self, rows: u32, columns: u32) {
        self.tty.resize(rows, columns);
    }

    /// The terminal.
    pub fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }
}
