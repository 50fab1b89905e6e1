// SPDX-License-Identifier: Apache-2.0
//! Contents of open files: read, write, seek, size, copy.

use alloc::{sync::Arc, vec::Vec};

use super::{
    socket,
    transfer::{self, TRANSFER_MAX},
};
use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    fs::{
        FileRef,
        inode::Allocate,
        notify,
        permission::{self, WRITE},
        pipe::{Pipe, PipeEnd},
        types::{FileType, OpenFlags, Ready},
        walk::Walk,
    },
    io::{Sink, SliceSource, VecSink},
    net::file::socket_of,
    process::{
        group::RLIMIT_FSIZE,
        signal::{SIGPIPE, SIGXFSZ},
    },
};

/// SPLICE_F_NONBLOCK.
const SPLICE_F_NONBLOCK: u32 = 2;
const RWF_NOWAIT: u32 = 8;
const RWF_APPEND: u32 = 0x10;
const RWF_KNOWN: u32 = 0x1f;

/// The file of a descriptor, unless it was opened with O_PATH.
pub(super) fn get(cx: &Cx<'_>, fd: i32) -> Result<FileRef, Errno> {
    let file = cx.files().lock().get(fd)?;
    if file.flags().contains(OpenFlags::PATH) { Err(Errno::BADF) } else { Ok(file) }
}

fn offset(offset: i64) -> Result<u64, Errno> {
    u64::try_from(offset).map_err(|_| Errno::INVAL)
}

pub(super) fn sys_read(cx: &mut Cx<'_>, fd: i32, address: u64, bytes: usize) -> SysResult {
    let file = get(cx, fd)?;
    if let Ok(socket) = socket_of(&file) {
        let ranges = Vec::from([(address, bytes.min(TRANSFER_MAX))]);
        return socket::transfer_read(cx, &file, &*socket, ranges);
    }
    let sink = cx.sink(address, bytes.min(TRANSFER_MAX));
    transfer::read(cx, &file, sink, None)
}

pub(super) fn sys_write(cx: &mut Cx<'_>, fd: i32, address: u64, bytes: usize) -> SysResult {
    let file = get(cx, fd)?;
    let ranges = Vec::from([(address, bytes.min(TRANSFER_MAX))]);
    match socket_of(&file) {
        Ok(socket) => socket::transfer_write(cx, &file, &*socket, ranges),
        Err(_) => transfer::write(cx, &file, ranges, None),
    }
}

pub(super) fn sys_pread64(
    cx: &mut Cx<'_>,
    fd: i32,
    address: u64,
    bytes: usize,
    at: i64,
) -> SysResult {
    let (file, at) = (get(cx, fd)?, offset(at)?);
    let sink = cx.sink(address, bytes.min(TRANSFER_MAX));
    transfer::read(cx, &file, sink, Some(at))
}

pub(super) fn sys_pwrite64(
    cx: &mut Cx<'_>,
    fd: i32,
    address: u64,
    bytes: usize,
    at: i64,
) -> SysResult {
    let (file, at) = (get(cx, fd)?, offset(at)?);
    transfer::write(cx, &file, Vec::from([(address, bytes)]), Some(at))
}

pub(super) fn sys_readv(cx: &mut Cx<'_>, fd: i32, iov: u64, count: usize) -> SysResult {
    let file = get(cx, fd)?;
    if let Ok(socket) = socket_of(&file) {
        let ranges = cx.read_iovec(iov, count)?;
        return socket::transfer_read(cx, &file, &*socket, ranges);
    }
    let sink = cx.sink_vector(iov, count)?;
    transfer::read(cx, &file, sink, None)
}

pub(super) fn sys_writev(cx: &mut Cx<'_>, fd: i32, iov: u64, count: usize) -> SysResult {
    let file = get(cx, fd)?;
    let ranges = cx.read_iovec(iov, count)?;
    match socket_of(&file) {
        Ok(socket) => socket::transfer_write(cx, &file, &*socket, ranges),
        Err(_) => transfer::write(cx, &file, ranges, None),
    }
}

pub(super) fn sys_preadv(cx: &mut Cx<'_>, fd: i32, iov: u64, count: usize, at: i64) -> SysResult {
    let (file, at) = (get(cx, fd)?, offset(at)?);
    let sink = cx.sink_vector(iov, count)?;
    transfer::read(cx, &file, sink, Some(at))
}

pub(super) fn sys_pwritev(cx: &mut Cx<'_>, fd: i32, iov: u64, count: usize, at: i64) -> SysResult {
    let (file, at) = (get(cx, fd)?, offset(at)?);
    let ranges = cx.read_iovec(iov, count)?;
    transfer::write(cx, &file, ranges, Some(at))
}

pub(super) fn sys_preadv2(
    cx: &mut Cx<'_>,
    fd: i32,
    iov: u64,
    count: usize,
    at: i64,
    _high: u64,
    flags: u32,
) -> SysResult {
    if flags & !RWF_KNOWN != 0 || flags & RWF_NOWAIT != 0 {
        return Err(Errno::OPNOTSUPP.into());
    }
    match at {
        -1 => sys_readv(cx, fd, iov, count),
        at => sys_preadv(cx, fd, iov, count, at),
    }
}

pub(super) fn sys_pwritev2(
    cx: &mut Cx<'_>,
    fd: i32,
    iov: u64,
    count: usize,
    at: i64,
    _high: u64,
    flags: u32,
) -> SysResult {
    if flags & !RWF_KNOWN != 0 || flags & RWF_NOWAIT != 0 {
        return Err(Errno::OPNOTSUPP.into());
    }
    if flags & RWF_APPEND != 0 {
        let file = get(cx, fd)?;
        let ranges = cx.read_iovec(iov, count)?;
        file.inode().refresh()?;
        let end = file.size();
        return transfer::write(cx, &file, ranges, Some(end));
    }
    match at {
        -1 => sys_writev(cx, fd, iov, count),
        at => sys_pwritev(cx, fd, iov, count, at),
    }
}

pub(super) fn sys_lseek(cx: &mut Cx<'_>, fd: i32, at: i64, whence: u32) -> SysResult {
    Ok(get(cx, fd)?.seek(at, whence)?)
}

/// Checks a new size against RLIMIT_FSIZE.
fn check_size(cx: &mut Cx<'_>, size: u64) -> Result<(), Errno> {
    if size > cx.process().limits.lock().soft(RLIMIT_FSIZE) {
        cx.send_signal_to_self(SIGXFSZ);
        return Err(Errno::FBIG);
    }
    Ok(())
}

pub(super) fn sys_truncate(cx: &mut Cx<'_>, path: u64, size: i64) -> SysResult {
    let size = offset(size)?;
    let path = cx.read_path(path)?;
    // A copy: a walk through /proc/self/cwd takes the lock itself.
    let (fs, creds) = (cx.fs().lock().clone(), cx.creds());
    let place = fs.find(&creds, &fs.cwd, &path, Walk::FOLLOW)?;
    match place.kind() {
        FileType::Directory => return Err(Errno::ISDIR.into()),
        FileType::Regular => {}
        _ => return Err(Errno::INVAL.into()),
    }
    permission::check_place(&place, &creds, WRITE)?;
    fs.vfs.check_not_running(&place)?;
    check_size(cx, size)?;
    place.inode().truncate(size)?;
    fs.vfs.notify.happened(&place, notify::MODIFY);
    Ok(0)
}

pub(super) fn sys_ftruncate(cx: &mut Cx<'_>, fd: i32, size: i64) -> SysResult {
    let (file, size) = (get(cx, fd)?, offset(size)?);
    if !file.is_writable() || file.location().kind() != FileType::Regular {
        return Err(Errno::INVAL.into());
    }
    check_size(cx, size)?;
    file.ops().truncate(&file, size)?;
    file.tell(notify::MODIFY);
    Ok(0)
}

pub(super) fn sys_fallocate(
    cx: &mut Cx<'_>,
    fd: i32,
    mode: u32,
    start: i64,
    bytes: i64,
) -> SysResult {
    let file = get(cx, fd)?;
    let (start, bytes) = (offset(start)?, offset(bytes)?);
    if bytes == 0 {
        return Err(Errno::INVAL.into());
    }
    if !file.is_writable() {
        return Err(Errno::BADF.into());
    }
    match file.location().kind() {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::ISDIR.into()),
        FileType::Fifo => return Err(Errno::SPIPE.into()),
        _ => return Err(Errno::NODEV.into()),
    }
    let range = match mode {
        0 => Allocate::Grow,
        1 => Allocate::KeepSize,
        3 => Allocate::Punch,
        0x10 => Allocate::Zero,
        _ => return Err(Errno::OPNOTSUPP.into()),
    };
    let end = start.checked_add(bytes).ok_or(Errno::FBIG)?;
    if range != Allocate::Punch {
        check_size(cx, end)?;
    }
    file.ops().allocate(&file, range, start, bytes)?;
    file.tell(notify::MODIFY);
    Ok(0)
}

pub(super) fn sys_fsync(cx: &mut Cx<'_>, fd: i32) -> SysResult {
    sync(cx, fd, false)
}

pub(super) fn sys_fdatasync(cx: &mut Cx<'_>, fd: i32) -> SysResult {
    sync(cx, fd, true)
}

/// What is in memory has nothing to wait for; volumes have.
fn sync(cx: &mut Cx<'_>, fd: i32, data_only: bool) -> SysResult {
    let file = get(cx, fd)?;
    match file.location().kind() {
        FileType::Regular | FileType::Directory | FileType::BlockDevice => {
            file.ops().sync(&file, data_only)?;
            Ok(0)
        }
        _ => Err(Errno::INVAL.into()),
    }
}

pub(super) fn sys_sync(_cx: &mut Cx<'_>) -> SysResult {
    Ok(0)
}

pub(super) fn sys_syncfs(cx: &mut Cx<'_>, fd: i32) -> SysResult {
    get(cx, fd)?;
    Ok(0)
}

pub(super) fn sys_sync_file_range(
    cx: &mut Cx<'_>,
    fd: i32,
    start: i64,
    bytes: i64,
    flags: u32,
) -> SysResult {
    if start < 0 || bytes < 0 || flags & !7 != 0 {
        return Err(Errno::INVAL.into());
    }
    sys_fsync(cx, fd)
}

pub(super) fn sys_fadvise64(
    cx: &mut Cx<'_>,
    fd: i32,
    _at: i64,
    _bytes: i64,
    advice: u32,
) -> SysResult {
    match get(cx, fd)?.location().kind() {
        FileType::Fifo => Err(Errno::SPIPE.into()),
        _ if advice > 5 => Err(Errno::INVAL.into()),
        _ => Ok(0),
    }
}

pub(super) fn sys_readahead(cx: &mut Cx<'_>, fd: i32, _at: i64, _bytes: usize) -> SysResult {
    let file = get(cx, fd)?;
    if !file.is_readable() {
        return Err(Errno::BADF.into());
    }
    match file.location().kind() {
        FileType::Regular => Ok(0),
        _ => Err(Errno::INVAL.into()),
    }
}

/// Bytes that a copy in the kernel moves at a time.
const COPY_BYTES: usize = 16384;
/// The same from a file to a socket.
const SOCKET_BYTES: usize = 65536;

/// Copies from one file to another; offsets of `None` are the files' own positions.
fn copy(
    cx: &mut Cx<'_>,
    from: &FileRef,
    from_at: Option<u64>,
    to: &FileRef,
    to_at: Option<u64>,
    bytes: usize,
    may_wait: bool,
) -> SysResult {
    if !from.is_readable() || !to.is_writable() {
        return Err(Errno::BADF.into());
    }
    let mut total = cx.progress().done as usize;
    let end =
        |total: usize, errno: Errno| if total > 0 { Ok(total as u64) } else { Err(errno.into()) };
    let mut waited = false;
    while total < bytes.min(TRANSFER_MAX) {
        // Where the target is full, nothing may be taken from the source: so the source is read
        // only for what is known to fit.
        if !to.poll(None).intersects(Ready::WRITABLE | Ready::ERR) {
            if !to.blocks() || !may_wait || total > 0 {
                return end(total, Errno::AGAIN);
            }
            to.poll(Some(&cx.ticket()));
            cx.progress().done = total as u64;
            return Err(cx.block(None, Restart::Always));
        }
        let part = (bytes - total).min(match to.location().kind() {
            FileType::Regular => COPY_BYTES,
            // What it does not take is read again.
            FileType::Socket if from.ops().is_seekable() => SOCKET_BYTES,
            _ => crate::fs::pipe::PIPE_BUF,
        });
        let mut sink = VecSink::new(part);
        let held = core::mem::take(&mut cx.task.journal.lock().held);
        let done = match from_at {
            _ if !held.is_empty() => Ok(sink.put(&held)),
            Some(at) => from.read_at(at + total as u64, &mut sink),
            None => from.read(&mut sink),
        };
        match done {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::AGAIN) if from.blocks() && may_wait && total == 0 => {
                if !waited {
                    waited = true;
                    from.poll(Some(&cx.ticket()));
                    continue;
                }
                return Err(cx.block(None, Restart::Always));
            }
            Err(Errno::PENDING) => {
                cx.progress().done = total as u64;
                return Err(Errno::PENDING.into());
            }
            Err(errno) => return end(total, errno),
        }
        let mut source = SliceSource(&sink.bytes);
        while !source.0.is_empty() {
            let before = source.0.len();
            let done = match to_at {
                Some(at) => to.write_at(at + total as u64, &mut source),
                None => to.write(&mut source),
            };
            match done {
                Ok(done) => total += done,
                Err(errno) => {
                    if errno == Errno::PIPE {
                        cx.send_signal_to_self(SIGPIPE);
                    }
                    // Back to where the target stopped.
                    if from_at.is_none() && from.ops().is_seekable() {
                        *from.position().lock() -= before as u64;
                    } else if errno == Errno::PENDING && from_at.is_none() {
                        let left = sink.bytes[sink.bytes.len() - before..].to_vec();
                        cx.task.journal.lock().held = left;
                    }
                    if errno == Errno::PENDING {
                        cx.progress().done = total as u64;
                        return Err(errno.into());
                    }
                    if errno == Errno::AGAIN && !from.ops().is_seekable() {
                        // It was taken from a pipe or socket, and must not be lost.
                        let left = sink.bytes[sink.bytes.len() - before..].to_vec();
                        cx.task.journal.lock().held = left;
                        to.poll(Some(&cx.ticket()));
                        cx.progress().done = total as u64;
                        return Err(cx.block(None, Restart::Uninterruptible));
                    }
                    return end(total, errno);
                }
            }
        }
    }
    Ok(total as u64)
}

/// Reads an offset that the caller may have given.
fn read_offset(cx: &Cx<'_>, address: u64) -> Result<Option<u64>, Errno> {
    match address {
        0 => Ok(None),
        address => offset(cx.read_u64(address)?.cast_signed()).map(Some),
    }
}

fn write_offset(cx: &Cx<'_>, address: u64, before: Option<u64>, done: u64) -> Result<(), Errno> {
    match before {
        Some(before) => cx.write_u64(address, before + done),
        None => Ok(()),
    }
}

pub(super) fn sys_sendfile(
    cx: &mut Cx<'_>,
    to: i32,
    from: i32,
    at: u64,
    bytes: usize,
) -> SysResult {
    let (to, from) = (get(cx, to)?, get(cx, from)?);
    if to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::INVAL.into());
    }
    // A source without positions needs a pipe on the other side: that is splice.
    if !from.ops().is_seekable() {
        return Err(Errno::INVAL.into());
    }
    let from_at = read_offset(cx, at)?;
    let done = copy(cx, &from, from_at, &to, None, bytes, true)?;
    write_offset(cx, at, from_at, done)?;
    Ok(done)
}

pub(super) fn sys_copy_file_range(
    cx: &mut Cx<'_>,
    from: i32,
    from_address: u64,
    to: i32,
    to_address: u64,
    bytes: usize,
    flags: u32,
) -> SysResult {
    let (from, to) = (get(cx, from)?, get(cx, to)?);
    if flags != 0 {
        return Err(Errno::INVAL.into());
    }
    for file in [&from, &to] {
        match file.location().kind() {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::ISDIR.into()),
            _ => return Err(Errno::INVAL.into()),
        }
    }
    if to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::BADF.into());
    }
    let (from_at, to_at) = (read_offset(cx, from_address)?, read_offset(cx, to_address)?);
    let (a, b) = (from.attr(), to.attr());
    if (a.device, a.ino) == (b.device, b.ino) {
        let start = from_at.unwrap_or(*from.position().lock());
        let target = to_at.unwrap_or(*to.position().lock());
        let bytes = bytes as u64;
        if start < target.saturating_add(bytes) && target < start.saturating_add(bytes) {
            return Err(Errno::INVAL.into());
        }
    }
    let done = copy(cx, &from, from_at, &to, to_at, bytes, true)?;
    write_offset(cx, from_address, from_at, done)?;
    write_offset(cx, to_address, to_at, done)?;
    Ok(done)
}

pub(super) fn sys_splice(
    cx: &mut Cx<'_>,
    from: i32,
    from_address: u64,
    to: i32,
    to_address: u64,
    bytes: usize,
    flags: u32,
) -> SysResult {
    let (from, to) = (get(cx, from)?, get(cx, to)?);
    if flags & !0xf != 0 {
        return Err(Errno::INVAL.into());
    }
    let is_pipe = |file: &FileRef| file.location().kind() == FileType::Fifo;
    if !is_pipe(&from) && !is_pipe(&to) {
        return Err(Errno::INVAL.into());
    }
    if (is_pipe(&from) && from_address != 0) || (is_pipe(&to) && to_address != 0) {
        return Err(Errno::SPIPE.into());
    }
    let (from_at, to_at) = (read_offset(cx, from_address)?, read_offset(cx, to_address)?);
    // A pipe gives what it has, and does not wait for more.
    let bytes = bytes.min(crate::fs::pipe::CAPACITY_MAX);
    let may_wait = flags & SPLICE_F_NONBLOCK == 0;
    let done = copy(cx, &from, from_at, &to, to_at, bytes, may_wait)?;
    write_offset(cx, from_address, from_at, done)?;
    write_offset(cx, to_address, to_at, done)?;
    Ok(done)
}

/// The pipe that a descriptor is an end of.
fn pipe_of(file: &FileRef) -> Result<Arc<Pipe>, Errno> {
    let end = file.ops().as_any().downcast_ref::<PipeEnd>().ok_or(Errno::INVAL)?;
    Ok(end.pipe().clone())
}

pub(super) fn sys_tee(cx: &mut Cx<'_>, from: i32, to: i32, bytes: usize, flags: u32) -> SysResult {
    let (from, to) = (get(cx, from)?, get(cx, to)?);
    if flags & !0xf != 0 {
        return Err(Errno::INVAL.into());
    }
    if !from.is_readable() || !to.is_writable() {
        return Err(Errno::BADF.into());
    }
    let (source, target) = (pipe_of(&from)?, pipe_of(&to)?);
    if Arc::ptr_eq(&source, &target) {
        return Err(Errno::INVAL.into());
    }
    if bytes == 0 {
        return Ok(0);
    }
    let waits = |file: &FileRef| flags & SPLICE_F_NONBLOCK == 0 && file.blocks();
    let wait = |cx: &mut Cx<'_>, file: &FileRef| {
        if !waits(file) {
            return Errno::AGAIN.into();
        }
        file.poll(Some(&cx.ticket()));
        cx.block(None, Restart::Always)
    };
    let copy = match source.peek(bytes) {
        Ok(copy) if copy.is_empty() => return Ok(0),
        Ok(copy) => copy,
        Err(_) => return Err(wait(cx, &from)),
    };
    let room = target.capacity() - target.bytes();
    let part = &copy[..copy.len().min(room)];
    if part.is_empty() {
        return Err(wait(cx, &to));
    }
    match to.write(&mut SliceSource(part)) {
        Ok(done) => Ok(done as u64),
        Err(errno) => {
            if errno == Errno::PIPE {
                cx.send_signal_to_self(SIGPIPE);
            }
            Err(errno.into())
        }
    }
}

pub(super) fn sys_vmsplice(
    cx: &mut Cx<'_>,
    fd: i32,
    iov: u64,
    count: usize,
    flags: u32,
) -> SysResult {
    let file = get(cx, fd)?;
    if flags & !0xf != 0 {
        return Err(Errno::INVAL.into());
    }
    pipe_of(&file).map_err(|_| Errno::BADF)?;
    let wanted = if file.is_writable() { Ready::WRITABLE } else { Ready::READABLE };
    if flags & SPLICE_F_NONBLOCK != 0 && !file.poll(None).intersects(wanted | Ready::HUP) {
        return Err(Errno::AGAIN.into());
    }
    // Pages are copied, never given away: nobody can see the difference.
    if file.is_writable() { sys_writev(cx, fd, iov, count) } else { sys_readv(cx, fd, iov, count) }
}
