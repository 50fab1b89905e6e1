// SPDX-License-Identifier: Apache-2.0
//! Calls that begin at a path: open, stat, access, attributes, the current directory.

use alloc::vec::Vec;

use super::{stat, transfer};
use crate::{
    Errno,
    cx::{Cx, Restart, Stop, SysResult},
    fs::{
        FileRef, FsContext, Location,
        file::File,
        notify,
        open::{How, Opener},
        permission::{self, EXECUTE, READ, WRITE},
        types::{FileType, OpenFlags, PATH_MAX, PERMISSIONS, SetAttr},
        walk::Walk,
    },
    process::{
        Creds,
        creds::{CAP_FOWNER, CAP_SYS_CHROOT},
        group::RLIMIT_NOFILE,
    },
    services::Timestamp,
};

/// "The current directory" in place of a descriptor.
pub(super) const AT_FDCWD: i32 = -100;
pub(super) const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
pub(super) const AT_REMOVEDIR: u32 = 0x200;
const AT_EACCESS: u32 = 0x200;
pub(super) const AT_SYMLINK_FOLLOW: u32 = 0x400;
const AT_NO_AUTOMOUNT: u32 = 0x800;
pub(super) const AT_EMPTY_PATH: u32 = 0x1000;
const AT_STATX_SYNC: u32 = 0x6000;

const UTIME_NOW: u64 = (1 << 30) - 1;
const UTIME_OMIT: u64 = (1 << 30) - 2;

/// The caller's view of paths, for the length of one call.
#[derive(Debug)]
pub(super) struct At {
    pub(super) fs: FsContext,
    pub(super) start: Location,
    pub(super) path: Vec<u8>,
    /// The path is empty, and that is allowed: the start itself is meant.
    pub(super) is_empty: bool,
}

impl At {
    /// Reads a path, and finds where it starts.
    pub(super) fn new(cx: &Cx<'_>, fd: i32, path: u64, flags: u32) -> Result<Self, Errno> {
        let empty_ok = flags & AT_EMPTY_PATH != 0;
        let path = if path == 0 && empty_ok { Vec::new() } else { cx.read_path(path)? };
        let fs = cx.fs().lock().clone();
        let is_empty = path.is_empty() && empty_ok;
        let start = if path.first() == Some(&b'/') {
            fs.root.clone()
        } else if fd == AT_FDCWD {
            fs.cwd.clone()
        } else {
            let place = cx.files().lock().get(fd)?.location().clone();
            if !is_empty && place.kind() != FileType::Directory {
                return Err(if path.is_empty() { Errno::NOENT } else { Errno::NOTDIR });
            }
            place
        };
        Ok(Self { fs, start, path, is_empty })
    }

    /// Finds what the path means.
    pub(super) fn find(&self, creds: &Creds, follow: bool) -> Result<Location, Errno> {
        if self.is_empty {
            self.start.inode().refresh()?;
            return Ok(self.start.clone());
        }
        let how = if follow { Walk::FOLLOW } else { Walk::empty() };
        self.fs.find(creds, &self.start, &self.path, how)
    }
}

/// Gives a file a descriptor.
pub(super) fn install(cx: &Cx<'_>, file: FileRef, cloexec: bool) -> Result<u64, Errno> {
    let limit = cx.process().limits.lock().soft(RLIMIT_NOFILE);
    let fd = cx.files().lock().insert(file, cloexec, 0, limit)?;
    Ok(fd as u64)
}

fn open(cx: &mut Cx<'_>, fd: i32, path: u64, how: How) -> SysResult {
    let at = At::new(cx, fd, path, 0)?;
    let creds = cx.creds();
    let ticket = cx.ticket();
    let opener = Opener { ticket: Some(&ticket), task: cx.task.tid() };
    match at.fs.open(&creds, &at.start, &at.path, how, &opener) {
        Ok(file) => {
            let fd = install(cx, file, how.flags.contains(OpenFlags::CLOEXEC))?;
            Ok(fd)
        }
        // Only a FIFO's other end makes an open wait.
        Err(Errno::AGAIN) if !how.flags.contains(OpenFlags::NONBLOCK) => {
            Err(cx.block(None, Restart::Always))
        }
        Err(errno) => Err(errno.into()),
    }
}

fn how(flags: u32, mode: u32) -> Result<How, Errno> {
    let mut flags = OpenFlags::from_bits_retain(flags);
    if flags.contains(OpenFlags::PATH) {
        flags &= OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    }
    if flags.contains(OpenFlags::TMPFILE)
        && (!flags.contains(OpenFlags::DIRECTORY) || !flags.writes())
    {
        return Err(Errno::INVAL);
    }
    if flags.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY) {
        return Err(Errno::INVAL);
    }
    Ok(How { flags, mode, walk: Walk::empty() })
}

pub(super) fn sys_open(cx: &mut Cx<'_>, path: u64, flags: u32, mode: u32) -> SysResult {
    sys_openat(cx, AT_FDCWD, path, flags, mode)
}

pub(super) fn sys_openat(cx: &mut Cx<'_>, fd: i32, path: u64, flags: u32, mode: u32) -> SysResult {
    open(cx, fd, path, how(flags, mode)?)
}

pub(super) fn sys_creat(cx: &mut Cx<'_>, path: u64, mode: u32) -> SysResult {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    sys_openat(cx, AT_FDCWD, path, flags.bits(), mode)
}

pub(super) fn sys_openat2(
    cx: &mut Cx<'_>,
    fd: i32,
    path: u64,
    argument: u64,
    bytes: usize,
) -> SysResult {
    if bytes < 24 {
        return Err(Errno::INVAL.into());
    }
    if bytes > 4096 {
        return Err(Errno::TOO_BIG.into());
    }
    let mut raw = alloc::vec![0; bytes];
    cx.read_bytes(argument, &mut raw)?;
    if raw[24..].iter().any(|&byte| byte != 0) {
        return Err(Errno::TOO_BIG.into());
    }
    let word = |at: usize| {
        raw[at..at + 8].iter().rev().fold(0, |value: u64, byte| value << 8 | u64::from(*byte))
    };
    let (flags, mode, resolve) = (word(0), word(8), word(16));
    const KNOWN: u64 = 0o37777703;
    if flags & !KNOWN != 0 || mode & !u64::from(PERMISSIONS) != 0 || resolve & !0x3f != 0 {
        return Err(Errno::INVAL.into());
    }
    if mode != 0 && flags as u32 & (OpenFlags::CREAT | OpenFlags::TMPFILE).bits() == 0 {
        return Err(Errno::INVAL.into());
    }
    let mut how = how(flags as u32, mode as u32)?;
    let bits = [
        (1, Walk::NO_XDEV),
        (2, Walk::NO_MAGIC),
        (4, Walk::NO_LINKS),
        (8, Walk::BENEATH),
        (0x10, Walk::IN_ROOT),
    ];
    for (bit, walk) in bits {
        how.walk.set(walk, resolve & bit != 0);
    }
    // RESOLVE_CACHED: everything is always cached.
    open(cx, fd, path, how)
}

fn stat_to(cx: &Cx<'_>, attr: &crate::fs::types::Attr, to: u64) -> SysResult {
    cx.write_bytes(to, &stat::encode(attr))?;
    Ok(0)
}

pub(super) fn sys_stat(cx: &mut Cx<'_>, path: u64, to: u64) -> SysResult {
    sys_newfstatat(cx, AT_FDCWD, path, to, 0)
}

pub(super) fn sys_lstat(cx: &mut Cx<'_>, path: u64, to: u64) -> SysResult {
    sys_newfstatat(cx, AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW)
}

pub(super) fn sys_fstat(cx: &mut Cx<'_>, fd: i32, to: u64) -> SysResult {
    let file = cx.files().lock().get(fd)?;
    file.inode().refresh()?;
    let attr = file.attr();
    stat_to(cx, &attr, to)
}

pub(super) fn sys_newfstatat(
    cx: &mut Cx<'_>,
    fd: i32,
    path: u64,
    to: u64,
    flags: u32,
) -> SysResult {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL.into());
    }
    let at = At::new(cx, fd, path, flags)?;
    let place = at.find(&cx.creds(), flags & AT_SYMLINK_NOFOLLOW == 0)?;
    stat_to(cx, &place.attr(), to)
}

pub(super) fn sys_statx(
    cx: &mut Cx<'_>,
    fd: i32,
    path: u64,
    flags: u32,
    mask: u32,
    to: u64,
) -> SysResult {
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC;
    if flags & !known != 0 || flags & AT_STATX_SYNC == AT_STATX_SYNC || mask & 1 << 31 != 0 {
        return Err(Errno::INVAL.into());
    }
    let at = At::new(cx, fd, path, flags)?;
    let place = at.find(&cx.creds(), flags & AT_SYMLINK_NOFOLLOW == 0)?;
    let is_root = alloc::sync::Arc::ptr_eq(&place.dentry, place.mount.root());
    cx.write_bytes(to, &stat::encode_statx(&place.attr(), place.mount.id, is_root))?;
    Ok(0)
}

pub(super) fn sys_statfs(cx: &mut Cx<'_>, path: u64, to: u64) -> SysResult {
    let at = At::new(cx, AT_FDCWD, path, 0)?;
    let place = at.find(&cx.creds(), true)?;
    place.mount.fs.refresh()?;
    cx.write_bytes(to, &stat::encode_statfs(&place))?;
    Ok(0)
}

pub(super) fn sys_fstatfs(cx: &mut Cx<'_>, fd: i32, to: u64) -> SysResult {
    let place = cx.files().lock().get(fd)?.location().clone();
    place.mount.fs.refresh()?;
    cx.write_bytes(to, &stat::encode_statfs(&place))?;
    Ok(0)
}

pub(super) fn sys_access(cx: &mut Cx<'_>, path: u64, mode: u32) -> SysResult {
    access(cx, AT_FDCWD, path, mode, 0)
}

pub(super) fn sys_faccessat(cx: &mut Cx<'_>, fd: i32, path: u64, mode: u32) -> SysResult {
    access(cx, fd, path, mode, 0)
}

pub(super) fn sys_faccessat2(
    cx: &mut Cx<'_>,
    fd: i32,
    path: u64,
    mode: u32,
    flags: u32,
) -> SysResult {
    if flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL.into());
    }
    access(cx, fd, path, mode, flags)
}

fn access(cx: &mut Cx<'_>, fd: i32, path: u64, mode: u32, flags: u32) -> SysResult {
    if mode & !(READ | WRITE | EXECUTE) != 0 {
        return Err(Errno::INVAL.into());
    }
    let mut creds = Creds::clone(&cx.creds());
    if flags & AT_EACCESS == 0 {
        (creds.fsuid, creds.fsgid) = (creds.uid, creds.gid);
        // As if the real user had made the call (access(2)).
        creds.caps.effective = if creds.uid == 0 { creds.caps.permitted } else { 0 };
    }
    let at = At::new(cx, fd, path, flags)?;
    let place = at.find(&creds, flags & AT_SYMLINK_NOFOLLOW == 0)?;
    permission::check_place(&place, &creds, mode)?;
    Ok(0)
}

pub(super) fn sys_readlink(cx: &mut Cx<'_>, path: u64, to: u64, bytes: i32) -> SysResult {
    sys_readlinkat(cx, AT_FDCWD, path, to, bytes)
}

pub(super) fn sys_readlinkat(
    cx: &mut Cx<'_>,
    fd: i32,
    path: u64,
    to: u64,
    bytes: i32,
) -> SysResult {
    let room = usize::try_from(bytes).ok().filter(|room| *room > 0).ok_or(Errno::INVAL)?;
    let at = At::new(cx, fd, path, AT_EMPTY_PATH)?;
    let place = at.find(&cx.creds(), false)?;
    if place.kind() != FileType::Symlink {
        return Err(if at.is_empty { Errno::NOENT } else { Errno::INVAL }.into());
    }
    let target = place.inode().read_link()?;
    let target = &target[..target.len().min(room)];
    cx.write_bytes(to, target)?;
    Ok(target.len() as u64)
}

/// Changes attributes of a place, if its mount takes writes.
fn set_attr(cx: &Cx<'_>, place: &Location, change: &SetAttr) -> Result<(), Errno> {
    if place.mount.is_readonly() {
        return Err(Errno::ROFS);
    }
    place.inode().set_attr(change)?;
    changed(cx, place);
    Ok(())
}

/// Tells those who watch a place that its attributes changed.
pub(super) fn changed(cx: &Cx<'_>, place: &Location) {
    let vfs = cx.fs().lock().vfs.clone();
    vfs.notify.happened(place, notify::ATTRIB);
}

fn chmod(cx: &Cx<'_>, place: &Location, mode: u32) -> SysResult {
    let (creds, attr) = (cx.creds(), place.attr());
    permission::check_owner(&attr, &creds)?;
    if attr.kind == FileType::Symlink {
        return Err(Errno::OPNOTSUPP.into());
    }
    let mode = permission::chmod_mode(&attr, &creds, mode & PERMISSIONS);
    set_attr(cx, place, &SetAttr { mode: Some(mode), ..SetAttr::default() })?;
    Ok(0)
}

pub(super) fn sys_chmod(cx: &mut Cx<'_>, path: u64, mode: u32) -> SysResult {
    sys_fchmodat(cx, AT_FDCWD, path, mode)
}

pub(super) fn sys_fchmod(cx: &mut Cx<'_>, fd: i32, mode: u32) -> SysResult {
    let place = super::file::get(cx, fd)?.location().clone();
    chmod(cx, &place, mode)
}

pub(super) fn sys_fchmodat(cx: &mut Cx<'_>, fd: i32, path: u64, mode: u32) -> SysResult {
    sys_fchmodat2(cx, fd, path, mode, 0)
}

pub(super) fn sys_fchmodat2(
    cx: &mut Cx<'_>,
    fd: i32,
    path: u64,
    mode: u32,
    flags: u32,
) -> SysResult {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL.into());
    }
    let at = At::new(cx, fd, path, flags)?;
    let place = at.find(&cx.creds(), flags & AT_SYMLINK_NOFOLLOW == 0)?;
    chmod(cx, &place, mode)
}

fn chown(cx: &Cx<'_>, place: &Location, uid: u32, gid: u32) -> SysResult {
    let given = |id: u32| (id != u32::MAX).then_some(id);
    let (uid, gid) = (given(uid), given(gid));
    let (creds, attr) = (cx.creds(), place.attr());
    permission::check_chown(&attr, &creds, uid, gid)?;
    let changes = attr.kind == FileType::Regular && (uid.is_some() || gid.is_some());
    let mode = changes.then(|| permission::without_set_id(&attr));
    set_attr(cx, place, &SetAttr { mode, uid, gid, ..SetAttr::default() })?;
    Ok(0)
}

pub(super) fn sys_chown(cx: &mut Cx<'_>, path: u64, uid: u32, gid: u32) -> SysResult {
    sys_fchownat(cx, AT_FDCWD, path, uid, gid, 0)
}

pub(super) fn sys_lchown(cx: &mut Cx<'_>, path: u64, uid: u32, gid: u32) -> SysResult {
    sys_fchownat(cx, AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW)
}

pub(super) fn sys_fchown(cx: &mut Cx<'_>, fd: i32, uid: u32, gid: u32) -> SysResult {
    let place = super::file::get(cx, fd)?.location().clone();
    chown(cx, &place, uid, gid)
}

pub(super) fn sys_fchownat(
    cx: &mut Cx<'_>,
    fd: i32,
    path: u64,
    uid: u32,
    gid: u32,
    flags: u32,
) -> SysResult {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL.into());
    }
    let at = At::new(cx, fd, path, flags)?;
    let place = at.find(&cx.creds(), flags & AT_SYMLINK_NOFOLLOW == 0)?;
    chown(cx, &place, uid, gid)
}

/// What utimensat is asked to do with one time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    Now,
    Omit,
    At(Timestamp),
}

fn set_times(cx: &Cx<'_>, place: &Location, times: [Time; 2]) -> SysResult {
    if times == [Time::Omit; 2] {
        return Ok(0);
    }
    let (creds, attr) = (cx.creds(), place.attr());
    let owns = attr.uid == creds.fsuid || creds.has_cap(CAP_FOWNER);
    if !owns {
        if times != [Time::Now; 2] {
            return Err(Errno::PERM.into());
        }
        permission::check(&attr, &creds, WRITE)?;
    }
    let now = cx.services().now();
    let [atime, mtime] = times.map(|time| match time {
        Time::Now => Some(now),
        Time::Omit => None,
        Time::At(time) => Some(time),
    });
    set_attr(cx, place, &SetAttr { atime, mtime, ..SetAttr::default() })?;
    Ok(0)
}

/// Reads two times with a divisor: nanoseconds (1) or microseconds (1000).
fn read_times(cx: &Cx<'_>, address: u64, unit: u64) -> Result<[Time; 2], Errno> {
    if address == 0 {
        return Ok([Time::Now; 2]);
    }
    let mut times = [Time::Now; 2];
    for (at, time) in times.iter_mut().enumerate() {
        let seconds = cx.read_u64(address + at as u64 * 16)?.cast_signed();
        let part = cx.read_u64(address + at as u64 * 16 + 8)?;
        *time = match part {
            UTIME_NOW if unit == 1 => Time::Now,
            UTIME_OMIT if unit == 1 => Time::Omit,
            part if part >= 1_000_000_000 / unit => return Err(Errno::INVAL),
            part => Time::At(Timestamp { seconds, nanoseconds: (part * unit) as u32 }),
        };
    }
    Ok(times)
}

pub(super) fn sys_utimensat(
    cx: &mut Cx<'_>,
    fd: i32,
    path: u64,
    times: u64,
    flags: u32,
) -> SysResult {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL.into());
    }
    let times = read_times(cx, times, 1)?;
    if path == 0 && fd != AT_FDCWD {
        // futimens(3).
        let place = super::file::get(cx, fd)?.location().clone();
        return set_times(cx, &place, times);
    }
    let at = At::new(cx, fd, path, flags)?;
    let place = at.find(&cx.creds(), flags & AT_SYMLINK_NOFOLLOW == 0)?;
    set_times(cx, &place, times)
}

pub(super) fn sys_futimesat(cx: &mut Cx<'_>, fd: i32, path: u64, times: u64) -> SysResult {
    let times = read_times(cx, times, 1000)?;
    let at = At::new(cx, fd, path, 0)?;
    let place = at.find(&cx.creds(), true)?;
    set_times(cx, &place, times)
}

pub(super) fn sys_utimes(cx: &mut Cx<'_>, path: u64, times: u64) -> SysResult {
    sys_futimesat(cx, AT_FDCWD, path, times)
}

pub(super) fn sys_utime(cx: &mut Cx<'_>, path: u64, times: u64) -> SysResult {
    let times = if times == 0 {
        [Time::Now; 2]
    } else {
        let at =
            |seconds: u64| Time::At(Timestamp { seconds: seconds.cast_signed(), nanoseconds: 0 });
        [at(cx.read_u64(times)?), at(cx.read_u64(times + 8)?)]
    };
    let at = At::new(cx, AT_FDCWD, path, 0)?;
    let place = at.find(&cx.creds(), true)?;
    set_times(cx, &place, times)
}

pub(super) fn sys_getcwd(cx: &mut Cx<'_>, to: u64, bytes: usize) -> SysResult {
    let fs = cx.fs().lock().clone();
    if fs.cwd.dentry.is_deleted() {
        return Err(Errno::NOENT.into());
    }
    let (mut path, reached) = fs.cwd.path_from(&fs.root);
    if !reached {
        path.splice(0..0, *b"(unreachable)");
    }
    path.push(0);
    if path.len() > PATH_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    if path.len() > bytes {
        return Err(Errno::RANGE.into());
    }
    cx.write_bytes(to, &path)?;
    Ok(path.len() as u64)
}

/// Checks that a place can be a current directory or a root.
fn check_directory(cx: &Cx<'_>, place: &Location) -> Result<(), Errno> {
    if place.kind() != FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    permission::check_place(place, &cx.creds(), EXECUTE)
}

pub(super) fn sys_chdir(cx: &mut Cx<'_>, path: u64) -> SysResult {
    let place = At::new(cx, AT_FDCWD, path, 0)?.find(&cx.creds(), true)?;
    check_directory(cx, &place)?;
    let before = core::mem::replace(&mut cx.fs().lock().cwd, place);
    drop(before);
    Ok(0)
}

pub(super) fn sys_fchdir(cx: &mut Cx<'_>, fd: i32) -> SysResult {
    let place = cx.files().lock().get(fd)?.location().clone();
    check_directory(cx, &place)?;
    let before = core::mem::replace(&mut cx.fs().lock().cwd, place);
    drop(before);
    Ok(0)
}

pub(super) fn sys_chroot(cx: &mut Cx<'_>, path: u64) -> SysResult {
    let place = At::new(cx, AT_FDCWD, path, 0)?.find(&cx.creds(), true)?;
    check_directory(cx, &place)?;
    if !cx.creds().has_cap(CAP_SYS_CHROOT) {
        return Err(Errno::PERM.into());
    }
    let before = core::mem::replace(&mut cx.fs().lock().root, place);
    drop(before);
    Ok(0)
}

pub(super) fn sys_umask(cx: &mut Cx<'_>, mask: u32) -> SysResult {
    let before = core::mem::replace(&mut cx.fs().lock().umask, mask & 0o777);
    Ok(u64::from(before))
}

pub(super) fn sys_memfd_create(cx: &mut Cx<'_>, name: u64, flags: u32) -> SysResult {
    const CLOEXEC: u32 = 1;
    const ALLOW_SEALING: u32 = 2;
    const HUGETLB: u32 = 4;
    const NOEXEC_SEAL: u32 = 8;
    const EXEC: u32 = 0x10;
    if flags & HUGETLB != 0 {
        return Err(Errno::NOSYS.into());
    }
    if flags & !(CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL | EXEC) != 0 {
        return Err(Errno::INVAL.into());
    }
    let name = cx.read_string(name, 250).map_err(|errno| match errno {
        Errno::NAMETOOLONG => Errno::INVAL,
        errno => errno,
    })?;
    let fs = cx.fs().lock().clone();
    let creds = cx.creds();
    let sealable = flags & (ALLOW_SEALING | NOEXEC_SEAL) != 0;
    let inode = fs.vfs.memory_file(&creds, sealable, flags & NOEXEC_SEAL == 0)?;
    let shown = [b"/memfd:", &name[..], b" (deleted)"].concat();
    let place = fs.vfs.nameless(inode, &shown);
    let file = File::contents(&fs.vfs, place, OpenFlags::RDWR | OpenFlags::LARGEFILE);
    Ok(install(cx, file, flags & CLOEXEC != 0)?)
}

/// Ends a call that a terminal may want to send signals after.
pub(super) fn closed(
    cx: &mut Cx<'_>,
    files: impl IntoIterator<Item = FileRef>,
) -> Result<(), Stop> {
    for file in files {
        drop(file);
    }
    transfer::send_signals(cx);
    Ok(())
}
