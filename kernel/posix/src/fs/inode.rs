// SPDX-License-Identifier: Apache-2.0
//! What a file system's inodes can do.

use alloc::{sync::Arc, vec::Vec};
use core::{any::Any, fmt};

use trine_machine::Page;

use crate::{
    Errno,
    fs::{
        dentry::Location,
        file::FileOps,
        pipe::Pipe,
        text::Text,
        types::{Attr, DirSink, FileType, FsStat, NewInode, OpenFlags, SetAttr},
    },
    io::{Sink, Source},
};

/// A shared inode.
pub type InodeRef = Arc<dyn Inode>;

/// An object of a file system.  What an object is not good for fails with the errno that Linux has
/// for it; nothing here blocks.
pub trait Inode: Send + Sync + fmt::Debug {
    /// Reads the attributes.
    fn attr(&self) -> Attr;

    /// Brings the attributes up to date, for what others than this kernel may change.
    ///
    /// # Errors
    /// None by default.
    fn refresh(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Names that will be looked up from this directory on, one in the other, as a path, and what
    /// the last one is going to be opened for: to find them all at once.
    ///
    /// # Errors
    /// None by default.
    fn expect_walk(&self, _rest: &[u8], _open: Option<OpenFlags>) -> Result<(), Errno> {
        Ok(())
    }

    /// As [`Inode::create`] with a name, for a regular file that is going to be opened with these
    /// flags.
    ///
    /// # Errors
    /// As there.
    fn create_to_open(
        &self,
        name: &[u8],
        new: &NewInode,
        _flags: OpenFlags,
    ) -> Result<InodeRef, Errno> {
        self.create(Some(name), new)
    }

    /// The type.
    fn kind(&self) -> FileType {
        self.attr().kind
    }

    /// For file systems that must know their own inodes again.
    fn as_any(&self) -> &dyn Any;

    /// Changes attributes.
    ///
    /// # Errors
    /// `EPERM` by default.
    fn set_attr(&self, _change: &SetAttr) -> Result<(), Errno> {
        Err(Errno::PERM)
    }

    /// Finds a name in a directory.
    ///
    /// # Errors
    /// `ENOENT`; `ENOTDIR` by default.
    fn lookup(&self, _name: &[u8]) -> Result<InodeRef, Errno> {
        Err(Errno::NOTDIR)
    }

    /// Whether what `lookup` finds stays the same until it is changed through this interface.
    fn is_stable(&self) -> bool {
        true
    }

    /// Makes something in a directory, where the name must be free; without a name, a file that
    /// vanishes when it is closed unless it is linked.
    ///
    /// # Errors
    /// `EPERM` by default.
    fn create(&self, _name: Option<&[u8]>, _new: &NewInode) -> Result<InodeRef, Errno> {
        Err(Errno::PERM)
    }

    /// Gives an inode of the same file system one more name.
    ///
    /// # Errors
    /// `EPERM` by default.
    fn link(&self, _name: &[u8], _inode: &InodeRef) -> Result<(), Errno> {
        Err(Errno::PERM)
    }

    /// Removes a name that is not a directory's.
    ///
    /// # Errors
    /// `EPERM` by default.
    fn unlink(&self, _name: &[u8]) -> Result<(), Errno> {
        Err(Errno::PERM)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `EPERM` by default.
    fn rmdir(&self, _name: &[u8]) -> Result<(), Errno> {
        Err(Errno::PERM)
    }

    /// Moves `old` of this directory to `new` of `to`, in place of what is there; or exchanges
    /// them.  The caller made sure that no directory gets into itself.
    ///
    /// # Errors
    /// `EPERM` by default.
    fn rename(
        &self,
        _old: &[u8],
        _to: &InodeRef,
        _new: &[u8],
        _exchange: bool,
    ) -> Result<(), Errno> {
        Err(Errno::PERM)
    }

    /// Gives the entries from `cursor` on (2 at first), without `.` and `..`.
    ///
    /// # Errors
    /// `ENOTDIR` by default.
    fn read_dir(&self, _cursor: u64, _sink: &mut DirSink<'_>) -> Result<(), Errno> {
        Err(Errno::NOTDIR)
    }

    /// Reads a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` by default.
    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        Err(Errno::INVAL)
    }

    /// Where a link leads that is not followed by its text (`/proc/self/fd/0`).
    fn jump(&self) -> Option<Result<Location, Errno>> {
        None
    }

    /// Reads; returns 0 at the end.
    ///
    /// # Errors
    /// `EINVAL` by default.
    fn read_at(&self, _offset: u64, _sink: &mut dyn Sink) -> Result<usize, Errno> {
        Err(Errno::INVAL)
    }

    /// Writes.
    ///
    /// # Errors
    /// `EINVAL` by default.
    fn write_at(&self, _offset: u64, _source: &mut dyn Source) -> Result<usize, Errno> {
        Err(Errno::INVAL)
    }

    /// Sets the size.
    ///
    /// # Errors
    /// `EINVAL` by default.
    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    /// Makes room for a range, growing the file unless `keep_size`; or makes it a hole.
    ///
    /// # Errors
    /// `EOPNOTSUPP` by default.
    fn allocate(&self, _range: Allocate, _offset: u64, _bytes: u64) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// Finds the next data (or hole) from `offset` on.
    ///
    /// # Errors
    /// `ENXIO` from the end on.
    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64, Errno> {
        let size = self.attr().size;
        match (offset < size, hole) {
            (false, _) => Err(Errno::NXIO),
            (true, false) => Ok(offset),
            (true, true) => Ok(size),
        }
    }

    /// The page at `index`: with `write` the file's own frame, which everybody shares; without, a
    /// page to read or to copy from, which need not follow later writes.
    ///
    /// # Errors
    /// `ENODEV` if it cannot be mapped; `ENXIO` beyond the end; `ENOSPC` or `ENOMEM`.
    fn page(&self, _index: u64, _write: bool) -> Result<Page, Errno> {
        Err(Errno::NODEV)
    }

    /// What executable mappings use in place of some of its pages.
    fn text(&self) -> Option<Text> {
        None
    }

    /// Whether `page` works.
    fn is_mappable(&self) -> bool {
        false
    }

    /// What open(2) gives instead of plain access to contents.
    ///
    /// # Errors
    /// What the object says.
    fn open(&self, _flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>, Errno> {
        Ok(None)
    }

    /// The pipe of a FIFO.
    fn pipe(&self) -> Option<Arc<Pipe>> {
        None
    }

    /// `F_ADD_SEALS` (adds and returns all) and, with 0, `F_GET_SEALS`.
    ///
    /// # Errors
    /// `EINVAL` by default.
    fn seals(&self, _add: u32) -> Result<u32, Errno> {
        Err(Errno::INVAL)
    }

    /// Reads an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`; `EOPNOTSUPP` by default.
    fn xattr(&self, _name: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// Names of the extended attributes.
    ///
    /// # Errors
    /// None by default.
    fn xattr_names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        Ok(Vec::new())
    }

    /// Sets an extended attribute, or removes it.
    ///
    /// # Errors
    /// `ENODATA`; `EOPNOTSUPP` by default.
    fn set_xattr(&self, _name: &[u8], _value: Option<&[u8]>) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }
}

/// What [`Inode::allocate`] does with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Makes room, growing the file.
    Grow,
    /// Makes room, leaving the size.
    KeepSize,
    /// Makes a hole.
    Punch,
    /// Makes it read as zero, growing the file.
    Zero,
}

/// A file system, as a mount sees it.
pub trait FileSystem: Send + Sync + fmt::Debug {
    /// Its type, as in /proc/filesystems.
    fn name(&self) -> &'static str;

    /// Brings up to date what `stat` tells.
    ///
    /// # Errors
    /// None by default.
    fn refresh(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// What statfs(2) tells.
    fn stat(&self) -> FsStat;

    /// Its device number.
    fn device(&self) -> u64;
}
