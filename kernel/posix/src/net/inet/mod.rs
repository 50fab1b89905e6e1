// SPDX-License-Identifier: Apache-2.0
//! AF_INET and AF_INET6: sockets of the I/O server, in the pod's network namespace
//! (`trine_abi::socket`).
//!
//! | module | what |
//! | --- | --- |
//! | this one | what all of them share: events from the server, requests that nobody waits for |
//! | `socket` | one socket |
//! | `connect` | its connection being made |
//! | `option` | its options |
//! | `state` | its state |
//! | `transfer` | its sending and receiving |
//! | `address` | addresses, as the server wants them |
//!
//! What has arrived lies in the guest, so that reading costs no request; what is written goes out
//! in requests that nobody waits for, and what the host's socket did not take comes back and lies
//! in the guest until it does.

mod address;
mod connect;
mod option;
mod socket;
mod state;
mod transfer;

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Weak},
    vec,
    vec::Vec,
};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use trine_abi::{
    socket::{Accepted, EVENT_BYTES, EVENT_PART, EventHead, EventKind},
    window::Operation,
};

pub(crate) use self::socket::{InetSocket, is_inet};
use crate::{
    Errno,
    forward::{Answer, Buffer, Call, Owner},
    services::ServicesRef,
    sync::Lock,
    wait::{Ticket, Wake},
};

/// Requests for events that are in flight once there are sockets.
const EVENT_REQUESTS: usize = 2;

/// Posts that may wait for a free request before whoever would add to them has to wait.
const POSTS_MAX: usize = 256;

/// How long the end of the VM waits for data that the network does not take.
const PATIENCE_NS: u64 = 2_000_000_000;

/// A request that nobody waits for, and the socket that wants to know when all before it are done.
#[derive(Debug)]
struct Post {
    operation: Operation,
    handle: u32,
    argument: u64,
    input: Vec<u8>,
    then: Option<Arc<InetSocket>>,
}

/// What all sockets of the internet families share.
#[derive(Debug)]
pub(crate) struct Inet {
    this: Weak<Self>,
    pub(super) services: ServicesRef,
    sockets: Lock<BTreeMap<u32, Weak<InetSocket>>>,
    event_requests: AtomicUsize,
    /// Posts that found no free request.
    ///
    /// What a program can repeat at will waits while there are [`POSTS_MAX`]
    /// ([`Inet::await_posts`]).  The others are few for each socket: its credits are returned in
    /// quarters, it is drained once for each send that is under way, and it is closed once.
    posts: Lock<VecDeque<Post>>,
    /// Sockets that are closed, and have something to send.
    lingering: Lock<BTreeMap<u32, Arc<InetSocket>>>,
    /// Sockets that found no free request to send with.
    starved: Lock<Vec<Weak<InetSocket>>>,
    /// Until when the end of the VM waits for those; 0: it is not near.
    patience_ns: AtomicU64,
}

/// A socket of the server; dropping it closes it.
#[derive(Debug)]
pub(super) struct Handle {
    inet: Arc<Inet>,
    pub(super) number: u32,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inet.sockets.lock().remove(&self.number);
        self.inet.post(Operation::SocketClose, self.number, 0, None);
    }
}

/// Who hears that a post was done.
#[derive(Debug)]
struct Posted {
    inet: Arc<Inet>,
    then: Option<Arc<InetSocket>>,
}

impl Owner for Posted {
    fn completed(self: Arc<Self>, answer: Answer) {
        drop(answer);
        if let Some(socket) = &self.then {
            socket.drained();
        }
        self.inet.flush();
    }
}

impl Inet {
    /// No sockets yet.
    pub(crate) fn new(services: &ServicesRef) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            services: Arc::clone(services),
            sockets: Lock::default(),
            event_requests: AtomicUsize::new(0),
            posts: Lock::default(),
            lingering: Lock::default(),
            starved: Lock::default(),
            patience_ns: AtomicU64::new(0),
        })
    }

    /// Whether nothing is left to be sent for sockets that are closed, or that takes too long: asked
    /// when the container's processes have ended.
    pub(crate) fn is_idle(&self) -> bool {
        if self.lingering.lock().is_empty() {
            return true;
        }
        let now = self.services.monotonic_ns();
        let until = self.patience_ns.load(Ordering::Relaxed);
        if until == 0 {
            let until = now.saturating_add(PATIENCE_NS);
            self.patience_ns.store(until, Ordering::Relaxed);
            if let Some(waiter) = self.this.upgrade() {
                self.services.timers.wake_at(until, Ticket { waiter, generation: 0 });
            }
            return false;
        }
        now >= until
    }

    /// Makes a handle of a number that the server gave.
    fn handle(self: &Arc<Self>, number: u32) -> Handle {
        Handle { inet: Arc::clone(self), number }
    }

    /// Opens a socket of the server.
    ///
    /// # Errors
    /// `PENDING`; what the server says.
    fn open(self: &Arc<Self>, argument: u64) -> Result<Arc<Handle>, Errno> {
        if !self.services.has_window() {
            return Err(Errno::AFNOSUPPORT);
        }
        let inet = Arc::clone(self);
        let call = Call::new(Operation::SocketOpen, 0, argument, &[]);
        let handle = self.services.call(&call, move |answer| {
            let number = u32::try_from(answer.result()?).map_err(|_| Errno::IO)?;
            Ok(inet.handle(number))
        })?;
        self.ask_for_events();
        Ok(handle)
    }

    /// Keeps requests for events in flight.
    fn ask_for_events(self: &Arc<Self>) {
        while self.event_requests.load(Ordering::Relaxed) < EVENT_REQUESTS {
            let Some(buffer) = self.services.begin_bulk() else {
                self.await_free();
                return;
            };
            self.event_requests.fetch_add(1, Ordering::Relaxed);
            let room = buffer.capacity();
            let owner: Arc<dyn Owner> = self.clone();
            buffer.submit(owner, Operation::SocketEvents, 0, (room, 0), 0);
        }
    }

    /// Is told when a request becomes free.
    fn await_free(self: &Arc<Self>) {
        let waiter: Arc<dyn Wake> = self.clone();
        self.services.await_free(&Ticket { waiter, generation: 0 });
    }

    /// Has a socket told when a request becomes free: whoever polls it must see an edge then.
    pub(super) fn starve(self: &Arc<Self>, socket: Weak<InetSocket>) {
        self.starved.lock().push(socket);
        self.await_free();
    }

    /// Submits a request that nobody waits for, now or when one is free.
    pub(super) fn post(
        &self,
        operation: Operation,
        handle: u32,
        argument: u64,
        then: Option<Arc<InetSocket>>,
    ) {
        self.post_with(operation, handle, argument, &[], then);
    }

    /// The same with arguments.
    pub(super) fn post_with(
        &self,
        operation: Operation,
        handle: u32,
        argument: u64,
        input: &[u8],
        then: Option<Arc<InetSocket>>,
    ) {
        let input = input.to_vec();
        self.posts.lock().push_back(Post { operation, handle, argument, input, then });
        self.flush();
    }

    /// Has a system call made again later if too many posts wait already.
    ///
    /// # Errors
    /// `PENDING`.
    pub(super) fn await_posts(&self, ticket: &Ticket) -> Result<(), Errno> {
        if self.posts.lock().len() < POSTS_MAX {
            return Ok(());
        }
        self.services.await_free(ticket);
        Err(Errno::PENDING)
    }

    fn flush(&self) {
        let Some(this) = self.this.upgrade() else { return };
        loop {
            if self.posts.lock().is_empty() {
                return;
            }
            let Some(buffer) = self.services.begin() else {
                this.await_free();
                return;
            };
            let Some(post) = self.posts.lock().pop_front() else { return };
            // The answer of a name, which is asked for only to be told of the order.
            let room = buffer.capacity().min(128);
            let input = buffer.write(0, &post.input);
            let owner = Arc::new(Posted { inet: Arc::clone(&this), then: post.then });
            buffer.submit(owner, post.operation, post.handle, (room, input), post.argument);
        }
    }

    fn find(&self, handle: u32) -> Option<Arc<InetSocket>> {
        self.sockets.lock().get(&handle).and_then(Weak::upgrade)
    }

    pub(super) fn add(&self, socket: &Arc<InetSocket>) {
        self.sockets.lock().insert(socket.number(), Arc::downgrade(socket));
    }

    /// Keeps a socket that is closed until it has sent everything.
    pub(super) fn linger(&self, socket: Arc<InetSocket>) {
        self.lingering.lock().insert(socket.number(), socket);
    }

    /// Lets a closed socket go.
    pub(super) fn let_go(&self, number: u32) {
        let gone = self.lingering.lock().remove(&number);
        drop(gone);
    }

    /// Takes one event whose payload begins at `at`.
    fn event(self: &Arc<Self>, head: &EventHead, at: usize, buffer: &Buffer) {
        let mut payload = vec![0; (head.bytes as usize).min(buffer.capacity())];
        let got = buffer.read(at, &mut payload);
        payload.truncate(got);
        let Some(socket) = self.find(head.handle) else {
            // Closed meanwhile; a connection that came is not wanted either.
            if head.kind == EventKind::Accepted
                && let Ok(accepted) = Accepted::decode(&payload)
            {
                drop(self.handle(accepted.handle));
            }
            return;
        };
        match head.kind {
            EventKind::Data => socket.arrived(payload),
            EventKind::Datagram => socket.part_arrived(payload, head.flags & EVENT_PART != 0),
            EventKind::Accepted => {
                if let Ok(accepted) = Accepted::decode(&payload) {
                    let handle = Arc::new(self.handle(accepted.handle));
                    socket.connection_arrived(handle, accepted.peer, accepted.own);
                }
            }
            EventKind::State => {
                let Some((words, own)) = payload.split_first_chunk::<8>() else { return };
                let word =
                    |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| words[at + byte]));
                socket.changed(word(0), word(4), own);
            }
        }
    }
}

impl Owner for Inet {
    fn completed(self: Arc<Self>, answer: Answer) {
        let bytes = answer.result().unwrap_or(0) as usize;
        let mut at = 0;
        while at + EVENT_BYTES <= bytes.min(answer.buffer.capacity()) {
            let mut head = [0; EVENT_BYTES];
            answer.buffer.read(at, &mut head);
            let Ok(head) = EventHead::decode(&head) else { break };
            self.event(&head, at + EVENT_BYTES, &answer.buffer);
            at += EVENT_BYTES + head.bytes as usize;
        }
        self.event_requests.fetch_sub(1, Ordering::Relaxed);
        let failed = answer.result().is_err();
        drop(answer);
        // A server that does not take such requests is not asked again and again.
        if !failed {
            self.ask_for_events();
        }
        self.flush();
    }
}

impl Wake for Inet {
    fn wake(&self, _generation: u64) -> bool {
        if let Some(this) = self.this.upgrade() {
            let starved = core::mem::take(&mut *this.starved.lock());
            for socket in starved.iter().filter_map(Weak::upgrade) {
                socket.fed();
            }
            this.flush();
            if this.event_requests.load(Ordering::Relaxed) > 0 || !this.sockets.lock().is_empty() {
                this.ask_for_events();
            }
        }
        false
    }

    fn is_current(&self, _generation: u64) -> bool {
        true
    }
}
