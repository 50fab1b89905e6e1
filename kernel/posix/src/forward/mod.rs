// SPDX-License-Identifier: Apache-2.0
//! Forwarded calls: requests to the I/O server, and how their answers find who waits for them.
//!
//! Every request has an [`Owner`], which is told of its completion.  Two ways to use that:
//!
//! * An object with a life of its own (a stream, a socket) begins a request with
//!   [`Services::begin`], submits it with itself as the owner, keeps what it needs in its state,
//!   and wakes its own wait queue.
//! * A function that just needs an answer calls [`Services::call`].  While the answer is not there
//!   it fails with [`Errno::PENDING`], which every layer above passes on as any other error; the
//!   system call then blocks, and is made again when the answer came.  The task's [`Journal`]
//!   remembers the answers of the system call that is under way, so that the call, made again,
//!   finds each of them, and nothing is asked twice.  So code on the way must not change anything
//!   of the guest's before its last forwarded call.
//!
//! A short call is usually answered within microseconds: [`Services::call`] looks at the window
//! for a moment before it gives up, as long as that pays.
//!
//! | module | what |
//! | --- | --- |
//! | this one | requests under way, their owners, and those that nobody waits for |
//! | `buffer` | the buffer of a request, and the answer in it |
//! | `call` | [`Services::call`] |
//! | `journal` | what the calls of one system call were answered |
//! | `look` | how long to look for an answer before sleeping |

mod buffer;
mod call;
mod journal;
mod look;
#[cfg(test)]
mod tests;

use alloc::{boxed::Box, collections::VecDeque, sync::Arc};
use core::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use trine_abi::window::{Completion, ENTRIES, Operation};
use trine_machine::window::Request;

pub(crate) use self::{
    buffer::{Answer, Buffer},
    call::Call,
    journal::Journal,
};
use crate::{
    services::Services,
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

/// Who submitted a request.
pub(crate) trait Owner: Send + Sync + fmt::Debug {
    /// The answer came.
    fn completed(self: Arc<Self>, answer: Answer);

    /// Whether the answer tells anybody anything.
    fn informs(&self) -> bool {
        true
    }
}

/// Requests under way.
#[derive(Debug)]
pub(crate) struct Requests {
    owners: Lock<[Option<Arc<dyn Owner>>; ENTRIES as usize]>,
    /// Woken when a request becomes free.
    freed: WaitQueue,
    /// Completions that somebody saw who waited for another one.
    seen: Lock<VecDeque<(Request, Completion)>>,
    /// How long to look for an answer, in nanoseconds.
    spin_ns: AtomicU64,
    /// How often something came from outside.
    epoch: AtomicU64,
    idle_spin_ns: AtomicU64,
    /// Calls must not be made again.
    is_patient: AtomicBool,
    /// What waits for a free request, and nobody for it.
    ///
    /// What is posted gives back something of the host's that a call got before: an open file,
    /// nodes, the locks of a range.  No call is begun while anything waits here
    /// ([`Services::begin_call`]), so that nothing more can be got meanwhile: there is never more
    /// in here than was alive when the requests ran out.
    posted: Lock<VecDeque<Posted>>,
}

#[derive(Debug)]
struct Posted {
    operation: Operation,
    handle: u32,
    argument: u64,
    input: Box<[u8]>,
}

impl Requests {
    /// None.
    pub(crate) fn new() -> Self {
        Self {
            owners: Lock::new([const { None }; ENTRIES as usize]),
            freed: WaitQueue::new(),
            seen: Lock::new(VecDeque::new()),
            spin_ns: AtomicU64::new(look::SPIN_NS),
            epoch: AtomicU64::new(0),
            idle_spin_ns: AtomicU64::new(0),
            is_patient: AtomicBool::new(false),
            posted: Lock::new(VecDeque::new()),
        }
    }
}

/// A request that nobody waits for.
#[derive(Debug)]
struct Nobody;

impl Owner for Nobody {
    fn completed(self: Arc<Self>, _answer: Answer) {}

    fn informs(&self) -> bool {
        false
    }
}

impl Services {
    /// Takes a free request; `None` while all are in flight ([`Services::await_free`]), or if there
    /// is no I/O server.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Buffer> {
        let request = self.window.lock().as_mut()?.begin()?;
        Some(Buffer { services: Arc::clone(self), request: Some(request) })
    }

    /// Takes a free request with a large buffer, or else one with a small one.
    pub(crate) fn begin_bulk(self: &Arc<Self>) -> Option<Buffer> {
        let request = {
            let mut window = self.window.lock();
            let window = window.as_mut()?;
            window.begin_bulk().or_else(|| window.begin())?
        };
        Some(Buffer { services: Arc::clone(self), request: Some(request) })
    }

    /// Puts a ticket where it is woken when a request becomes free.
    pub(crate) fn await_free(&self, ticket: &Ticket) {
        self.requests.freed.add(ticket);
    }

    /// Submits a request whose answer does not matter, now or when a request is free; in order.
    pub(crate) fn post(
        self: &Arc<Self>,
        operation: Operation,
        handle: u32,
        argument: u64,
        input: &[u8],
    ) {
        if !self.has_window() {
            return;
        }
        let posted = Posted { operation, handle, argument, input: input.into() };
        self.requests.posted.lock().push_back(posted);
        self.flush_posted();
    }

    /// Submits what was posted, as long as requests are free.
    fn flush_posted(self: &Arc<Self>) {
        while self.has_posted() {
            let Some(buffer) = self.begin() else { return };
            let Some(posted) = self.requests.posted.lock().pop_front() else { return };
            buffer.write(0, &posted.input);
            let bytes = (posted.input.len(), posted.input.len());
            let Posted { operation, handle, argument, .. } = posted;
            buffer.submit(Arc::new(Nobody), operation, handle, bytes, argument);
        }
    }

    /// Whether something that was posted waits for a free request.
    fn has_posted(&self) -> bool {
        !self.requests.posted.lock().is_empty()
    }

    /// Whether there is an I/O server.
    pub(crate) fn has_window(&self) -> bool {
        self.window.lock().is_some()
    }

    /// The next completion, for [`crate::Kernel::completion`].
    pub fn next_completion(&self) -> Option<(Request, Completion)> {
        if let Some(seen) = self.requests.seen.lock().pop_front() {
            return Some(seen);
        }
        self.window.lock().as_mut()?.poll()
    }

    /// Asks for a notification at the next completion, or not; returns whether one is there already.
    pub fn set_window_sleeping(&self, sleeping: bool) -> bool {
        let there = self.window.lock().as_ref().is_some_and(|w| w.set_sleeping(sleeping));
        there || !self.requests.seen.lock().is_empty()
    }

    /// Tells the owner of a request of its completion.
    pub(crate) fn complete(self: &Arc<Self>, request: Request, completion: Completion) {
        let owner = self.requests.owners.lock()[request.id() as usize].take();
        let buffer = Buffer { services: Arc::clone(self), request: Some(request) };
        if let Some(owner) = owner {
            if owner.informs() {
                self.heard();
            }
            owner.completed(Answer { completion, buffer });
        } else {
            drop(buffer);
        }
    }

    /// Something came from outside: what is known of the outside may be out of date.
    pub(crate) fn heard(&self) {
        self.requests.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes whenever something comes from outside.  As long as it stays the same, and for a
    /// moment, nobody in here can tell that the outside has changed since.
    pub(crate) fn epoch(&self) -> u64 {
        self.requests.epoch.load(Ordering::Relaxed)
    }
}
