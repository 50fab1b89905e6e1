// SPDX-License-Identifier: Apache-2.0
//! File systems in memory: tmpfs, and the root: an image below, changes above.
//!
//! Both are one implementation.  A [`Node`] is an inode that may have a *lower* inode of the image;
//! tmpfs is the case in which none has.  A node of the image is made when somebody looks it up, and
//! forgotten with its last user, unless it was changed: then it is pinned.
//!
//! ```text
//! directory  lower entries, hidden or replaced by the upper ones (names and whiteouts)
//! file       lower bytes up to `lower_end`, covered page by page by frames: a written page gets a
//!            frame, every other page is still the image's
//! ```
//!
//! Because identity is the lower inode's number and not a path, a rename of a directory of the
//! image moves nothing, hard links stay links, and inode numbers never change.

mod data;
mod directory;
mod node;

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicU64, Ordering};

use trine_machine::Frame;

pub(crate) use node::Node;

use crate::{
    Errno,
    fs::{
        erofs::Erofs,
        inode::{FileSystem, InodeRef},
        types::{FileType, FsStat, NewInode},
    },
    services::ServicesRef,
    sync::Lock,
};

const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// What the nodes of one file system share.
#[derive(Debug)]
pub(crate) struct MemFs {
    services: ServicesRef,
    name: &'static str,
    device: u64,
    lower: Option<Erofs>,
    next_ino: AtomicU64,
    /// Frames in use, and how many there may be.
    frames: AtomicU64,
    frames_max: u64,
    /// Nodes with a lower inode that are in use.
    known: Lock<BTreeMap<u64, Weak<Node>>>,
    /// Those that were changed.
    pinned: Lock<BTreeMap<u64, Arc<Node>>>,
    /// What holes read as.
    zero: Lock<Option<Frame>>,
}

impl MemFs {
    /// Makes a tmpfs, and its root.
    pub(crate) fn tmpfs(
        services: ServicesRef,
        device: u64,
        name: &'static str,
        bytes_max: u64,
        root: &NewInode,
    ) -> (Arc<Self>, InodeRef) {
        let fs = Self::make(services, device, name, None, bytes_max);
        let root = Node::new(&fs, root);
        (fs, root)
    }

    /// Makes a writable file system over an image, and its root.
    ///
    /// # Errors
    /// `EUCLEAN` if the image's root cannot be read.
    pub(crate) fn overlay(
        services: ServicesRef,
        device: u64,
        lower: Erofs,
    ) -> Result<(Arc<Self>, InodeRef), Errno> {
        let fs = Self::make(services, device, "overlay", Some(lower), u64::MAX);
        let root = fs.lower_node(lower.root())?;
        Ok((fs, root))
    }

    fn make(
        services: ServicesRef,
        device: u64,
        name: &'static str,
        lower: Option<Erofs>,
        bytes_max: u64,
    ) -> Arc<Self> {
        // Numbers of new inodes lie above those of the image.
        let first = lower.map_or(2, |lower| lower.bytes() / 32 + 1);
        Arc::new(Self {
            services,
            name,
            device,
            lower,
            next_ino: AtomicU64::new(first),
            frames: AtomicU64::new(0),
            frames_max: bytes_max / 4096,
            known: Lock::new(BTreeMap::new()),
            pinned: Lock::new(BTreeMap::new()),
            zero: Lock::new(None),
        })
    }

    /// The node of an inode of the image.
    fn lower_node(self: &Arc<Self>, nid: u64) -> Result<Arc<Node>, Errno> {
        let known = self.known.lock().get(&nid).and_then(Weak::upgrade);
        if let Some(node) = known {
            return Ok(node);
        }
        let lower = self.lower.ok_or(Errno::UCLEAN)?;
        let node = Node::of_image(self, &lower, nid)?;
        let mut known = self.known.lock();
        known.insert(nid, Arc::downgrade(&node));
        // Entries of forgotten nodes stay until there are many.
        if known.len().is_multiple_of(4096) {
            known.retain(|_, node| node.strong_count() > 0);
        }
        Ok(node)
    }

    /// Takes a frame that reads as zero.
    fn take_frame(&self) -> Result<Frame, Errno> {
        let is_full = self.services.arena.free_bytes() <= self.kept_bytes();
        if is_full || self.frames.load(Ordering::Relaxed) >= self.frames_max {
            return Err(Errno::NOSPC);
        }
        let frame = Frame::zeroed(self.services.arena).ok_or(Errno::NOSPC)?;
        self.frames.fetch_add(1, Ordering::Relaxed);
        Ok(frame)
    }

    /// What files leave for programs: whoever fills the disk is to be told so, not killed, and others
    /// are to run on.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.services.arena.ram_bytes() / 16
    }

    fn gave_frames(&self, count: u64) {
        self.frames.fetch_sub(count, Ordering::Relaxed);
    }

    /// The frame that all holes share while nobody writes to them.
    fn zero_frame(&self) -> Result<Frame, Errno> {
        let mut zero = self.zero.lock();
        if zero.is_none() {
            *zero = Frame::zeroed(self.services.arena);
        }
        zero.clone().ok_or(Errno::NOMEM)
    }
}

impl FileSystem for MemFs {
    fn name(&self) -> &'static str {
        self.name
    }

    fn stat(&self) -> FsStat {
        let used = self.frames.load(Ordering::Relaxed);
        let free = self.services.arena.free_bytes().saturating_sub(self.kept_bytes()) / 4096;
        let lower = self.lower.map_or(0, |lower| lower.bytes() / 4096);
        let free_blocks = self.frames_max.saturating_sub(used).min(free);
        let limit = if self.frames_max < free { self.frames_max } else { used + free };
        FsStat {
            magic: if self.lower.is_some() { OVERLAYFS_MAGIC } else { TMPFS_MAGIC },
            blocks: limit + lower,
            free_blocks,
            files: 1 << 20,
            free_files: 1 << 19,
        }
    }

    fn device(&self) -> u64 {
        self.device
    }
}

/// A directory with a mode, owned by root: the root of a new tmpfs.
pub(crate) fn root_directory(mode: u32, uid: u32, gid: u32) -> NewInode {
    let target = Vec::new();
    NewInode { kind: FileType::Directory, mode, uid, gid, rdev: 0, target }
}
