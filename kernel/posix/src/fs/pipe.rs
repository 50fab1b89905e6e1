// SPDX-License-Identifier: Apache-2.0
//! Pipes and FIFOs (pipe(7), fifo(7)).

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::any::Any;

use crate::{
    Errno,
    fs::{
        file::{File, FileOps, IoctlMemory},
        types::{OpenFlags, Ready},
    },
    io::{Sink, Source},
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

/// Bytes that are written in one piece or not at all.
pub(crate) const PIPE_BUF: usize = 4096;
/// Bytes of a pipe at first.
const CAPACITY: usize = 65536;
/// Most bytes that F_SETPIPE_SZ gives without privilege (fs.pipe-max-size).
pub(crate) const CAPACITY_MAX: usize = 1 << 20;
const FIONREAD: u32 = 0x541b;

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    capacity: usize,
    readers: u32,
    writers: u32,
    /// How often it was opened for reading and for writing, ever.
    reader_opens: u64,
    writer_opens: u64,
    /// Opens that wait for the other side.
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    task: u32,
    end: Arc<PipeEnd>,
    /// The other side's count of opens that it waits to be exceeded.
    beyond: u64,
}

/// A pipe.
#[derive(Debug)]
pub struct Pipe {
    state: Lock<State>,
    read_wait: WaitQueue,
    write_wait: WaitQueue,
    open_wait: WaitQueue,
}

impl Pipe {
    /// A FIFO that nobody has opened.
    pub(crate) fn fifo() -> Arc<Self> {
        Arc::new(Self {
            state: Lock::new(State {
                bytes: VecDeque::new(),
                capacity: CAPACITY,
                readers: 0,
                writers: 0,
                reader_opens: 0,
                writer_opens: 0,
                waiting: Vec::new(),
            }),
            read_wait: WaitQueue::new(),
            write_wait: WaitQueue::new(),
            open_wait: WaitQueue::new(),
        })
    }

    /// Opens an end.
    pub(crate) fn end(self: &Arc<Self>, flags: OpenFlags) -> Arc<PipeEnd> {
        let end = PipeEnd { pipe: Arc::clone(self), reads: flags.reads(), writes: flags.writes() };
        let mut state = self.state.lock();
        state.readers += u32::from(end.reads);
        state.writers += u32::from(end.writes);
        state.reader_opens += u64::from(end.reads);
        state.writer_opens += u64::from(end.writes);
        drop(state);
        self.open_wait.wake_all();
        self.read_wait.wake_all();
        self.write_wait.wake_all();
        Arc::new(end)
    }

    /// Opens an end as open(2) does: for one direction only, not before the other is open too.
    ///
    /// # Errors
    /// `EAGAIN`: the ticket is woken when it is time to try again; `ENXIO`: nobody reads, and the
    /// open does not block.
    pub(crate) fn open(
        self: &Arc<Self>,
        flags: OpenFlags,
        ticket: &Ticket,
        task: u32,
    ) -> Result<Arc<PipeEnd>, Errno> {
        let (reads, writes) = (flags.reads(), flags.writes());
        let nonblock = flags.contains(OpenFlags::NONBLOCK);
        let (mine, stale) = {
            let mut state = self.state.lock();
            let at = state
                .waiting
                .iter()
                .position(|waiting| waiting.task == task && waiting.end.reads == reads);
            let mine = at.map(|at| state.waiting.remove(at));
            let (live, stale): (Vec<_>, Vec<_>) =
                core::mem::take(&mut state.waiting).into_iter().partition(|waiting| {
                    let opens =
                        if waiting.end.reads { state.writer_opens } else { state.reader_opens };
                    opens > waiting.beyond
                        || waiting.ticket.waiter.is_current(waiting.ticket.generation)
                });
            state.waiting = live;
            (mine, stale)
        };
        drop(stale);
        let other = |state: &State| if reads { state.writer_opens } else { state.reader_opens };
        if let Some(mine) = mine {
            let met = other(&self.state.lock()) > mine.beyond;
            if met {
                return Ok(mine.end);
            }
            self.wait(mine.end, mine.beyond, ticket, task);
            return Err(Errno::AGAIN);
        }
        let present = {
            let state = self.state.lock();
            if reads { state.writers > 0 } else { state.readers > 0 }
        };
        if (reads && writes) || present || (reads && nonblock) {
            return Ok(self.end(flags));
        }
        if nonblock {
            return Err(Errno::NXIO);
        }
        let beyond = other(&self.state.lock());
        let end = self.end(flags);
        self.wait(end, beyond, ticket, task);
        Err(Errno::AGAIN)
    }

    fn wait(&self, end: Arc<PipeEnd>, beyond: u64, ticket: &Ticket, task: u32) {
        self.open_wait.add(ticket);
        let waiting = Waiting { ticket: ticket.clone(), task, end, beyond };
        self.state.lock().waiting.push(waiting);
    }

    /// Bytes in it.
    pub(crate) fn bytes(&self) -> usize {
        self.state.lock().bytes.len()
    }

    /// Bytes that fit in it.
    pub(crate) fn capacity(&self) -> usize {
        self.state.lock().capacity
    }

    /// Changes how many bytes fit in it; returns how many do.
    ///
    /// # Errors
    /// `EBUSY` if there are more in it.
    pub(crate) fn set_capacity(&self, bytes: usize) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        let capacity = bytes.max(PIPE_BUF).next_power_of_two();
        if state.bytes.len() > capacity {
            return Err(Errno::BUSY);
        }
        state.capacity = capacity;
        drop(state);
        self.write_wait.wake_all();
        Ok(capacity)
    }

    /// A copy of what is in it; empty if nothing will come.
    ///
    /// # Errors
    /// `EAGAIN` if nothing is there yet.
    pub(crate) fn peek(&self, bytes: usize) -> Result<Vec<u8>, Errno> {
        let state = self.state.lock();
        if state.bytes.is_empty() && state.writers > 0 {
            return Err(Errno::AGAIN);
        }
        Ok(state.bytes.iter().copied().take(bytes).collect())
    }

    fn read(&self, sink: &mut dyn Sink) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        if state.bytes.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::AGAIN) };
        }
        let (front, back) = state.bytes.as_slices();
        let mut done = sink.put(front);
        if done == front.len() {
            done += sink.put(back);
        }
        state.bytes.drain(..done);
        drop(state);
        if done > 0 {
            self.write_wait.wake_all();
        }
        Ok(done)
    }

    fn write(&self, source: &mut dyn Source) -> Result<usize, Errno> {
        if source.left() == 0 {
            return Ok(0);
        }
        let mut state = self.state.lock();
        if state.readers == 0 {
            return Err(Errno::PIPE);
        }
        let wanted = source.left();
        let room = state.capacity - state.bytes.len();
        if room == 0 || (wanted <= PIPE_BUF && room < wanted) {
            return Err(Errno::AGAIN);
        }
        let mut buffer = [0; 2048];
        let mut done = 0;
        while done < wanted.min(room) {
            let part = (wanted.min(room) - done).min(buffer.len());
            let taken = source.take(&mut buffer[..part]);
            state.bytes.extend(&buffer[..taken]);
            done += taken;
            if taken < part {
                break;
            }
        }
        drop(state);
        if done > 0 {
            self.read_wait.wake_all();
        }
        Ok(done)
    }
}

/// One end of a pipe, or both.
#[derive(Debug)]
pub(crate) struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
}

impl PipeEnd {
    /// The pipe.
    pub(crate) fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }
}

impl FileOps for PipeEnd {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        if sink.room() == 0 {
            return Ok(0);
        }
        self.pipe.read(sink)
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        self.pipe.write(source)
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        let mut ready = Ready::empty();
        if let Some(ticket) = ticket {
            if self.reads {
                self.pipe.read_wait.add(ticket);
            }
            if self.writes {
                self.pipe.write_wait.add(ticket);
            }
        }
        let state = self.pipe.state.lock();
        if self.reads {
            ready.set(Ready::READABLE, !state.bytes.is_empty());
            ready.set(Ready::HUP, state.writers == 0 && state.writer_opens > 0);
        }
        if self.writes {
            let room = state.capacity - state.bytes.len();
            ready.set(Ready::WRITABLE, room >= PIPE_BUF);
            ready.set(Ready::ERR, state.readers == 0);
        }
        ready
    }

    fn ioctl(
        &self,
        _file: &File,
        command: u32,
        memory: &mut IoctlMemory<'_>,
    ) -> Result<u64, Errno> {
        match command {
            FIONREAD => {
                memory.write_int(self.pipe.bytes() as i32)?;
                Ok(0)
            }
            _ => Err(Errno::NOTTY),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.readers -= u32::from(self.reads);
        state.writers -= u32::from(self.writes);
        if state.readers == 0 && state.writers == 0 {
            state.bytes = VecDeque::new();
        }
        drop(state);
        self.pipe.read_wait.wake_all();
        self.pipe.write_wait.wake_all();
    }
}
