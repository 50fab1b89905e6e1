// SPDX-License-Identifier: Apache-2.0
//! POSIX message queues (mq_overview(7)): the queues, their open files, and the directory that
//! shows them (/dev/mqueue).

use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{any::Any, cmp::Reverse};

use crate::{
    Errno,
    fs::{
        file::{File, FileOps},
        inode::{FileSystem, Inode, InodeRef},
        pseudo::PseudoFs,
        types::{Attr, DirEntry, DirSink, FileType, NewInode, OpenFlags, Ready, SetAttr},
    },
    io::Sink,
    process::{Creds, Process},
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

const MQUEUE_MAGIC: u64 = 0x1980_0202;
/// Device number of all queues, wherever the directory is mounted.
const DEVICE: u64 = 0xe;
/// fs.mqueue.queues_max.
const QUEUES_MAX: usize = 256;
/// fs.mqueue.msg_default and msgsize_default.
pub(crate) const DEFAULTS: (u64, u64) = (10, 8192);
/// Bookkeeping of a message that counts against RLIMIT_MSGQUEUE.
const MESSAGE_OVERHEAD: u64 = 80;

/// Who is told of the next message (mq_notify(3)).
#[derive(Clone, Debug)]
pub(crate) struct Notify {
    pub(crate) process: Weak<Process>,
    /// 0: nothing is sent (SIGEV_NONE).
    pub(crate) signal: u32,
    pub(crate) value: u64,
}

#[derive(Debug)]
struct State {
    /// By priority, the highest first.
    messages: BTreeMap<Reverse<u32>, VecDeque<Vec<u8>>>,
    count: u64,
    bytes: u64,
    notify: Option<Notify>,
    /// Those who wait for a message.
    receivers: Vec<Ticket>,
    attr: Attr,
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Most messages, and most bytes of one.
    pub(crate) count_max: u64,
    pub(crate) bytes_max: u64,
    state: Lock<State>,
    wait: WaitQueue,
}

impl Queue {
    /// Messages in it.
    pub(crate) fn count(&self) -> u64 {
        self.state.lock().count
    }

    /// What it may take of its owner's RLIMIT_MSGQUEUE.
    fn cost(&self) -> u64 {
        self.count_max.saturating_mul(self.bytes_max.saturating_add(MESSAGE_OVERHEAD))
    }

    /// Puts a message in; returns who is to be told.
    ///
    /// # Errors
    /// `EAGAIN` if it is full.
    pub(crate) fn send(&self, priority: u32, text: Vec<u8>) -> Result<Option<Notify>, Errno> {
        let (told, receivers) = {
            let mut state = self.state.lock();
            if state.count >= self.count_max {
                return Err(Errno::AGAIN);
            }
            let was_empty = state.count == 0;
            state.count += 1;
            state.bytes += text.len() as u64;
            state.messages.entry(Reverse(priority)).or_default().push_back(text);
            let mut receivers = core::mem::take(&mut state.receivers);
            receivers.retain(|ticket| ticket.waiter.is_current(ticket.generation));
            // Nobody is told while somebody waits for the message.
            let tells = was_empty && receivers.is_empty();
            (if tells { state.notify.take() } else { None }, receivers)
        };
        for ticket in receivers {
            ticket.waiter.wake(ticket.generation);
        }
        self.wait.wake_all();
        Ok(told)
    }

    /// Takes the oldest message of the highest priority.
    ///
    /// # Errors
    /// `EAGAIN` if there is none.
    pub(crate) fn receive(&self) -> Result<(u32, Vec<u8>), Errno> {
        let message = {
            let mut state = self.state.lock();
            let mut first = state.messages.first_entry().ok_or(Errno::AGAIN)?;
            let Reverse(priority) = *first.key();
            let text = first.get_mut().pop_front().ok_or(Errno::AGAIN)?;
            if first.get().is_empty() {
                first.remove();
            }
            state.count -= 1;
            state.bytes -= text.len() as u64;
            (priority, text)
        };
        self.wait.wake_all();
        Ok(message)
    }

    /// Wakes a ticket when there is a message.
    pub(crate) fn wait_for_message(&self, ticket: &Ticket) {
        self.state.lock().receivers.push(ticket.clone());
    }

    /// Wakes a ticket when something changes.
    pub(crate) fn wait_for_room(&self, ticket: &Ticket) {
        self.wait.add(ticket);
    }

    /// Registers for the next message, or takes the caller's registration back.
    ///
    /// # Errors
    /// `EBUSY` if another process is registered.
    pub(crate) fn set_notify(
        &self,
        process: &Arc<Process>,
        notify: Option<Notify>,
    ) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let owner = state.notify.as_ref().and_then(|notify| notify.process.upgrade());
        let owner = owner.filter(|owner| !owner.is_zombie());
        match (&owner, notify) {
            (Some(_), Some(_)) => return Err(Errno::BUSY),
            (Some(owner), None) if !Arc::ptr_eq(owner, process) => {}
            (_, notify) => state.notify = notify,
        }
        Ok(())
    }

    /// What reading a descriptor of it says.
    fn text(&self) -> Vec<u8> {
        let state = self.state.lock();
        let (signal, pid) = state.notify.as_ref().map_or((0, 0), |notify| {
            (notify.signal, notify.process.upgrade().map_or(0, |process| process.pid))
        });
        format!("QSIZE:{:<10} NOTIFY:0     SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n", state.bytes)
            .into_bytes()
    }
}

/// An open queue.
#[derive(Debug)]
pub(crate) struct OpenQueue(pub(crate) Arc<Queue>);

impl FileOps for OpenQueue {
    fn read(&self, _file: &File, offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        let text = self.0.text();
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        Ok(sink.put(&text[from..]))
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        if let Some(ticket) = ticket {
            self.0.wait.add(ticket);
        }
        let count = self.0.count();
        let mut ready = Ready::empty();
        ready.set(Ready::READABLE, count > 0);
        ready.set(Ready::WRITABLE, count < self.0.count_max);
        ready
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The inode of a queue.
#[derive(Debug)]
pub(crate) struct QueueInode(Arc<Queue>);

impl QueueInode {
    /// Makes it.
    pub(crate) fn of(queue: Arc<Queue>) -> InodeRef {
        Arc::new(Self(queue))
    }
}

impl Inode for QueueInode {
    fn attr(&self) -> Attr {
        self.0.state.lock().attr
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        let attr = &mut self.0.state.lock().attr;
        attr.mode = change.mode.unwrap_or(attr.mode);
        attr.uid = change.uid.unwrap_or(attr.uid);
        attr.gid = change.gid.unwrap_or(attr.gid);
        Ok(())
    }

    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        Ok(())
    }

    fn open(&self, _flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>, Errno> {
        Ok(Some(Arc::new(OpenQueue(Arc::clone(&self.0)))))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// All queues by name, and their directory.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    queues: Lock<BTreeMap<Vec<u8>, Arc<Queue>>>,
    last_ino: Lock<u64>,
}

impl Queues {
    /// The queue with a name.
    pub(crate) fn find(&self, name: &[u8]) -> Result<Arc<Queue>, Errno> {
        self.queues.lock().get(name).cloned().ok_or(Errno::NOENT)
    }

    /// Makes a queue, whose name must be free; `bytes_left` is what its owner may use.
    ///
    /// # Errors
    /// `EMFILE` beyond that, `ENOSPC` if there are too many.
    pub(crate) fn make(
        &self,
        name: &[u8],
        mode: u32,
        creds: &Creds,
        (count_max, bytes_max): (u64, u64),
        limit: u64,
    ) -> Result<Arc<Queue>, Errno> {
        let ino = {
            let mut last = self.last_ino.lock();
            *last += 1;
            *last + 1
        };
        let mut attr = Attr::new(DEVICE, ino, FileType::Regular, mode);
        (attr.uid, attr.gid, attr.size) = (creds.fsuid, creds.fsgid, 80);
        let queue = Arc::new(Queue {
            count_max,
            bytes_max,
            state: Lock::new(State {
                messages: BTreeMap::new(),
                count: 0,
                bytes: 0,
                notify: None,
                receivers: Vec::new(),
                attr,
            }),
            wait: WaitQueue::new(),
        });
        let mut queues = self.queues.lock();
        if queues.len() >= QUEUES_MAX {
            return Err(Errno::NOSPC);
        }
        let own = queues.values().filter(|queue| queue.state.lock().attr.uid == creds.fsuid);
        let used: u64 = own.map(|queue| queue.cost()).fold(0, u64::saturating_add);
        if used.saturating_add(queue.cost()) > limit {
            return Err(Errno::MFILE);
        }
        queues.insert(name.to_vec(), Arc::clone(&queue));
        Ok(queue)
    }

    /// Takes a name away; whoever has the queue open keeps it.
    pub(crate) fn unlink(&self, name: &[u8], creds: &Creds) -> Result<(), Errno> {
        let removed = {
            let mut queues = self.queues.lock();
            let queue = queues.get(name).ok_or(Errno::NOENT)?;
            let owner = queue.state.lock().attr.uid;
            if owner != creds.fsuid && !creds.has_cap(crate::process::creds::CAP_FOWNER) {
                return Err(Errno::ACCES);
            }
            queues.remove(name)
        };
        drop(removed);
        Ok(())
    }
}

/// Makes the file system that shows the queues; returns it and its root.
pub(crate) fn new(queues: &Arc<Queues>, device: u64) -> (Arc<dyn FileSystem>, InodeRef) {
    let fs = PseudoFs { name: "mqueue", magic: MQUEUE_MAGIC, device };
    (Arc::new(fs), Arc::new(Directory { queues: Arc::clone(queues), device }))
}

#[derive(Debug)]
struct Directory {
    queues: Arc<Queues>,
    device: u64,
}

impl Inode for Directory {
    fn attr(&self) -> Attr {
        Attr::new(self.device, 1, FileType::Directory, 0o1777)
    }

    fn is_stable(&self) -> bool {
        false
    }

    fn lookup(&self, name: &[u8]) -> Result<InodeRef, Errno> {
        Ok(QueueInode::of(self.queues.find(name)?))
    }

    fn create(&self, name: Option<&[u8]>, new: &NewInode) -> Result<InodeRef, Errno> {
        let name = name.filter(|_| new.kind == FileType::Regular).ok_or(Errno::PERM)?;
        let creds = Creds { fsuid: new.uid, fsgid: new.gid, ..Creds::default() };
        let queue = self.queues.make(name, new.mode, &creds, DEFAULTS, u64::MAX)?;
        Ok(QueueInode::of(queue))
    }

    fn unlink(&self, name: &[u8]) -> Result<(), Errno> {
        // The sticky directory was checked by the caller.
        self.queues.unlink(name, &Creds::root())
    }

    fn read_dir(&self, cursor: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let queues = self.queues.queues.lock().clone();
        let mut list: Vec<_> =
            queues.iter().map(|(name, queue)| (queue.state.lock().attr.ino, name)).collect();
        list.sort_unstable();
        for (ino, name) in list.into_iter().filter(|(ino, _)| *ino >= cursor) {
            if !sink(DirEntry { ino, next: ino + 1, kind: FileType::Regular, name }) {
                break;
            }
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
