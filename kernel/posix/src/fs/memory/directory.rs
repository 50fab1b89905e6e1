// SPDX-License-Identifier: Apache-2.0
//! Directories: entries of the image, under those in memory.

use alloc::{boxed::Box, collections::BTreeMap, sync::Arc};

use super::node::{Body, Node};
use crate::{
    Errno,
    fs::{
        inode::InodeRef,
        types::{DirEntry, DirSink, FileType},
    },
    sync::Lock,
};

/// Cursors of entries in memory lie above those of the image, which begin at 2 (after `.`, `..`).
const UPPER: u64 = 1 << 61;
const LOWER: u64 = 2;

/// What is known of a name in memory.
#[derive(Debug)]
enum Entry {
    /// It is this node's, at this cursor.
    Node(Arc<Node>, u64),
    /// The image's entry is gone.
    Whiteout,
}

/// A directory's entries in memory.  Cursors only grow, so reading goes on in the right place
/// whatever is removed meanwhile.
#[derive(Debug, Default)]
pub(super) struct Entries {
    names: BTreeMap<Box<[u8]>, Entry>,
    order: BTreeMap<u64, Box<[u8]>>,
    next: u64,
}

impl Entries {
    fn set(&mut self, name: &[u8], node: Arc<Node>) -> Option<Entry> {
        let before = self.take(name);
        let cursor = UPPER + self.next;
        self.next += 1;
        self.order.insert(cursor, name.into());
        self.names.insert(name.into(), Entry::Node(node, cursor));
        before
    }

    fn take(&mut self, name: &[u8]) -> Option<Entry> {
        let before = self.names.remove(name);
        if let Some(Entry::Node(_, cursor)) = &before {
            self.order.remove(cursor);
        }
        before
    }

    fn white_out(&mut self, name: &[u8]) {
        self.names.insert(name.into(), Entry::Whiteout);
    }
}

impl Node {
    fn entries(&self) -> Result<&Lock<Entries>, Errno> {
        match &self.body {
            Body::Directory(entries) => Ok(entries),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// An inode of this file system as what it is.
    pub(super) fn same_fs(&self, inode: &InodeRef) -> Result<Arc<Node>, Errno> {
        let node = inode.as_any().downcast_ref::<Node>().ok_or(Errno::XDEV)?;
        if !Arc::ptr_eq(&node.fs, &self.fs) {
            return Err(Errno::XDEV);
        }
        node.this.upgrade().ok_or(Errno::NOENT)
    }

    /// The number of a name in the image.
    fn lower_entry(&self, name: &[u8]) -> Result<Option<u64>, Errno> {
        let Some((image, inode)) = self.image() else { return Ok(None) };
        Ok(image.lookup(&inode, name)?.map(|entry| entry.nid))
    }

    /// Finds a name.
    pub(super) fn find(&self, name: &[u8]) -> Result<Arc<Node>, Errno> {
        match self.entries()?.lock().names.get(name) {
            Some(Entry::Node(node, _)) => return Ok(Arc::clone(node)),
            Some(Entry::Whiteout) => return Err(Errno::NOENT),
            None => {}
        }
        let nid = self.lower_entry(name)?.ok_or(Errno::NOENT)?;
        self.fs.lower_node(nid)
    }

    fn is_removed(&self) -> bool {
        self.meta.lock().links == 0
    }

    /// Gives a node a name, which must be free.
    pub(super) fn insert(&self, name: &[u8], node: &Arc<Node>) -> Result<(), Errno> {
        match self.find(name) {
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
            Ok(_) => return Err(Errno::EXIST),
        }
        if self.is_removed() {
            return Err(Errno::NOENT);
        }
        self.put(name, node)?;
        if node.kind == FileType::Directory {
            self.add_links(1);
        } else {
            node.add_links(1);
            let mut meta = node.meta.lock();
            node.pin(&mut meta);
        }
        self.touched();
        Ok(())
    }

    /// Puts a node at a name, whatever is there.
    fn put(&self, name: &[u8], node: &Arc<Node>) -> Result<(), Errno> {
        let before = self.entries()?.lock().set(name, Arc::clone(node));
        drop(before);
        Ok(())
    }

    /// Takes a name out.
    fn take_out(&self, name: &[u8]) -> Result<(), Errno> {
        let hides = self.lower_entry(name)?.is_some();
        let before = {
            let mut entries = self.entries()?.lock();
            let before = entries.take(name);
            if hides {
                entries.white_out(name);
            }
            before
        };
        drop(before);
        Ok(())
    }

    fn is_empty(&self) -> Result<bool, Errno> {
        let mut empty = true;
        self.list(LOWER, &mut |_| {
            empty = false;
            false
        })?;
        Ok(empty)
    }

    /// Removes a name: an empty directory's, or any other's.
    pub(super) fn remove(&self, name: &[u8], directory: bool) -> Result<(), Errno> {
        let node = self.find(name)?;
        match (node.kind == FileType::Directory, directory) {
            (true, false) => return Err(Errno::ISDIR),
            (false, true) => return Err(Errno::NOTDIR),
            _ => {}
        }
        if directory && !node.is_empty()? {
            return Err(Errno::NOTEMPTY);
        }
        self.take_out(name)?;
        self.lost(&node);
        self.touched();
        Ok(())
    }

    /// Accounts for a node that lost its name in this directory.
    fn lost(&self, node: &Node) {
        if node.kind == FileType::Directory {
            let links = node.meta.lock().links;
            node.add_links(-i32::try_from(links).unwrap_or(i32::MAX));
            self.add_links(-1);
        } else {
            node.add_links(-1);
        }
    }

    /// Moves a name; see [`crate::fs::inode::Inode::rename`].
    pub(super) fn move_to(
        &self,
        old: &[u8],
        to: &Arc<Node>,
        new: &[u8],
        exchange: bool,
    ) -> Result<(), Errno> {
        let source = self.find(old)?;
        let target = match to.find(new) {
            Ok(target) => Some(target),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        if to.is_removed() {
            return Err(Errno::NOENT);
        }
        let is_dir = |node: &Node| node.kind == FileType::Directory;
        let across = !core::ptr::eq(self, Arc::as_ptr(to));
        match target {
            Some(target) if Arc::ptr_eq(&source, &target) => return Ok(()),
            Some(target) if exchange => {
                self.put(old, &target)?;
                to.put(new, &source)?;
                if across && is_dir(&source) != is_dir(&target) {
                    let change = if is_dir(&source) { 1 } else { -1 };
                    to.add_links(change);
                    self.add_links(-change);
                }
                target.change(|_| ());
            }
            None if exchange => return Err(Errno::NOENT),
            target => {
                if let Some(target) = &target {
                    match (is_dir(&source), is_dir(target)) {
                        (false, true) => return Err(Errno::ISDIR),
                        (true, false) => return Err(Errno::NOTDIR),
                        (true, true) if !target.is_empty()? => return Err(Errno::NOTEMPTY),
                        _ => {}
                    }
                }
                to.put(new, &source)?;
                if let Some(target) = &target {
                    to.lost(target);
                }
                self.take_out(old)?;
                if across && is_dir(&source) {
                    self.add_links(-1);
                    to.add_links(1);
                }
            }
        }
        // The image's entry no longer names it: whoever looks it up must find this very node.
        source.change(|_| ());
        self.touched();
        if across {
            to.touched();
        }
        Ok(())
    }

    /// Gives the entries from a cursor on: the image's that are still there, then those in memory.
    pub(super) fn list(&self, cursor: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let entries = self.entries()?;
        if let Some((image, inode)) = self.image()
            && cursor < UPPER
        {
            let mut at = cursor.saturating_sub(LOWER);
            while let Some((entry, next)) = image.entry_at(&inode, at)? {
                at = next;
                let hidden = matches!(entry.name, b"." | b"..")
                    || entries.lock().names.contains_key(entry.name);
                let shown = DirEntry {
                    ino: entry.nid,
                    next: LOWER + next,
                    kind: entry.kind,
                    name: entry.name,
                };
                if !hidden && !sink(shown) {
                    return Ok(());
                }
            }
        }
        let entries = entries.lock();
        for (&cursor, name) in entries.order.range(cursor.max(UPPER)..) {
            if let Some(Entry::Node(node, _)) = entries.names.get(name) {
                let entry = DirEntry { ino: node.ino, next: cursor + 1, kind: node.kind, name };
                if !sink(entry) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
