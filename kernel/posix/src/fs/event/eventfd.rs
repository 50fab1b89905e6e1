// SPDX-License-Identifier: Apache-2.0
//! eventfd(2).

use core::any::Any;

use crate::{
    Errno,
    fs::{
        file::{File, FileOps},
        types::Ready,
    },
    io::{Sink, Source},
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

const MAX: u64 = u64::MAX - 1;

/// A counter to wait for.
#[derive(Debug)]
pub(crate) struct EventFd {
    count: Lock<u64>,
    semaphore: bool,
    wait: WaitQueue,
}

impl EventFd {
    /// Starts at `count`; a semaphore gives 1 at a time.
    pub(crate) fn new(count: u64, semaphore: bool) -> Self {
        Self { count: Lock::new(count), semaphore, wait: WaitQueue::new() }
    }
}

impl FileOps for EventFd {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        if sink.room() < 8 {
            return Err(Errno::INVAL);
        }
        let mut count = self.count.lock();
        if *count == 0 {
            return Err(Errno::AGAIN);
        }
        let value = if self.semaphore { 1 } else { *count };
        if !super::put_whole(sink, &value.to_le_bytes()) {
            return Ok(0);
        }
        *count -= value;
        drop(count);
        self.wait.wake_all();
        Ok(8)
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        if source.left() < 8 {
            return Err(Errno::INVAL);
        }
        // A value that does not fit is written again by the caller, from the start: so whether any
        // fits is known before the source is asked.
        if *self.count.lock() == MAX {
            return Err(Errno::AGAIN);
        }
        let mut bytes = [0; 8];
        if source.take(&mut bytes) < 8 {
            return Ok(0);
        }
        let value = u64::from_le_bytes(bytes);
        let mut count = self.count.lock();
        if value == u64::MAX {
            return Err(Errno::INVAL);
        }
        *count = count.checked_add(value).filter(|sum| *sum <= MAX).ok_or(Errno::AGAIN)?;
        drop(count);
        self.wait.wake_all();
        Ok(8)
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        if let Some(ticket) = ticket {
            self.wait.add(ticket);
        }
        let count = *self.count.lock();
        let mut ready = Ready::empty();
        ready.set(Ready::READABLE, count > 0);
        ready.set(Ready::WRITABLE, count < MAX);
        ready
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
