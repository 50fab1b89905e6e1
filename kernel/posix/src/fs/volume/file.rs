// SPDX-License-Identifier: Apache-2.0
//! Open files and directories of a volume.
//!
//! A read asks for more than its first part at once, so that the host reads the next part while
//! this one is copied; what was asked for belongs to the system call ([`Transfers`]).

use alloc::{sync::Arc, vec, vec::Vec};
use core::any::Any;

use trine_abi::{
    file::{self as wire, Wire},
    window::Operation,
    wire::Reader,
};
use trine_machine::Page;

use super::Node;
use crate::{
    Errno,
    forward::{Answer, Buffer, Owner},
    fs::{
        file::{File, FileOps},
        inode::{Allocate, Inode},
        locks::{Keeper, RangeLock},
        types::{DirEntry, DirSink, FileType, OpenFlags},
    },
    io::{Sink, Source},
    process::TaskRef,
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

/// Requests of one read that are in flight.
const READS_MAX: usize = 4;
/// Transfers up to this size use a small buffer.
const SMALL: usize = trine_machine::window::BUFFER_BYTES;
const BULK: usize = trine_machine::window::BULK_BUFFER_BYTES;
/// What follows the last entry of some file systems' directories.
const COOKIE_END: u64 = i64::MAX as u64;
/// Where reading a directory begins, behind `.` and `..`.
const FIRST_ENTRY: u64 = 2;

/// What the host is told of the flags of open(2).
pub(super) const OPEN_FLAGS: OpenFlags = OpenFlags::WRONLY
    .union(OpenFlags::RDWR)
    .union(OpenFlags::DIRECT)
    .union(OpenFlags::DSYNC)
    .union(OpenFlags::SYNC)
    .union(OpenFlags::NOATIME);

/// An open file of the host's.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(super) node: Arc<Node>,
    pub(super) number: u32,
    /// It was opened for writing.
    pub(super) writes: bool,
    /// How it was opened.
    flags: u32,
}

impl Handle {
    pub(super) fn new(node: &Arc<Node>, number: u32, flags: u32) -> Arc<Self> {
        let writes = OpenFlags::from_bits_retain(flags).writes();
        Arc::new(Self { node: Arc::clone(node), number, writes, flags })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.writes {
            let services = Arc::clone(&self.node.fs.services);
            // Who closed or unmapped it cannot be told of an error, as on Linux.
            let _ = services.with_patience(|| self.write_back(0, u64::MAX));
        }
        self.node.fs.services.post(Operation::FileForget, self.number, 1, &[]);
    }
}

/// An open file or directory.
#[derive(Debug)]
pub(crate) struct VolumeFile {
    pub(super) handle: Arc<Handle>,
}

/// One request of a transfer.
#[derive(Debug)]
struct Transfer {
    state: Lock<Option<Answer>>,
    queue: WaitQueue,
    id: u32,
}

impl Transfer {
    fn new(id: u32) -> Arc<Self> {
        Arc::new(Self { state: Lock::new(None), queue: WaitQueue::new(), id })
    }

    fn is_done(&self) -> bool {
        self.state.lock().is_some()
    }

    /// Whether the answer is there; else it is looked for, and the ticket is woken when it comes.
    fn wait(&self, task: &TaskRef, node: &Node) -> Result<(), Errno> {
        if self.is_done() || node.fs.services.look_for(self.id) && self.is_done() {
            return Ok(());
        }
        let ticket: Ticket = task.ticket();
        self.queue.add(&ticket);
        Err(Errno::PENDING)
    }
}

impl Owner for Transfer {
    fn completed(self: Arc<Self>, answer: Answer) {
        *self.state.lock() = Some(answer);
        self.queue.wake_all();
    }
}

#[derive(Debug)]
struct Part {
    file: u32,
    offset: u64,
    bytes: usize,
    write: bool,
    transfer: Arc<Transfer>,
}

/// The transfers of a system call that is under way.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    parts: Vec<Part>,
}

impl Transfers {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn covering(&self, file: u32, at: u64) -> Option<(u64, usize, Arc<Transfer>)> {
        let is_it = |part: &&Part| {
            !part.write
                && part.file == file
                && part.offset <= at
                && at < part.offset + part.bytes as u64
        };
        let part = self.parts.iter().find(is_it)?;
        Some((part.offset, part.bytes, Arc::clone(&part.transfer)))
    }

    fn written(&mut self, file: u32, offset: u64) -> Option<(usize, Arc<Transfer>)> {
        let is_it = |part: &&Part| part.write && part.file == file && part.offset == offset;
        self.parts.iter().find(is_it).map(|part| (part.bytes, Arc::clone(&part.transfer)))
    }

    /// Forgets one transfer; what is returned is to be dropped without locks.
    fn remove(&mut self, transfer: &Arc<Transfer>) -> Option<Arc<Transfer>> {
        let at = self.parts.iter().position(|part| Arc::ptr_eq(&part.transfer, transfer))?;
        Some(self.parts.swap_remove(at).transfer)
    }

    /// Takes out the reads: what they hold is of no use while the task does not run.
    pub(crate) fn take_reads(&mut self) -> Self {
        let (reads, writes) =
            core::mem::take(&mut self.parts).into_iter().partition(|part| !part.write);
        self.parts = writes;
        Self { parts: reads }
    }
}

fn copy_out(buffer: &Buffer, from: usize, bytes: usize, sink: &mut dyn Sink) -> usize {
    let mut piece = [0; 4096];
    let mut done = 0;
    while done < bytes {
        let part = (bytes - done).min(piece.len());
        buffer.read(from + done, &mut piece[..part]);
        let taken = sink.put(&piece[..part]);
        done += taken;
        if taken < part {
            break;
        }
    }
    done
}

fn copy_in(buffer: &Buffer, bytes: usize, source: &mut dyn Source) -> usize {
    let mut piece = [0; 4096];
    let mut done = 0;
    while done < bytes {
        let part = (bytes - done).min(piece.len());
        let taken = source.take(&mut piece[..part]);
        buffer.write(done, &piece[..taken]);
        done += taken;
        if taken < part {
            break;
        }
    }
    done
}

impl VolumeFile {
    /// Opens what a node is.
    pub(super) fn open(node: Arc<Node>, flags: OpenFlags) -> Result<Arc<Self>, Errno> {
        let kept = flags & OPEN_FLAGS;
        if let Some(task) = node.fs.services.current() {
            // It may have been opened when it was found.
            let journal = task.journal.lock();
            if let Some(handle) = &journal.opened
                && handle.flags == kept.bits()
                && Arc::ptr_eq(&handle.node, &node)
            {
                return Ok(Arc::new(Self { handle: Arc::clone(handle) }));
            }
        }
        let argument = u64::from(kept.bits());
        let of_node = Arc::clone(&node);
        let handle =
            node.fs.call(Operation::FileOpen, node.handle, argument, &[], move |answer| {
                let opened = answer.value::<wire::Opened>()?;
                let handle = Handle::new(&of_node, opened.file, kept.bits());
                handle.node.set(handle.node.fs.attr(&opened.attr)?);
                Ok(handle)
            })?;
        Ok(Arc::new(Self { handle: Arc::clone(&*handle) }))
    }

    pub(super) fn node(&self) -> &Node {
        &self.handle.node
    }

    fn begin(&self, task: &TaskRef, bytes: usize) -> Result<Buffer, Errno> {
        let services = &self.node().fs.services;
        let buffer = if bytes > SMALL { services.begin_bulk() } else { services.begin() };
        buffer.ok_or_else(|| {
            services.await_free(&task.ticket());
            Errno::PENDING
        })
    }

    /// Asks for a part of the file.
    fn ask(&self, task: &TaskRef, offset: u64, bytes: usize) -> Result<usize, Errno> {
        let buffer = self.begin(task, bytes)?;
        let bytes = bytes.min(buffer.capacity());
        let transfer = Transfer::new(buffer.id());
        let file = self.handle.number;
        let part = Part { file, offset, bytes, write: false, transfer: Arc::clone(&transfer) };
        task.journal.lock().transfers.parts.push(part);
        buffer.submit(transfer, Operation::FileRead, file, (bytes, 0), offset);
        Ok(bytes)
    }

    fn read_with(&self, task: &TaskRef, offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        let file = self.handle.number;
        let end = offset.saturating_add(sink.room() as u64);
        let mut next = offset;
        for _ in 0..READS_MAX {
            if next >= end {
                break;
            }
            let known = task.journal.lock().transfers.covering(file, next);
            match known {
                Some((start, bytes, _)) => next = start + bytes as u64,
                None => {
                    let wanted = (end - next).min(BULK as u64) as usize;
                    match self.ask(task, next, wanted) {
                        Ok(bytes) => next += bytes as u64,
                        // Others are under way.
                        Err(_) if next > offset => break,
                        Err(errno) => return Err(errno),
                    }
                }
            }
        }
        let first = task.journal.lock().transfers.covering(file, offset);
        let (start, bytes, transfer) = first.ok_or(Errno::IO)?;
        transfer.wait(task, self.node())?;
        let result = {
            let state = transfer.state.lock();
            let answer = state.as_ref().ok_or(Errno::IO)?;
            answer.result().map(|got| {
                let got = (got as usize).min(bytes);
                let from = ((offset - start) as usize).min(got);
                let taken = copy_out(&answer.buffer, from, got - from, sink);
                (got, from + taken, taken)
            })
        };
        let is_over = match result {
            // The file ends here, and parts behind it are of no use.
            Ok((got, at, _)) if at == got && got < bytes => {
                let rest = task.journal.lock().transfers.take_reads();
                drop(rest);
                true
            }
            Ok((got, at, _)) => at == got,
            Err(_) => true,
        };
        if is_over {
            let gone = task.journal.lock().transfers.remove(&transfer);
            drop(gone);
        }
        result.map(|(_, _, taken)| taken)
    }

    /// Reads for somebody who has no system call to come back to: part by part.
    fn read_alone(&self, offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        let wanted = sink.room().min(SMALL);
        let call = crate::forward::Call {
            operation: Operation::FileRead,
            handle: self.handle.number,
            argument: offset,
            input: &[],
            room: wanted,
        };
        let bytes = self.node().fs.services.call(&call, Answer::bytes)?;
        Ok(sink.put(&bytes[..bytes.len().min(wanted)]))
    }

    /// Writes at an offset, or at the end; returns the bytes written and the offset after them.
    fn write_with(
        &self,
        task: &TaskRef,
        offset: Option<u64>,
        source: &mut dyn Source,
    ) -> Result<(usize, u64), Errno> {
        let file = self.handle.number;
        let at = offset.unwrap_or(u64::MAX);
        let known = task.journal.lock().transfers.written(file, at);
        let (bytes, transfer, is_new) = match known {
            Some((bytes, transfer)) => (bytes, transfer, false),
            None => {
                let wanted = source.left().min(BULK);
                // The answer of an append needs room.
                let buffer = self.begin(task, wanted)?;
                let bytes = copy_in(&buffer, wanted.min(buffer.capacity()), source);
                if bytes == 0 {
                    return Ok((0, at));
                }
                let transfer = Transfer::new(buffer.id());
                let part =
                    Part { file, offset: at, bytes, write: true, transfer: Arc::clone(&transfer) };
                task.journal.lock().transfers.parts.push(part);
                let owner = Arc::clone(&transfer);
                match offset {
                    Some(at) => {
                        buffer.submit(owner, Operation::FileWrite, file, (bytes, 0), at);
                    }
                    None => {
                        let room = bytes.max(8);
                        let bytes = bytes as u64;
                        buffer.submit(owner, Operation::FileAppend, file, (room, 0), bytes);
                    }
                }
                (bytes, transfer, true)
            }
        };
        transfer.wait(task, self.node())?;
        let answer = transfer.state.lock().take();
        let gone = task.journal.lock().transfers.remove(&transfer);
        drop(gone);
        let answer = answer.ok_or(Errno::IO)?;
        let done = (answer.result()? as usize).min(bytes);
        let end = match offset {
            Some(offset) => offset + done as u64,
            None => {
                let mut end = [0; 8];
                answer.buffer.read(0, &mut end);
                u64::from_le_bytes(end)
            }
        };
        if !is_new {
            // The bytes were taken when the system call was made the first time.
            let mut piece = [0; 1024];
            let mut left = done;
            while left > 0 {
                let part = left.min(piece.len());
                let taken = source.take(&mut piece[..part]);
                if taken == 0 {
                    break;
                }
                left -= taken;
            }
        }
        Ok((done, end))
    }

    /// A lock that was refused is asked for again when the system call is made again.
    pub(super) fn forget_refusal(&self, locked: Result<Arc<u64>, Errno>) -> Result<(), Errno> {
        if locked == Err(Errno::AGAIN) {
            let old = self.current().and_then(|task| task.journal.lock().clear());
            drop(old);
        }
        locked.map(drop)
    }

    fn current(&self) -> Option<TaskRef> {
        self.node().fs.services.current()
    }
}

impl FileOps for VolumeFile {
    fn read(&self, _file: &File, offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        if sink.room() == 0 {
            return Ok(0);
        }
        self.settle(offset, offset.saturating_add(sink.room() as u64))?;
        match self.current() {
            Some(task) => self.read_with(&task, offset, sink),
            None => self.read_alone(offset, sink),
        }
    }

    fn write(&self, _file: &File, offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        if source.left() == 0 {
            return Ok(0);
        }
        let task = self.current().ok_or(Errno::IO)?;
        self.settle(offset, offset.saturating_add(source.left() as u64))?;
        let (done, end) = self.write_with(&task, Some(offset), source)?;
        self.was_written(offset, end)?;
        Ok(done)
    }

    fn append(&self, _file: &File, source: &mut dyn Source) -> Option<Result<(usize, u64), Errno>> {
        let Some(task) = self.current() else { return Some(Err(Errno::IO)) };
        let written = self.write_with(&task, None, source).and_then(|(done, end)| {
            self.was_written(end.saturating_sub(done as u64), end)?;
            Ok((done, end))
        });
        Some(written)
    }

    fn takes_all(&self) -> bool {
        true
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn flock(&self, _file: &File, exclusive: Option<bool>) -> Option<Result<(), Errno>> {
        let kind = match exclusive {
            Some(false) => 0,
            Some(true) => 1,
            None => 2,
        };
        let lock = wire::Lock { whole: true, kind, start: 0, bytes: 0, test: false };
        let number = self.handle.number;
        let fs = &self.node().fs;
        let locked = fs.call(Operation::FileLock, number, 0, &lock.encode(), Answer::result);
        Some(self.forget_refusal(locked))
    }

    fn lock_range(
        &self,
        _file: &File,
        lock: &RangeLock,
        keeper: Option<Arc<dyn Keeper>>,
    ) -> Option<Result<Arc<dyn Keeper>, Errno>> {
        Some(self.lock_on_host(lock, keeper))
    }

    fn map_shared(&self, _file: &File) {
        self.pin();
    }

    fn write_back(&self, _file: &File, start: u64, end: u64) -> Result<(), Errno> {
        self.settle(start, end)
    }

    fn page(&self, _file: &File, index: u64, write: bool) -> Result<Page, Errno> {
        self.map_page(index, write)
    }

    fn seek_data(&self, _file: &File, offset: u64, hole: bool) -> Result<u64, Errno> {
        let input = wire::Seek { offset, hole }.encode();
        let number = self.handle.number;
        let found = self.node().fs.call(Operation::FileSeek, number, 0, &input, Answer::result)?;
        Ok(*found)
    }

    fn truncate(&self, _file: &File, size: u64) -> Result<(), Errno> {
        let change = wire::SetAttr { size: Some(size), ..wire::SetAttr::default() };
        self.node().update(Operation::FileSetAttr, self.handle.number, &change.encode())?;
        self.node().pages.lock().cut(size);
        Ok(())
    }

    fn allocate(
        &self,
        _file: &File,
        range: Allocate,
        offset: u64,
        bytes: u64,
    ) -> Result<(), Errno> {
        let mode = match range {
            Allocate::Grow => 0,
            Allocate::KeepSize => 1,
            Allocate::Punch => 3,
            Allocate::Zero => 0x10,
        };
        let input = wire::Allocate { mode, offset, bytes }.encode();
        let number = self.handle.number;
        self.node().fs.call(Operation::FileAllocate, number, 0, &input, Answer::result)?;
        self.was_written(offset, offset.saturating_add(bytes))
    }

    fn sync(&self, _file: &File, data_only: bool) -> Result<(), Errno> {
        self.settle(0, u64::MAX)?;
        let number = self.handle.number;
        let argument = u64::from(data_only);
        let fs = &self.node().fs;
        fs.call(Operation::FileSync, number, argument, &[], Answer::result).map(drop)
    }

    fn read_dir(&self, _file: &File, cursor: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        if self.node().kind() != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let mut cookie = match cursor {
            0..=FIRST_ENTRY => 0,
            COOKIE_END => return Ok(()),
            cursor => cursor - FIRST_ENTRY - 1,
        };
        loop {
            let list = self.node().fs.call(
                Operation::FileReadDir,
                self.handle.number,
                cookie,
                &[],
                |answer| {
                    let bytes = answer.bytes()?;
                    let mut reader = Reader::new(&bytes);
                    let mut list = vec![];
                    while reader.end().is_err() {
                        list.push(wire::Entry::take(&mut reader).map_err(|_| Errno::IO)?);
                    }
                    Ok(list)
                },
            )?;
            if list.is_empty() {
                return Ok(());
            }
            for entry in list.iter() {
                cookie = entry.next;
                let kind = FileType::from_mode(entry.kind << 12).unwrap_or(FileType::Anonymous);
                let next = match entry.next {
                    next if next < COOKIE_END - FIRST_ENTRY - 1 => next + FIRST_ENTRY + 1,
                    _ => COOKIE_END,
                };
                if !sink(DirEntry { ino: entry.ino, next, kind, name: &entry.name }) {
                    return Ok(());
                }
                if next == COOKIE_END {
                    return Ok(());
                }
            }
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
