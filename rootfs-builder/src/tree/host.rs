// SPDX-License-Identifier: Apache-2.0
//! Access to host directories by descriptor: no symbolic link is followed, nothing leaves the root.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::TreeError;

/// How often an `openat2` is tried again when a concurrent rename made it give up.
const RESOLVE_ATTEMPTS: u32 = 16;

/// The top of a source tree.
#[derive(Debug)]
pub(crate) struct HostRoot {
    fd: OwnedFd,
    path: PathBuf,
}

impl HostRoot {
    /// Opens `path`; its own last component may be a symbolic link, since the caller chose it.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Arc::new(Self { fd, path: path.into() })),
            Err(Errno::NOENT) => Err(TreeError::Missing { path: path.into() }),
            Err(Errno::NOTDIR) => Err(TreeError::NotDirectory { path: path.into() }),
            Err(errno) => Err(io_error("open directory", path.into(), errno)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A directory below a [`HostRoot`], named by its path from there and opened when needed: a tree
/// may have more directories than a process may have descriptors.
#[derive(Debug)]
pub(crate) struct HostDir {
    root: Arc<HostRoot>,
    relative: PathBuf,
    depth: usize,
}

impl HostDir {
    pub(crate) fn top(root: Arc<HostRoot>) -> Self {
        Self { root, relative: PathBuf::from("."), depth: 0 }
    }

    pub(crate) fn child(&self, name: &OsStr) -> Self {
        Self {
            root: Arc::clone(&self.root),
            relative: self.relative.join(name),
            depth: self.depth + 1,
        }
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// The host path, for messages only.
    pub(crate) fn path_of(&self, name: &OsStr) -> PathBuf {
        self.path().join(name)
    }

    /// The host path, for messages only.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.path.join(self.relative.strip_prefix(".").unwrap_or(&self.relative))
    }

    pub(crate) fn open(&self) -> Result<OwnedFd, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mut attempt = 0;
        loop {
            let dir =
                rustix::fs::openat2(&self.root.fd, &self.relative, flags, Mode::empty(), resolve);
            match dir {
                Ok(fd) => return Ok(fd),
                Err(Errno::AGAIN) if attempt < RESOLVE_ATTEMPTS => attempt += 1,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
                    return Err(TreeError::Changed { path: self.path() });
                }
                Err(errno) => return Err(io_error("open directory", self.path(), errno)),
            }
        }
    }
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, u32),
}

impl Stamp {
    pub(crate) fn of(stat: &Statx) -> Self {
        Self {
            dev: dev_of(stat),
            ino: stat.stx_ino,
            size: stat.stx_size,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        }
    }
}

/// The device number of `stat` in one word.
pub(crate) fn dev_of(stat: &Statx) -> u64 {
    u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor)
}

/// Reads the metadata of `name` in `dir` itself, not of what it may link to.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Statx, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)
}

/// Reads the metadata of an open file.
pub(crate) fn stat_fd(fd: BorrowedFd<'_>) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

/// Lists the names in an open directory, without `.` and `..`, in the order the host gives.
pub(crate) fn names_in(dir: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Opens the regular file `name` in `dir`, and refuses if it is not the version of `stamp`.
pub(crate) fn open_file(
    dir: &HostDir,
    dir_fd: BorrowedFd<'_>,
    name: &OsStr,
    stamp: Stamp,
) -> Result<File, TreeError> {
    let path = || dir.path_of(name);
    // NONBLOCK: should it have become a FIFO meanwhile, the open must not hang.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(dir_fd, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => {
            return Err(TreeError::Changed { path: path() });
        }
        Err(errno) => return Err(io_error("open file", path(), errno)),
    };
    let stat = stat_fd(std::os::fd::AsFd::as_fd(&fd))
        .map_err(|errno| io_error("read metadata of", path(), errno))?;
    if Stamp::of(&stat) != stamp {
        return Err(TreeError::Changed { path: path() });
    }
    Ok(fd)
}

/// Makes a [`TreeError::Io`].
pub(crate) fn io_error(action: &'static str, path: PathBuf, errno: Errno) -> TreeError {
    TreeError::Io { action, path, source: errno.into() }
}
