// SPDX-License-Identifier: Apache-2.0
//! Extended attributes (xattr(7)).

use alloc::vec::Vec;

use super::path::{AT_FDCWD, At, changed};
use crate::{
    Errno,
    cx::{Cx, SysResult},
    fs::{
        Location,
        permission::{self, READ, WRITE},
        types::{FileType, OpenFlags},
    },
    process::creds::{CAP_SETFCAP, CAP_SYS_ADMIN},
};

const CREATE: u32 = 1;
const REPLACE: u32 = 2;
const SIZE_MAX: usize = 65536;

fn by_path(cx: &Cx<'_>, path: u64, follow: bool) -> Result<Location, Errno> {
    At::new(cx, AT_FDCWD, path, 0)?.find(&cx.creds(), follow)
}

fn by_fd(cx: &Cx<'_>, fd: i32) -> Result<Location, Errno> {
    let file = cx.files().lock().get(fd)?;
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::BADF);
    }
    Ok(file.location().clone())
}

fn read_name(cx: &Cx<'_>, address: u64) -> Result<Vec<u8>, Errno> {
    let name = cx.read_string(address, 256).map_err(|errno| match errno {
        Errno::NAMETOOLONG => Errno::RANGE,
        errno => errno,
    })?;
    if name.is_empty() { Err(Errno::RANGE) } else { Ok(name) }
}

/// Checks what the name space of an attribute asks for.
fn check(cx: &Cx<'_>, place: &Location, name: &[u8], want: u32) -> Result<(), Errno> {
    let creds = cx.creds();
    if want == WRITE && place.mount.is_readonly() {
        return Err(Errno::ROFS);
    }
    if name.starts_with(b"user.") {
        let kind = place.kind();
        if !matches!(kind, FileType::Regular | FileType::Directory) {
            return Err(if want == WRITE { Errno::PERM } else { Errno::NODATA });
        }
        permission::check(&place.attr(), &creds, want)
    } else if name.starts_with(b"trusted.") {
        match (creds.has_cap(CAP_SYS_ADMIN), want) {
            (true, _) => Ok(()),
            (false, WRITE) => Err(Errno::PERM),
            (false, _) => Err(Errno::NODATA),
        }
    } else if name.starts_with(b"security.") {
        if want == READ || creds.has_cap(CAP_SYS_ADMIN) || creds.has_cap(CAP_SETFCAP) {
            Ok(())
        } else {
            Err(Errno::PERM)
        }
    } else {
        // Access control lists are not enforced, so they are not accepted either.
        Err(Errno::OPNOTSUPP)
    }
}

fn set(
    cx: &Cx<'_>,
    place: &Location,
    name: u64,
    value: u64,
    bytes: usize,
    flags: u32,
) -> SysResult {
    if flags & !(CREATE | REPLACE) != 0 {
        return Err(Errno::INVAL.into());
    }
    if bytes > SIZE_MAX {
        return Err(Errno::TOO_BIG.into());
    }
    let name = read_name(cx, name)?;
    check(cx, place, &name, WRITE)?;
    let mut contents = alloc::vec![0; bytes];
    cx.read_bytes(value, &mut contents)?;
    let there = match place.inode().xattr(&name) {
        Ok(_) => true,
        Err(Errno::NODATA) => false,
        Err(errno) => return Err(errno.into()),
    };
    if flags & CREATE != 0 && there {
        return Err(Errno::EXIST.into());
    }
    if flags & REPLACE != 0 && !there {
        return Err(Errno::NODATA.into());
    }
    place.inode().set_xattr(&name, Some(&contents))?;
    changed(cx, place);
    Ok(0)
}

/// Gives an answer whose size may only be asked for.
fn give(cx: &Cx<'_>, answer: &[u8], to: u64, room: usize) -> SysResult {
    if room > 0 {
        if answer.len() > room {
            return Err(Errno::RANGE.into());
        }
        cx.write_bytes(to, answer)?;
    }
    Ok(answer.len() as u64)
}

fn get(cx: &Cx<'_>, place: &Location, name: u64, to: u64, room: usize) -> SysResult {
    let name = read_name(cx, name)?;
    check(cx, place, &name, READ)?;
    let value = place.inode().xattr(&name)?;
    give(cx, &value, to, room)
}

fn list(cx: &Cx<'_>, place: &Location, to: u64, room: usize) -> SysResult {
    let sees_trusted = cx.creds().has_cap(CAP_SYS_ADMIN);
    let mut answer = Vec::new();
    for name in place.inode().xattr_names()? {
        if sees_trusted || !name.starts_with(b"trusted.") {
            answer.extend_from_slice(&name);
            answer.push(0);
        }
    }
    give(cx, &answer, to, room)
}

fn remove(cx: &Cx<'_>, place: &Location, name: u64) -> SysResult {
    let name = read_name(cx, name)?;
    check(cx, place, &name, WRITE)?;
    place.inode().set_xattr(&name, None)?;
    changed(cx, place);
    Ok(0)
}

pub(super) fn sys_setxattr(
    cx: &mut Cx<'_>,
    path: u64,
    name: u64,
    value: u64,
    bytes: usize,
    flags: u32,
) -> SysResult {
    set(cx, &by_path(cx, path, true)?, name, value, bytes, flags)
}

pub(super) fn sys_lsetxattr(
    cx: &mut Cx<'_>,
    path: u64,
    name: u64,
    value: u64,
    bytes: usize,
    flags: u32,
) -> SysResult {
    set(cx, &by_path(cx, path, false)?, name, value, bytes, flags)
}

pub(super) fn sys_fsetxattr(
    cx: &mut Cx<'_>,
    fd: i32,
    name: u64,
    value: u64,
    bytes: usize,
    flags: u32,
) -> SysResult {
    set(cx, &by_fd(cx, fd)?, name, value, bytes, flags)
}

pub(super) fn sys_getxattr(
    cx: &mut Cx<'_>,
    path: u64,
    name: u64,
    to: u64,
    room: usize,
) -> SysResult {
    get(cx, &by_path(cx, path, true)?, name, to, room)
}

pub(super) fn sys_lgetxattr(
    cx: &mut Cx<'_>,
    path: u64,
    name: u64,
    to: u64,
    room: usize,
) -> SysResult {
    get(cx, &by_path(cx, path, false)?, name, to, room)
}

pub(super) fn sys_fgetxattr(
    cx: &mut Cx<'_>,
    fd: i32,
    name: u64,
    to: u64,
    room: usize,
) -> SysResult {
    get(cx, &by_fd(cx, fd)?, name, to, room)
}

pub(super) fn sys_listxattr(cx: &mut Cx<'_>, path: u64, to: u64, room: usize) -> SysResult {
    list(cx, &by_path(cx, path, true)?, to, room)
}

pub(super) fn sys_llistxattr(cx: &mut Cx<'_>, path: u64, to: u64, room: usize) -> SysResult {
    list(cx, &by_path(cx, path, false)?, to, room)
}

pub(super) fn sys_flistxattr(cx: &mut Cx<'_>, fd: i32, to: u64, room: usize) -> SysResult {
    list(cx, &by_fd(cx, fd)?, to, room)
}

pub(super) fn sys_removexattr(cx: &mut Cx<'_>, path: u64, name: u64) -> SysResult {
    remove(cx, &by_path(cx, path, true)?, name)
}

pub(super) fn sys_lremovexattr(cx: &mut Cx<'_>, path: u64, name: u64) -> SysResult {
    remove(cx, &by_path(cx, path, false)?, name)
}

pub(super) fn sys_fremovexattr(cx: &mut Cx<'_>, fd: i32, name: u64) -> SysResult {
    remove(cx, &by_fd(cx, fd)?, name)
}
