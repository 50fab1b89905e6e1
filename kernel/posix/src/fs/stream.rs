// SPDX-License-Identifier: Apache-2.0
//! Standard input and output: streams of the I/O server, over the window.
//!
//! | direction | requests in flight | a call returns |
//! | --- | --- | --- |
//! | reading | one, from the first read on, while less than 48 KiB wait | what has come |
//! | writing | up to 8 of 16 KiB | when the data is in the window; blocks while 8 are in flight |
//!
//! An error of a write that was posted is reported by the next one.  A stream is closed when its
//! last file is gone and its requests are done, so the other end sees all data and then the end.

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{any::Any, fmt};

use trine_abi::{
    control::NO_HANDLE,
    window::{Completion, ENTRIES, Operation},
};
use trine_machine::window::BUFFER_BYTES;

use crate::{
    Errno,
    forward::{Answer, Buffer, Owner},
    fs::{
        file::{File, FileOps, IoctlMemory},
        types::Ready,
    },
    io::{Sink, Source},
    services::ServicesRef,
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

/// Writes in flight per stream.
const WRITES_MAX: u32 = 8;
/// Bytes that wait to be read, from which on no more are asked for.
const AHEAD_BYTES: usize = 3 * BUFFER_BYTES;
const FIONREAD: u32 = 0x541b;

/// Who is told of completions besides those who wait.
pub(crate) trait Listener: Send + Sync + fmt::Debug {
    /// Something arrived, or there is room to write.
    fn progressed(&self);
}

/// Whose a request is, and what it does.
type InFlight = (Arc<Channel>, Operation);

/// The window's streams: who waits for which request.
pub struct Streams {
    services: ServicesRef,
    owners: Lock<[Option<InFlight>; ENTRIES as usize]>,
    /// Channels that want to submit a cancel or a close, and found no free request.
    unfinished: Lock<Vec<Arc<Channel>>>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    /// What arrived and is not read yet.
    input: Vec<u8>,
    input_at: usize,
    reading: Option<u32>,
    /// Data is asked for before it is wanted: somebody reads a stream.
    ahead: bool,
    cancelled: bool,
    end: bool,
    writes: u32,
    error: Option<Errno>,
    /// Nobody uses it any longer.
    abandoned: bool,
    closed: bool,
}

/// One handle of the I/O server.
pub(crate) struct Channel {
    streams: Arc<Streams>,
    handle: u32,
    state: Lock<State>,
    wait: WaitQueue,
    listener: Lock<Option<Weak<dyn Listener>>>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.handle)
    }
}

impl Streams {
    /// No streams yet.
    pub(crate) fn new(services: ServicesRef) -> Arc<Self> {
        Arc::new(Self {
            services,
            owners: Lock::new([const { None }; ENTRIES as usize]),
            unfinished: Lock::new(Vec::new()),
        })
    }

    fn submit(
        &self,
        channel: &Arc<Channel>,
        buffer: Buffer,
        operation: Operation,
        bytes: usize,
        argument: u64,
    ) {
        let id = buffer.id() as usize;
        self.owners.lock()[id] = Some((Arc::clone(channel), operation));
        let owner: Arc<dyn Owner> = channel.streams.clone();
        buffer.submit(owner, operation, channel.handle, (bytes, 0), argument);
    }

    /// Whether all data that was written to these handles was handed over.
    pub fn all_written(&self, handles: &[u32]) -> bool {
        let owners = self.owners.lock();
        !owners.iter().flatten().any(|(channel, operation)| {
            *operation == Operation::Write && handles.contains(&channel.handle)
        })
    }

    /// Whether nothing is under way but reading.
    pub fn is_idle(&self) -> bool {
        let reading = |(_, operation): &InFlight| *operation == Operation::Read;
        self.owners.lock().iter().flatten().all(reading) && self.unfinished.lock().is_empty()
    }
}

impl Owner for Streams {
    fn completed(self: Arc<Self>, answer: Answer) {
        let owner = self.owners.lock()[answer.completion.id as usize].take();
        let Some((channel, operation)) = owner else { return };
        let completion = answer.completion;
        let mut arrived = Vec::new();
        if operation == Operation::Read && completion.errno == 0 {
            arrived.resize((completion.result as usize).min(BUFFER_BYTES), 0);
            answer.buffer.read(0, &mut arrived);
        }
        drop(answer);
        channel.completed(operation, &completion, arrived);
        let unfinished = core::mem::take(&mut *self.unfinished.lock());
        for channel in unfinished {
            channel.finish();
        }
    }
}

impl Channel {
    /// Uses a handle.
    pub(crate) fn new(streams: &Arc<Streams>, handle: u32) -> Arc<Self> {
        let channel = Arc::new(Self {
            streams: Arc::clone(streams),
            handle,
            state: Lock::new(State::default()),
            wait: WaitQueue::new(),
            listener: Lock::new(None),
        });
        if handle == NO_HANDLE {
            let mut state = channel.state.lock();
            (state.end, state.closed) = (true, true);
        }
        channel
    }

    /// Sets who is told of completions.
    pub(crate) fn set_listener(&self, listener: Weak<dyn Listener>) {
        *self.listener.lock() = Some(listener);
    }

    fn completed(
        self: &Arc<Self>,
        operation: Operation,
        completion: &Completion,
        arrived: Vec<u8>,
    ) {
        let mut state = self.state.lock();
        match operation {
            Operation::Read => {
                state.reading = None;
                if completion.errno != 0 {
                    // Cancelled because it is closed, or broken: nothing will come any more.
                    state.end = true;
                } else if arrived.is_empty() {
                    state.end = true;
                } else if state.input_at == state.input.len() {
                    (state.input, state.input_at) = (arrived, 0);
                } else {
                    let at = core::mem::take(&mut state.input_at);
                    state.input.drain(..at);
                    state.input.extend_from_slice(&arrived);
                }
            }
            Operation::Write => {
                state.writes = state.writes.saturating_sub(1);
                if completion.errno != 0 {
                    let broken = completion.errno == Errno::PIPE.number();
                    state.error = Some(if broken { Errno::PIPE } else { Errno::IO });
                }
            }
            _ => {}
        }
        let ahead = state.ahead && operation == Operation::Read;
        drop(state);
        if ahead {
            self.want_input();
        }
        self.finish();
        self.wait.wake_all();
        let listener = self.listener.lock().as_ref().and_then(Weak::upgrade);
        if let Some(listener) = listener {
            listener.progressed();
        }
    }

    /// Asks for data unless it was asked for.
    pub(crate) fn want_input(self: &Arc<Self>) {
        let idle = {
            let state = self.state.lock();
            state.reading.is_none()
                && !state.end
                && !state.abandoned
                && state.input.len() - state.input_at < if state.ahead { AHEAD_BYTES } else { 1 }
        };
        if !idle {
            return;
        }
        if let Some(buffer) = self.streams.services.begin() {
            self.state.lock().reading = Some(buffer.id());
            self.streams.submit(self, buffer, Operation::Read, BUFFER_BYTES, 0);
        }
    }

    /// Takes what arrived; `None` at the end.
    pub(crate) fn take_input(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        let at = core::mem::take(&mut state.input_at);
        let mut bytes = core::mem::take(&mut state.input);
        bytes.drain(..at);
        if bytes.is_empty() && state.end { None } else { Some(bytes) }
    }

    /// Reads.
    fn read(self: &Arc<Self>, sink: &mut dyn Sink) -> Result<usize, Errno> {
        {
            let mut state = self.state.lock();
            if state.input_at < state.input.len() {
                let at = state.input_at;
                let done = sink.put(&state.input[at..]);
                state.input_at += done;
                if state.input_at == state.input.len() {
                    (state.input, state.input_at) = (Vec::new(), 0);
                }
                drop(state);
                self.want_input();
                return Ok(done);
            }
            if state.end {
                return Ok(0);
            }
            state.ahead = true;
        }
        self.want_input();
        Err(Errno::AGAIN)
    }

    /// Writes as much as requests are free for.
    pub(crate) fn write(self: &Arc<Self>, source: &mut dyn Source) -> Result<usize, Errno> {
        let mut total = 0;
        while source.left() > 0 {
            {
                let state = self.state.lock();
                if let Some(errno) = state.error {
                    return if total > 0 { Ok(total) } else { Err(errno) };
                }
                if self.handle == NO_HANDLE {
                    return Err(Errno::IO);
                }
                if state.writes >= WRITES_MAX {
                    break;
                }
            }
            let Some(request) = self.streams.services.begin() else { break };
            let wanted = source.left().min(BUFFER_BYTES);
            let mut buffer = [0; 2048];
            let mut bytes = 0;
            while bytes < wanted {
                let part = (wanted - bytes).min(buffer.len());
                let taken = source.take(&mut buffer[..part]);
                request.write(bytes, &buffer[..taken]);
                bytes += taken;
                if taken < part {
                    break;
                }
            }
            if bytes == 0 {
                return Ok(total);
            }
            self.state.lock().writes += 1;
            self.streams.submit(self, request, Operation::Write, bytes, 0);
            total += bytes;
            if bytes < wanted {
                return Ok(total);
            }
        }
        if total == 0 && source.left() > 0 { Err(Errno::AGAIN) } else { Ok(total) }
    }

    fn poll(self: &Arc<Self>, ticket: Option<&Ticket>, reads: bool, writes: bool) -> Ready {
        if let Some(ticket) = ticket {
            self.wait.add(ticket);
            self.streams.services.await_free(ticket);
        }
        if reads {
            self.want_input();
        }
        let state = self.state.lock();
        let mut ready = Ready::empty();
        if reads {
            ready.set(Ready::READABLE, state.end || state.input_at < state.input.len());
            ready.set(Ready::HUP, state.end);
        }
        if writes {
            ready.set(Ready::WRITABLE, state.writes < WRITES_MAX || state.error.is_some());
            ready.set(Ready::ERR, state.error.is_some());
        }
        ready
    }

    /// Nobody uses it any longer: closes it once its requests are done.
    pub(crate) fn abandon(self: &Arc<Self>) {
        self.state.lock().abandoned = true;
        self.finish();
    }

    fn finish(self: &Arc<Self>) {
        let step = {
            let state = self.state.lock();
            if !state.abandoned || state.closed {
                return;
            }
            match state.reading {
                Some(_) if state.cancelled => return,
                Some(id) => Some((Operation::Cancel, u64::from(id))),
                None if state.writes > 0 => None,
                None => Some((Operation::Close, 0)),
            }
        };
        let Some((operation, argument)) = step else { return };
        let Some(request) = self.streams.services.begin() else {
            self.streams.unfinished.lock().push(Arc::clone(self));
            return;
        };
        let mut state = self.state.lock();
        match operation {
            Operation::Cancel => state.cancelled = true,
            _ => state.closed = true,
        }
        drop(state);
        self.streams.submit(self, request, operation, 0, argument);
    }
}

/// A standard stream as a file.
#[derive(Debug)]
pub(crate) struct Stream {
    input: Option<Arc<Channel>>,
    output: Option<Arc<Channel>>,
}

impl Stream {
    /// The reading end of a handle.
    pub(crate) fn input(streams: &Arc<Streams>, handle: u32) -> Arc<Self> {
        Arc::new(Self { input: Some(Channel::new(streams, handle)), output: None })
    }

    /// The writing end of a handle.
    pub(crate) fn output(streams: &Arc<Streams>, handle: u32) -> Arc<Self> {
        Arc::new(Self { input: None, output: Some(Channel::new(streams, handle)) })
    }
}

impl FileOps for Stream {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        let input = self.input.as_ref().ok_or(Errno::BADF)?;
        if sink.room() == 0 { Ok(0) } else { input.read(sink) }
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        self.output.as_ref().ok_or(Errno::BADF)?.write(source)
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        let mut ready = Ready::empty();
        if let Some(input) = &self.input {
            ready |= input.poll(ticket, true, false);
        }
        if let Some(output) = &self.output {
            ready |= output.poll(ticket, false, true);
        }
        ready
    }

    fn ioctl(
        &self,
        _file: &File,
        command: u32,
        memory: &mut IoctlMemory<'_>,
    ) -> Result<u64, Errno> {
        match (&self.input, command) {
            (Some(input), FIONREAD) => {
                let state = input.state.lock();
                let bytes = state.input.len() - state.input_at;
                drop(state);
                memory.write_int(bytes as i32)?;
                Ok(0)
            }
            _ => Err(Errno::NOTTY),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for channel in self.input.iter().chain(&self.output) {
            channel.abandon();
        }
    }
}
