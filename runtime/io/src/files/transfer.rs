// SPDX-License-Identifier: Apache-2.0
//! Contents of open files.
//!
//! What the page cache has is read at once, the rest by a worker.  Writes go to the page cache;
//! those that wait for a medium (O_SYNC, O_DIRECT, a file system that is not local) are a worker's.

use std::{io, os::fd::AsFd, sync::Arc};

use rustix::{
    fs::{FallocateFlags, FlockOperation, SeekFrom},
    io::Errno,
};
use trine_abi::{
    file::{Allocate, Lock, Seek},
    window::Submission,
};
use trine_jail::{files::RangeLock, shared::SharedMemory};
use trine_policy::meter::Budget;

use super::{Files, Refusal, Reply, node::OpenFile};
use crate::service::{Context, Shared};

fn retry<T>(mut call_fn: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call_fn() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A range of the window's memory, and where in a file it goes to or comes from.
#[derive(Clone, Copy)]
struct Range {
    offset: usize,
    bytes: usize,
    position: u64,
}

/// Bytes that were taken from a budget for a transfer; what is not moved goes back.
struct Bill {
    budget: Budget,
    taken: u64,
}

impl Bill {
    fn open(budget: &Budget, bytes: usize) -> Result<Self, Errno> {
        let taken = if budget.is_endless() { 0 } else { bytes as u64 };
        let refuse = |errno: u16| Errno::from_raw_os_error(errno.into());
        budget.take_all(taken).map_err(refuse)?;
        Ok(Self { budget: budget.clone(), taken })
    }

    /// So many bytes were moved; returns them.
    fn settle(mut self, moved: u64) -> u64 {
        if moved > self.taken {
            // The file grew meanwhile.
            let _ = self.budget.take(moved - self.taken);
        }
        self.taken = self.taken.saturating_sub(moved);
        moved
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.budget.give_back(self.taken);
    }
}

/// Reads until the range is full or the file ends; WouldBlock, with what was read so far, if a read
/// would have to wait.
fn fill(
    memory: &SharedMemory,
    file: &Shared,
    range: Range,
    mut done: usize,
    no_wait: bool,
) -> (usize, io::Result<()>) {
    while done < range.bytes {
        let position = range.position.saturating_add(done as u64);
        let read = retry(|| {
            let (offset, bytes) = (range.offset + done, range.bytes - done);
            memory.fill_at(offset, bytes, file.as_fd(), position, no_wait)
        });
        match read {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

fn drain(memory: &SharedMemory, file: &Shared, range: Range, is_append: bool) -> io::Result<u64> {
    let mut done = 0;
    while done < range.bytes {
        let position = (!is_append).then(|| range.position.saturating_add(done as u64));
        let written = retry(|| {
            memory.drain_at(range.offset + done, range.bytes - done, file.as_fd(), position)
        });
        match written {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    if is_append && range.bytes >= 8 {
        let end = rustix::fs::tell(&**file)?;
        memory.write(range.offset, &end.to_le_bytes()).map_err(io::Error::other)?;
    }
    Ok(done as u64)
}

impl Files {
    fn file_of(&self, request: &Submission) -> Result<(OpenFile, Range), Errno> {
        let file = self.handles.file(request.handle)?.clone();
        if file.is_directory {
            return Err(Errno::ISDIR);
        }
        let range = Range {
            offset: Context::offset(request),
            bytes: request.bytes as usize,
            position: request.argument,
        };
        Ok((file, range))
    }

    pub(super) fn read(
        &self,
        request: &Submission,
        context: &mut Context<'_>,
    ) -> Result<Reply, Refusal> {
        let (file, mut range) = self.file_of(request)?;
        let mut billed = range.bytes;
        if !file.budget.is_endless() {
            // What is there, so that a short read means the end of the file and nothing else.
            let size = rustix::fs::fstat(&*file.descriptor)?.st_size.cast_unsigned();
            let there = size.saturating_sub(range.position);
            billed = billed.min(usize::try_from(there).unwrap_or(usize::MAX));
            // Reads past the page cache have sizes of whole blocks.
            if !file.is_synchronous {
                range.bytes = billed;
            }
        }
        let bill = Bill::open(&file.budget, billed)?;
        let volume = self.volume(file.volume)?;
        let memory = Arc::clone(context.memory());
        let mut done = 0;
        if !file.is_synchronous && volume.is_local {
            let (count, end) = fill(&memory, &file.descriptor, range, 0, !volume.is_memory);
            let would_wait = |error: &io::Error| {
                matches!(Errno::from_io_error(error), Some(Errno::AGAIN | Errno::OPNOTSUPP))
            };
            match end {
                Ok(()) => return Ok(Reply::Result(bill.settle(count as u64))),
                Err(error) if would_wait(&error) => done = count,
                Err(_) if count > 0 => return Ok(Reply::Result(bill.settle(count as u64))),
                Err(error) => return Err(error.into()),
            }
        }
        context.work(request, move || {
            let (count, end) = fill(&memory, &file.descriptor, range, done, false);
            if count == 0 {
                end?;
            }
            Ok(bill.settle(count as u64))
        })?;
        Ok(Reply::Later)
    }

    pub(super) fn write(
        &self,
        request: &Submission,
        context: &mut Context<'_>,
        position: Option<u64>,
    ) -> Result<Reply, Refusal> {
        let (file, mut range) = self.file_of(request)?;
        let volume = self.volume(file.volume)?;
        self.writable(file.volume)?;
        let is_append = position.is_none();
        if is_append {
            // The whole buffer may be used for the answer; what is to be written says so itself.
            range.bytes = usize::try_from(request.argument)
                .ok()
                .filter(|&bytes| bytes <= request.bytes as usize)
                .ok_or(Errno::INVAL)?;
        }
        let bill = Bill::open(&file.budget, range.bytes)?;
        let memory = Arc::clone(context.memory());
        if file.is_synchronous || !volume.is_local {
            context.work(request, move || {
                let count = drain(&memory, &file.descriptor, range, is_append)?;
                Ok(bill.settle(count))
            })?;
            return Ok(Reply::Later);
        }
        Ok(Reply::Result(bill.settle(drain(&memory, &file.descriptor, range, is_append)?)))
    }

    pub(super) fn sync(
        &self,
        request: &Submission,
        context: &mut Context<'_>,
    ) -> Result<Reply, Refusal> {
        let descriptor = Arc::clone(&self.handles.file(request.handle)?.descriptor);
        let data_only = request.argument == 1;
        context.work(request, move || {
            if data_only {
                rustix::fs::fdatasync(&*descriptor)?;
            } else {
                rustix::fs::fsync(&*descriptor)?;
            }
            Ok(0)
        })?;
        Ok(Reply::Later)
    }

    pub(super) fn allocate(
        &self,
        request: &Submission,
        range: &Allocate,
        context: &mut Context<'_>,
    ) -> Result<Reply, Refusal> {
        let file = self.handles.file(request.handle)?;
        self.writable(file.volume)?;
        if file.is_append_only {
            return Err(Errno::PERM.into());
        }
        let known =
            FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        let mode = FallocateFlags::from_bits_retain(range.mode);
        if !known.contains(mode) {
            return Err(Errno::OPNOTSUPP.into());
        }
        let descriptor = Arc::clone(&file.descriptor);
        let (offset, bytes) = (range.offset, range.bytes);
        context.work(request, move || {
            rustix::fs::fallocate(&*descriptor, mode, offset, bytes)?;
            Ok(0)
        })?;
        Ok(Reply::Later)
    }

    pub(super) fn seek(&self, handle: u32, seek: &Seek) -> Result<Reply, Refusal> {
        let file = self.handles.file(handle)?;
        let to = if seek.hole { SeekFrom::Hole(seek.offset) } else { SeekFrom::Data(seek.offset) };
        Ok(Reply::Result(rustix::fs::seek(&*file.descriptor, to)?))
    }

    pub(super) fn lock(&self, handle: u32, lock: &Lock) -> Result<Reply, Refusal> {
        let descriptor = self.handles.file(handle)?.descriptor.as_fd();
        if lock.whole {
            let operation = match lock.kind {
                0 => FlockOperation::NonBlockingLockShared,
                1 => FlockOperation::NonBlockingLockExclusive,
                2 => FlockOperation::NonBlockingUnlock,
                _ => return Err(Errno::INVAL.into()),
            };
            rustix::fs::flock(descriptor, operation)?;
        } else {
            let kind = match lock.kind {
                0 => RangeLock::Read,
                1 => RangeLock::Write,
                2 => RangeLock::Unlock,
                _ => return Err(Errno::INVAL.into()),
            };
            trine_jail::files::lock_range(descriptor, kind, lock.start, lock.bytes)?;
        }
        Ok(Reply::Result(0))
    }
}
