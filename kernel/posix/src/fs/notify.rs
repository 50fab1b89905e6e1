// SPDX-License-Identifier: Apache-2.0
//! inotify(7): who watches which inodes, and the queues of events.
//!
//! A watch is on an inode, known by device and number, which stay the same when a file of the image
//! is written for the first time.  Whoever does something to a file reports it to the [`NotifyTable`];
//! while nobody watches anything, that is one load.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use crate::{
    Errno,
    fs::{
        dentry::Location,
        file::{File, FileOps, IoctlMemory},
        inode::InodeRef,
        types::{Attr, FileType, Ready},
    },
    io::Sink,
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

macro_rules! masks {
    ($($name:ident = $bit:literal;)*) => {
        $(#[doc = concat!("IN_", stringify!($name), ".")] pub(crate) const $name: u32 = $bit;)*
    };
}

masks! {
    ACCESS = 0x1; MODIFY = 0x2; ATTRIB = 0x4; CLOSE_WRITE = 0x8; CLOSE_NOWRITE = 0x10; OPEN = 0x20;
    MOVED_FROM = 0x40; MOVED_TO = 0x80; CREATE = 0x100; DELETE = 0x200; DELETE_SELF = 0x400;
    MOVE_SELF = 0x800; Q_OVERFLOW = 0x4000; IGNORED = 0x8000; ONLYDIR = 0x0100_0000;
    DONT_FOLLOW = 0x0200_0000; EXCL_UNLINK = 0x0400_0000; MASK_CREATE = 0x1000_0000;
    MASK_ADD = 0x2000_0000; ISDIR = 0x4000_0000; ONESHOT = 0x8000_0000;
}

/// All events that can be asked for.
pub(crate) const ALL_EVENTS: u32 = 0xfff;
/// fs.inotify.max_queued_events.
const QUEUE_MAX: usize = 16384;
/// fs.inotify.max_user_watches.
const WATCHES_MAX: usize = 65536;
/// Bytes of an event without its name, to a multiple of which names are padded.
const HEADER: usize = 16;
const FIONREAD: u32 = 0x541b;

/// Device and inode number.
type Key = (u64, u64);

fn key(attr: &Attr) -> Key {
    (attr.device, attr.ino)
}

/// One watch.
#[derive(Debug)]
struct Watch {
    queue: Weak<Inotify>,
    descriptor: i32,
    key: Key,
    mask: AtomicU32,
}

/// Who watches what.
#[derive(Debug, Default)]
pub(crate) struct NotifyTable {
    count: AtomicUsize,
    watches: Lock<BTreeMap<Key, Vec<Arc<Watch>>>>,
    last_cookie: AtomicU32,
}

/// What happens to an inode, for its watchers.
#[derive(Clone, Copy, Debug)]
struct Happening<'a> {
    mask: u32,
    cookie: u32,
    name: &'a [u8],
    /// The name does not lead to the inode any longer.
    is_unlinked: bool,
}

impl NotifyTable {
    fn is_idle(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn tell(&self, key: Key, what: Happening<'_>) {
        let watches = self.watches.lock().get(&key).cloned().unwrap_or_default();
        for watch in watches {
            let mask = watch.mask.load(Ordering::Relaxed);
            let wanted = mask & what.mask & ALL_EVENTS != 0;
            if !wanted || mask & EXCL_UNLINK != 0 && what.is_unlinked {
                continue;
            }
            let Some(queue) = watch.queue.upgrade() else { continue };
            queue.push(watch.descriptor, what.mask, what.cookie, what.name);
            if mask & ONESHOT != 0 {
                queue.forget(watch.descriptor);
            }
        }
    }

    /// Something happened to what is at a place: told to its watchers, and to those of the directory.
    pub(crate) fn happened(&self, place: &Location, mask: u32) {
        if self.is_idle() {
            return;
        }
        let attr = place.attr();
        let directory = if attr.kind == FileType::Directory { ISDIR } else { 0 };
        let mask = mask | directory;
        if let Some(parent) = place.dentry.parent() {
            let (name, is_unlinked) = (place.dentry.name(), place.dentry.is_deleted());
            let what = Happening { mask, cookie: 0, name: &name, is_unlinked };
            self.tell(key(&parent.inode().attr()), what);
        }
        self.tell(key(&attr), Happening { mask, cookie: 0, name: b"", is_unlinked: false });
    }

    /// Something happened to an inode itself, whatever its names are.
    pub(crate) fn happened_to(&self, inode: &InodeRef, mask: u32) {
        if self.is_idle() {
            return;
        }
        let attr = inode.attr();
        let directory = if attr.kind == FileType::Directory { ISDIR } else { 0 };
        let mask = mask | directory;
        self.tell(key(&attr), Happening { mask, cookie: 0, name: b"", is_unlinked: false });
    }

    fn name_changed(&self, dir: &InodeRef, name: &[u8], kind: FileType, mask: u32, cookie: u32) {
        let directory = if kind == FileType::Directory { ISDIR } else { 0 };
        let what = Happening { mask: mask | directory, cookie, name, is_unlinked: false };
        self.tell(key(&dir.attr()), what);
    }

    /// A name was made in a directory.
    pub(crate) fn created(&self, dir: &InodeRef, name: &[u8], kind: FileType) {
        if !self.is_idle() {
            self.name_changed(dir, name, kind, CREATE, 0);
        }
    }

    /// A name of an inode was removed from a directory.
    pub(crate) fn removed(&self, dir: &InodeRef, name: &[u8], inode: &InodeRef) {
        if self.is_idle() {
            return;
        }
        let attr = inode.attr();
        let is_dir = attr.kind == FileType::Directory;
        if !is_dir {
            self.happened_to(inode, ATTRIB);
        }
        self.name_changed(dir, name, attr.kind, DELETE, 0);
        if is_dir || attr.links == 0 {
            self.gone(inode);
        }
    }

    /// The last name of an inode went: nothing will happen to it any longer.
    fn gone(&self, inode: &InodeRef) {
        let attr = inode.attr();
        self.tell(
            key(&attr),
            Happening { mask: DELETE_SELF, cookie: 0, name: b"", is_unlinked: false },
        );
        let watches = self.watches.lock().get(&key(&attr)).cloned().unwrap_or_default();
        for watch in watches {
            if let Some(queue) = watch.queue.upgrade() {
                queue.forget(watch.descriptor);
            }
        }
    }

    /// An inode was moved; `replaced` is what was at the new name.
    pub(crate) fn moved(
        &self,
        (from, old): (&InodeRef, &[u8]),
        (to, new): (&InodeRef, &[u8]),
        inode: &InodeRef,
        replaced: Option<&InodeRef>,
    ) {
        if self.is_idle() {
            return;
        }
        let kind = inode.kind();
        let cookie = self.last_cookie.fetch_add(1, Ordering::Relaxed) + 1;
        self.name_changed(from, old, kind, MOVED_FROM, cookie);
        self.name_changed(to, new, kind, MOVED_TO, cookie);
        self.happened_to(inode, MOVE_SELF);
        if let Some(replaced) = replaced {
            let attr = replaced.attr();
            if attr.kind == FileType::Directory || attr.links == 0 {
                self.gone(replaced);
            } else {
                self.happened_to(replaced, ATTRIB);
            }
        }
    }

    fn add(&self, watch: &Arc<Watch>) -> Result<(), Errno> {
        if self.count.load(Ordering::Relaxed) >= WATCHES_MAX {
            return Err(Errno::NOSPC);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.watches.lock().entry(watch.key).or_default().push(Arc::clone(watch));
        Ok(())
    }

    fn remove(&self, watch: &Arc<Watch>) {
        let mut watches = self.watches.lock();
        if let Some(list) = watches.get_mut(&watch.key) {
            let before = list.len();
            list.retain(|other| !Arc::ptr_eq(other, watch));
            self.count.fetch_sub(before - list.len(), Ordering::Relaxed);
            if list.is_empty() {
                watches.remove(&watch.key);
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Event {
    descriptor: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

impl Event {
    /// struct inotify_event.
    fn encode(&self) -> Vec<u8> {
        let padded = match self.name.len() {
            0 => 0,
            bytes => (bytes + 1).next_multiple_of(HEADER),
        };
        let mut raw = Vec::with_capacity(HEADER + padded);
        raw.extend_from_slice(&self.descriptor.to_le_bytes());
        for word in [self.mask, self.cookie, padded as u32] {
            raw.extend_from_slice(&word.to_le_bytes());
        }
        raw.extend_from_slice(&self.name);
        raw.resize(HEADER + padded, 0);
        raw
    }
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    watches: BTreeMap<i32, Arc<Watch>>,
    last_descriptor: i32,
}

/// An inotify descriptor.
#[derive(Debug)]
pub(crate) struct Inotify {
    this: Weak<Self>,
    table: Arc<NotifyTable>,
    state: Lock<State>,
    wait: WaitQueue,
}

impl Inotify {
    /// Watches nothing yet.
    pub(crate) fn new(table: &Arc<NotifyTable>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            table: Arc::clone(table),
            state: Lock::new(State::default()),
            wait: WaitQueue::new(),
        })
    }

    /// Watches an inode, or changes how it is watched; returns the watch descriptor.
    ///
    /// # Errors
    /// `EEXIST` with IN_MASK_CREATE if it is watched already, `ENOSPC` for too many watches.
    pub(crate) fn watch(&self, attr: &Attr, mask: u32) -> Result<i32, Errno> {
        let kept = mask & (ALL_EVENTS | EXCL_UNLINK | ONESHOT);
        let mut state = self.state.lock();
        let known = state.watches.values().find(|watch| watch.key == key(attr));
        if let Some(watch) = known {
            if mask & MASK_CREATE != 0 {
                return Err(Errno::EXIST);
            }
            if mask & MASK_ADD != 0 {
                watch.mask.fetch_or(kept, Ordering::Relaxed);
            } else {
                watch.mask.store(kept, Ordering::Relaxed);
            }
            return Ok(watch.descriptor);
        }
        let descriptor = state.last_descriptor + 1;
        let watch = Arc::new(Watch {
            queue: self.this.clone(),
            descriptor,
            key: key(attr),
            mask: AtomicU32::new(kept),
        });
        self.table.add(&watch)?;
        state.last_descriptor = descriptor;
        state.watches.insert(descriptor, watch);
        Ok(descriptor)
    }

    /// Ends a watch.
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    pub(crate) fn unwatch(&self, descriptor: i32) -> Result<(), Errno> {
        if self.forget(descriptor) { Ok(()) } else { Err(Errno::INVAL) }
    }

    fn forget(&self, descriptor: i32) -> bool {
        let removed = self.state.lock().watches.remove(&descriptor);
        let Some(watch) = removed else { return false };
        self.table.remove(&watch);
        self.push(descriptor, IGNORED, 0, b"");
        true
    }

    fn push(&self, descriptor: i32, mask: u32, cookie: u32, name: &[u8]) {
        {
            let mut state = self.state.lock();
            let mut event = Event { descriptor, mask, cookie, name: name.to_vec() };
            if state.events.back() == Some(&event) {
                return;
            }
            if state.events.len() >= QUEUE_MAX {
                event = Event { descriptor: -1, mask: Q_OVERFLOW, cookie: 0, name: Vec::new() };
                if state.events.back() == Some(&event) {
                    return;
                }
            }
            state.events.push_back(event);
        }
        self.wait.wake_all();
    }

    /// What /proc/self/fdinfo shows of its watches: descriptor, inode, device, mask.
    pub(crate) fn list(&self) -> Vec<(i32, u64, u64, u32)> {
        let state = self.state.lock();
        let shown = |watch: &Arc<Watch>| {
            let (device, ino) = watch.key;
            (watch.descriptor, ino, device, watch.mask.load(Ordering::Relaxed))
        };
        state.watches.values().map(shown).collect()
    }
}

impl FileOps for Inotify {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        let mut done = 0;
        loop {
            let mut state = self.state.lock();
            let Some(event) = state.events.front() else {
                return if done == 0 { Err(Errno::AGAIN) } else { Ok(done) };
            };
            let raw = event.encode();
            if sink.room() < raw.len() {
                return if done == 0 { Err(Errno::INVAL) } else { Ok(done) };
            }
            let put = sink.put(&raw);
            if put == 0 {
                return Ok(done);
            }
            state.events.pop_front();
            done += put;
            if put < raw.len() {
                // The memory was there for a part: the rest is lost with it, as after EFAULT.
                return Ok(done);
            }
        }
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        if let Some(ticket) = ticket {
            self.wait.add(ticket);
        }
        if self.state.lock().events.is_empty() { Ready::empty() } else { Ready::READABLE }
    }

    fn ioctl(
        &self,
        _file: &File,
        command: u32,
        memory: &mut IoctlMemory<'_>,
    ) -> Result<u64, Errno> {
        if command != FIONREAD {
            return Err(Errno::NOTTY);
        }
        let bytes: usize = self.state.lock().events.iter().map(|event| event.encode().len()).sum();
        memory.write_int(bytes.min(i32::MAX as usize) as i32)?;
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        let watches = core::mem::take(&mut self.state.lock().watches);
        for watch in watches.values() {
            self.table.remove(watch);
        }
    }
}
