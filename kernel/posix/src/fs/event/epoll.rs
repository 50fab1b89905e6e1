// SPDX-License-Identifier: Apache-2.0
//! epoll(7).
//!
//! An [`Item`] is a waiter that stays in the queues of its file: each wake puts it in the list of
//! what may be ready, and `wait` asks the file when it takes it out again.  So an edge is an event
//! of the *source*, whether or not it was ready before.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    any::Any,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    Errno,
    fs::{
        file::{File, FileOps, FileRef},
        types::Ready,
    },
    sync::Lock,
    wait::{Ticket, WaitQueue, Wake},
};

const EXCLUSIVE: u32 = 1 << 28;
const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;
/// Sets in sets.
const DEPTH_MAX: u32 = 5;

/// A file in the set.
#[derive(Debug)]
struct Item {
    epoll: Weak<Epoll>,
    file: Weak<File>,
    fd: i32,
    interest: Lock<Interest>,
    queued: AtomicBool,
    removed: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Interest {
    events: u32,
    data: u64,
    /// ONESHOT, and reported.
    spent: bool,
}

impl Item {
    fn ready(&self) -> Option<u32> {
        let file = self.file.upgrade()?;
        let interest = *self.interest.lock();
        if interest.spent {
            return Some(0);
        }
        let always = (Ready::ERR | Ready::HUP).bits();
        Some(file.poll(None).bits() & (interest.events | always))
    }
}

impl Wake for Item {
    fn wake(&self, _generation: u64) -> bool {
        let Some(epoll) = self.epoll.upgrade() else { return false };
        if self.removed.load(Ordering::Relaxed) {
            return false;
        }
        epoll.queue(self);
        true
    }

    fn is_current(&self, _generation: u64) -> bool {
        !self.removed.load(Ordering::Relaxed) && self.epoll.strong_count() > 0
    }
}

/// Descriptor and open file.
type Key = (i32, usize);

/// A set of files to wait for.
#[derive(Debug)]
pub(crate) struct Epoll {
    items: Lock<BTreeMap<Key, Arc<Item>>>,
    maybe: Lock<VecDeque<Key>>,
    wait: WaitQueue,
    this: Weak<Epoll>,
}

/// One event that is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) events: u32,
    pub(crate) data: u64,
}

impl Epoll {
    /// An empty set.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            items: Lock::new(BTreeMap::new()),
            maybe: Lock::new(VecDeque::new()),
            wait: WaitQueue::new(),
            this: this.clone(),
        })
    }

    fn queue(&self, item: &Item) {
        if !item.queued.swap(true, Ordering::Relaxed) {
            self.maybe.lock().push_back((item.fd, item.file.as_ptr().addr()));
        }
        self.wait.wake_all();
    }

    /// How deep sets are nested below a file; `ELOOP` if `this` is among them.
    fn depth(&self, file: &FileRef, level: u32) -> Result<(), Errno> {
        let Some(inner) = file.ops().as_any().downcast_ref::<Epoll>() else { return Ok(()) };
        if level >= DEPTH_MAX || core::ptr::eq(inner, self) {
            return Err(Errno::LOOP);
        }
        let files: Vec<FileRef> =
            inner.items.lock().values().filter_map(|item| item.file.upgrade()).collect();
        files.iter().try_for_each(|file| self.depth(file, level + 1))
    }

    fn find(&self, fd: i32, file: &FileRef) -> Option<Arc<Item>> {
        self.items.lock().get(&(fd, Arc::as_ptr(file).addr())).cloned()
    }

    /// Adds a file.
    ///
    /// # Errors
    /// `EEXIST`, `ELOOP`, `EINVAL` (itself), `EPERM` (a file that is always ready).
    pub(crate) fn add(&self, fd: i32, file: &FileRef, event: Event) -> Result<(), Errno> {
        if file.ops().as_any().downcast_ref::<Epoll>().is_some_and(|it| core::ptr::eq(it, self)) {
            return Err(Errno::INVAL);
        }
        if file.ops().as_any().is::<crate::fs::file::Contents>() {
            return Err(Errno::PERM);
        }
        if self.find(fd, file).is_some() {
            return Err(Errno::EXIST);
        }
        self.depth(file, 0)?;
        let item = Arc::new(Item {
            epoll: self.this.clone(),
            file: Arc::downgrade(file),
            fd,
            interest: Lock::new(Interest { events: event.events, data: event.data, spent: false }),
            queued: AtomicBool::new(false),
            removed: AtomicBool::new(false),
        });
        self.items.lock().insert((fd, Arc::as_ptr(file).addr()), Arc::clone(&item));
        file.poll(Some(&Ticket { waiter: Arc::clone(&item) as _, generation: 0 }));
        if item.ready().is_some_and(|ready| ready != 0) {
            self.queue(&item);
        }
        Ok(())
    }

    /// Changes what a file is waited for, and looks whether it is ready for that.
    ///
    /// # Errors
    /// `ENOENT`; `EINVAL` for EPOLLEXCLUSIVE.
    pub(crate) fn modify(&self, fd: i32, file: &FileRef, event: Event) -> Result<(), Errno> {
        let item = self.find(fd, file).ok_or(Errno::NOENT)?;
        if (event.events | item.interest.lock().events) & EXCLUSIVE != 0 {
            return Err(Errno::INVAL);
        }
        *item.interest.lock() = Interest { events: event.events, data: event.data, spent: false };
        if item.ready().is_some_and(|ready| ready != 0) {
            self.queue(&item);
        }
        Ok(())
    }

    /// Takes a file out.
    ///
    /// # Errors
    /// `ENOENT`.
    pub(crate) fn remove(&self, fd: i32, file: &FileRef) -> Result<(), Errno> {
        let item = self.items.lock().remove(&(fd, Arc::as_ptr(file).addr())).ok_or(Errno::NOENT)?;
        item.removed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Takes what may be ready out of the list, and asks the files; what stays ready by level goes
    /// back to the end.
    fn scan(&self, max: usize, report: bool) -> Vec<Event> {
        let mut events = Vec::new();
        let mut again = VecDeque::new();
        let count = self.maybe.lock().len();
        for _ in 0..count {
            if events.len() >= max {
                break;
            }
            let Some(key) = self.maybe.lock().pop_front() else { break };
            let Some(item) = self.items.lock().get(&key).cloned() else { continue };
            item.queued.store(false, Ordering::Relaxed);
            let Some(ready) = item.ready() else {
                // The last descriptor of the file was closed.
                item.removed.store(true, Ordering::Relaxed);
                self.items.lock().remove(&key);
                continue;
            };
            if ready == 0 {
                continue;
            }
            let mut interest = item.interest.lock();
            events.push(Event { events: ready, data: interest.data });
            if report && interest.events & ONESHOT != 0 {
                interest.spent = true;
            } else if !report || interest.events & EDGE == 0 {
                item.queued.store(true, Ordering::Relaxed);
                again.push_back(key);
            }
        }
        self.maybe.lock().append(&mut again);
        events
    }

    /// Takes at most `max` events.
    pub(crate) fn take(&self, max: usize) -> Vec<Event> {
        self.scan(max, true)
    }

    /// Wakes a ticket when there may be events.
    pub(crate) fn wait(&self, ticket: &Ticket) {
        self.wait.add(ticket);
    }
}

impl FileOps for Epoll {
    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        if let Some(ticket) = ticket {
            self.wait.add(ticket);
        }
        if self.scan(1, false).is_empty() { Ready::empty() } else { Ready::READABLE }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
