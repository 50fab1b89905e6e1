// SPDX-License-Identifier: Apache-2.0
//! Open files: what a descriptor refers to.

use alloc::{sync::Arc, vec::Vec};
use core::{
    any::Any,
    fmt,
    sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering},
};

use trine_machine::Page;

use crate::{
    Errno,
    fs::{
        dentry::Location,
        inode::{Allocate, Inode, InodeRef},
        locks::{Keeper, RangeLock},
        notify::{self, NotifyTable},
        tty::Tty,
        types::{Attr, DirEntry, DirSink, FileType, OpenFlags, Ready},
    },
    io::{Sink, Source},
    sync::Lock,
    wait::Ticket,
};

/// A shared open file.
pub type FileRef = Arc<File>;

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

    /// As [`Inode::page`].
    ///
    /// # Errors
    /// As there.
    fn page(&self, file: &File, index: u64, write: bool) -> Result<Page, Errno> {
        file.inode().page(index, write)
    }

    /// As [`Inode::seek_data`].
    ///
    /// # Errors
    /// As there.
    fn seek_data(&self, file: &File, offset: u64, hole: bool) -> Result<u64, Errno> {
        file.inode().seek_data(offset, hole)
    }

    /// As [`Inode::truncate`].
    ///
    /// # Errors
    /// As there.
    fn truncate(&self, file: &File, size: u64) -> Result<(), Errno> {
        file.inode().truncate(size)
    }

    /// As [`Inode::allocate`].
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

    /// As [`Inode::read_dir`].
    ///
    /// # Errors
    /// As there.
    fn read_dir(&self, file: &File, cursor: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        file.inode().read_dir(cursor, sink)
    }

    /// For those who must know their own files again (epoll, timerfd, ...).
    fn as_any(&self) -> &dyn Any;
}

/// Copies from the caller's memory.
pub type CopyIn<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), Errno> + 'a;
/// Copies to the caller's memory.
pub type CopyOut<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Errno> + 'a;

/// The argument of an ioctl: the number itself, and the memory that it may point to.
pub struct IoctlMemory<'a> {
    /// The argument.
    pub argument: u64,
    /// Copies from the caller.
    pub read: &'a mut CopyIn<'a>,
    /// Copies to the caller.
    pub write: &'a mut CopyOut<'a>,
}

impl fmt::Debug for IoctlMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoctlMemory({:#x})", self.argument)
    }
}

impl IoctlMemory<'_> {
    /// Reads the int that the argument points to.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_int(&mut self) -> Result<i32, Errno> {
        let mut bytes = [0; 4];
        (self.read)(self.argument, &mut bytes)?;
        Ok(i32::from_le_bytes(bytes))
    }

    /// Writes the int that the argument points to.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_int(&mut self, value: i32) -> Result<(), Errno> {
        (self.write)(self.argument, &value.to_le_bytes())
    }

    /// Reads bytes that the argument points to.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_to(&mut self, to: &mut [u8]) -> Result<(), Errno> {
        (self.read)(self.argument, to)
    }

    /// Writes bytes where the argument points to.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_from(&mut self, from: &[u8]) -> Result<(), Errno> {
        (self.write)(self.argument, from)
    }
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

/// An open file description (open(2)).
pub struct File {
    location: Location,
    /// Counted as open for writing.
    counts: bool,
    ops: Arc<dyn FileOps>,
    flags: AtomicU32,
    position: Lock<u64>,
    /// F_SETOWN and F_SETSIG, kept for F_GETOWN and F_GETSIG.
    pub(crate) owner: AtomicI32,
    pub(crate) signal: AtomicI32,
    /// Holds locks that end with it (flock, OFD).
    pub(crate) has_locks: AtomicBool,
    locks: Arc<crate::fs::locks::LockTable>,
    notify: Arc<NotifyTable>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({:?}, {:?})", self.location.dentry, self.ops)
    }
}

impl File {
    /// Makes an open file.
    pub(crate) fn new(
        vfs: &crate::fs::mount::Vfs,
        location: Location,
        ops: Arc<dyn FileOps>,
        flags: OpenFlags,
    ) -> FileRef {
        let kept = flags.difference(
            OpenFlags::CREAT
                | OpenFlags::EXCL
                | OpenFlags::NOCTTY
                | OpenFlags::TRUNC
                | OpenFlags::CLOEXEC,
        );
        // What has no name, like a memfd, may be written and run at the same time.
        let writes = flags.writes() && location.kind() == FileType::Regular;
        let counts = writes && location.mount.id != 0;
        if counts {
            vfs.locks.writer_opened(&location.attr());
        }
        Arc::new(Self {
            location,
            counts,
            ops,
            flags: AtomicU32::new(kept.bits()),
            position: Lock::new(0),
            owner: AtomicI32::new(0),
            signal: AtomicI32::new(0),
            has_locks: AtomicBool::new(false),
            locks: Arc::clone(&vfs.locks),
            notify: Arc::clone(&vfs.notify),
        })
    }

    /// Opens the contents of a regular file or directory.
    pub(crate) fn contents(
        vfs: &crate::fs::mount::Vfs,
        location: Location,
        flags: OpenFlags,
    ) -> FileRef {
        let ops = Arc::new(Contents::new(Arc::clone(location.inode())));
        Self::new(vfs, location, ops, flags)
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Its inode.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.location.inode()
    }

    /// What it does.
    pub(crate) fn ops(&self) -> &Arc<dyn FileOps> {
        &self.ops
    }

    /// Its attributes.
    pub fn attr(&self) -> Attr {
        self.location.attr()
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.attr().size
    }

    /// Its path from the root of all; for a file without one, what /proc/self/fd shows.
    pub fn path(&self) -> Vec<u8> {
        let mut top = self.location.clone();
        while let Some(above) = top.above() {
            top = above;
        }
        self.location.path_from(&top).0
    }

    /// Access mode and status flags.
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Sets the flags that F_SETFL can change.
    pub(crate) fn set_flags(&self, flags: OpenFlags) {
        let can = OpenFlags::APPEND
            | OpenFlags::ASYNC
            | OpenFlags::DIRECT
            | OpenFlags::NOATIME
            | OpenFlags::NONBLOCK;
        let kept = self.flags().difference(can) | flags.intersection(can);
        self.flags.store(kept.bits(), Ordering::Relaxed);
    }

    /// Whether it was opened for reading.
    pub fn is_readable(&self) -> bool {
        self.flags().reads()
    }

    /// Whether it was opened for writing.
    pub fn is_writable(&self) -> bool {
        self.flags().writes()
    }

    /// Whether calls on it block.
    pub fn blocks(&self) -> bool {
        !self.flags().contains(OpenFlags::NONBLOCK)
    }

    /// The terminal that this is.
    pub(crate) fn tty(&self) -> Option<&Arc<Tty>> {
        self.ops.tty()
    }

    /// Tells those who watch the file.
    pub(crate) fn tell(&self, mask: u32) {
        self.notify.happened(&self.location, mask);
    }

    fn tell_if(&self, done: usize, mask: u32) {
        if done > 0 {
            self.tell(mask);
        }
    }

    fn check_read(&self) -> Result<(), Errno> {
        if !self.flags().reads() {
            return Err(Errno::BADF);
        }
        if self.location.kind() == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        Ok(())
    }

    /// Reads from the position on, and moves it.
    ///
    /// # Errors
    /// `EAGAIN` if nothing can be read now.
    pub fn read(&self, sink: &mut dyn Sink) -> Result<usize, Errno> {
        self.check_read()?;
        if !self.ops.is_seekable() {
            let done = self.ops.read(self, 0, sink)?;
            self.tell_if(done, notify::ACCESS);
            return Ok(done);
        }
        // The lock is not held meanwhile: /proc/self/fdinfo is a file that tells its own position.
        let position = *self.position.lock();
        let done = self.ops.read(self, position, sink)?;
        *self.position.lock() = position + done as u64;
        self.tell_if(done, notify::ACCESS);
        Ok(done)
    }

    /// Writes at the position (the end for O_APPEND), and moves it.
    ///
    /// # Errors
    /// `EAGAIN` if nothing can be written now.
    pub fn write(&self, source: &mut dyn Source) -> Result<usize, Errno> {
        if !self.flags().writes() {
            return Err(Errno::BADF);
        }
        if !self.ops.is_seekable() {
            let done = self.ops.write(self, 0, source)?;
            self.tell_if(done, notify::MODIFY);
            return Ok(done);
        }
        let append = self.flags().contains(OpenFlags::APPEND);
        if append && let Some(written) = self.ops.append(self, source) {
            let (done, end) = written?;
            *self.position.lock() = end;
            self.tell_if(done, notify::MODIFY);
            return Ok(done);
        }
        let position = if append { self.size() } else { *self.position.lock() };
        let done = self.ops.write(self, position, source)?;
        *self.position.lock() = position + done as u64;
        self.tell_if(done, notify::MODIFY);
        Ok(done)
    }

    /// Reads at an offset.
    ///
    /// # Errors
    /// `ESPIPE` if there are no offsets.
    pub fn read_at(&self, offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        self.check_read()?;
        if !self.ops.is_seekable() {
            return Err(Errno::SPIPE);
        }
        let done = self.ops.read(self, offset, sink)?;
        self.tell_if(done, notify::ACCESS);
        Ok(done)
    }

    /// Writes at an offset.
    ///
    /// # Errors
    /// `ESPIPE` if there are no offsets.
    pub fn write_at(&self, offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        if !self.flags().writes() {
            return Err(Errno::BADF);
        }
        if !self.ops.is_seekable() {
            return Err(Errno::SPIPE);
        }
        let append = self.flags().contains(OpenFlags::APPEND);
        if append && let Some(written) = self.ops.append(self, source) {
            let (done, _) = written?;
            self.tell_if(done, notify::MODIFY);
            return Ok(done);
        }
        let done = self.ops.write(self, if append { self.size() } else { offset }, source)?;
        self.tell_if(done, notify::MODIFY);
        Ok(done)
    }

    /// What it is ready for.
    pub fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        self.ops.poll(ticket)
    }

    /// The page at `index` for a mapping; see [`Inode::page`].  For a shared mapping ask with
    /// `write`, or later writes are not seen.
    ///
    /// # Errors
    /// `ENODEV` if it cannot be mapped, `ENXIO` beyond the end, `ENOSPC` or `ENOMEM`.
    pub fn page(&self, index: u64, write: bool) -> Result<Page, Errno> {
        self.ops.page(self, index, write)
    }

    /// Whether it can be mapped.
    pub fn is_mappable(&self) -> bool {
        self.inode().is_mappable()
    }

    /// The position.
    pub(crate) fn position(&self) -> &Lock<u64> {
        &self.position
    }

    /// Moves the position (lseek(2)).
    pub(crate) fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        let is_dir = self.location.kind() == FileType::Directory;
        if !self.ops.is_seekable() {
            return Err(Errno::SPIPE);
        }
        if self.ops.ignores_seek() {
            return Ok(0);
        }
        if whence == 2 {
            self.inode().refresh()?;
        }
        let mut position = self.position.lock();
        let base = match whence {
            0 => 0,
            1 => *position,
            2 if is_dir => return Err(Errno::INVAL),
            2 => self.size(),
            3 | 4 => {
                let from = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
                *position = self.ops.seek_data(self, from, whence == 4)?;
                return Ok(*position);
            }
            _ => return Err(Errno::INVAL),
        };
        let target = base.checked_add_signed(offset).ok_or(Errno::INVAL)?;
        if target > i64::MAX.cast_unsigned() {
            return Err(Errno::OVERFLOW);
        }
        *position = target;
        Ok(target)
    }

    /// Reads a directory from the position on, with `.` and `..`, and moves the position.
    pub(crate) fn read_dir(&self, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        if self.location.kind() != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        if self.location.dentry.is_deleted() {
            return Err(Errno::NOENT);
        }
        let start = *self.position.lock();
        let mut position = start;
        for (at, name) in [(0, &b"."[..]), (1, b"..")] {
            if position != at {
                continue;
            }
            let above = || self.location.above().unwrap_or_else(|| self.location.clone());
            let ino = if at == 0 { self.attr().ino } else { above().attr().ino };
            let kind = FileType::Directory;
            if !sink(DirEntry { ino, next: at + 1, kind, name }) {
                return Ok(());
            }
            position = at + 1;
            *self.position.lock() = position;
        }
        let from = position;
        let result = self.ops.read_dir(self, from, &mut |entry| {
            let taken = sink(entry);
            if taken {
                position = entry.next;
            }
            taken
        });
        // A call that will be made again gives everything once more.
        let is_over = result != Err(Errno::PENDING);
        *self.position.lock() = if is_over { position } else { start };
        if is_over {
            self.tell(notify::ACCESS);
        }
        result
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if !self.flags().contains(OpenFlags::PATH) {
            let written = self.flags().writes();
            self.tell(if written { notify::CLOSE_WRITE } else { notify::CLOSE_NOWRITE });
        }
        if self.counts {
            self.locks.writer_closed(&self.attr());
        }
        if self.has_locks.load(Ordering::Relaxed) {
            let owner = core::ptr::from_ref(self).addr() as u64;
            self.locks.file_closed(&self.attr(), owner);
        }
    }
}

/// Reads from a file into kernel memory; returns fewer bytes than asked only at the end.
///
/// # Errors
/// As reading.
pub fn read_at(file: &File, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
    struct SliceSink<'a>(&'a mut [u8], usize);
    impl Sink for SliceSink<'_> {
        fn room(&self) -> usize {
            self.0.len() - self.1
        }
        fn put(&mut self, bytes: &[u8]) -> usize {
            let taken = bytes.len().min(self.room());
            self.0[self.1..self.1 + taken].copy_from_slice(&bytes[..taken]);
            self.1 += taken;
            taken
        }
    }
    let mut sink = SliceSink(to, 0);
    loop {
        let done = file.ops.read(file, offset + sink.1 as u64, &mut sink)?;
        if done == 0 || sink.room() == 0 {
            return Ok(sink.1);
        }
    }
}
