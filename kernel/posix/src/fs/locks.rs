// SPDX-License-Identifier: Apache-2.0
//! Advisory locks: fcntl's (POSIX and open file description) and flock's.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::{
    any::Any,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    Errno,
    fs::types::Attr,
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

/// Whose a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A descriptor table's: POSIX locks.
    Table(u64),
    /// An open file's.
    File(u64),
}

/// A lock on a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLock {
    pub(crate) owner: Owner,
    /// First byte.
    pub(crate) start: u64,
    /// One past the last byte; `u64::MAX`: however long the file gets.
    pub(crate) end: u64,
    pub(crate) exclusive: bool,
    /// For F_GETLK; -1 for open file descriptions.
    pub(crate) pid: i32,
}

impl RangeLock {
    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    fn conflicts(&self, other: &Self) -> bool {
        self.owner != other.owner && self.overlaps(other) && (self.exclusive || other.exclusive)
    }
}

#[derive(Debug, Default)]
struct InodeLocks {
    ranges: Vec<RangeLock>,
    /// flock: open file, exclusive.
    whole: Vec<(u64, bool)>,
    queue: Arc<WaitQueue>,
    /// Who keeps locks for others than this container.
    keeper: Option<Arc<dyn Keeper>>,
}

/// Keeps the ranges that this container has locked, for those outside of it.
pub trait Keeper: Send + Sync + fmt::Debug {
    /// The container's locks on the file are these now: some may have been given up.
    fn settle(&self, ranges: &[RangeLock]);

    /// For a volume that must know its own again.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// All locks on files, by device and inode number.
#[derive(Debug, Default)]
pub(crate) struct LockTable {
    inodes: Lock<BTreeMap<(u64, u64), InodeLocks>>,
    owners: AtomicU64,
    /// Who waits for whom.
    waits: Lock<Vec<(Owner, Owner, Ticket)>>,
    /// How often files are open for writing.
    writers: Lock<BTreeMap<(u64, u64), u32>>,
}

impl LockTable {
    /// A new owner of POSIX locks.
    pub(crate) fn new_owner(&self) -> Owner {
        Owner::Table(self.owners.fetch_add(1, Ordering::Relaxed))
    }

    /// Changes the locks of an inode, then wakes those who wait for a change.
    fn change<R>(&self, attr: &Attr, change_fn: impl FnOnce(&mut InodeLocks) -> R) -> R {
        let key = (attr.device, attr.ino);
        let mut inodes = self.inodes.lock();
        let entry = inodes.entry(key).or_default();
        let result = change_fn(entry);
        let queue = Arc::clone(&entry.queue);
        let keeper = entry.keeper.clone().map(|keeper| (keeper, entry.ranges.clone()));
        // Whoever waits holds no lock: with none left there may still be waiters, so wake first.
        if entry.ranges.is_empty() && entry.whole.is_empty() {
            inodes.remove(&key);
        }
        drop(inodes);
        if let Some((keeper, ranges)) = keeper {
            keeper.settle(&ranges);
        }
        queue.wake_all();
        result
    }

    /// Who keeps the locks of a file, if there are any.
    pub(crate) fn keeper(&self, attr: &Attr) -> Option<Arc<dyn Keeper>> {
        self.inodes.lock().get(&(attr.device, attr.ino))?.keeper.clone()
    }

    /// Sets a lock that its keeper has already; see [`LockTable::set`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn set_kept(
        &self,
        attr: &Attr,
        lock: RangeLock,
        keeper: &Arc<dyn Keeper>,
    ) -> Result<(), Errno> {
        if self.find(attr, &lock).is_some() {
            // Somebody of this container was faster: the keeper has what they have.
            self.change(attr, |_| ());
            return Err(Errno::AGAIN);
        }
        self.change(attr, |locks| {
            locks.keeper = Some(Arc::clone(keeper));
            cut(&mut locks.ranges, &lock);
            locks.ranges.push(lock);
        });
        Ok(())
    }

    fn find(&self, attr: &Attr, lock: &RangeLock) -> Option<RangeLock> {
        let inodes = self.inodes.lock();
        let locks = inodes.get(&(attr.device, attr.ino))?;
        locks.ranges.iter().find(|held| held.conflicts(lock)).copied()
    }

    /// The lock that is in the way of another one.
    pub(crate) fn conflict(&self, attr: &Attr, lock: &RangeLock) -> Option<RangeLock> {
        self.find(attr, lock)
    }

    /// Sets a lock on a range in place of what its owner has there.
    ///
    /// # Errors
    /// `EAGAIN` if another one is in the way; the ticket is woken when that may have changed;
    /// `EDEADLK` if whoever has it waits for the caller.
    pub(crate) fn set(
        &self,
        attr: &Attr,
        lock: RangeLock,
        ticket: Option<&Ticket>,
    ) -> Result<(), Errno> {
        if let Some(held) = self.find(attr, &lock) {
            if let Some(ticket) = ticket {
                self.note_wait(lock.owner, held.owner, ticket)?;
            }
            if let Some(ticket) = ticket
                && let Some(locks) = self.inodes.lock().get(&(attr.device, attr.ino))
            {
                locks.queue.add(ticket);
            }
            return Err(Errno::AGAIN);
        }
        self.change(attr, |locks| {
            cut(&mut locks.ranges, &lock);
            locks.ranges.push(lock);
        });
        Ok(())
    }

    /// Notes that an owner waits for another one.
    fn note_wait(&self, waiter: Owner, holder: Owner, ticket: &Ticket) -> Result<(), Errno> {
        if !matches!(waiter, Owner::Table(_)) {
            return Ok(());
        }
        let mut waits = self.waits.lock();
        waits.retain(|(_, _, ticket)| ticket.waiter.is_current(ticket.generation));
        let mut at = holder;
        for _ in 0..=waits.len() {
            let next = waits.iter().find(|(waiter, _, _)| *waiter == at).map(|wait| wait.1);
            match next {
                Some(next) if next == waiter => return Err(Errno::DEADLK),
                Some(next) => at = next,
                None => break,
            }
        }
        waits.push((waiter, holder, ticket.clone()));
        Ok(())
    }

    /// Counts one more opening of a file for writing.
    pub(crate) fn writer_opened(&self, attr: &Attr) {
        *self.writers.lock().entry((attr.device, attr.ino)).or_default() += 1;
    }

    /// Counts one less.
    pub(crate) fn writer_closed(&self, attr: &Attr) {
        let key = (attr.device, attr.ino);
        let mut writers = self.writers.lock();
        if let Some(count) = writers.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                writers.remove(&key);
            }
        }
    }

    /// Whether a file is open for writing.
    pub(crate) fn is_written(&self, attr: &Attr) -> bool {
        self.writers.lock().contains_key(&(attr.device, attr.ino))
    }

    /// Unlocks a range.
    pub(crate) fn clear(&self, attr: &Attr, owner: Owner, start: u64, end: u64) {
        let hole = RangeLock { owner, start, end, exclusive: false, pid: 0 };
        self.change(attr, |locks| cut(&mut locks.ranges, &hole));
    }

    /// Ends all of an owner's locks on a file.
    pub(crate) fn release(&self, attr: &Attr, owner: Owner) {
        let known = self.inodes.lock().contains_key(&(attr.device, attr.ino));
        if known {
            self.clear(attr, owner, 0, u64::MAX);
        }
    }

    /// Ends all of an owner's locks.
    pub(crate) fn owner_gone(&self, owner: Owner) {
        let (mut queues, mut keepers) = (Vec::new(), Vec::new());
        self.inodes.lock().retain(|_, locks| {
            let before = locks.ranges.len();
            locks.ranges.retain(|lock| lock.owner != owner);
            if locks.ranges.len() < before {
                queues.push(Arc::clone(&locks.queue));
                keepers.extend(locks.keeper.clone().map(|keeper| (keeper, locks.ranges.clone())));
            }
            !locks.ranges.is_empty() || !locks.whole.is_empty()
        });
        for (keeper, ranges) in keepers {
            keeper.settle(&ranges);
        }
        for queue in queues {
            queue.wake_all();
        }
    }

    /// Sets (`Some(exclusive)`) or ends a lock on a whole file (flock(2)).
    ///
    /// # Errors
    /// `EAGAIN` as for [`LockTable::set`].
    pub(crate) fn flock(
        &self,
        attr: &Attr,
        file: u64,
        exclusive: Option<bool>,
        ticket: Option<&Ticket>,
    ) -> Result<(), Errno> {
        if let Some(wants) = exclusive {
            let inodes = self.inodes.lock();
            if let Some(locks) = inodes.get(&(attr.device, attr.ino)) {
                let in_way =
                    |&(held, exclusive): &(u64, bool)| held != file && (exclusive || wants);
                if locks.whole.iter().any(in_way) {
                    if let Some(ticket) = ticket {
                        locks.queue.add(ticket);
                    }
                    return Err(Errno::AGAIN);
                }
            }
        }
        self.change(attr, |locks| {
            locks.whole.retain(|(held, _)| *held != file);
            locks.whole.extend(exclusive.map(|exclusive| (file, exclusive)));
        });
        Ok(())
    }

    /// Ends the locks of an open file that is closed for good.
    pub(crate) fn file_closed(&self, attr: &Attr, file: u64) {
        self.change(attr, |locks| {
            locks.whole.retain(|(held, _)| *held != file);
            locks.ranges.retain(|lock| lock.owner != Owner::File(file));
        });
    }
}

/// Takes a range out of what its owner holds.
fn cut(ranges: &mut Vec<RangeLock>, hole: &RangeLock) {
    let mut kept = Vec::with_capacity(ranges.len() + 1);
    for lock in ranges.drain(..) {
        if lock.owner != hole.owner || !lock.overlaps(hole) {
            kept.push(lock);
            continue;
        }
        if lock.start < hole.start {
            kept.push(RangeLock { end: hole.start, ..lock });
        }
        if lock.end > hole.end {
            kept.push(RangeLock { start: hole.end, ..lock });
        }
    }
    *ranges = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::types::FileType;

    #[test]
    fn set_over_a_part_splits_and_conflicts_only_there() {
        let table = LockTable::default();
        let attr = Attr::new(1, 2, FileType::Regular, 0);
        let (a, b) = (table.new_owner(), table.new_owner());
        let lock =
            |owner, start, end, exclusive| RangeLock { owner, start, end, exclusive, pid: 1 };
        assert_eq!(table.set(&attr, lock(a, 0, 100, true), None), Ok(()));
        assert_eq!(table.set(&attr, lock(b, 50, 60, false), None), Err(Errno::AGAIN));
        table.clear(&attr, a, 40, 70);
        assert_eq!(table.set(&attr, lock(b, 50, 60, false), None), Ok(()));
        assert_eq!(table.conflict(&attr, &lock(b, 30, 80, false)), Some(lock(a, 0, 40, true)));
        assert_eq!(table.set(&attr, lock(a, 55, 56, false), None), Ok(()));
        assert_eq!(table.set(&attr, lock(a, 55, 56, true), None), Err(Errno::AGAIN));
        table.owner_gone(a);
        assert_eq!(table.conflict(&attr, &lock(b, 0, u64::MAX, true)), None);
        table.release(&attr, b);
        assert!(table.inodes.lock().is_empty());
    }

    #[test]
    fn flock_shared_then_exclusive_waits_until_unlocked() {
        let table = LockTable::default();
        let attr = Attr::new(1, 2, FileType::Regular, 0);
        assert_eq!(table.flock(&attr, 1, Some(false), None), Ok(()));
        assert_eq!(table.flock(&attr, 2, Some(false), None), Ok(()));
        assert_eq!(table.flock(&attr, 2, Some(true), None), Err(Errno::AGAIN));
        table.file_closed(&attr, 1);
        assert_eq!(table.flock(&attr, 2, Some(true), None), Ok(()));
        assert_eq!(table.flock(&attr, 2, None, None), Ok(()));
        assert!(table.inodes.lock().is_empty());
    }
}
