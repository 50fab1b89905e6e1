// SPDX-License-Identifier: Apache-2.0
//! Names, attributes and extended attributes.

use std::{
    ffi::OsStr,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps,
        Uid, XattrFlags,
    },
    io::Errno,
};
use trine_abi::file::{Create, Created, Link, Rename, SetAttr, SetXattr, Time, Wire};

use super::{
    Context, Files, Refusal, Reply, XATTR_MAX,
    node::{self, own_path},
};

/// Longest target of a symbolic link, in bytes.
const TARGET_MAX: usize = 4095;
const PERMISSIONS: u32 = 0o7777;

fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & PERMISSIONS)
}

/// An owner to set; all ones mean "leave it" to the host.
fn owner(id: u32) -> Result<u32, Errno> {
    if id == u32::MAX { Err(Errno::INVAL) } else { Ok(id) }
}

impl Files {
    pub(super) fn create(
        &mut self,
        handle: u32,
        new: &Create,
        context: &Context<'_>,
    ) -> Result<Reply, Refusal> {
        let directory = self.handles.directory(handle)?;
        let volume = directory.volume;
        self.writable(volume)?;
        let name = node::name(&new.name)?;
        let at = &directory.descriptor;
        let kind = FileType::from_raw_mode(new.mode);
        let (uid, gid) = (Uid::from_raw(owner(new.uid)?), Gid::from_raw(owner(new.gid)?));
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::WRONLY
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let resolve =
                    ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
                drop(rustix::fs::openat2(at, name, flags, mode(new.mode), resolve)?);
            }
            FileType::Directory => rustix::fs::mkdirat(at, name, mode(new.mode))?,
            FileType::Fifo => rustix::fs::mknodat(at, name, kind, mode(new.mode), 0)?,
            FileType::Symlink => {
                if new.target.len() > TARGET_MAX || new.target.contains(&0) {
                    return Err(Errno::NAMETOOLONG.into());
                }
                rustix::fs::symlinkat(Path::new(OsStr::from_bytes(&new.target)), at, name)?;
            }
            _ => return Err(Errno::PERM.into()),
        }
        let descriptor = node::look_up(at.as_fd(), name)?;
        let stat = rustix::fs::fstat(&descriptor)?;
        // Somebody on the host may have put something else in its place.
        if FileType::from_raw_mode(stat.st_mode) != kind {
            return Err(Errno::STALE.into());
        }
        if stat.st_uid != new.uid || stat.st_gid != new.gid {
            let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&descriptor, "", Some(uid), Some(gid), flags)?;
        }
        // Set-id bits are lost with the change of owner, and the directory may have had its say.
        let wanted = new.mode & PERMISSIONS;
        if kind != FileType::Symlink
            && rustix::fs::fstat(&descriptor)?.st_mode & PERMISSIONS != wanted
        {
            rustix::fs::chmodat(CWD, own_path(&descriptor), mode(wanted), AtFlags::empty())?;
        }
        let found = self.found(descriptor, volume)?;
        let file = new.open.and_then(|flags| self.open_found(found.node, flags, context));
        Ok(Reply::Bytes(Created { found, file }.encode()))
    }

    pub(super) fn set_attr(&mut self, handle: u32, change: &SetAttr) -> Result<Reply, Refusal> {
        // An open file says what may be written even if its node is not held any more.
        if let Ok(file) = self.handles.file(handle) {
            let size = change.size.ok_or(Errno::INVAL)?;
            self.writable(file.volume)?;
            if file.is_append_only {
                return Err(Errno::PERM.into());
            }
            rustix::fs::ftruncate(&*file.descriptor, size)?;
            let stat = rustix::fs::fstat(&*file.descriptor)?;
            return Ok(Reply::Bytes(node::attributes(&stat).encode()));
        }
        let node = self.handles.node(handle)?;
        self.writable(node.volume)?;
        let descriptor = &node.descriptor;
        if let Some(size) = change.size {
            if node.kind != FileType::RegularFile {
                return Err(Errno::INVAL.into());
            }
            rustix::fs::ftruncate(node::open(node, OFlags::WRONLY)?, size)?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            let uid = change.uid.map(owner).transpose()?.map(Uid::from_raw);
            let gid = change.gid.map(owner).transpose()?.map(Gid::from_raw);
            let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(descriptor, "", uid, gid, flags)?;
        }
        if let Some(bits) = change.mode {
            if node.kind == FileType::Symlink {
                return Err(Errno::OPNOTSUPP.into());
            }
            rustix::fs::chmodat(CWD, own_path(descriptor), mode(bits), AtFlags::empty())?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(change.atime.as_ref())?,
                last_modification: timespec(change.mtime.as_ref())?,
            };
            rustix::fs::utimensat(CWD, own_path(descriptor), &times, AtFlags::empty())?;
        }
        let stat = rustix::fs::fstat(descriptor)?;
        Ok(Reply::Bytes(node::attributes(&stat).encode()))
    }

    pub(super) fn link(&mut self, handle: u32, link: &Link) -> Result<Reply, Refusal> {
        let node = self.handles.node(handle)?;
        let directory = self.handles.directory(link.directory)?;
        if node.volume != directory.volume {
            return Err(Errno::XDEV.into());
        }
        if node.kind == FileType::Directory {
            return Err(Errno::PERM.into());
        }
        self.writable(node.volume)?;
        let name = node::name(&link.name)?;
        let from = own_path(&node.descriptor);
        rustix::fs::linkat(CWD, from, &directory.descriptor, name, AtFlags::SYMLINK_FOLLOW)?;
        Ok(Reply::Result(0))
    }

    pub(super) fn unlink(
        &mut self,
        handle: u32,
        bytes: &[u8],
        is_directory: bool,
    ) -> Result<Reply, Refusal> {
        let directory = self.handles.directory(handle)?;
        self.writable(directory.volume)?;
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(&directory.descriptor, node::name(bytes)?, flags)?;
        Ok(Reply::Result(0))
    }

    pub(super) fn rename(&mut self, handle: u32, rename: &Rename) -> Result<Reply, Refusal> {
        let from = self.handles.directory(handle)?;
        let to = self.handles.directory(rename.directory)?;
        if from.volume != to.volume {
            return Err(Errno::XDEV.into());
        }
        self.writable(from.volume)?;
        let flags = RenameFlags::from_bits_retain(rename.flags);
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags) {
            return Err(Errno::INVAL.into());
        }
        let (old, new) = (node::name(&rename.old)?, node::name(&rename.new)?);
        rustix::fs::renameat_with(&from.descriptor, old, &to.descriptor, new, flags)?;
        Ok(Reply::Result(0))
    }

    /// The path to a node for calls that cannot take a descriptor without opening the file.
    fn xattr_path(&self, handle: u32) -> Result<String, Errno> {
        let node = self.handles.node(handle)?;
        Ok(own_path(&node.descriptor))
    }

    pub(super) fn get_xattr(&self, handle: u32, name: &[u8]) -> Result<Reply, Refusal> {
        let path = self.xattr_path(handle)?;
        let mut value = vec![0; XATTR_MAX];
        let bytes = rustix::fs::getxattr(path, xattr_name(name)?, &mut value)?;
        value.truncate(bytes);
        Ok(Reply::Bytes(value))
    }

    pub(super) fn list_xattr(&self, handle: u32) -> Result<Reply, Refusal> {
        let path = self.xattr_path(handle)?;
        let mut names = vec![0; XATTR_MAX];
        let bytes = rustix::fs::listxattr(path, &mut names)?;
        names.truncate(bytes);
        Ok(Reply::Bytes(names))
    }

    pub(super) fn set_xattr(&self, handle: u32, change: &SetXattr) -> Result<Reply, Refusal> {
        self.writable(self.handles.node(handle)?.volume)?;
        let path = self.xattr_path(handle)?;
        let name = xattr_name(&change.name)?;
        match &change.value {
            Some(value) => {
                let flags = XattrFlags::from_bits_retain(change.flags & 3);
                rustix::fs::setxattr(path, name, value, flags)?;
            }
            None => rustix::fs::removexattr(path, name)?,
        }
        Ok(Reply::Result(0))
    }
}

/// The name of an extended attribute that a container may have: the user's, and ACLs.
fn xattr_name(name: &[u8]) -> Result<&OsStr, Errno> {
    let may = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
    if !may || name.contains(&0) || name.len() > 255 {
        return Err(Errno::OPNOTSUPP);
    }
    Ok(OsStr::from_bytes(name))
}

fn timespec(time: Option<&Time>) -> Result<Timespec, Errno> {
    let Some(time) = time else {
        return Ok(Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT });
    };
    if time.nanoseconds >= 1_000_000_000 {
        return Err(Errno::INVAL);
    }
    Ok(Timespec { tv_sec: time.seconds.cast_signed(), tv_nsec: i64::from(time.nanoseconds) })
}
