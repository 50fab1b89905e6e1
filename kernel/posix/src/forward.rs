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

use alloc::{boxed::Box, collections::VecDeque, sync::Arc, vec::Vec};
use core::{
    any::Any,
    fmt,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use trine_abi::{
    file::Wire,
    window::{Completion, ENTRIES, Operation},
};
use trine_machine::window::{BUFFER_BYTES, BULK_BUFFER_BYTES, Request};

use crate::{
    Errno,
    fs::volume::{Handle, Node, Transfers},
    services::{Services, ServicesRef},
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

/// How long a call looks for its answer at first, in nanoseconds.
const SPIN_NS: u64 = 40_000;
/// How long it looks when that never paid.
const SPIN_MIN_NS: u64 = 10_000;
/// How long an idle machine looks for completions, in nanoseconds.
const IDLE_SPIN_NS: u64 = 30_000;
/// A sleep that was shorter than this, in nanoseconds, was not worth it.
const SHORT_SLEEP_NS: u64 = 100_000;
/// How long a call waits without a task that could block, in nanoseconds.
const PATIENCE_NS: u64 = 10_000_000_000;

/// Who submitted a request.
pub(crate) trait Owner: Send + Sync + fmt::Debug {
    /// The answer came.
    fn completed(self: Arc<Self>, answer: Answer);

    /// Whether the answer tells anybody anything.
    fn informs(&self) -> bool {
        true
    }
}

/// A request whose buffer can be filled and that can be submitted, or whose answer can be read.
/// Dropping it gives it back.
pub(crate) struct Buffer {
    services: ServicesRef,
    request: Option<Request>,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({:?})", self.request)
    }
}

impl Buffer {
    /// The request's number.
    pub(crate) fn id(&self) -> u32 {
        self.request.as_ref().map_or(ENTRIES, Request::id)
    }

    /// Bytes that fit.
    pub(crate) fn capacity(&self) -> usize {
        self.request.as_ref().map_or(0, Request::capacity)
    }

    /// Copies into the buffer; returns how many bytes fit.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) -> usize {
        match (&self.request, self.services.window.lock().as_ref()) {
            (Some(request), Some(window)) => window.write(request, offset, from),
            _ => 0,
        }
    }

    /// Copies out of the buffer; returns how many bytes there were.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) -> usize {
        match (&self.request, self.services.window.lock().as_ref()) {
            (Some(request), Some(window)) => window.read(request, offset, to),
            _ => 0,
        }
    }

    /// Submits the request: the server may use the first `bytes` of the buffer, of which the first
    /// `input` are encoded arguments.
    pub(crate) fn submit(
        mut self,
        owner: Arc<dyn Owner>,
        operation: Operation,
        handle: u32,
        (bytes, input): (usize, usize),
        argument: u64,
    ) {
        let Some(request) = self.request.take() else { return };
        self.services.requests.owners.lock()[request.id() as usize] = Some(owner);
        if let Some(window) = self.services.window.lock().as_mut() {
            window.submit(request, operation, handle, bytes, input, argument);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(request) = self.request.take() else { return };
        if let Some(window) = self.services.window.lock().as_mut() {
            window.end(request);
        }
        self.services.requests.freed.wake_all();
    }
}

/// An answer, with the buffer that it lies in.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The errno and the result.
    pub(crate) completion: Completion,
    /// The buffer.
    pub(crate) buffer: Buffer,
}

impl Answer {
    /// The result.
    ///
    /// # Errors
    /// The errno that the server gave.
    pub(crate) fn result(&self) -> Result<u64, Errno> {
        match self.completion.errno {
            0 => Ok(self.completion.result),
            errno => Err(Errno::from_host(errno)),
        }
    }

    /// The bytes of the answer, whose length the result is.
    ///
    /// # Errors
    /// The errno that the server gave.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, Errno> {
        let bytes = usize::try_from(self.result()?).unwrap_or(usize::MAX);
        let mut answer = alloc::vec![0; bytes.min(self.buffer.capacity())];
        self.buffer.read(0, &mut answer);
        Ok(answer)
    }

    /// The value of the answer.
    ///
    /// # Errors
    /// The errno that the server gave; `EIO` if the answer makes no sense.
    pub(crate) fn value<T: Wire>(&self) -> Result<T, Errno> {
        T::decode(&self.bytes()?).map_err(|_| Errno::IO)
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
            spin_ns: AtomicU64::new(SPIN_NS),
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

    /// Submits a request whose answer does not matter, now or when a request is free.
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
        match self.begin() {
            Some(buffer) => {
                buffer.write(0, input);
                let bytes = (input.len(), input.len());
                buffer.submit(Arc::new(Nobody), operation, handle, bytes, argument);
            }
            None => {
                let later = Posted { operation, handle, argument, input: input.into() };
                self.requests.posted.lock().push_back(later);
            }
        }
    }

    /// Whether the answer of a request comes while looking for it is worth it.
    pub(crate) fn look_for(self: &Arc<Self>, id: u32) -> bool {
        if self.requests.is_patient.load(Ordering::Relaxed) {
            return self.spin(id, self.monotonic_ns().saturating_add(PATIENCE_NS));
        }
        self.spin_briefly(id)
    }

    /// Runs something that cannot be made again: its forwarded calls wait for their answers.
    pub(crate) fn with_patience<R>(&self, run_fn: impl FnOnce() -> R) -> R {
        let before = self.requests.is_patient.swap(true, Ordering::Relaxed);
        let result = run_fn();
        self.requests.is_patient.store(before, Ordering::Relaxed);
        result
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
        let posted = self.requests.posted.lock().pop_front();
        if let Some(Posted { operation, handle, argument, input }) = posted {
            self.post(operation, handle, argument, &input);
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

    /// Looks for any completion for a moment, as long as that has paid lately: what a program waits
    /// for from the network often comes sooner than it takes to sleep and wake up.
    pub fn look_before_sleep(&self) -> bool {
        let span = self.requests.idle_spin_ns.load(Ordering::Relaxed);
        if span == 0 {
            return false;
        }
        let until = self.monotonic_ns().saturating_add(span);
        loop {
            let there =
                self.window.lock().as_ref().is_some_and(trine_machine::window::Window::has_news);
            if there {
                self.requests.idle_spin_ns.store(IDLE_SPIN_NS, Ordering::Relaxed);
                return true;
            }
            if self.monotonic_ns() >= until {
                let next = if span / 2 < SPIN_MIN_NS { 0 } else { span / 2 };
                self.requests.idle_spin_ns.store(next, Ordering::Relaxed);
                return false;
            }
            core::hint::spin_loop();
        }
    }

    /// The machine slept from then on: a sleep that a completion ended so soon would better have
    /// been a look.
    pub fn woke_after(&self, asleep_ns: u64) {
        let slept_ns = self.monotonic_ns().saturating_sub(asleep_ns);
        let there =
            self.window.lock().as_ref().is_some_and(trine_machine::window::Window::has_news);
        if there && slept_ns < SHORT_SLEEP_NS {
            self.requests.idle_spin_ns.store(IDLE_SPIN_NS, Ordering::Relaxed);
        }
    }

    /// Looks for the completion of a request until a point in time.
    fn spin(self: &Arc<Self>, id: u32, until_ns: u64) -> bool {
        loop {
            let found = self.window.lock().as_mut().and_then(|window| window.poll());
            match found {
                Some((request, completion)) if request.id() == id => {
                    self.complete(request, completion);
                    return true;
                }
                Some(other) => self.requests.seen.lock().push_back(other),
                None if self.monotonic_ns() >= until_ns => return false,
                None => core::hint::spin_loop(),
            }
        }
    }

    /// Looks for the completion of a request as long as is worth it.
    fn spin_briefly(self: &Arc<Self>, id: u32) -> bool {
        let now = self.monotonic_ns();
        let spin = self.requests.spin_ns.load(Ordering::Relaxed);
        let found = self.spin(id, now.saturating_add(spin));
        let next = if found { (spin * 2).min(SPIN_NS) } else { (spin / 2).max(SPIN_MIN_NS) };
        self.requests.spin_ns.store(next, Ordering::Relaxed);
        found
    }

    /// Makes a call and decodes its answer; made again by the same system call, it finds the answer.
    ///
    /// # Errors
    /// [`Errno::PENDING`] while there is no answer; `EIO` if there is no I/O server; what the
    /// answer says.
    pub(crate) fn call<T: Any + Send + Sync + fmt::Debug>(
        self: &Arc<Self>,
        call: &Call<'_>,
        decode_fn: impl FnOnce(&Answer) -> Result<T, Errno> + Send + 'static,
    ) -> Result<Arc<T>, Errno> {
        if !self.has_window() {
            return Err(Errno::IO);
        }
        if call.input.len() > BULK_BUFFER_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        let task = self.current();
        let known = task.as_ref().and_then(|task| task.journal.lock().find::<T>(call));
        if let Some(slot) = known {
            let is_patient = self.requests.is_patient.load(Ordering::Relaxed);
            if is_patient && !slot.is_done() {
                self.look_for(slot.id.load(Ordering::Relaxed));
            }
            return slot.take_or_wait(task.map(|task| task.ticket()).as_ref());
        }
        let large = call.input.len().max(call.room) > BUFFER_BYTES;
        let begun = if large {
            // Only a large buffer will do for large arguments; an answer may come in parts.
            self.begin_bulk().filter(|buffer| buffer.capacity() >= call.input.len())
        } else {
            self.begin()
        };
        let buffer = match begun {
            Some(buffer) => buffer,
            None => {
                let is_patient = self.requests.is_patient.load(Ordering::Relaxed);
                if let Some(task) = task.as_ref().filter(|_| !is_patient) {
                    self.await_free(&task.ticket());
                    return Err(Errno::PENDING);
                }
                self.begin_with_patience()?
            }
        };
        let id = buffer.id();
        if call.input.len() > buffer.capacity() {
            return Err(Errno::NAMETOOLONG);
        }
        buffer.write(0, call.input);
        let bytes = call.input.len().max(call.room.min(buffer.capacity()));
        let slot = Arc::new(Slot::new(id, decode_fn));
        let owner: Arc<dyn Owner> = slot.clone();
        buffer.submit(owner, call.operation, call.handle, (bytes, call.input.len()), call.argument);
        let Some(task) = task else {
            let until = self.monotonic_ns().saturating_add(PATIENCE_NS);
            return if self.spin(id, until) { slot.take_or_wait(None) } else { Err(Errno::IO) };
        };
        task.journal.lock().add(call, slot.clone());
        self.look_for(id);
        slot.take_or_wait(Some(&task.ticket()))
    }

    /// Waits for a free request on behalf of nobody who could block.
    fn begin_with_patience(self: &Arc<Self>) -> Result<Buffer, Errno> {
        let until = self.monotonic_ns().saturating_add(PATIENCE_NS);
        while self.monotonic_ns() < until {
            if let Some((request, completion)) = self.next_completion() {
                self.complete(request, completion);
            }
            if let Some(buffer) = self.begin() {
                return Ok(buffer);
            }
            core::hint::spin_loop();
        }
        Err(Errno::IO)
    }
}

/// A call to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// What to do.
    pub(crate) operation: Operation,
    /// With what.
    pub(crate) handle: u32,
    /// Depends on the operation.
    pub(crate) argument: u64,
    /// Encoded arguments.
    pub(crate) input: &'a [u8],
    /// Bytes that the answer may have.
    pub(crate) room: usize,
}

impl<'a> Call<'a> {
    /// A call without a long answer.
    pub(crate) fn new(operation: Operation, handle: u32, argument: u64, input: &'a [u8]) -> Self {
        Self { operation, handle, argument, input, room: 256 }
    }
}

type Decode<T> = Box<dyn FnOnce(&Answer) -> Result<T, Errno> + Send>;

enum State<T> {
    /// On its way.
    Waiting(Decode<T>),
    /// There.
    Done(Result<Arc<T>, Errno>),
}

/// Where the answer of one call goes.
pub(crate) struct Slot<T> {
    id: AtomicU32,
    state: Lock<Option<State<T>>>,
    queue: WaitQueue,
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl<T: Any + Send + Sync + fmt::Debug> Slot<T> {
    fn new(id: u32, decode_fn: impl FnOnce(&Answer) -> Result<T, Errno> + Send + 'static) -> Self {
        let state = Lock::new(Some(State::Waiting(Box::new(decode_fn) as Decode<T>)));
        Self { id: AtomicU32::new(id), state, queue: WaitQueue::new() }
    }

    fn is_done(&self) -> bool {
        matches!(&*self.state.lock(), Some(State::Done(_)))
    }

    /// The answer; else the ticket is woken when it comes.
    fn take_or_wait(&self, ticket: Option<&Ticket>) -> Result<Arc<T>, Errno> {
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

#[derive(Debug)]
struct Entry {
    operation: Operation,
    handle: u32,
    argument: u64,
    input: Box<[u8]>,
    slot: Arc<dyn Any + Send + Sync>,
}

/// What a walk on a volume found: directory, name, node.
type Step = (u32, Box<[u8]>, Result<Arc<Node>, Errno>);

/// The forwarded calls of a system call that is under way.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    entries: Vec<Entry>,
    /// What walks on volumes found.
    steps: Vec<Step>,
    /// Contents of volumes that are under way.
    pub(crate) transfers: Transfers,
    /// What was opened when it was found.
    pub(crate) opened: Option<Arc<Handle>>,
    /// What was taken from a stream and is not written yet (splice).
    pub(crate) held: Vec<u8>,
}

impl Journal {
    /// What a walk found for a name in a directory.
    pub(crate) fn step(&self, directory: u32, name: &[u8]) -> Option<Result<Arc<Node>, Errno>> {
        let is_it = |step: &&Step| step.0 == directory && *step.1 == *name;
        self.steps.iter().find(is_it).map(|step| step.2.clone())
    }

    /// Remembers what a walk found.
    pub(crate) fn add_step(
        &mut self,
        directory: u32,
        name: &[u8],
        found: Result<Arc<Node>, Errno>,
    ) {
        if self.step(directory, name).is_none() {
            self.steps.push((directory, name.into(), found));
        }
    }

    fn find<T: Any + Send + Sync>(&self, call: &Call<'_>) -> Option<Arc<Slot<T>>> {
        let is_it = |entry: &&Entry| {
            entry.operation == call.operation
                && entry.handle == call.handle
                && entry.argument == call.argument
                && *entry.input == *call.input
        };
        let entry = self.entries.iter().find(is_it)?;
        Arc::clone(&entry.slot).downcast().ok()
    }

    fn add<T: Any + Send + Sync>(&mut self, call: &Call<'_>, slot: Arc<Slot<T>>) {
        self.entries.push(Entry {
            operation: call.operation,
            handle: call.handle,
            argument: call.argument,
            input: call.input.into(),
            slot,
        });
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
