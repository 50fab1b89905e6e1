// SPDX-License-Identifier: Apache-2.0
//! Inodes without a place in any directory: pipes, streams, epoll and the like.

use alloc::sync::Arc;
use core::any::Any;

use crate::{
    Errno,
    fs::{
        file::FileOps,
        inode::{FileSystem, Inode, InodeRef},
        pipe::Pipe,
        types::{Attr, FileType, FsStat, OpenFlags},
    },
};

const DEVICE: u64 = 0xd;
const PIPEFS_MAGIC: u64 = 0x5049_5045;

/// The file system of what has no name.
#[derive(Debug)]
pub(crate) struct Nameless;

impl FileSystem for Nameless {
    fn name(&self) -> &'static str {
        "pipefs"
    }

    fn stat(&self) -> FsStat {
        FsStat { magic: PIPEFS_MAGIC, ..FsStat::default() }
    }

    fn device(&self) -> u64 {
        DEVICE
    }
}

/// An inode without a name.
#[derive(Debug)]
struct Anonymous {
    ino: u64,
    kind: FileType,
    mode: u32,
    rdev: u64,
    /// What opening it through /proc/self/fd gives.
    ops: Option<Arc<dyn FileOps>>,
    pipe: Option<Arc<Pipe>>,
}

impl Inode for Anonymous {
    fn attr(&self) -> Attr {
        Attr { rdev: self.rdev, ..Attr::new(DEVICE, self.ino, self.kind, self.mode) }
    }

    fn kind(&self) -> FileType {
        self.kind
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>, Errno> {
        match (&self.ops, &self.pipe) {
            (Some(ops), _) => Ok(Some(Arc::clone(ops))),
            // Unlike a FIFO, a pipe does not wait for its other end: that may be gone for good.
            (None, Some(pipe)) => Ok(Some(pipe.end(flags))),
            (None, None) => Err(Errno::NXIO),
        }
    }

    fn pipe(&self) -> Option<Arc<Pipe>> {
        self.pipe.clone()
    }
}

/// An inode that does nothing.
pub(crate) fn plain(ino: u64, kind: FileType) -> InodeRef {
    Arc::new(Anonymous { ino, kind, mode: 0o600, rdev: 0, ops: None, pipe: None })
}

/// The inode of a pipe.
pub(crate) fn pipe(ino: u64, pipe: Arc<Pipe>) -> InodeRef {
    let kind = FileType::Fifo;
    Arc::new(Anonymous { ino, kind, mode: 0o600, rdev: 0, ops: None, pipe: Some(pipe) })
}

/// An inode that opens as `ops`.
pub(crate) fn reopens(ino: u64, kind: FileType, rdev: u64, ops: Arc<dyn FileOps>) -> InodeRef {
    let mode = if kind == FileType::CharDevice { 0o620 } else { 0o600 };
    Arc::new(Anonymous { ino, kind, mode, rdev, ops: Some(ops), pipe: None })
}
