// SPDX-License-Identifier: Apache-2.0
//! Calls that read, make and remove names.

use alloc::{sync::Arc, vec::Vec};

use super::path::{AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, At};
use crate::{
    Errno,
    cx::{Cx, SysResult},
    fs::{
        Location, notify, permission,
        types::{DirEntry, FileType, NewInode, PATH_MAX},
        walk::Special,
    },
    process::creds::{CAP_DAC_READ_SEARCH, CAP_MKNOD},
};

const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;
const RENAME_WHITEOUT: u32 = 4;

/// Reads a directory with records that `record_fn` encodes.
fn read_dir(
    cx: &mut Cx<'_>,
    fd: i32,
    to: u64,
    room: usize,
    record_fn: fn(&DirEntry<'_>) -> Vec<u8>,
) -> SysResult {
    let file = super::file::get(cx, fd)?;
    let room = room.min(1 << 20);
    let mut bytes = Vec::new();
    let mut too_small = false;
    let start = *file.position().lock();
    file.read_dir(&mut |entry| {
        let record = record_fn(&entry);
        let fits = bytes.len() + record.len() <= room;
        if fits {
            bytes.extend_from_slice(&record);
        } else {
            too_small |= bytes.is_empty();
        }
        fits
    })?;
    if too_small {
        return Err(Errno::INVAL.into());
    }
    if let Err(errno) = cx.write_bytes(to, &bytes) {
        *file.position().lock() = start;
        return Err(errno.into());
    }
    Ok(bytes.len() as u64)
}

fn record64(entry: &DirEntry<'_>) -> Vec<u8> {
    let bytes = (19 + entry.name.len() + 1).next_multiple_of(8);
    let mut record = Vec::with_capacity(bytes);
    record.extend_from_slice(&entry.ino.to_le_bytes());
    record.extend_from_slice(&entry.next.to_le_bytes());
    record.extend_from_slice(&(bytes as u16).to_le_bytes());
    record.push(entry.kind.dirent());
    record.extend_from_slice(entry.name);
    record.resize(bytes, 0);
    record
}

fn record_old(entry: &DirEntry<'_>) -> Vec<u8> {
    let bytes = (18 + entry.name.len() + 2).next_multiple_of(8);
    let mut record = Vec::with_capacity(bytes);
    record.extend_from_slice(&entry.ino.to_le_bytes());
    record.extend_from_slice(&entry.next.to_le_bytes());
    record.extend_from_slice(&(bytes as u16).to_le_bytes());
    record.extend_from_slice(entry.name);
    record.resize(bytes - 1, 0);
    record.push(entry.kind.dirent());
    record
}

pub(super) fn sys_getdents64(cx: &mut Cx<'_>, fd: i32, to: u64, room: u32) -> SysResult {
    read_dir(cx, fd, to, room as usize, record64)
}

pub(super) fn sys_getdents(cx: &mut Cx<'_>, fd: i32, to: u64, room: u32) -> SysResult {
    read_dir(cx, fd, to, room as usize, record_old)
}

/// Makes something at a path whose last name must be free.
fn make(cx: &mut Cx<'_>, at: &At, new: &NewInode) -> SysResult {
    let creds = cx.creds();
    let exists = |_: Special| Errno::EXIST;
    let (parent, name, slash) = at.fs.parent_of(&creds, &at.start, &at.path, exists)?;
    match at.fs.vfs.child(&parent, &name) {
        Ok(_) => return Err(Errno::EXIST.into()),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    if slash && new.kind != FileType::Directory {
        return Err(Errno::NOENT.into());
    }
    at.fs.create(&creds, &parent, &name, new)?;
    Ok(0)
}

pub(super) fn sys_mkdir(cx: &mut Cx<'_>, path: u64, mode: u32) -> SysResult {
    sys_mkdirat(cx, AT_FDCWD, path, mode)
}

pub(super) fn sys_mkdirat(cx: &mut Cx<'_>, fd: i32, path: u64, mode: u32) -> SysResult {
    let at = At::new(cx, fd, path, 0)?;
    let new = at.fs.new_inode(&cx.creds(), FileType::Directory, mode & 0o1777);
    make(cx, &at, &new)
}

pub(super) fn sys_mknod(cx: &mut Cx<'_>, path: u64, mode: u32, device: u64) -> SysResult {
    sys_mknodat(cx, AT_FDCWD, path, mode, device)
}

pub(super) fn sys_mknodat(
    cx: &mut Cx<'_>,
    fd: i32,
    path: u64,
    mode: u32,
    device: u64,
) -> SysResult {
    let kind = if mode >> 12 == 0 { Some(FileType::Regular) } else { FileType::from_mode(mode) };
    let creds = cx.creds();
    match kind {
        Some(FileType::Regular | FileType::Fifo | FileType::Socket) => {}
        Some(FileType::CharDevice | FileType::BlockDevice) => {
            // A character device 0:0 is a whiteout, which anybody may make.
            let whiteout = kind == Some(FileType::CharDevice) && device == 0;
            if !whiteout && !creds.has_cap(CAP_MKNOD) {
                return Err(Errno::PERM.into());
            }
        }
        Some(FileType::Directory) => return Err(Errno::PERM.into()),
        _ => return Err(Errno::INVAL.into()),
    }
    let at = At::new(cx, fd, path, 0)?;
    let kind = kind.unwrap_or(FileType::Regular);
    let mut new = at.fs.new_inode(&creds, kind, mode);
    new.rdev =
        if matches!(kind, FileType::CharDevice | FileType::BlockDevice) { device } else { 0 };
    make(cx, &at, &new)
}

pub(super) fn sys_symlink(cx: &mut Cx<'_>, target: u64, path: u64) -> SysResult {
    sys_symlinkat(cx, target, AT_FDCWD, path)
}

pub(super) fn sys_symlinkat(cx: &mut Cx<'_>, target: u64, fd: i32, path: u64) -> SysResult {
    let target = cx.read_string(target, PATH_MAX)?;
    if target.is_empty() {
        return Err(Errno::NOENT.into());
    }
    let at = At::new(cx, fd, path, 0)?;
    let mut new = at.fs.new_inode(&cx.creds(), FileType::Symlink, 0o777);
    new.mode = 0o777;
    new.target = target;
    make(cx, &at, &new)
}

pub(super) fn sys_link(cx: &mut Cx<'_>, old: u64, new: u64) -> SysResult {
    sys_linkat(cx, AT_FDCWD, old, AT_FDCWD, new, 0)
}

pub(super) fn sys_linkat(
    cx: &mut Cx<'_>,
    old_fd: i32,
    old: u64,
    new_fd: i32,
    new: u64,
    flags: u32,
) -> SysResult {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL.into());
    }
    let creds = cx.creds();
    let old = At::new(cx, old_fd, old, flags & AT_EMPTY_PATH)?;
    if old.is_empty && !creds.has_cap(CAP_DAC_READ_SEARCH) {
        return Err(Errno::NOENT.into());
    }
    let source = old.find(&creds, flags & AT_SYMLINK_FOLLOW != 0)?;
    let new = At::new(cx, new_fd, new, 0)?;
    let exists = |_: Special| Errno::EXIST;
    let (parent, name, slash) = new.fs.parent_of(&creds, &new.start, &new.path, exists)?;
    if slash {
        return Err(Errno::NOENT.into());
    }
    match new.fs.vfs.child(&parent, &name) {
        Ok(_) => return Err(Errno::EXIST.into()),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    if !Arc::ptr_eq(&source.mount, &parent.mount) {
        return Err(Errno::XDEV.into());
    }
    if source.kind() == FileType::Directory {
        return Err(Errno::PERM.into());
    }
    permission::check_parent(&parent, &creds)?;
    parent.inode().link(&name, source.inode())?;
    let notify = &new.fs.vfs.notify;
    notify.happened_to(source.inode(), notify::ATTRIB);
    notify.created(parent.inode(), &name, source.kind());
    Ok(0)
}

pub(super) fn sys_unlink(cx: &mut Cx<'_>, path: u64) -> SysResult {
    sys_unlinkat(cx, AT_FDCWD, path, 0)
}

pub(super) fn sys_rmdir(cx: &mut Cx<'_>, path: u64) -> SysResult {
    sys_unlinkat(cx, AT_FDCWD, path, AT_REMOVEDIR)
}

pub(super) fn sys_unlinkat(cx: &mut Cx<'_>, fd: i32, path: u64, flags: u32) -> SysResult {
    if flags & !AT_REMOVEDIR != 0 {
        return Err(Errno::INVAL.into());
    }
    let directory = flags & AT_REMOVEDIR != 0;
    let at = At::new(cx, fd, path, 0)?;
    let creds = cx.creds();
    let special = |special: Special| match (directory, special) {
        (false, _) => Errno::ISDIR,
        (true, Special::Root) => Errno::BUSY,
        (true, Special::Dot) => Errno::INVAL,
        (true, Special::DotDot) => Errno::NOTEMPTY,
    };
    let (parent, name, slash) = at.fs.parent_of(&creds, &at.start, &at.path, special)?;
    let place = at.fs.vfs.child(&parent, &name)?;
    permission::check_parent(&parent, &creds)?;
    let attr = place.attr();
    permission::check_sticky(&parent.attr(), &attr, &creds)?;
    if slash && !directory && attr.kind != FileType::Directory {
        return Err(Errno::NOTDIR.into());
    }
    if !Arc::ptr_eq(&place.mount, &parent.mount) || place.dentry.is_mount_point() {
        return Err(Errno::BUSY.into());
    }
    let inode = place.inode().clone();
    drop(place);
    if directory {
        parent.inode().rmdir(&name)?;
    } else {
        parent.inode().unlink(&name)?;
    }
    at.fs.vfs.forget(&parent.dentry, &name);
    at.fs.vfs.notify.removed(parent.inode(), &name, &inode);
    Ok(0)
}

pub(super) fn sys_rename(cx: &mut Cx<'_>, old: u64, new: u64) -> SysResult {
    sys_renameat2(cx, AT_FDCWD, old, AT_FDCWD, new, 0)
}

pub(super) fn sys_renameat(
    cx: &mut Cx<'_>,
    old_fd: i32,
    old: u64,
    new_fd: i32,
    new: u64,
) -> SysResult {
    sys_renameat2(cx, old_fd, old, new_fd, new, 0)
}

pub(super) fn sys_renameat2(
    cx: &mut Cx<'_>,
    old_fd: i32,
    old: u64,
    new_fd: i32,
    new: u64,
    flags: u32,
) -> SysResult {
    let exchange = flags & RENAME_EXCHANGE != 0;
    let no_replace = flags & RENAME_NOREPLACE != 0;
    let whiteout = flags & RENAME_WHITEOUT != 0;
    let known = RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT;
    if flags & !known != 0 || exchange && (no_replace || whiteout) {
        return Err(Errno::INVAL.into());
    }
    let creds = cx.creds();
    if whiteout && !creds.has_cap(CAP_MKNOD) {
        return Err(Errno::PERM.into());
    }
    let (old, new) = (At::new(cx, old_fd, old, 0)?, At::new(cx, new_fd, new, 0)?);
    let busy = |_: Special| Errno::BUSY;
    let (from, from_name, from_slash) = old.fs.parent_of(&creds, &old.start, &old.path, busy)?;
    let exists = |_: Special| if no_replace { Errno::EXIST } else { Errno::BUSY };
    let (to, to_name, to_slash) = new.fs.parent_of(&creds, &new.start, &new.path, exists)?;
    if !Arc::ptr_eq(&from.mount, &to.mount) {
        return Err(Errno::XDEV.into());
    }
    let vfs = &old.fs.vfs;
    let source = vfs.child(&from, &from_name)?;
    let target = match vfs.child(&to, &to_name) {
        Ok(target) => Some(target),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(errno.into()),
    };
    let is_dir = |place: &Location| place.kind() == FileType::Directory;
    if (from_slash || (to_slash && !exchange)) && !is_dir(&source) {
        return Err(Errno::NOTDIR.into());
    }
    permission::check_parent(&from, &creds)?;
    permission::check_parent(&to, &creds)?;
    permission::check_sticky(&from.attr(), &source.attr(), &creds)?;
    for place in target.iter().chain([&source]) {
        if !Arc::ptr_eq(&place.mount, &from.mount) || place.dentry.is_mount_point() {
            return Err(Errno::BUSY.into());
        }
    }
    if is_dir(&source) && source.dentry.contains(&to.dentry) {
        return Err(Errno::INVAL.into());
    }
    if let Some(target) = &target {
        if no_replace {
            return Err(Errno::EXIST.into());
        }
        permission::check_sticky(&to.attr(), &target.attr(), &creds)?;
        if is_dir(target) && target.dentry.contains(&from.dentry) {
            return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY }.into());
        }
        let (a, b) = (source.attr(), target.attr());
        if (a.device, a.ino) == (b.device, b.ino) {
            return Ok(0);
        }
    } else if exchange {
        return Err(Errno::NOENT.into());
    }
    from.inode().rename(&from_name, to.inode(), &to_name, exchange)?;
    if let Some(gone) = from.dentry.moved(&from_name, &to.dentry, &to_name, exchange) {
        vfs.let_go(&gone);
    }
    if whiteout {
        // A character device 0:0 stands for a name that is not there (overlayfs).
        let new = old.fs.new_inode(&creds, FileType::CharDevice, 0);
        from.inode().create(Some(&from_name), &new)?;
    }
    let (was, becomes) = ((from.inode(), &from_name[..]), (to.inode(), &to_name[..]));
    let replaced = target.as_ref().map(Location::inode);
    vfs.notify.moved(was, becomes, source.inode(), replaced.filter(|_| !exchange));
    if let Some(other) = replaced.filter(|_| exchange) {
        vfs.notify.moved(becomes, was, other, None);
    }
    Ok(0)
}
