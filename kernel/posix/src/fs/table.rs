// SPDX-License-Identifier: Apache-2.0
//! Descriptor tables.

use alloc::{sync::Arc, vec::Vec};

use crate::{
    Errno,
    fs::{
        file::FileRef,
        locks::{LockTable, Owner},
    },
};

#[derive(Clone, Debug)]
struct Slot {
    file: FileRef,
    cloexec: bool,
}

/// What `clone(CLONE_FILES)` shares.
#[derive(Debug, Default)]
pub struct FdTable {
    slots: Vec<Option<Slot>>,
    /// No free slot below this one.
    lowest: usize,
    /// Who owns this table's POSIX locks, once it has some.
    locks: Option<(Arc<LockTable>, Owner)>,
}

impl Clone for FdTable {
    /// The same descriptors, but no locks: a child does not inherit them.
    fn clone(&self) -> Self {
        Self { slots: self.slots.clone(), lowest: self.lowest, locks: None }
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        if let Some((locks, owner)) = &self.locks {
            locks.owner_gone(*owner);
        }
    }
}

impl FdTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The file of a descriptor.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn get(&self, fd: i32) -> Result<FileRef, Errno> {
        self.slot(fd).map(|slot| Arc::clone(&slot.file))
    }

    fn slot(&self, fd: i32) -> Result<&Slot, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::BADF)?;
        self.slots.get(index).and_then(Option::as_ref).ok_or(Errno::BADF)
    }

    /// Gives a file the lowest free descriptor from `min_fd` on.
    ///
    /// # Errors
    /// `EMFILE` if there is none below `limit`.
    pub fn insert(
        &mut self,
        file: FileRef,
        cloexec: bool,
        min_fd: i32,
        limit: u64,
    ) -> Result<i32, Errno> {
        let min = usize::try_from(min_fd).map_err(|_| Errno::INVAL)?;
        let from = min.max(self.lowest);
        let free = self.slots.iter().skip(from).position(Option::is_none);
        let index = free.map_or(self.slots.len().max(from), |free| from + free);
        if index as u64 >= limit.min(i32::MAX as u64) {
            return Err(Errno::MFILE);
        }
        if index >= self.slots.len() {
            self.slots.resize(index + 1, None);
        }
        self.slots[index] = Some(Slot { file, cloexec });
        if min <= self.lowest {
            self.lowest = index + 1;
        }
        Ok(index as i32)
    }

    /// Whether there is a free descriptor below `limit`.
    pub(crate) fn has_room(&self, limit: u64) -> bool {
        (self.slots.len() as u64) < limit
            || self.slots.iter().take(limit as usize).any(Option::is_none)
    }

    /// Puts a file at a descriptor; returns what was there, to be dropped without locks.
    ///
    /// # Errors
    /// `EBADF` if the descriptor is not below `limit`.
    pub fn replace(
        &mut self,
        fd: i32,
        file: FileRef,
        cloexec: bool,
        limit: u64,
    ) -> Result<Option<FileRef>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::BADF)?;
        if index as u64 >= limit {
            return Err(Errno::BADF);
        }
        if index >= self.slots.len() {
            self.slots.resize(index + 1, None);
        }
        let before = self.slots[index].replace(Slot { file, cloexec }).map(|slot| slot.file);
        if let Some(before) = &before {
            self.release(before);
        }
        Ok(before)
    }

    /// Who owns the POSIX locks that are set through this table.
    pub(crate) fn lock_owner(&mut self, locks: &Arc<LockTable>) -> Owner {
        self.locks.get_or_insert_with(|| (Arc::clone(locks), locks.new_owner())).1
    }

    /// Ends POSIX locks on a file of which a descriptor is closed.
    fn release(&self, file: &FileRef) {
        if let Some((locks, owner)) = &self.locks {
            locks.release(&file.attr(), *owner);
        }
    }

    /// Takes a descriptor out; returns its file, to be dropped without locks.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn close(&mut self, fd: i32) -> Result<FileRef, Errno> {
        self.slot(fd)?;
        let index = fd as usize;
        self.lowest = self.lowest.min(index);
        let slot = self.slots[index].take().ok_or(Errno::BADF)?;
        while self.slots.last().is_some_and(Option::is_none) {
            self.slots.pop();
        }
        self.release(&slot.file);
        Ok(slot.file)
    }

    /// Takes out what closes at exec; returns the files, to be dropped without locks.
    pub fn close_on_exec(&mut self) -> Vec<FileRef> {
        let marked: Vec<i32> = self
            .list()
            .into_iter()
            .filter(|(_, _, cloexec)| *cloexec)
            .map(|(fd, _, _)| fd)
            .collect();
        marked.into_iter().filter_map(|fd| self.close(fd).ok()).collect()
    }

    /// Takes everything out.
    pub fn close_all(&mut self) -> Vec<FileRef> {
        self.lowest = 0;
        if let Some((locks, owner)) = self.locks.take() {
            locks.owner_gone(owner);
        }
        core::mem::take(&mut self.slots).into_iter().flatten().map(|slot| slot.file).collect()
    }

    /// Whether a descriptor closes at exec.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn cloexec(&self, fd: i32) -> Result<bool, Errno> {
        self.slot(fd).map(|slot| slot.cloexec)
    }

    /// Sets whether a descriptor closes at exec.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn set_cloexec(&mut self, fd: i32, cloexec: bool) -> Result<(), Errno> {
        self.slot(fd)?;
        if let Some(Some(slot)) = self.slots.get_mut(fd as usize) {
            slot.cloexec = cloexec;
        }
        Ok(())
    }

    /// All descriptors: number, file, close-on-exec.
    pub fn list(&self) -> Vec<(i32, FileRef, bool)> {
        let used = |(fd, slot): (usize, &Option<Slot>)| {
            slot.as_ref().map(|slot| (fd as i32, Arc::clone(&slot.file), slot.cloexec))
        };
        self.slots.iter().enumerate().filter_map(used).collect()
    }
}
