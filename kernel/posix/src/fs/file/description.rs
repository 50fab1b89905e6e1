// SPDX-License-Identifier: Apache-2.0
//! An open file description.

use alloc::{sync::Arc, vec::Vec};
use core::{
    fmt,
    sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering},
};

use trine_machine::Page;

use super::{Contents, FileOps};
use crate::{
    Errno,
    fs::{
        dentry::Location,
        inode::Inode,
        locks::LockTable,
        mount::Vfs,
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
    locks: Arc<LockTable>,
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
        vfs: &Vfs,
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
    pub(crate) fn contents(vfs: &Vfs, location: Location, flags: OpenFlags) -> FileRef {
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
