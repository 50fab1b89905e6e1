// SPDX-License-Identifier: Apache-2.0
//! Names in directories, as far as somebody uses them.
//!
//! A dentry holds its parent, so the path of anything open is always known; a parent knows its
//! children only weakly.  A ring of recent dentries ([`Recent`]) keeps those alive that a next walk
//! is likely to need.

use alloc::{
    boxed::Box,
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    Errno,
    fs::{
        inode::InodeRef,
        mount::Mount,
        types::{Attr, FileType},
    },
    sync::Lock,
};

/// A name.
pub struct Dentry {
    inode: InodeRef,
    place: Lock<Place>,
    children: Lock<BTreeMap<Box<[u8]>, Weak<Dentry>>>,
    /// Mounts on it.
    pub(super) mounts: AtomicU32,
}

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Box<[u8]>,
    deleted: bool,
}

impl fmt::Debug for Dentry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dentry({})", self.name().escape_ascii())
    }
}

impl Dentry {
    /// Makes the dentry of a root, or of something without a parent; `name` shows in paths.
    pub(crate) fn root(inode: InodeRef, name: &[u8]) -> Arc<Self> {
        Self::make(inode, None, name)
    }

    fn make(inode: InodeRef, parent: Option<Arc<Self>>, name: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            inode,
            place: Lock::new(Place { parent, name: name.into(), deleted: false }),
            children: Lock::new(BTreeMap::new()),
            mounts: AtomicU32::new(0),
        })
    }

    /// The inode.
    pub fn inode(&self) -> &InodeRef {
        &self.inode
    }

    /// The name.
    pub fn name(&self) -> Vec<u8> {
        self.place.lock().name.to_vec()
    }

    /// The directory that the name is in.
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.place.lock().parent.clone()
    }

    /// Whether the name was removed.
    pub fn is_deleted(&self) -> bool {
        self.place.lock().deleted
    }

    /// Whether something is mounted on it.
    pub fn is_mount_point(&self) -> bool {
        self.mounts.load(Ordering::Relaxed) > 0
    }

    /// Finds a child; says whether the dentry is new.
    pub(crate) fn child(self: &Arc<Self>, name: &[u8]) -> Result<(Arc<Self>, bool), Errno> {
        let stable = self.inode.is_stable();
        let known = self.children.lock().get(name).and_then(Weak::upgrade);
        // What is mounted on something hangs on its dentry.
        if let Some(child) = known.filter(|child| stable || child.is_mount_point()) {
            return Ok((child, false));
        }
        let inode = self.inode.lookup(name)?;
        Ok((self.adopt(name, inode), stable))
    }

    /// Makes the dentry of an inode that has just got a name here.
    pub(crate) fn adopt(self: &Arc<Self>, name: &[u8], inode: InodeRef) -> Arc<Self> {
        let child = Self::make(inode, Some(Arc::clone(self)), name);
        self.children.lock().insert(name.into(), Arc::downgrade(&child));
        child
    }

    /// Forgets a name that was removed.
    pub(crate) fn forget(&self, name: &[u8]) -> Option<Arc<Self>> {
        let child = self.children.lock().remove(name).and_then(|child| child.upgrade());
        if let Some(child) = &child {
            child.place.lock().deleted = true;
        }
        child
    }

    /// Follows a rename that was done on the inodes; returns the dentry that lost its name.
    pub(crate) fn moved(
        self: &Arc<Self>,
        old: &[u8],
        to: &Arc<Self>,
        new: &[u8],
        exchange: bool,
    ) -> Option<Arc<Self>> {
        let source = self.children.lock().remove(old).and_then(|child| child.upgrade());
        let target = to.children.lock().remove(new).and_then(|child| child.upgrade());
        if let Some(source) = source {
            source.put(to, new);
        }
        match target {
            Some(target) if exchange => {
                target.put(self, old);
                None
            }
            Some(target) => {
                target.place.lock().deleted = true;
                Some(target)
            }
            None => None,
        }
    }

    fn put(self: &Arc<Self>, parent: &Arc<Self>, name: &[u8]) {
        let before = {
            let mut place = self.place.lock();
            place.name = name.into();
            place.parent.replace(Arc::clone(parent))
        };
        parent.children.lock().insert(name.into(), Arc::downgrade(self));
        drop(before);
    }

    /// Whether `other` is this dentry or below it.
    pub(crate) fn contains(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        let mut at = Some(Arc::clone(other));
        while let Some(dentry) = at {
            if Arc::ptr_eq(self, &dentry) {
                return true;
            }
            at = dentry.parent();
        }
        false
    }

    fn unhook(&self) -> Option<Arc<Self>> {
        let (parent, name) = {
            let mut place = self.place.lock();
            (place.parent.take()?, core::mem::take(&mut place.name))
        };
        let mut children = parent.children.lock();
        // Another dentry may have taken over the name.
        if children.get(&name).is_some_and(|child| child.strong_count() == 0) {
            children.remove(&name);
        }
        drop(children);
        Some(parent)
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        // A loop, because a chain of directories may be longer than the stack.
        let mut next = self.unhook();
        while let Some(parent) = next {
            next = Arc::into_inner(parent).and_then(|parent| parent.unhook());
        }
    }
}

/// A place in the tree of mounts.
#[derive(Clone, Debug)]
pub struct Location {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The name in it.
    pub dentry: Arc<Dentry>,
}

impl Location {
    /// The inode.
    pub fn inode(&self) -> &InodeRef {
        self.dentry.inode()
    }

    /// The inode's attributes.
    pub fn attr(&self) -> Attr {
        self.inode().attr()
    }

    /// The inode's type.
    pub fn kind(&self) -> FileType {
        self.inode().kind()
    }

    /// Whether two locations are the same place.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// The place above, over mount boundaries; none above the root of all.
    pub(crate) fn above(&self) -> Option<Self> {
        let mut at = self.clone();
        while Arc::ptr_eq(&at.dentry, at.mount.root()) {
            at = at.mount.point()?;
        }
        let parent = at.dentry.parent()?;
        Some(Self { mount: at.mount, dentry: parent })
    }

    /// The path from `root`, and whether it leads there at all.
    pub fn path_from(&self, root: &Self) -> (Vec<u8>, bool) {
        let deleted = self.dentry.is_deleted();
        let mut names = Vec::new();
        let mut at = self.clone();
        let reached = loop {
            if at.is(root) {
                break true;
            }
            let mut top = at.clone();
            while Arc::ptr_eq(&top.dentry, top.mount.root()) {
                match top.mount.point() {
                    Some(point) => top = point,
                    None => break,
                }
                if top.is(root) {
                    break;
                }
            }
            if top.is(root) {
                break true;
            }
            let name = top.dentry.name();
            match top.dentry.parent() {
                Some(parent) => {
                    names.push(name);
                    at = Self { mount: top.mount, dentry: parent };
                }
                None => {
                    // A root of its own: its name is all there is (`pipe:[7]`).
                    if !name.is_empty() {
                        return (name, false);
                    }
                    break false;
                }
            }
        };
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        if deleted {
            path.extend_from_slice(b" (deleted)");
        }
        (path, reached)
    }
}

/// A ring of dentries that were used recently.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    ring: Vec<Option<Arc<Dentry>>>,
    next: usize,
}

impl Recent {
    const ENTRIES: usize = 1024;

    /// Adds a dentry; returns the one that must go, to be dropped without locks.
    pub(crate) fn add(&mut self, dentry: Arc<Dentry>) -> Option<Arc<Dentry>> {
        if self.ring.len() < Self::ENTRIES {
            self.ring.push(Some(dentry));
            return None;
        }
        self.next = (self.next + 1) % Self::ENTRIES;
        self.ring[self.next].replace(dentry)
    }

    /// Takes a dentry out, whose inode shall not live on.
    pub(crate) fn remove(&mut self, dentry: &Arc<Dentry>) -> Option<Arc<Dentry>> {
        let is_it = |entry: &&mut Option<Arc<Dentry>>| {
            entry.as_ref().is_some_and(|entry| Arc::ptr_eq(entry, dentry))
        };
        self.ring.iter_mut().find(is_it).and_then(Option::take)
    }

    /// Takes everything out.
    pub(crate) fn clear(&mut self) -> Vec<Option<Arc<Dentry>>> {
        core::mem::take(&mut self.ring)
    }
}
