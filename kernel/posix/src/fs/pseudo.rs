// SPDX-License-Identifier: Apache-2.0
//! File systems whose contents the kernel makes up: the parts that /proc, /sys and the like share.

use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec::Vec};
use core::{any::Any, fmt};

use crate::{
    Errno,
    fs::{
        dentry::Location,
        file::{File, FileOps},
        inode::{FileSystem, Inode, InodeRef},
        types::{Attr, DirEntry, DirSink, FileType, FsStat, OpenFlags},
    },
    io::{Sink, Source},
    sync::Lock,
};

/// Most bytes that one write to a made-up file takes.
const WRITE_MAX: usize = 4096;

/// A file system that is only a name and numbers.
#[derive(Debug)]
pub(crate) struct PseudoFs {
    pub(crate) name: &'static str,
    pub(crate) magic: u64,
    pub(crate) device: u64,
}

impl FileSystem for PseudoFs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn stat(&self) -> FsStat {
        FsStat { magic: self.magic, ..FsStat::default() }
    }

    fn device(&self) -> u64 {
        self.device
    }
}

/// Makes a file's contents.
pub(crate) type ReadFn = Box<dyn Fn() -> Result<Vec<u8>, Errno> + Send + Sync>;
/// Takes what is written to a file.
pub(crate) type WriteFn = Box<dyn Fn(&[u8]) -> Result<(), Errno> + Send + Sync>;
/// Finds where a magic link leads.
pub(crate) type JumpFn = Box<dyn Fn() -> Result<Location, Errno> + Send + Sync>;

/// What a made-up inode is.
pub(crate) enum Pseudo {
    /// A file.
    File(Arc<PseudoFile>),
    /// A link: its text, and where it leads if not there.
    Link(ReadFn, Option<JumpFn>),
    /// A directory that never changes.
    Directory(BTreeMap<Vec<u8>, InodeRef>),
}

/// A file's two sides.
pub(crate) struct PseudoFile {
    read: ReadFn,
    write: Option<WriteFn>,
}

impl fmt::Debug for PseudoFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PseudoFile")
    }
}

/// A made-up inode.
pub(crate) struct PseudoInode {
    attr: Attr,
    what: Pseudo,
}

impl fmt::Debug for PseudoInode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PseudoInode({})", self.attr.ino)
    }
}

/// A file.
pub(crate) fn file(
    attr: Attr,
    read: impl Fn() -> Result<Vec<u8>, Errno> + Send + Sync + 'static,
) -> InodeRef {
    let file = PseudoFile { read: Box::new(read), write: None };
    Arc::new(PseudoInode { attr, what: Pseudo::File(Arc::new(file)) })
}

/// A file that can be written.
pub(crate) fn writable(
    attr: Attr,
    read: impl Fn() -> Result<Vec<u8>, Errno> + Send + Sync + 'static,
    write: impl Fn(&[u8]) -> Result<(), Errno> + Send + Sync + 'static,
) -> InodeRef {
    let file = PseudoFile { read: Box::new(read), write: Some(Box::new(write)) };
    Arc::new(PseudoInode { attr, what: Pseudo::File(Arc::new(file)) })
}

/// A symbolic link.
pub(crate) fn link(
    attr: Attr,
    text: impl Fn() -> Result<Vec<u8>, Errno> + Send + Sync + 'static,
    jump: Option<JumpFn>,
) -> InodeRef {
    Arc::new(PseudoInode { attr, what: Pseudo::Link(Box::new(text), jump) })
}

/// A directory that never changes.
pub(crate) fn directory(attr: Attr, entries: Vec<(&str, InodeRef)>) -> InodeRef {
    let entries = entries.into_iter().map(|(name, inode)| (name.as_bytes().to_vec(), inode));
    Arc::new(PseudoInode { attr, what: Pseudo::Directory(entries.collect()) })
}

impl Inode for PseudoInode {
    fn attr(&self) -> Attr {
        self.attr
    }

    fn kind(&self) -> FileType {
        self.attr.kind
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef, Errno> {
        match &self.what {
            Pseudo::Directory(entries) => entries.get(name).cloned().ok_or(Errno::NOENT),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn read_dir(&self, cursor: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let Pseudo::Directory(entries) = &self.what else { return Err(Errno::NOTDIR) };
        let skip = cursor.saturating_sub(2) as usize;
        for (at, (name, inode)) in entries.iter().enumerate().skip(skip) {
            let attr = inode.attr();
            let entry = DirEntry { ino: attr.ino, next: at as u64 + 3, kind: attr.kind, name };
            if !sink(entry) {
                break;
            }
        }
        Ok(())
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        match &self.what {
            Pseudo::Link(text, _) => text(),
            _ => Err(Errno::INVAL),
        }
    }

    fn jump(&self) -> Option<Result<Location, Errno>> {
        match &self.what {
            Pseudo::Link(_, Some(jump)) => Some(jump()),
            _ => None,
        }
    }

    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        match &self.what {
            Pseudo::File(_) => Ok(()),
            _ => Err(Errno::INVAL),
        }
    }

    fn open(&self, flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>, Errno> {
        match &self.what {
            Pseudo::File(file) => {
                if flags.writes() && file.write.is_none() {
                    return Err(Errno::ACCES);
                }
                let contents = Lock::new(Vec::new());
                Ok(Some(Arc::new(Snapshot { file: Arc::clone(file), contents })))
            }
            _ => Ok(None),
        }
    }
}

/// An open made-up file: its contents as they were when reading began.
#[derive(Debug)]
struct Snapshot {
    file: Arc<PseudoFile>,
    contents: Lock<Vec<u8>>,
}

impl FileOps for Snapshot {
    fn read(&self, _file: &File, offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        if offset == 0 {
            let fresh = (self.file.read)()?;
            *self.contents.lock() = fresh;
        }
        let contents = self.contents.lock();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(contents.len());
        Ok(sink.put(&contents[start..]))
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        let write = self.file.write.as_ref().ok_or(Errno::INVAL)?;
        let mut bytes = alloc::vec![0; source.left().min(WRITE_MAX)];
        let taken = source.take(&mut bytes);
        write(&bytes[..taken])?;
        Ok(taken)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Numbers the inodes of one file system while it is put together.
#[derive(Debug)]
pub(crate) struct Numbers {
    pub(crate) device: u64,
    next: u64,
}

impl Numbers {
    /// Starts.
    pub(crate) fn new(device: u64, first: u64) -> Self {
        Self { device, next: first }
    }

    /// Attributes of a new file.
    pub(crate) fn file(&mut self, mode: u32) -> Attr {
        self.attr(FileType::Regular, mode)
    }

    /// Attributes of a new directory.
    pub(crate) fn directory(&mut self) -> Attr {
        self.attr(FileType::Directory, 0o555)
    }

    /// Attributes of a new link.
    pub(crate) fn link(&mut self) -> Attr {
        self.attr(FileType::Symlink, 0o777)
    }

    fn attr(&mut self, kind: FileType, mode: u32) -> Attr {
        self.next += 1;
        Attr::new(self.device, self.next, kind, mode)
    }

    /// A file that says always the same.
    pub(crate) fn text(&mut self, text: &'static str) -> InodeRef {
        file(self.file(0o444), move || Ok(text.as_bytes().to_vec()))
    }

    /// A directory that never changes.
    pub(crate) fn dir(&mut self, entries: Vec<(&str, InodeRef)>) -> InodeRef {
        let attr = self.directory();
        directory(attr, entries)
    }
}
