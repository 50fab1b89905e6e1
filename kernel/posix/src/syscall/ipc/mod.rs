// SPDX-License-Identifier: Apache-2.0
//! System V IPC (sysvipc(7)): what its three kinds of objects share, and one file per kind.

pub(super) mod msg;
pub(super) mod sem;
pub(super) mod shm;

use alloc::vec::Vec;

use crate::{
    Errno,
    cx::Cx,
    process::{
        Creds,
        creds::{CAP_IPC_OWNER, CAP_SYS_ADMIN},
    },
};

/// IPC_PRIVATE.
const PRIVATE: i32 = 0;
const IPC_CREAT: u32 = 0o1000;
const IPC_EXCL: u32 = 0o2000;
pub(super) const IPC_NOWAIT: u32 = 0o4000;
pub(super) const IPC_RMID: u32 = 0;
pub(super) const IPC_SET: u32 = 1;
pub(super) const IPC_STAT: u32 = 2;
pub(super) const IPC_INFO: u32 = 3;
/// Callers built for 64-bit structures may say so.
pub(super) const IPC_64: u32 = 0x100;

pub(super) const READ: u32 = 0o444;
pub(super) const WRITE: u32 = 0o222;

/// Bits of an id that are the index in its table.
const INDEX_BITS: u32 = 15;

/// All objects.
#[derive(Debug, Default)]
pub(crate) struct Ipc {
    pub(super) segments: Table<shm::Segment>,
    pub(super) sets: Table<sem::Set>,
    pub(super) queues: Table<msg::Queue>,
}

/// Who an object belongs to (struct ipc_perm).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Perm {
    key: i32,
    uid: u32,
    gid: u32,
    cuid: u32,
    cgid: u32,
    pub(super) mode: u32,
    seq: u32,
}

impl Perm {
    fn new(creds: &Creds, key: i32, mode: u32) -> Self {
        let (uid, gid) = (creds.euid, creds.egid);
        Self { key, uid, gid, cuid: uid, cgid: gid, mode: mode & 0o777, seq: 0 }
    }

    /// Checks for rights, given as bits for all three classes ([`READ`], [`WRITE`]).
    pub(super) fn check(&self, creds: &Creds, wanted: u32) -> Result<(), Errno> {
        let in_group = |gid: u32| creds.egid == gid || creds.groups.contains(&gid);
        let shift = if creds.euid == self.uid || creds.euid == self.cuid {
            6
        } else if in_group(self.gid) || in_group(self.cgid) {
            3
        } else {
            0
        };
        let granted = self.mode >> shift & 7;
        if wanted & 7 & !granted == 0 || creds.has_cap(CAP_IPC_OWNER) {
            Ok(())
        } else {
            Err(Errno::ACCES)
        }
    }

    /// Checks that the caller may change or remove the object.
    pub(super) fn check_owner(&self, creds: &Creds) -> Result<(), Errno> {
        let owns = creds.euid == self.uid || creds.euid == self.cuid;
        if owns || creds.has_cap(CAP_SYS_ADMIN) { Ok(()) } else { Err(Errno::PERM) }
    }

    /// struct ipc64_perm.
    pub(super) fn encode(&self, to: &mut [u8]) {
        let words = [self.key.cast_unsigned(), self.uid, self.gid, self.cuid, self.cgid, self.mode];
        for (slot, word) in to.chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        to[24..26].copy_from_slice(&(self.seq as u16).to_le_bytes());
    }

    /// Takes owner, group and mode from a struct ipc64_perm (IPC_SET).
    pub(super) fn set(&mut self, from: &[u8]) {
        let word =
            |at: usize| u32::from_le_bytes([from[at], from[at + 1], from[at + 2], from[at + 3]]);
        (self.uid, self.gid) = (word(4), word(8));
        self.mode = self.mode & !0o777 | word(20) & 0o777;
    }
}

/// An object of a table.
pub(super) trait Object {
    fn perm(&self) -> &Perm;
    fn perm_mut(&mut self) -> &mut Perm;

    /// Whether nobody can reach it any longer.
    fn is_gone(&self) -> bool {
        false
    }

    /// Whether its key finds it.
    fn has_key(&self) -> bool {
        true
    }
}

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Table<T> {
    slots: Vec<Option<T>>,
    seq: u32,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), seq: 0 }
    }
}

impl<T: Object> Table<T> {
    fn purge(&mut self) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(Object::is_gone) {
                *slot = None;
            }
        }
        while self.slots.last().is_some_and(Option::is_none) {
            self.slots.pop();
        }
    }

    fn id_of(index: usize, perm: &Perm) -> i32 {
        ((perm.seq & 0xffff) << INDEX_BITS | index as u32).cast_signed()
    }

    /// Finds or makes an object as `*get` calls do; `fits_fn` checks one that is there.
    pub(super) fn get(
        &mut self,
        cx: &Cx<'_>,
        key: i32,
        flags: u32,
        max: usize,
        fits_fn: impl FnOnce(&T) -> Result<(), Errno>,
        make_fn: impl FnOnce(Perm) -> Result<T, Errno>,
    ) -> Result<i32, Errno> {
        self.purge();
        let creds = cx.creds();
        if key != PRIVATE {
            let found = self.slots.iter().enumerate().find_map(|(index, slot)| {
                let object = slot.as_ref()?;
                (object.has_key() && object.perm().key == key).then_some((index, object))
            });
            match found {
                Some(_) if flags & (IPC_CREAT | IPC_EXCL) == IPC_CREAT | IPC_EXCL => {
                    return Err(Errno::EXIST);
                }
                Some((index, object)) => {
                    let mode = (flags | flags >> 3 | flags >> 6) & 7;
                    object.perm().check(&creds, mode)?;
                    fits_fn(object)?;
                    return Ok(Self::id_of(index, object.perm()));
                }
                None if flags & IPC_CREAT == 0 => return Err(Errno::NOENT),
                None => {}
            }
        }
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free >= max {
            return Err(Errno::NOSPC);
        }
        let mut object = make_fn(Perm::new(&creds, key, flags))?;
        object.perm_mut().seq = self.seq;
        self.seq = (self.seq + 1) & 0x7fff;
        let id = Self::id_of(free, object.perm());
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(object);
        Ok(id)
    }

    fn index(&self, id: i32) -> Result<usize, Errno> {
        let raw = u32::try_from(id).map_err(|_| Errno::INVAL)?;
        let index = (raw & ((1 << INDEX_BITS) - 1)) as usize;
        let object = self.slots.get(index).and_then(Option::as_ref).ok_or(Errno::INVAL)?;
        if Self::id_of(index, object.perm()) == id { Ok(index) } else { Err(Errno::INVAL) }
    }

    /// The object with an id; EINVAL.
    pub(super) fn find(&mut self, id: i32) -> Result<&mut T, Errno> {
        self.purge();
        let index = self.index(id)?;
        self.slots[index].as_mut().ok_or(Errno::INVAL)
    }

    /// The object at an index (`*_STAT`), and its id.
    pub(super) fn at(&mut self, index: i32) -> Result<(i32, &mut T), Errno> {
        self.purge();
        let slot = usize::try_from(index).ok().and_then(|index| self.slots.get_mut(index));
        let object = slot.and_then(Option::as_mut).ok_or(Errno::INVAL)?;
        Ok((Self::id_of(index as usize, object.perm()), object))
    }

    /// Takes an object out.
    pub(super) fn remove(&mut self, id: i32) -> Result<T, Errno> {
        let index = self.index(id)?;
        self.slots[index].take().ok_or(Errno::INVAL)
    }

    /// All objects.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }

    /// All objects, to change.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }

    /// The highest index in use; 0 if there is none.
    pub(super) fn highest(&mut self) -> u64 {
        self.purge();
        self.slots.len().saturating_sub(1) as u64
    }
}

/// Writes a number into a structure.
pub(super) fn put(raw: &mut [u8], at: usize, value: u64) {
    raw[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// CLOCK_REALTIME in seconds.
pub(super) fn now(cx: &Cx<'_>) -> i64 {
    cx.kernel.services.now().seconds
}
