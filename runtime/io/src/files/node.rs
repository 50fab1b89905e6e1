// SPDX-License-Identifier: Apache-2.0
//! Nodes: what a guest has found on its volumes, and how they are reached on the host.
//!
//! A node is an `O_PATH` descriptor: it names a file without opening it, so that finding a device
//! or a FIFO has no effect.  Single names only are looked up in it, and symbolic links are never
//! followed.  To open what a node is, its descriptor's entry in the process's current directory is
//! opened (`trine_jail::io` makes it hold the process's own descriptors).

use std::{
    collections::HashMap,
    ffi::OsStr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use trine_abi::file::{Attr, FIRST_NODE, Time, is_name};
use trine_policy::meter::Budget;

/// Most nodes and open files of one VM.
const HANDLES_MAX: usize = 24_576;

/// What is behind a handle.
#[derive(Debug)]
pub(crate) struct Node {
    /// Names the file.
    pub(crate) descriptor: OwnedFd,
    /// Its type, which never changes.
    pub(crate) kind: FileType,
    /// Index of its volume.
    pub(crate) volume: usize,
    key: (u64, u64, usize),
    /// References that the guest holds.
    references: u64,
}

/// An open file or directory.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    /// The descriptor.
    pub(crate) descriptor: Arc<OwnedFd>,
    /// Index of its volume.
    pub(crate) volume: usize,
    /// Reads and writes go to the medium.
    pub(crate) is_synchronous: bool,
    /// A directory's stream stands behind the entry with this cookie.
    pub(crate) cookie: u64,
    pub(crate) is_directory: bool,
    /// The policy made it so: nothing that is there is changed through it.
    pub(crate) is_append_only: bool,
    /// How many bytes may be moved.
    pub(crate) budget: Budget,
}

/// The handles of one VM.
#[derive(Debug)]
pub(crate) struct Handles {
    nodes: HashMap<u32, Node>,
    by_key: HashMap<(u64, u64, usize), u32>,
    files: HashMap<u32, OpenFile>,
    next: u32,
}

impl Handles {
    pub(crate) fn new() -> Self {
        Self {
            nodes: HashMap::new(),
            by_key: HashMap::new(),
            files: HashMap::new(),
            next: FIRST_NODE,
        }
    }

    /// Adds the root of a volume, which stays for good.
    pub(crate) fn add_root(
        &mut self,
        handle: u32,
        descriptor: OwnedFd,
        volume: usize,
    ) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(&descriptor)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::Directory | FileType::RegularFile) {
            return Err(Errno::NOTSUP);
        }
        let key = (stat.st_dev, stat.st_ino, volume);
        self.by_key.insert(key, handle);
        let references = u64::MAX;
        self.nodes.insert(handle, Node { descriptor, kind, volume, key, references });
        Ok(())
    }

    pub(crate) fn node(&self, handle: u32) -> Result<&Node, Errno> {
        self.nodes.get(&handle).ok_or(Errno::BADF)
    }

    pub(crate) fn directory(&self, handle: u32) -> Result<&Node, Errno> {
        let node = self.node(handle)?;
        if node.kind == FileType::Directory { Ok(node) } else { Err(Errno::NOTDIR) }
    }

    pub(crate) fn file(&self, handle: u32) -> Result<&OpenFile, Errno> {
        self.files.get(&handle).ok_or(Errno::BADF)
    }

    pub(crate) fn set_cookie(&mut self, handle: u32, cookie: u64) {
        if let Some(file) = self.files.get_mut(&handle) {
            file.cookie = cookie;
        }
    }

    fn allot(&mut self) -> Result<u32, Errno> {
        if self.nodes.len() + self.files.len() >= HANDLES_MAX {
            return Err(Errno::NFILE);
        }
        loop {
            let handle = self.next;
            self.next = handle.checked_add(1).unwrap_or(FIRST_NODE);
            if !self.nodes.contains_key(&handle) && !self.files.contains_key(&handle) {
                return Ok(handle);
            }
        }
    }

    /// Gives a file a node, or one reference more of the node that it has.
    pub(crate) fn add_node(
        &mut self,
        descriptor: OwnedFd,
        stat: &Stat,
        volume: usize,
    ) -> Result<u32, Errno> {
        let key = (stat.st_dev, stat.st_ino, volume);
        if let Some(&handle) = self.by_key.get(&key)
            && let Some(node) = self.nodes.get_mut(&handle)
        {
            node.references = node.references.saturating_add(1);
            return Ok(handle);
        }
        let handle = self.allot()?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        self.nodes.insert(handle, Node { descriptor, kind, volume, key, references: 1 });
        self.by_key.insert(key, handle);
        Ok(handle)
    }

    pub(crate) fn add_file(&mut self, file: OpenFile) -> Result<u32, Errno> {
        let handle = self.allot()?;
        self.files.insert(handle, file);
        Ok(handle)
    }

    /// Gives references of a node back, or closes an open file.
    pub(crate) fn forget(&mut self, handle: u32, references: u64) {
        if self.files.remove(&handle).is_some() {
            return;
        }
        let Some(node) = self.nodes.get_mut(&handle) else { return };
        // A volume's root has more references than can be given back.
        if node.references == u64::MAX {
            return;
        }
        node.references = node.references.saturating_sub(references);
        if node.references == 0
            && let Some(node) = self.nodes.remove(&handle)
        {
            self.by_key.remove(&node.key);
        }
    }
}

/// A name that a guest gave, as a path of one component.
pub(crate) fn name(bytes: &[u8]) -> Result<&Path, Errno> {
    if bytes.len() > trine_abi::file::NAME_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    if !is_name(bytes) {
        return Err(Errno::INVAL);
    }
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

/// Finds a name in a directory, without opening what it is or following it.
pub(crate) fn look_up(directory: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve)
}

/// The path that leads to what a descriptor names, from the process's current directory.
pub(crate) fn own_path(descriptor: impl AsFd) -> String {
    descriptor.as_fd().as_raw_fd().to_string()
}

/// Opens what a node names: a regular file or directory, nothing else.
pub(crate) fn open(node: &Node, flags: OFlags) -> Result<OwnedFd, Errno> {
    if !matches!(node.kind, FileType::Directory | FileType::RegularFile) {
        return Err(Errno::NXIO);
    }
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    rustix::fs::openat2(
        CWD,
        own_path(&node.descriptor),
        flags,
        Mode::empty(),
        ResolveFlags::empty(),
    )
}

/// The attributes that the guest sees.
pub(crate) fn attributes(stat: &Stat) -> Attr {
    let time = |seconds: i64, nanoseconds: u64| Time {
        seconds: seconds.cast_unsigned(),
        nanoseconds: nanoseconds as u32,
    };
    Attr {
        ino: stat.st_ino,
        device: stat.st_dev,
        mode: stat.st_mode,
        links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        size: stat.st_size.cast_unsigned(),
        blocks: stat.st_blocks.cast_unsigned(),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
    }
}
