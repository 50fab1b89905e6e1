// SPDX-License-Identifier: Apache-2.0
//! Opening files (open(2)).

use alloc::{sync::Arc, vec::Vec};

use crate::{
    Errno,
    fs::{
        context::FsContext,
        dentry::Location,
        devices,
        file::{Contents, File, FileOps, FileRef, PathOnly},
        inode::InodeRef,
        notify,
        permission::{self, EXECUTE, READ, WRITE},
        types::{FileType, NewInode, OpenFlags, PERMISSIONS},
        walk::{Special, Walk, Walked},
    },
    process::{Creds, creds::CAP_FSETID},
    wait::Ticket,
};

/// How to open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) flags: OpenFlags,
    pub(crate) mode: u32,
    pub(crate) walk: Walk,
}

/// Who opens, for FIFOs, on which an open can wait.
#[derive(Debug)]
pub(crate) struct Opener<'a> {
    pub(crate) ticket: Option<&'a Ticket>,
    pub(crate) task: u32,
}

impl FsContext {
    /// Opens a path.
    ///
    /// # Errors
    /// As open(2); `EAGAIN` if a FIFO has no other end yet: the ticket is woken when it has.
    pub(crate) fn open(
        &self,
        creds: &Creds,
        start: &Location,
        path: &[u8],
        how: How,
        opener: &Opener<'_>,
    ) -> Result<FileRef, Errno> {
        let file = self.open_quietly(creds, start, path, how, opener)?;
        if !how.flags.contains(OpenFlags::PATH) {
            file.tell(notify::OPEN);
        }
        Ok(file)
    }

    fn open_quietly(
        &self,
        creds: &Creds,
        start: &Location,
        path: &[u8],
        how: How,
        opener: &Opener<'_>,
    ) -> Result<FileRef, Errno> {
        let flags = how.flags;
        let create = flags.contains(OpenFlags::CREAT) && !flags.contains(OpenFlags::PATH);
        let exclusive = create && flags.contains(OpenFlags::EXCL);
        let mut walk = how.walk;
        walk.set(Walk::FOLLOW, !flags.contains(OpenFlags::NOFOLLOW) && !exclusive);
        walk.set(Walk::MAY_MISS, create);
        let is_open = !exclusive && !flags.intersects(OpenFlags::PATH | OpenFlags::TMPFILE);
        let expected = is_open.then_some(flags);
        match self.walk_to_open(creds, start, path, walk, expected)? {
            Walked::Found(_) if exclusive => Err(Errno::EXIST),
            Walked::Found(place) if flags.contains(OpenFlags::TMPFILE) => {
                self.open_unnamed(creds, &place, how)
            }
            Walked::Found(place) => {
                // A trailing slash would make a directory, which open does not.
                if create && path.last() == Some(&b'/') {
                    return Err(Errno::ISDIR);
                }
                self.open_place(creds, place, flags, opener)
            }
            Walked::Name { slash: true, .. } => Err(Errno::ISDIR),
            Walked::Name { parent, name, .. } => {
                let new = self.new_inode(creds, FileType::Regular, how.mode);
                let place = self.create_to_open(creds, &parent, &name, &new, Some(flags))?;
                // The mode says what later opens may do; this one may do what it asked for.
                self.open_new(place, flags)
            }
            Walked::Special(_) => Err(Errno::ISDIR),
        }
    }

    fn open_unnamed(&self, creds: &Creds, dir: &Location, how: How) -> Result<FileRef, Errno> {
        if !how.flags.writes() {
            return Err(Errno::INVAL);
        }
        if dir.kind() != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        permission::check_parent(dir, creds)?;
        let new = self.new_inode(creds, FileType::Regular, how.mode);
        let inode = dir.inode().create(None, &new)?;
        let name = alloc::format!("/#{} (deleted)", inode.attr().ino);
        let mut place = self.vfs.nameless(inode, name.as_bytes());
        place.mount = Arc::clone(&dir.mount);
        self.open_new(place, how.flags)
    }

    fn open_new(&self, place: Location, flags: OpenFlags) -> Result<FileRef, Errno> {
        let ops = match place.inode().open(flags)? {
            Some(ops) => ops,
            None => Arc::new(Contents::new(Arc::clone(place.inode()))),
        };
        Ok(File::new(&self.vfs, place, ops, flags))
    }

    /// A new inode of the caller's.
    pub(crate) fn new_inode(&self, creds: &Creds, kind: FileType, mode: u32) -> NewInode {
        NewInode {
            kind,
            mode: mode & PERMISSIONS & !self.umask,
            uid: creds.fsuid,
            gid: creds.fsgid,
            rdev: 0,
            target: Vec::new(),
        }
    }

    /// Makes an inode at a name that is free.
    pub(crate) fn create(
        &self,
        creds: &Creds,
        parent: &Location,
        name: &[u8],
        new: &NewInode,
    ) -> Result<Location, Errno> {
        self.create_to_open(creds, parent, name, new, None)
    }

    fn create_to_open(
        &self,
        creds: &Creds,
        parent: &Location,
        name: &[u8],
        new: &NewInode,
        flags: Option<OpenFlags>,
    ) -> Result<Location, Errno> {
        permission::check_parent(parent, creds)?;
        let mut new = new.clone();
        let dir = parent.attr();
        if dir.mode & 0o2000 != 0 {
            new.gid = dir.gid;
            if new.kind == FileType::Directory {
                new.mode |= 0o2000;
            } else if !creds.in_group(dir.gid) && !creds.has_cap(CAP_FSETID) {
                new.mode &= !0o2000;
            }
        }
        let inode: InodeRef = match flags {
            Some(flags) => parent.inode().create_to_open(name, &new, flags)?,
            None => parent.inode().create(Some(name), &new)?,
        };
        let dentry = parent.dentry.adopt(name, inode);
        self.vfs.notify.created(parent.inode(), name, new.kind);
        self.vfs.remember(&dentry);
        Ok(Location { mount: Arc::clone(&parent.mount), dentry })
    }

    /// Opens what a walk found.
    pub(crate) fn open_place(
        &self,
        creds: &Creds,
        place: Location,
        flags: OpenFlags,
        opener: &Opener<'_>,
    ) -> Result<FileRef, Errno> {
        let kind = place.kind();
        if flags.contains(OpenFlags::DIRECTORY) && kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        if flags.contains(OpenFlags::PATH) {
            return Ok(File::new(&self.vfs, place, Arc::new(PathOnly), flags));
        }
        match kind {
            FileType::Symlink => return Err(Errno::LOOP),
            FileType::Socket => return Err(Errno::NXIO),
            FileType::Directory
                if flags.writes() || flags.intersects(OpenFlags::CREAT | OpenFlags::TRUNC) =>
            {
                return Err(Errno::ISDIR);
            }
            _ => {}
        }
        let mut want = 0;
        if flags.reads() {
            want |= READ;
        }
        if flags.writes() {
            want |= WRITE;
        }
        if flags.contains(OpenFlags::TRUNC) && kind == FileType::Regular {
            want |= WRITE;
        }
        permission::check_place(&place, creds, want)?;
        if want & WRITE != 0 && kind == FileType::Regular {
            self.vfs.check_not_running(&place)?;
        }
        if flags.contains(OpenFlags::NOATIME) {
            permission::check_owner(&place.attr(), creds)?;
        }
        let inode = place.inode();
        let ops: Arc<dyn FileOps> = if let Some(ops) = inode.open(flags)? {
            ops
        } else {
            match kind {
                FileType::Fifo => {
                    let pipe = inode.pipe().ok_or(Errno::NXIO)?;
                    match opener.ticket {
                        Some(ticket) => pipe.open(flags, ticket, opener.task)?,
                        None => pipe.end(flags),
                    }
                }
                FileType::CharDevice | FileType::BlockDevice => {
                    devices::open(&self.vfs, kind, place.attr().rdev, flags)?
                }
                _ => Arc::new(Contents::new(Arc::clone(inode))),
            }
        };
        if flags.contains(OpenFlags::TRUNC) && kind == FileType::Regular && place.attr().size > 0 {
            inode.truncate(0)?;
            self.vfs.notify.happened(&place, notify::MODIFY);
        }
        Ok(File::new(&self.vfs, place, ops, flags))
    }

    /// The directory and name for an operation that makes or removes a name.
    pub(crate) fn parent_of(
        &self,
        creds: &Creds,
        start: &Location,
        path: &[u8],
        special_fn: impl FnOnce(Special) -> Errno,
    ) -> Result<(Location, Vec<u8>, bool), Errno> {
        match self.walk(creds, start, path, Walk::PARENT)? {
            Walked::Name { parent, name, slash } => Ok((parent, name, slash)),
            Walked::Special(special) => Err(special_fn(special)),
            Walked::Found(_) => Err(Errno::INVAL),
        }
    }
}

/// Opens a program for execution.
///
/// # Errors
/// As execve(2): `EACCES` if it is no regular file or may not be executed.
pub fn open_executable(fs: &FsContext, creds: &Creds, path: &[u8]) -> Result<FileRef, Errno> {
    open_executable_at(fs, creds, fs.lookup(creds, path)?)
}

/// The same for something that was found already (execveat(2)).
///
/// # Errors
/// As [`open_executable`].
pub fn open_executable_at(
    fs: &FsContext,
    creds: &Creds,
    place: Location,
) -> Result<FileRef, Errno> {
    if place.kind() != FileType::Regular {
        return Err(Errno::ACCES);
    }
    permission::check_place(&place, creds, EXECUTE)?;
    if fs.vfs.locks.is_written(&place.attr()) {
        return Err(Errno::TXTBSY);
    }
    let flags = OpenFlags::empty();
    let file = match place.inode().open(flags)? {
        Some(ops) => File::new(&fs.vfs, place, ops, flags),
        None => File::contents(&fs.vfs, place, flags),
    };
    file.tell(notify::OPEN);
    Ok(file)
}
