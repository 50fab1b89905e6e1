// SPDX-License-Identifier: Apache-2.0
//! What the forwarded calls of one system call were answered.

use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec::Vec};
use core::{any::Any, fmt};

use super::{Answer, Call, Owner};
use crate::{
    Errno,
    fs::volume::{Handle, Node, Transfers},
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

type Decode<T> = Box<dyn FnOnce(&Answer) -> Result<T, Errno> + Send>;

enum State<T> {
    /// On its way.
    Waiting(Decode<T>),
    /// There.
    Done(Result<Arc<T>, Errno>),
}

/// Where the answer of one call goes.
pub(crate) struct Slot<T> {
    pub(super) id: u32,
    state: Lock<Option<State<T>>>,
    queue: WaitQueue,
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl<T: Any + Send + Sync + fmt::Debug> Slot<T> {
    pub(super) fn new(
        id: u32,
        decode_fn: impl FnOnce(&Answer) -> Result<T, Errno> + Send + 'static,
    ) -> Self {
        let state = Lock::new(Some(State::Waiting(Box::new(decode_fn) as Decode<T>)));
        Self { id, state, queue: WaitQueue::new() }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(&*self.state.lock(), Some(State::Done(_)))
    }

    /// The answer; else the ticket is woken when it comes.
    pub(super) fn take_or_wait(&self, ticket: Option<&Ticket>) -> Result<Arc<T>, Errno> {
        if let Some(State::Done(result)) = &*self.state.lock() {
            return result.clone();
        }
        if let Some(ticket) = ticket {
            self.queue.add(ticket);
        }
        Err(Errno::PENDING)
    }
}

impl<T: Any + Send + Sync + fmt::Debug> Owner for Slot<T> {
    fn completed(self: Arc<Self>, answer: Answer) {
        let state = self.state.lock().take();
        let done = match state {
            Some(State::Waiting(decode_fn)) => decode_fn(&answer).map(Arc::new),
            Some(State::Done(result)) => result,
            None => Err(Errno::IO),
        };
        drop(answer);
        *self.state.lock() = Some(State::Done(done));
        self.queue.wake_all();
    }
}

/// Operation, handle and argument of a call.
type Key = (u16, u32, u64);
/// Slots by encoded arguments.
type Slots = BTreeMap<Box<[u8]>, Arc<dyn Any + Send + Sync>>;
/// What a walk found for a name.
type Step = Result<Arc<Node>, Errno>;

/// The forwarded calls of a system call that is under way.
///
/// A path may have thousands of names and a call thousands of parts: everything is found by key.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    entries: BTreeMap<Key, Slots>,
    /// What walks on volumes found, by directory and name.
    steps: BTreeMap<u32, BTreeMap<Box<[u8]>, Step>>,
    /// Contents of volumes that are under way.
    pub(crate) transfers: Transfers,
    /// What was opened when it was found.
    pub(crate) opened: Option<Arc<Handle>>,
    /// What was taken from a stream and is not written yet (splice).
    pub(crate) held: Vec<u8>,
}

impl Journal {
    /// What a walk found for a name in a directory.
    pub(crate) fn step(&self, directory: u32, name: &[u8]) -> Option<Step> {
        self.steps.get(&directory)?.get(name).cloned()
    }

    /// Remembers what a walk found.
    pub(crate) fn add_step(&mut self, directory: u32, name: &[u8], found: Step) {
        self.steps.entry(directory).or_default().entry(name.into()).or_insert(found);
    }

    pub(super) fn find<T: Any + Send + Sync>(&self, call: &Call<'_>) -> Option<Arc<Slot<T>>> {
        let slot = self.entries.get(&key(call))?.get(call.input)?;
        Arc::clone(slot).downcast().ok()
    }

    pub(super) fn add<T: Any + Send + Sync>(&mut self, call: &Call<'_>, slot: Arc<Slot<T>>) {
        self.entries.entry(key(call)).or_default().insert(call.input.into(), slot);
    }

    /// Forgets everything; what is returned is to be dropped without locks.
    pub(crate) fn clear(&mut self) -> Option<Self> {
        let is_empty = self.entries.is_empty()
            && self.steps.is_empty()
            && self.transfers.is_empty()
            && self.opened.is_none()
            && self.held.is_empty();
        (!is_empty).then(|| core::mem::take(self))
    }
}

fn key(call: &Call<'_>) -> Key {
    (call.operation as u16, call.handle, call.argument)
}
