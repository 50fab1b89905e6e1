// SPDX-License-Identifier: Apache-2.0
//! Locks on ranges of files of a volume.
//!
//! Who in the container has which range is the kernel's business, as for any file.  The container
//! as a whole has one open file on the host for each file with locks, and that has a lock where
//! anybody in here has one: exclusive if theirs is.

use alloc::{sync::Arc, vec::Vec};
use core::any::Any;

use trine_abi::{
    file::{self as wire, Wire},
    window::Operation,
};

use super::file::{Handle, VolumeFile};
use crate::{
    Errno,
    forward::Answer,
    fs::{
        locks::{Keeper, RangeLock},
        types::OpenFlags,
    },
};

const READ: u32 = 0;
const WRITE: u32 = 1;
const UNLOCK: u32 = 2;

/// The open file that has the locks.
#[derive(Debug)]
pub(super) struct HostLocks {
    handle: Arc<Handle>,
    /// What was locked for the container since the file had no locks.
    ever: crate::sync::Lock<(u64, u64)>,
}

fn request(kind: u32, start: u64, end: u64) -> wire::Lock {
    // 0 bytes: however long the file gets.
    let bytes = if end > i64::MAX.cast_unsigned() { 0 } else { end - start };
    wire::Lock { whole: false, kind, start, bytes, test: false }
}

impl Keeper for HostLocks {
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }

    fn settle(&self, ranges: &[RangeLock]) {
        let (from, to) = *self.ever.lock();
        let mut edges: Vec<u64> = ranges.iter().flat_map(|lock| [lock.start, lock.end]).collect();
        edges.extend([from, to]);
        edges.retain(|edge| (from..=to).contains(edge));
        edges.sort_unstable();
        edges.dedup();
        for (&start, &end) in edges.iter().zip(edges.iter().skip(1)) {
            let over = ranges.iter().filter(|lock| lock.start < end && start < lock.end);
            let kind = over.map(|lock| if lock.exclusive { WRITE } else { READ }).max();
            // Nothing here can fail, as it is never more than what the host gave already.
            let input = request(kind.unwrap_or(UNLOCK), start, end).encode();
            let services = &self.handle.node.fs.services;
            services.post(Operation::FileLock, self.handle.number, 0, &input);
        }
    }
}

impl VolumeFile {
    /// Locks a range on the host, where the container's open file for locks may be there already.
    pub(super) fn lock_on_host(
        &self,
        lock: &RangeLock,
        keeper: Option<Arc<dyn Keeper>>,
    ) -> Result<Arc<dyn Keeper>, Errno> {
        let known = keeper.and_then(|keeper| keeper.into_any().downcast::<HostLocks>().ok());
        let locks = match known {
            Some(locks) => locks,
            None => {
                let node = &self.handle.node;
                let open = |flags| Self::open(Arc::clone(node), flags);
                let file = match open(OpenFlags::RDWR) {
                    // Where nothing can be written, there are no exclusive locks either.
                    Err(Errno::ROFS | Errno::ACCES | Errno::PERM) => open(OpenFlags::empty())?,
                    opened => opened?,
                };
                let ever = crate::sync::Lock::new((lock.start, lock.end));
                Arc::new(HostLocks { handle: Arc::clone(&file.handle), ever })
            }
        };
        let kind = if lock.exclusive { WRITE } else { READ };
        let input = request(kind, lock.start, lock.end).encode();
        let number = locks.handle.number;
        let fs = &self.handle.node.fs;
        let locked = fs.call(Operation::FileLock, number, 0, &input, Answer::result);
        self.forget_refusal(locked)?;
        {
            let mut ever = locks.ever.lock();
            *ever = (ever.0.min(lock.start), ever.1.max(lock.end));
        }
        Ok(locks)
    }
}
