// SPDX-License-Identifier: Apache-2.0
//! What an open file does when it is used.

use alloc::sync::Arc;
use core::{any::Any, fmt};

use trine_machine::Page;

use super::{File, IoctlMemory};
use crate::{
    Errno,
    fs::{
        inode::{Allocate, InodeRef},
        locks::{Keeper, RangeLock},
        tty::Tty,
        types::{DirSink, Ready},
    },
    io::{Sink, Source},
    wait::Ticket,
};

/// What an open file does when it is used.  Nothing here blocks: what cannot be done now is
/// `EAGAIN`, and `poll` tells when to try again.
pub trait FileOps: Send + Sync + fmt::Debug {
    /// Reads from `offset` on (of no meaning to streams); 0 at the end.
    ///
    /// # Errors
    /// `EINVAL` by default.
    fn read(&self, _file: &File, _offset: u64, _sink: &mut dyn Sink) -> Result<usize, Errno> {
        Err(Errno::INVAL)
    }

    /// Writes at `offset` (of no meaning to streams).
    ///
    /// # Errors
    /// `EINVAL` by default.
    fn write(&self, _file: &File, _offset: u64, _source: &mut dyn Source) -> Result<usize, Errno> {
        Err(Errno::INVAL)
    }

    /// What the file is ready for; a ticket is put where any change of that wakes it.
    fn poll(&self, _ticket: Option<&Ticket>) -> Ready {
        Ready::READABLE | Ready::WRITABLE
    }

    /// Whether a position means something.
    fn is_seekable(&self) -> bool {
        false
    }

    /// Whether lseek(2) does nothing and answers 0.
    fn ignores_seek(&self) -> bool {
        false
    }

    /// Performs an ioctl whose argument is plain memory.
    ///
    /// # Errors
    /// `ENOTTY` by default.
    fn ioctl(
        &self,
        _file: &File,
        _command: u32,
        _memory: &mut IoctlMemory<'_>,
    ) -> Result<u64, Errno> {
        Err(Errno::NOTTY)
    }

    /// The terminal that this is.
    fn tty(&self) -> Option<&Arc<Tty>> {
        None
    }

    /// Writes at the end, wherever that is; returns the bytes written and the offset after them.
    /// `None`: it is like writing at the offset that the size says.
    fn append(
        &self,
        _file: &File,
        _source: &mut dyn Source,
    ) -> Option<Result<(usize, u64), Errno>> {
        None
    }

    /// Whether a read gives less than was asked for only in parts: the next ones follow.
    fn takes_all(&self) -> bool {
        false
    }

    /// Sets or ends a lock on the whole file (flock(2)), without waiting; `None`: it is the
    /// container's own affair.
    fn flock(&self, _file: &File, _exclusive: Option<bool>) -> Option<Result<(), Errno>> {
        None
    }

    /// Has a range locked for those outside of the container, without waiting; returns who keeps
    /// it.  `None`: it is the container's own affair.
    fn lock_range(
        &self,
        _file: &File,
        _lock: &RangeLock,
        _keeper: Option<Arc<dyn Keeper>>,
    ) -> Option<Result<Arc<dyn Keeper>, Errno>> {
        None
    }

    /// There is going to be a shared mapping.
    fn map_shared(&self, _file: &File) {}

    /// Writes what mappings changed in a range of bytes to where the file really is.
    ///
    /// # Errors
    /// As writing.
    fn write_back(&self, _file: &File, _start: u64, _end: u64) -> Result<(), Errno> {
        Ok(())
    }

    /// As [`crate::fs::inode::Inode::page`].
    ///
    /// # Errors
    /// As there.
    fn page(&self, file: &File, index: u64, write: bool) -> Result<Page, Errno> {
        file.inode().page(index, write)
    }

    /// As [`crate::fs::inode::Inode::seek_data`].
    ///
    /// # Errors
    /// As there.
    fn seek_data(&self, file: &File, offset: u64, hole: bool) -> Result<u64, Errno> {
        file.inode().seek_data(offset, hole)
    }

    /// As [`crate::fs::inode::Inode::truncate`].
    ///
    /// # Errors
    /// As there.
    fn truncate(&self, file: &File, size: u64) -> Result<(), Errno> {
        file.inode().truncate(size)
    }

    /// As [`crate::fs::inode::Inode::allocate`].
    ///
    /// # Errors
    /// As there.
    fn allocate(&self, file: &File, range: Allocate, offset: u64, bytes: u64) -> Result<(), Errno> {
        file.inode().allocate(range, offset, bytes)
    }

    /// Waits until what was written is on its medium (fsync(2)).
    ///
    /// # Errors
    /// What the medium says.
    fn sync(&self, _file: &File, _data_only: bool) -> Result<(), Errno> {
        Ok(())
    }

    /// As [`crate::fs::inode::Inode::read_dir`].
    ///
    /// # Errors
    /// As there.
    fn read_dir(&self, file: &File, cursor: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        file.inode().read_dir(cursor, sink)
    }

    /// For those who must know their own files again (epoll, timerfd, ...).
    fn as_any(&self) -> &dyn Any;
}

/// A regular file's or directory's contents, as the inode has them.
#[derive(Debug)]
pub(crate) struct Contents(InodeRef);

impl Contents {
    /// Those of an inode.
    pub(crate) fn new(inode: InodeRef) -> Self {
        Self(inode)
    }
}

impl FileOps for Contents {
    fn read(&self, _file: &File, offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        self.0.read_at(offset, sink)
    }

    fn write(&self, _file: &File, offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        self.0.write_at(offset, source)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Nothing: a file opened with O_PATH.
#[derive(Debug)]
pub(crate) struct PathOnly;

impl FileOps for PathOnly {
    fn as_any(&self) -> &dyn Any {
        self
    }
}
