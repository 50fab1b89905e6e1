// SPDX-License-Identifier: Apache-2.0
//! One stream: a descriptor, and the requests that wait for it.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{fs::OFlags, io::Errno};
use trine_abi::window::{DATA, Submission};

use crate::{
    protocol::{Direction, StreamKind},
    window::{Window, WindowError},
};

/// After its `CloseStream`, an input whose writers linger ends when it was silent for this long.
/// Usually its writers are gone, and it ends at once.
const INPUT_GRACE: Duration = Duration::from_millis(250);

/// A request under way.
#[derive(Debug)]
struct Transfer {
    id: u32,
    offset: usize,
    bytes: usize,
    done: usize,
}

/// How far the end of an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Not asked for.
    Open,
    /// Asked for; no byte came since then.
    Asked { silent_since: Instant },
    /// Reached: reads return 0.
    Reached,
}

/// A stream of one VM.
#[derive(Debug)]
pub(crate) struct Stream {
    file: OwnedFd,
    hold: Option<OwnedFd>,
    direction: Direction,
    kind: StreamKind,
    /// The last attempt did not say EAGAIN, or the descriptor was reported ready since.
    ready: bool,
    queue: VecDeque<Transfer>,
    end: End,
    /// A close waits for the queue to empty: the id of the guest's request, if it was the guest's.
    closing: Option<Option<u32>>,
}

impl Stream {
    /// Wraps a descriptor, and the other end of the FIFO if it is to be held open.
    pub(crate) fn new(
        file: OwnedFd,
        hold: Option<OwnedFd>,
        direction: Direction,
        kind: StreamKind,
    ) -> io::Result<Self> {
        if kind == StreamKind::Borrowed {
            let flags = rustix::fs::fcntl_getfl(&file)?;
            rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
        }
        Ok(Self {
            file,
            hold,
            direction,
            kind,
            ready: true,
            queue: VecDeque::new(),
            end: End::Open,
            closing: None,
        })
    }

    /// Which way the bytes go.
    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether new requests are refused because a close came before them.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of writes that wait.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        match self.direction {
            Direction::In => 0,
            Direction::Out => {
                self.queue.iter().map(|transfer| (transfer.bytes - transfer.done) as u64).sum()
            }
        }
    }

    /// Queues a read or write that was checked.
    pub(crate) fn push(&mut self, request: &Submission) {
        self.queue.push_back(Transfer {
            id: request.id,
            offset: DATA + request.data as usize,
            bytes: request.bytes as usize,
            done: 0,
        });
    }

    /// The descriptor became ready.
    pub(crate) fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Asks for the end of an input after the bytes that are under way.
    pub(crate) fn end_input(&mut self, now: Instant) {
        self.hold = None;
        if self.end == End::Open {
            self.end = End::Asked { silent_since: now };
            self.ready = true;
        }
    }

    /// Marks the stream as closing; `id` is the guest's request to answer.
    pub(crate) fn begin_close(&mut self, id: Option<u32>) {
        self.closing = Some(id);
    }

    /// The request to answer when a close is complete.
    pub(crate) fn close_id(&self) -> Option<u32> {
        self.closing.flatten()
    }

    /// Takes a request out of the queue; true, and answered with ECANCELED, if it was there.
    pub(crate) fn cancel(&mut self, id: u32, window: &mut Window) -> Result<bool, WindowError> {
        if self.closing == Some(Some(id)) {
            self.closing = None;
            window.complete(id, errno_of(Errno::CANCELED), 0)?;
            return Ok(true);
        }
        let Some(at) = self.queue.iter().position(|transfer| transfer.id == id) else {
            return Ok(false);
        };
        if let Some(transfer) = self.queue.remove(at) {
            window.complete(id, errno_of(Errno::CANCELED), transfer.done as u64)?;
        }
        Ok(true)
    }

    /// Answers everything that waits with ECANCELED.
    pub(crate) fn cancel_all(&mut self, window: &mut Window) -> Result<(), WindowError> {
        while let Some(transfer) = self.queue.pop_front() {
            window.complete(transfer.id, errno_of(Errno::CANCELED), transfer.done as u64)?;
        }
        Ok(())
    }

    /// When [`Stream::advance`] must be called even though nothing became ready.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.end {
            End::Asked { silent_since } if !self.queue.is_empty() => {
                Some(silent_since + INPUT_GRACE)
            }
            _ => None,
        }
    }

    /// Does what can be done without blocking.
    pub(crate) fn advance(&mut self, window: &mut Window) -> Result<(), WindowError> {
        match self.direction {
            Direction::In => self.advance_reads(window),
            Direction::Out => self.advance_writes(window),
        }
    }

    fn advance_reads(&mut self, window: &mut Window) -> Result<(), WindowError> {
        while let Some(read) = self.queue.front() {
            let (id, offset, bytes) = (read.id, read.offset, read.bytes);
            let (errno, result) = match self.read_once(window, offset, bytes) {
                Ok(count) => (0, count as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready = false;
                    return Ok(());
                }
                Err(error) => (raw(&error), 0),
            };
            self.queue.pop_front();
            window.complete(id, errno, result)?;
        }
        Ok(())
    }

    /// One attempt to read; WouldBlock if the request has to wait.
    fn read_once(&mut self, window: &Window, offset: usize, bytes: usize) -> io::Result<usize> {
        if bytes == 0 || self.end == End::Reached {
            return Ok(0);
        }
        if self.ready {
            match self.read_descriptor(window, offset, bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => {
                    if self.end != End::Open {
                        self.end = End::Reached;
                    }
                    return Ok(0);
                }
                // The other side of a terminal hung up.
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    return Ok(0);
                }
                Ok(count) => {
                    if self.end != End::Open {
                        self.end = End::Asked { silent_since: Instant::now() };
                    }
                    return Ok(count);
                }
                other => return other,
            }
        }
        match self.end {
            End::Asked { silent_since } if silent_since.elapsed() >= INPUT_GRACE => {
                self.end = End::Reached;
                Ok(0)
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn read_descriptor(&self, window: &Window, offset: usize, bytes: usize) -> io::Result<usize> {
        retry(|| match self.kind {
            StreamKind::Socket => window.memory().receive_from(offset, bytes, self.file.as_fd()),
            StreamKind::Plain | StreamKind::Borrowed => {
                window.memory().fill_from(offset, bytes, self.file.as_fd())
            }
        })
    }

    fn advance_writes(&mut self, window: &mut Window) -> Result<(), WindowError> {
        while let Some(write) = self.queue.front_mut() {
            let (offset, left) = (write.offset + write.done, write.bytes - write.done);
            let mut errno = 0;
            if left > 0 {
                if !self.ready {
                    return Ok(());
                }
                let file = self.file.as_fd();
                match retry(|| match self.kind {
                    StreamKind::Socket => window.memory().send_to(offset, left, file),
                    StreamKind::Plain | StreamKind::Borrowed => {
                        window.memory().drain_to(offset, left, file)
                    }
                }) {
                    Ok(count) => {
                        write.done += count;
                        // A short write says nothing yet; the next attempt tells what is wrong.
                        if write.done < write.bytes {
                            continue;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.ready = false;
                        return Ok(());
                    }
                    Err(error) => errno = raw(&error),
                }
            }
            let (id, done) = (write.id, write.done as u64);
            self.queue.pop_front();
            window.complete(id, errno, done)?;
        }
        Ok(())
    }

    /// Gives up the stream: writers see a closed reader, readers see the end.  Returns the held
    /// end of an output FIFO, if its reader has not yet taken all bytes.
    pub(crate) fn release(mut self) -> Option<OwnedFd> {
        match self.direction {
            Direction::In => None,
            Direction::Out => self.hold.take().filter(|hold| !is_drained(hold)),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.kind == StreamKind::Borrowed {
            // The owner may be gone already, in which case it does not matter.
            if let Ok(flags) = rustix::fs::fcntl_getfl(&self.file) {
                let _ = rustix::fs::fcntl_setfl(&self.file, flags.difference(OFlags::NONBLOCK));
            }
        }
    }
}

/// Whether a FIFO is empty; one that cannot tell counts as empty.
pub(crate) fn is_drained(fifo: &OwnedFd) -> bool {
    rustix::io::ioctl_fionread(fifo).map_or(true, |bytes| bytes == 0)
}

/// A positive Linux errno as it goes into a completion.
pub(crate) fn errno_of(errno: Errno) -> u32 {
    errno.raw_os_error().unsigned_abs()
}

fn raw(error: &io::Error) -> u32 {
    error.raw_os_error().unwrap_or(Errno::IO.raw_os_error()).unsigned_abs()
}

fn retry(mut call_fn: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call_fn() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
