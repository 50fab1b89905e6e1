// SPDX-License-Identifier: Apache-2.0
//! A root file system in memory: all the metadata, and references to the file contents.
//!
//! A [`Tree`] comes from a directory, from containerd's mounts or from an image archive, and goes
//! to [`crate::erofs::write`].  File data is never held here: a file knows where its bytes are (a
//! file below a host directory that was opened by descriptor, or a range of the spool file that an
//! archive was unpacked into), and they are read while the image is written.

mod error;
mod host;
mod mounts;
mod walk;
mod xattrs;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

pub use self::error::TreeError;
pub(crate) use self::host::{HostDir, HostRoot, Stamp};
pub(crate) use self::host::{io_error, names_in, open_file, stat_at, stat_fd};
pub use self::mounts::Mount;
pub(crate) use self::mounts::{Layering, Plan};
pub use self::walk::{Boundary, WalkOptions};
pub(crate) use self::xattrs::is_overlay_private;

use crate::archive::{Archive, ArchiveError};
use crate::progress::Progress;

/// Number of an inode in its tree; the root is 0.
pub(crate) type InodeId = usize;

/// The root's number.
pub(crate) const ROOT: InodeId = 0;

/// Extended attributes by their full name (`user.x`).
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The children of a directory, sorted by bytes as EROFS wants them.
pub(crate) type Entries = BTreeMap<Box<[u8]>, InodeId>;

/// What every kind of file has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permission, set-id and sticky bits (no file type).
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime_s: i64,
    pub(crate) mtime_ns: u32,
    pub(crate) xattrs: Xattrs,
}

/// Where a file's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A regular file below a host directory.
    Host { dir: Arc<HostDir>, name: Box<OsStr>, stamp: Stamp },
    /// A range of an unpacked archive.
    Spool { file: Arc<File>, offset: u64 },
}

/// The bytes of a regular file.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) size: u64,
    pub(crate) source: Source,
    /// The host file has fewer blocks than bytes: it is worth asking for its holes.
    pub(crate) may_have_holes: bool,
}

/// What a file is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Directory(Entries),
    File(Content),
    Symlink(Box<[u8]>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
    Socket,
}

/// One file, under one or more names.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) meta: Meta,
    pub(crate) kind: Kind,
}

/// A root file system: metadata in memory, contents by reference.
#[derive(Debug)]
pub struct Tree {
    pub(crate) inodes: Vec<Inode>,
    pub(crate) skipped_xattrs: u64,
}

impl Tree {
    /// Returns a tree that has only a root directory.
    pub(crate) fn new(root: Meta) -> Self {
        Self {
            inodes: vec![Inode { meta: root, kind: Kind::Directory(Entries::new()) }],
            skipped_xattrs: 0,
        }
    }

    /// Reads the tree below the directory `root`.
    ///
    /// No symbolic link inside is followed, and nothing outside is reached: each directory is
    /// opened beneath the descriptor of `root`.
    ///
    /// # Errors
    /// `root` is missing, empty or no directory; a file cannot be read, or a limit is exceeded.
    pub fn from_dir(
        root: &Path,
        options: &WalkOptions,
        progress: &dyn Progress,
    ) -> Result<Self, TreeError> {
        Self::from_plan(&Plan::for_dir(root), options, progress)
    }

    /// Reads the tree that `mounts` would show, without mounting them.
    ///
    /// Understood are one `bind`, or one `overlay` with `lowerdir=`, `upperdir=`; whiteouts and
    /// opaque directories are applied and leave no trace in the tree.
    ///
    /// # Errors
    /// The mounts are of another kind or use an option that changes what is seen (id maps,
    /// redirected directories, metadata-only copies); else as [`Tree::from_dir`].
    pub fn from_mounts(
        mounts: &[Mount],
        options: &WalkOptions,
        progress: &dyn Progress,
    ) -> Result<Self, TreeError> {
        Self::from_plan(&Plan::for_mounts(mounts)?, options, progress)
    }

    /// Unpacks the image of an archive; see [`Archive`] for its configuration.
    ///
    /// # Errors
    /// See [`Archive::open`] and [`Archive::unpack`].
    pub fn from_archive(archive: &Archive, progress: &dyn Progress) -> Result<Self, ArchiveError> {
        archive.unpack(progress)
    }

    /// Reads the directories of `plan`.
    pub(crate) fn from_plan(
        plan: &Plan,
        options: &WalkOptions,
        progress: &dyn Progress,
    ) -> Result<Self, TreeError> {
        walk::walk(plan, options, progress)
    }

    pub(crate) fn add(&mut self, inode: Inode) -> InodeId {
        self.inodes.push(inode);
        self.inodes.len() - 1
    }

    /// Returns the children of directory `id`; `None` when it is no directory.
    pub(crate) fn entries(&self, id: InodeId) -> Option<&Entries> {
        match &self.inodes[id].kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    /// Returns the children of directory `id`, to change them; `None` when it is no directory.
    pub(crate) fn entries_mut(&mut self, id: InodeId) -> Option<&mut Entries> {
        match &mut self.inodes[id].kind {
            Kind::Directory(entries) => Some(entries),
            _ => None,
        }
    }
}
