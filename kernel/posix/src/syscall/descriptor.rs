// SPDX-License-Identifier: Apache-2.0
//! Descriptors: close, dup, fcntl, locks, pipes, ioctl.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use super::{
    file::get,
    path::{closed, install},
    transfer,
};
use crate::{
    Errno,
    cx::{Cx, Restart, SysResult},
    fs::{
        FdTable, File, FileRef,
        file::IoctlMemory,
        locks::{Owner, RangeLock},
        pipe::{CAPACITY_MAX, PipeEnd},
        tty::{self, Touch, pty::Master},
        types::{FileType, OpenFlags},
    },
    mm::AreaKind,
    net::file::socket_of,
    process::{creds::CAP_SYS_RESOURCE, group::RLIMIT_NOFILE},
    sync::Lock,
};

const FIONBIO: u32 = 0x5421;
const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const FIOASYNC: u32 = 0x5452;
const FIONREAD: u32 = 0x541b;
const TIOCGPTPEER: u32 = 0x5441;

const F_SEAL_WRITE: u32 = 8;
const DN_MULTISHOT: u32 = 1 << 31;

const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

fn limit(cx: &Cx<'_>) -> u64 {
    cx.process().limits.lock().soft(RLIMIT_NOFILE)
}

pub(super) fn sys_close(cx: &mut Cx<'_>, fd: i32) -> SysResult {
    let file = cx.files().lock().close(fd)?;
    closed(cx, [file])?;
    Ok(0)
}

pub(super) fn sys_close_range(cx: &mut Cx<'_>, first: u32, last: u32, flags: u32) -> SysResult {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    if first > last || flags & !(UNSHARE | CLOEXEC) != 0 {
        return Err(Errno::INVAL.into());
    }
    if flags & UNSHARE != 0 {
        let own = FdTable::clone(&cx.files().lock());
        cx.task.set_files(Arc::new(Lock::new(own)));
    }
    let files = cx.files();
    let range = |fd: i32| fd as u32 >= first && fd as u32 <= last;
    let list = files.lock().list();
    let mut gone = Vec::new();
    for (fd, _, _) in list.iter().filter(|(fd, _, _)| range(*fd)) {
        if flags & CLOEXEC != 0 {
            files.lock().set_cloexec(*fd, true)?;
        } else {
            gone.push(files.lock().close(*fd)?);
        }
    }
    drop(list);
    closed(cx, gone)?;
    Ok(0)
}

pub(super) fn sys_dup(cx: &mut Cx<'_>, fd: i32) -> SysResult {
    let file = cx.files().lock().get(fd)?;
    Ok(install(cx, file, false)?)
}

fn dup_to(cx: &mut Cx<'_>, old: i32, new: i32, cloexec: bool) -> SysResult {
    let limit = limit(cx);
    let before = {
        let files = cx.files();
        let mut files = files.lock();
        let file = files.get(old)?;
        files.replace(new, file, cloexec, limit)?
    };
    closed(cx, before)?;
    Ok(new as u64)
}

pub(super) fn sys_dup2(cx: &mut Cx<'_>, old: i32, new: i32) -> SysResult {
    if old == new {
        cx.files().lock().get(old)?;
        return Ok(new as u64);
    }
    dup_to(cx, old, new, false)
}

pub(super) fn sys_dup3(cx: &mut Cx<'_>, old: i32, new: i32, flags: u32) -> SysResult {
    if old == new || flags & !OpenFlags::CLOEXEC.bits() != 0 {
        return Err(Errno::INVAL.into());
    }
    dup_to(cx, old, new, flags != 0)
}

pub(super) fn sys_pipe(cx: &mut Cx<'_>, to: u64) -> SysResult {
    sys_pipe2(cx, to, 0)
}

pub(super) fn sys_pipe2(cx: &mut Cx<'_>, to: u64, flags: u32) -> SysResult {
    let flags = OpenFlags::from_bits_retain(flags);
    if flags.intersects(!(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT)) {
        return Err(Errno::INVAL.into());
    }
    // Packets are not kept apart here: better no pipe than one that mixes them up.
    if flags.contains(OpenFlags::DIRECT) {
        return Err(Errno::INVAL.into());
    }
    let vfs = cx.fs().lock().vfs.clone();
    let [reader, writer] = vfs.open_pipe(flags);
    let cloexec = flags.contains(OpenFlags::CLOEXEC);
    let reader = install(cx, reader, cloexec)?;
    let writer = install(cx, writer, cloexec);
    let written = writer.and_then(|writer| {
        cx.write_bytes(to, &(reader | writer << 32).to_le_bytes())?;
        Ok(())
    });
    if let Err(errno) = written {
        let files = cx.files();
        // One at a time: each takes the table's lock.
        let first = files.lock().close(reader as i32);
        let second = writer.map(|writer| files.lock().close(writer as i32));
        drop((first, second));
        return Err(errno.into());
    }
    Ok(0)
}

pub(super) fn sys_fcntl(cx: &mut Cx<'_>, fd: i32, command: u32, argument: u64) -> SysResult {
    let file = cx.files().lock().get(fd)?;
    let is_path = file.flags().contains(OpenFlags::PATH);
    if is_path && !matches!(command, 0..=3 | 1030) {
        return Err(Errno::BADF.into());
    }
    match command {
        // F_DUPFD, F_DUPFD_CLOEXEC
        0 | 1030 => {
            let limit = limit(cx);
            let min = i32::try_from(argument).map_err(|_| Errno::INVAL)?;
            if min as u64 >= limit {
                return Err(Errno::INVAL.into());
            }
            let fd = cx.files().lock().insert(file, command == 1030, min, limit)?;
            Ok(fd as u64)
        }
        1 => Ok(cx.files().lock().cloexec(fd)?.into()),
        2 => {
            cx.files().lock().set_cloexec(fd, argument & 1 != 0)?;
            Ok(0)
        }
        3 => Ok(u64::from(file.flags().bits())),
        4 => {
            file.set_flags(OpenFlags::from_bits_retain(argument as u32));
            Ok(0)
        }
        5..=7 => range_lock(cx, &file, command, argument, false),
        36..=38 => range_lock(cx, &file, command - 31, argument, true),
        8 => {
            file.owner.store(argument as i32, Ordering::Relaxed);
            Ok(0)
        }
        9 => Ok(i64::from(file.owner.load(Ordering::Relaxed)).cast_unsigned()),
        10 => {
            if argument > 64 {
                return Err(Errno::INVAL.into());
            }
            file.signal.store(argument as i32, Ordering::Relaxed);
            Ok(0)
        }
        11 => Ok(file.signal.load(Ordering::Relaxed) as u64),
        // F_SETOWN_EX, F_GETOWN_EX
        15 => {
            let (kind, id) = (cx.read_u32(argument)?, cx.read_u32(argument + 4)?);
            let id = id.cast_signed();
            file.owner.store(if kind == 2 { -id } else { id }, Ordering::Relaxed);
            Ok(0)
        }
        16 => {
            let owner = file.owner.load(Ordering::Relaxed);
            cx.write_u32(argument, if owner < 0 { 2 } else { 1 })?;
            cx.write_u32(argument + 4, owner.unsigned_abs())?;
            Ok(0)
        }
        // F_GETLEASE: none.
        1025 => Ok(u64::from(F_UNLCK.cast_unsigned())),
        // F_NOTIFY of nothing ends it; of anything it is not supported, as on kernels without it.
        1026 if argument as u32 & !DN_MULTISHOT == 0 && file.attr().kind == FileType::Directory => {
            Ok(0)
        }
        1031 | 1032 => {
            let end = file.ops().as_any().downcast_ref::<PipeEnd>().ok_or(Errno::BADF)?;
            if command == 1032 {
                return Ok(end.pipe().capacity() as u64);
            }
            let bytes = u32::try_from(argument).map_err(|_| Errno::INVAL)? as usize;
            if bytes > 1 << 31 {
                return Err(Errno::INVAL.into());
            }
            let privileged = cx.creds().has_cap(CAP_SYS_RESOURCE);
            if bytes > CAPACITY_MAX && !(privileged && bytes <= 16 * CAPACITY_MAX) {
                return Err(Errno::PERM.into());
            }
            Ok(end.pipe().set_capacity(bytes)? as u64)
        }
        1033 => {
            if !file.is_writable() {
                return Err(Errno::PERM.into());
            }
            let seals = u32::try_from(argument).map_err(|_| Errno::INVAL)?;
            if seals & F_SEAL_WRITE != 0 && is_mapped_for_writing(cx, &file) {
                return Err(Errno::BUSY.into());
            }
            file.inode().seals(seals)?;
            Ok(0)
        }
        1034 => Ok(file.inode().seals(0)?.into()),
        _ => Err(Errno::INVAL.into()),
    }
}

/// How often a lock that somebody outside of the container holds is asked for, in nanoseconds.
const HOST_LOCK_NS: u64 = 10_000_000;

/// Whether any memory has a shared writable mapping of a file.
fn is_mapped_for_writing(cx: &Cx<'_>, file: &FileRef) -> bool {
    let memories = cx.kernel.services.registry.tasks().into_iter().filter_map(|task| task.mm());
    memories.into_iter().any(|mm| {
        mm.areas.lock().iter().any(|area| match &area.kind {
            AreaKind::File { file: other, shared: true, .. } => {
                area.protection.write && Arc::ptr_eq(other.inode(), file.inode())
            }
            _ => false,
        })
    })
}

/// F_GETLK, F_SETLK and F_SETLKW (5 to 7), for POSIX or open file description locks.
fn range_lock(
    cx: &mut Cx<'_>,
    file: &FileRef,
    command: u32,
    argument: u64,
    of_file: bool,
) -> SysResult {
    let mut raw = [0; 32];
    cx.read_bytes(argument, &mut raw)?;
    let short = |at: usize| i16::from_le_bytes([raw[at], raw[at + 1]]);
    let long = |at: usize| {
        raw[at..at + 8].iter().rev().fold(0, |value: u64, byte| value << 8 | u64::from(*byte))
    };
    let (kind, whence) = (short(0), short(2));
    let (start, bytes) = (long(8).cast_signed(), long(16).cast_signed());
    if of_file && raw[24..28] != [0; 4] {
        return Err(Errno::INVAL.into());
    }
    let base = match whence {
        0 => 0,
        1 => *file.position().lock(),
        2 => file.size(),
        _ => return Err(Errno::INVAL.into()),
    };
    let start = base.checked_add_signed(start).ok_or(Errno::INVAL)?;
    let (start, end) = match bytes {
        0 => (start, u64::MAX),
        bytes if bytes > 0 => {
            (start, start.checked_add(bytes.unsigned_abs()).ok_or(Errno::OVERFLOW)?)
        }
        bytes => (start.checked_sub(bytes.unsigned_abs()).ok_or(Errno::INVAL)?, start),
    };
    let exclusive = match kind {
        F_RDLCK => false,
        F_WRLCK => true,
        F_UNLCK if command != 5 => false,
        _ => return Err(Errno::INVAL.into()),
    };
    let vfs = cx.fs().lock().vfs.clone();
    let locks = &vfs.locks;
    let attr = file.attr();
    let owner = if of_file {
        file.has_locks.store(true, Ordering::Relaxed);
        Owner::File(Arc::as_ptr(file).addr() as u64)
    } else {
        cx.files().lock().lock_owner(locks)
    };
    let pid = if of_file { -1 } else { cx.process().pid.cast_signed() };
    let lock = RangeLock { owner, start, end, exclusive, pid };
    if command == 5 {
        match locks.conflict(&attr, &lock) {
            None => raw[0..2].copy_from_slice(&F_UNLCK.to_le_bytes()),
            Some(held) => {
                let kind = if held.exclusive { F_WRLCK } else { F_RDLCK };
                let bytes = if held.end == u64::MAX { 0 } else { held.end - held.start };
                raw[0..2].copy_from_slice(&kind.to_le_bytes());
                raw[2..4].copy_from_slice(&[0; 2]);
                raw[8..16].copy_from_slice(&held.start.to_le_bytes());
                raw[16..24].copy_from_slice(&bytes.to_le_bytes());
                raw[24..28].copy_from_slice(&held.pid.to_le_bytes());
            }
        }
        cx.write_bytes(argument, &raw)?;
        return Ok(0);
    }
    if kind == F_UNLCK {
        locks.clear(&attr, owner, start, end);
        return Ok(0);
    }
    let allowed = if exclusive { file.is_writable() } else { file.is_readable() };
    if !allowed {
        return Err(Errno::BADF.into());
    }
    let ticket = cx.ticket();
    if locks.conflict(&attr, &lock).is_none()
        && let Some(kept) = file.ops().lock_range(file, &lock, locks.keeper(&attr))
    {
        return match kept.and_then(|keeper| locks.set_kept(&attr, lock, &keeper)) {
            Err(Errno::AGAIN) if command == 7 => {
                // The host tells nobody when a lock is free: it is asked from time to time.
                let again = cx.services().monotonic_ns().saturating_add(HOST_LOCK_NS);
                Err(cx.block(Some(again), Restart::Always))
            }
            result => {
                result?;
                Ok(0)
            }
        };
    }
    match locks.set(&attr, lock, (command == 7).then_some(&ticket)) {
        Err(Errno::AGAIN) if command == 7 => Err(cx.block(None, Restart::Always)),
        result => {
            result?;
            Ok(0)
        }
    }
}

pub(super) fn sys_flock(cx: &mut Cx<'_>, fd: i32, operation: u32) -> SysResult {
    let file = get(cx, fd)?;
    let vfs = cx.fs().lock().vfs.clone();
    let kind = match operation & !4 {
        1 => Some(false),
        2 => Some(true),
        8 => None,
        _ => return Err(Errno::INVAL.into()),
    };
    let owner = Arc::as_ptr(&file).addr() as u64;
    file.has_locks.store(true, Ordering::Relaxed);
    let ticket = cx.ticket();
    let waits = operation & 4 == 0;
    match file.ops().flock(&file, kind) {
        None => {}
        Some(Err(Errno::AGAIN)) if waits => {
            // The host tells nobody when a lock is free: it is asked from time to time.
            let again = cx.services().monotonic_ns().saturating_add(HOST_LOCK_NS);
            return Err(cx.block(Some(again), Restart::Always));
        }
        Some(result) => {
            result?;
            return Ok(0);
        }
    }
    match vfs.locks.flock(&file.attr(), owner, kind, waits.then_some(&ticket)) {
        Err(Errno::AGAIN) if waits => Err(cx.block(None, Restart::Always)),
        result => {
            result?;
            Ok(0)
        }
    }
}

pub(super) fn sys_ioctl(cx: &mut Cx<'_>, fd: i32, command: u32, argument: u64) -> SysResult {
    let file = get(cx, fd)?;
    match command {
        FIOCLEX | FIONCLEX => {
            cx.files().lock().set_cloexec(fd, command == FIOCLEX)?;
            return Ok(0);
        }
        FIONBIO | FIOASYNC => {
            let on = cx.read_u32(argument)? != 0;
            let flag = if command == FIONBIO { OpenFlags::NONBLOCK } else { OpenFlags::ASYNC };
            let mut flags = file.flags();
            flags.set(flag, on);
            file.set_flags(flags);
            return Ok(0);
        }
        FIONREAD if file.location().kind() == FileType::Regular => {
            file.inode().refresh()?;
            let left = file.size().saturating_sub(*file.position().lock());
            cx.write_u32(argument, left.min(i32::MAX as u64) as u32)?;
            return Ok(0);
        }
        TIOCGPTPEER => return open_peer(cx, &file, argument as u32),
        _ => {}
    }
    if tty::is_change(command) {
        transfer::touch(cx, &file, Touch::Change)?;
    }
    let ops = Arc::clone(file.ops());
    let vfs = cx.fs().lock().vfs.clone();
    let result = {
        let cx = &*cx;
        let mut read = |address: u64, to: &mut [u8]| cx.read_bytes(address, to);
        let mut write = |address: u64, from: &[u8]| cx.write_bytes(address, from);
        let mut memory = IoctlMemory { argument, read: &mut read, write: &mut write };
        match ops.ioctl(&file, command, &mut memory) {
            // What is asked of any socket is about the network.
            Err(Errno::NOTTY) if command >> 8 == 0x89 && socket_of(&file).is_ok() => {
                vfs.net.ioctl(command, &mut memory)
            }
            result => result,
        }
    };
    transfer::send_signals(cx);
    Ok(result?)
}

/// Opens the other side of a pseudo-terminal's master.
fn open_peer(cx: &mut Cx<'_>, file: &FileRef, flags: u32) -> SysResult {
    let master = file.ops().as_any().downcast_ref::<Master>().ok_or(Errno::NOTTY)?;
    let flags = OpenFlags::from_bits_retain(flags);
    let ops = master.tty.open(flags)?;
    let vfs = cx.fs().lock().vfs.clone();
    let place = vfs.find_pts(&master.tty);
    let opened = File::new(&vfs, place, ops, flags);
    Ok(install(cx, opened, flags.contains(OpenFlags::CLOEXEC))?)
}
