// SPDX-License-Identifier: Apache-2.0
//! One inode in memory.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::any::Any;

use trine_machine::Page;

use super::{MemFs, data::Data, directory::Entries};
use crate::{
    Errno,
    fs::{
        erofs::{EInode, Erofs},
        inode::{Allocate, Inode, InodeRef},
        pipe::Pipe,
        text::Text,
        types::{Attr, DirSink, FileType, NewInode, SetAttr},
    },
    io::{Sink, Source},
    mm::{Stale, StalePages},
    services::Timestamp,
    sync::Lock,
};

/// Most bytes of one extended attribute.
const XATTR_BYTES_MAX: usize = 65536;

/// Attributes that can change.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    /// Extended attributes; `None`: as in the image.
    xattrs: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
    pinned: bool,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Body {
    File(Lock<Data>),
    Directory(Lock<Entries>),
    Symlink(Vec<u8>),
    Special { rdev: u64, pipe: Option<Arc<Pipe>> },
}

/// An inode in memory.
#[derive(Debug)]
pub(crate) struct Node {
    pub(super) fs: Arc<MemFs>,
    pub(super) ino: u64,
    pub(super) kind: FileType,
    /// What it is in the image.
    pub(super) lower: Option<EInode>,
    pub(super) meta: Lock<Meta>,
    pub(super) body: Body,
    pub(super) this: Weak<Node>,
}

impl Node {
    /// Makes a new inode; it has no name yet.
    pub(super) fn new(fs: &Arc<MemFs>, new: &NewInode) -> Arc<Self> {
        let now = fs.services.now();
        let body = match new.kind {
            FileType::Regular => Body::File(Lock::new(Data::new(0))),
            FileType::Directory => Body::Directory(Lock::new(Entries::default())),
            FileType::Symlink => Body::Symlink(new.target.clone()),
            kind => Body::special(kind, new.rdev),
        };
        let ino = fs.next_ino.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        Arc::new_cyclic(|this| Self {
            fs: Arc::clone(fs),
            ino,
            kind: new.kind,
            lower: None,
            meta: Lock::new(Meta {
                mode: new.mode,
                uid: new.uid,
                gid: new.gid,
                links: if new.kind == FileType::Directory { 2 } else { 0 },
                atime: now,
                mtime: now,
                ctime: now,
                xattrs: None,
                pinned: false,
            }),
            body,
            this: this.clone(),
        })
    }

    /// Makes the node of an inode of the image.
    pub(super) fn of_image(fs: &Arc<MemFs>, image: &Erofs, nid: u64) -> Result<Arc<Self>, Errno> {
        let lower = image.inode(nid)?;
        let body = match lower.kind {
            FileType::Regular => Body::File(Lock::new(Data::new(lower.size))),
            FileType::Directory => Body::Directory(Lock::new(Entries::default())),
            FileType::Symlink => Body::Symlink(image.link_target(&lower)?),
            kind => Body::special(kind, lower.rdev),
        };
        Ok(Arc::new_cyclic(|this| Self {
            fs: Arc::clone(fs),
            ino: nid,
            kind: lower.kind,
            meta: Lock::new(Meta {
                mode: lower.mode,
                uid: lower.uid,
                gid: lower.gid,
                links: lower.links,
                atime: lower.mtime,
                mtime: lower.mtime,
                ctime: lower.mtime,
                xattrs: None,
                pinned: false,
            }),
            lower: Some(lower),
            body,
            this: this.clone(),
        }))
    }

    /// Lets seals be added to a file that is new.
    pub(crate) fn unseal(&self) {
        if let Body::File(data) = &self.body {
            data.lock().unseal();
        }
    }

    /// The image and the lower inode.
    pub(super) fn image(&self) -> Option<(Erofs, EInode)> {
        self.fs.lower.zip(self.lower)
    }

    /// Keeps the node, because it is no longer what the image says.
    pub(super) fn pin(&self, meta: &mut Meta) {
        if self.lower.is_none() || meta.pinned {
            return;
        }
        if let Some(this) = self.this.upgrade() {
            meta.pinned = true;
            self.fs.pinned.lock().insert(self.ino, this);
        }
    }

    /// Changes attributes.
    pub(super) fn change<R>(&self, change_fn: impl FnOnce(&mut Meta) -> R) -> R {
        let now = self.fs.services.now();
        let mut meta = self.meta.lock();
        self.pin(&mut meta);
        meta.ctime = now;
        change_fn(&mut meta)
    }

    /// Notes that the contents changed.
    pub(super) fn touched(&self) {
        let now = self.fs.services.now();
        self.change(|meta| meta.mtime = now);
    }

    /// Changes the number of names; with none left, nobody can find the node any longer.
    pub(super) fn add_links(&self, count: i32) {
        let gone = self.change(|meta| {
            meta.links = meta.links.saturating_add_signed(count);
            meta.links == 0
        });
        if gone {
            let pinned = self.fs.pinned.lock().remove(&self.ino);
            self.meta.lock().pinned = false;
            drop(pinned);
        }
    }

    /// Gives notice that pages that may be mapped are no longer what they were.
    pub(super) fn stale(&self, what: StalePages) {
        let file = (self.fs.device, self.ino);
        self.fs.services.stale.lock().push(Stale { file, what });
    }

    fn data(&self) -> Result<&Lock<Data>, Errno> {
        match &self.body {
            Body::File(data) => Ok(data),
            Body::Directory(_) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    fn lower_xattrs(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
        let Some((image, inode)) = self.image() else { return Ok(BTreeMap::new()) };
        let list = image.xattrs(&inode)?;
        Ok(list.into_iter().map(|(name, value)| (name, value.to_vec())).collect())
    }
}

impl Body {
    fn special(kind: FileType, rdev: u64) -> Self {
        Self::Special { rdev, pipe: (kind == FileType::Fifo).then(Pipe::fifo) }
    }
}

impl Inode for Node {
    fn attr(&self) -> Attr {
        let (size, blocks) = match &self.body {
            Body::File(data) => {
                let data = data.lock();
                (data.size, data.blocks(self.lower.as_ref()))
            }
            Body::Directory(_) => (4096, 8),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Special { .. } => (0, 0),
        };
        let meta = self.meta.lock();
        Attr {
            device: self.fs.device,
            ino: self.ino,
            kind: self.kind,
            mode: meta.mode,
            links: meta.links,
            uid: meta.uid,
            gid: meta.gid,
            rdev: if let Body::Special { rdev, .. } = &self.body { *rdev } else { 0 },
            size,
            blocks,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
        }
    }

    fn kind(&self) -> FileType {
        self.kind
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        self.change(|meta| {
            meta.mode = change.mode.unwrap_or(meta.mode);
            meta.uid = change.uid.unwrap_or(meta.uid);
            meta.gid = change.gid.unwrap_or(meta.gid);
            meta.atime = change.atime.unwrap_or(meta.atime);
            meta.mtime = change.mtime.unwrap_or(meta.mtime);
        });
        Ok(())
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef, Errno> {
        Ok(self.find(name)?)
    }

    fn create(&self, name: Option<&[u8]>, new: &NewInode) -> Result<InodeRef, Errno> {
        let node = Node::new(&self.fs, new);
        if let Some(name) = name {
            self.insert(name, &node)?;
        }
        Ok(node)
    }

    fn link(&self, name: &[u8], inode: &InodeRef) -> Result<(), Errno> {
        let node = self.same_fs(inode)?;
        if node.kind == FileType::Directory {
            return Err(Errno::PERM);
        }
        self.insert(name, &node)
    }

    fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        self.remove(name, false)
    }

    fn rmdir(&self, name: &[u8]) -> Result<(), Errno> {
        self.remove(name, true)
    }

    fn rename(&self, old: &[u8], to: &InodeRef, new: &[u8], exchange: bool) -> Result<(), Errno> {
        let to = self.same_fs(to)?;
        self.move_to(old, &to, new, exchange)
    }

    fn read_dir(&self, cursor: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        self.list(cursor, sink)
    }

    fn read_link(&self) -> Result<Vec<u8>, Errno> {
        match &self.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::INVAL),
        }
    }

    fn read_at(&self, offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        self.data()?.lock().read(self, offset, sink)
    }

    fn write_at(&self, offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        let done = self.data()?.lock().write(self, offset, source)?;
        if done > 0 {
            self.touched();
        }
        Ok(done)
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        self.data()?.lock().truncate(self, size)?;
        self.touched();
        Ok(())
    }

    fn allocate(&self, range: Allocate, offset: u64, bytes: u64) -> Result<(), Errno> {
        self.data()?.lock().allocate(self, range, offset, bytes)?;
        self.touched();
        Ok(())
    }

    fn seek_data(&self, offset: u64, hole: bool) -> Result<u64, Errno> {
        match &self.body {
            Body::File(data) => data.lock().seek(self, offset, hole),
            _ => Err(Errno::INVAL),
        }
    }

    fn page(&self, index: u64, write: bool) -> Result<Page, Errno> {
        let Body::File(data) = &self.body else { return Err(Errno::NODEV) };
        let page = data.lock().page(self, index, write)?;
        if write {
            let mut meta = self.meta.lock();
            self.pin(&mut meta);
        }
        Ok(page)
    }

    fn text(&self) -> Option<Text> {
        let Body::File(data) = &self.body else { return None };
        data.lock().text(self)
    }

    fn is_mappable(&self) -> bool {
        self.kind == FileType::Regular
    }

    fn pipe(&self) -> Option<Arc<Pipe>> {
        match &self.body {
            Body::Special { pipe, .. } => pipe.clone(),
            _ => None,
        }
    }

    fn seals(&self, add: u32) -> Result<u32, Errno> {
        match &self.body {
            Body::File(data) => data.lock().seal(add),
            _ => Err(Errno::INVAL),
        }
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if let Some(own) = &self.meta.lock().xattrs {
            return own.get(name).cloned().ok_or(Errno::NODATA);
        }
        if self.lower.is_none() {
            return Err(Errno::NODATA);
        }
        self.lower_xattrs()?.remove(name).ok_or(Errno::NODATA)
    }

    fn xattr_names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        if let Some(own) = &self.meta.lock().xattrs {
            return Ok(own.keys().cloned().collect());
        }
        Ok(self.lower_xattrs()?.into_keys().collect())
    }

    fn set_xattr(&self, name: &[u8], value: Option<&[u8]>) -> Result<(), Errno> {
        if value.is_some_and(|value| value.len() > XATTR_BYTES_MAX) {
            return Err(Errno::NOSPC);
        }
        let lower = self.lower_xattrs()?;
        self.change(|meta| {
            let own = meta.xattrs.get_or_insert(lower);
            match value {
                Some(value) => {
                    own.insert(name.to_vec(), value.to_vec());
                    Ok(())
                }
                None => own.remove(name).map(|_| ()).ok_or(Errno::NODATA),
            }
        })
    }
}
