// SPDX-License-Identifier: Apache-2.0
//! Volumes: directories and files of the host, served by the I/O server.
//!
//! Nothing is cached beyond one system call: each walk asks the host for every name (all names of a
//! path in one request), and what a call tells of an open file it has asked for.  So a change on
//! the host, or by another container of the pod, is seen at once.  Contents are cached only while
//! they are mapped (`map`).
//!
//! | module | what |
//! | --- | --- |
//! | `node` | files, directories and links as inodes |
//! | `file` | open files: transfers with several requests in flight |
//! | `map` | pages of mapped files |
//! | `lock` | locks on ranges |

mod file;
mod lock;
mod map;
mod node;

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::fmt;

use trine_abi::{
    file::{self as wire, Wire},
    window::Operation,
};

pub(crate) use self::{
    file::{Handle, Transfers},
    node::Node,
};
use crate::{
    Errno,
    forward::{Answer, Call},
    fs::{
        inode::FileSystem,
        types::{Attr, FileType, FsStat},
    },
    services::{ServicesRef, Timestamp},
    sync::Lock,
};

/// What statfs(2) says: programs know it as a file system that somebody else serves (FUSE).
const MAGIC: u64 = 0x6573_5546;
/// References that are given back together.
const FORGET_BATCH: usize = 64;

/// A volume.
pub(crate) struct VolumeFs {
    services: ServicesRef,
    root: u32,
    device: u64,
    /// Device numbers for those of the host, beyond the first that was seen.
    devices: Lock<Vec<u64>>,
    nodes: Lock<BTreeMap<u32, Weak<Node>>>,
    /// References to give back.
    forgotten: Lock<Vec<wire::Forgotten>>,
    stat: Lock<FsStat>,
}

impl fmt::Debug for VolumeFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeFs({:#x})", self.root)
    }
}

impl VolumeFs {
    /// The volume with this root, and its root.
    pub(crate) fn open(
        services: &ServicesRef,
        root: u32,
        device: u64,
    ) -> Result<(Arc<Self>, Arc<Node>), Errno> {
        let fs = Arc::new(Self {
            services: Arc::clone(services),
            root,
            device,
            devices: Lock::new(Vec::new()),
            nodes: Lock::new(BTreeMap::new()),
            forgotten: Lock::new(Vec::new()),
            stat: Lock::new(FsStat { magic: MAGIC, ..FsStat::default() }),
        });
        let attr = fs.call(Operation::FileAttr, root, 0, &[], Answer::value::<wire::Attr>)?;
        let found = wire::Found { node: root, attr: (*attr).clone() };
        let node = fs.found(&found)?;
        Ok((fs, node))
    }

    fn call<T: core::any::Any + Send + Sync + fmt::Debug>(
        &self,
        operation: Operation,
        handle: u32,
        argument: u64,
        input: &[u8],
        decode_fn: impl FnOnce(&Answer) -> Result<T, Errno> + Send + 'static,
    ) -> Result<Arc<T>, Errno> {
        let room = trine_machine::window::BUFFER_BYTES;
        self.services.call(&Call { operation, handle, argument, input, room }, decode_fn)
    }

    /// The node of something that the host found, which comes with one reference.
    fn found(self: &Arc<Self>, found: &wire::Found) -> Result<Arc<Node>, Errno> {
        let attr = self.attr(&found.attr)?;
        let known = self.nodes.lock().get(&found.node).and_then(Weak::upgrade);
        if let Some(node) = known {
            node.found_again(attr);
            return Ok(node);
        }
        let node = Arc::new(Node::new(Arc::clone(self), found.node, attr));
        self.nodes.lock().insert(found.node, Arc::downgrade(&node));
        Ok(node)
    }

    /// A node is not used any more.
    fn forget(&self, node: u32, references: u64) {
        {
            let mut nodes = self.nodes.lock();
            // A new node may have taken its place.
            if nodes.get(&node).is_some_and(|known| known.strong_count() == 0) {
                nodes.remove(&node);
            }
        }
        if node == self.root {
            return;
        }
        let batch = {
            let mut forgotten = self.forgotten.lock();
            forgotten.push(wire::Forgotten { node, references });
            if forgotten.len() < FORGET_BATCH {
                return;
            }
            core::mem::take(&mut *forgotten)
        };
        let input = wire::Forget { nodes: batch }.encode();
        self.services.post(Operation::FileForget, 0, 0, &input);
    }

    /// A device number of ours for one of the host's.
    fn device_of(&self, host: u64) -> u64 {
        let mut devices = self.devices.lock();
        let index = devices.iter().position(|&known| known == host).unwrap_or_else(|| {
            devices.push(host);
            devices.len() - 1
        });
        // Minor numbers have 20 bits, of which the lower 8 are ours.
        self.device + ((index as u64) << 20)
    }

    fn attr(&self, attr: &wire::Attr) -> Result<Attr, Errno> {
        let time = |time: &wire::Time| Timestamp {
            seconds: time.seconds.cast_signed(),
            nanoseconds: time.nanoseconds.min(999_999_999),
        };
        Ok(Attr {
            device: self.device_of(attr.device),
            ino: attr.ino,
            kind: FileType::from_mode(attr.mode).ok_or(Errno::IO)?,
            mode: attr.mode & 0o7777,
            links: attr.links,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            size: attr.size,
            blocks: attr.blocks,
            atime: time(&attr.atime),
            mtime: time(&attr.mtime),
            ctime: time(&attr.ctime),
        })
    }
}

impl FileSystem for VolumeFs {
    fn name(&self) -> &'static str {
        "volume"
    }

    fn refresh(&self) -> Result<(), Errno> {
        let space =
            self.call(Operation::FileSpace, self.root, 0, &[], Answer::value::<wire::Space>)?;
        // Ours are blocks of 4096 bytes.
        let blocks = |count: u64| {
            let bytes = u128::from(count) * u128::from(space.block_bytes);
            u64::try_from(bytes / 4096).unwrap_or(u64::MAX)
        };
        *self.stat.lock() = FsStat {
            magic: MAGIC,
            blocks: blocks(space.blocks),
            free_blocks: blocks(space.available_blocks),
            files: space.files,
            free_files: space.free_files,
        };
        Ok(())
    }

    fn stat(&self) -> FsStat {
        *self.stat.lock()
    }

    fn device(&self) -> u64 {
        self.device
    }
}
