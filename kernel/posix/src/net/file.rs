// SPDX-License-Identifier: Apache-2.0
//! Sockets as open files.

use alloc::{format, sync::Arc};
use core::any::Any;

use super::{
    Socket,
    message::{Outgoing, Receive, Ucred},
};
use crate::{
    Errno,
    fs::{
        File, FileRef, Vfs, anonymous,
        file::{FileOps, IoctlMemory},
        types::{FileType, OpenFlags, Ready},
    },
    io::{Sink, Source, VecSink},
    wait::Ticket,
};

/// Most bytes that are read at a time where boundaries matter.
const MESSAGE_BYTES: usize = 1 << 20;

/// A socket's open file.
#[derive(Debug)]
pub(crate) struct SocketFile(Arc<dyn Socket>);

impl SocketFile {
    /// The socket.
    pub(crate) fn socket(&self) -> &Arc<dyn Socket> {
        &self.0
    }
}

/// The socket that an open file is.
///
/// # Errors
/// `ENOTSOCK`.
pub(crate) fn socket_of(file: &File) -> Result<Arc<dyn Socket>, Errno> {
    let file = file.ops().as_any().downcast_ref::<SocketFile>().ok_or(Errno::NOTSOCK)?;
    Ok(Arc::clone(&file.0))
}

/// Makes the open file of a socket.
pub(crate) fn open(vfs: &Vfs, socket: Arc<dyn Socket>, flags: OpenFlags) -> FileRef {
    let number = vfs.number();
    socket.numbered(number);
    let inode = anonymous::plain(number, FileType::Socket);
    let place = vfs.nameless(inode, format!("socket:[{number}]").as_bytes());
    File::new(vfs, place, Arc::new(SocketFile(socket)), flags | OpenFlags::RDWR)
}

impl FileOps for SocketFile {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        if self.0.is_stream() {
            return Ok(self.0.receive(sink, Receive::default())?.bytes);
        }
        // A message is lost beyond what the sink takes, so the sink must take all that fits.
        let mut whole = VecSink::new(sink.room().min(MESSAGE_BYTES));
        self.0.receive(&mut whole, Receive::default())?;
        Ok(sink.put(&whole.bytes))
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        self.0.send(source, &mut Outgoing::plain(Ucred::NOBODY))
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        self.0.poll(ticket)
    }

    fn ioctl(
        &self,
        _file: &File,
        command: u32,
        memory: &mut IoctlMemory<'_>,
    ) -> Result<u64, Errno> {
        self.0.ioctl(command, memory)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.0.close();
    }
}
