// SPDX-License-Identifier: Apache-2.0
//! The buffer of a request, and the answer that comes in it.

use alloc::{sync::Arc, vec::Vec};
use core::fmt;

use trine_abi::{
    file::Wire,
    window::{Completion, ENTRIES, Operation},
};
use trine_machine::window::Request;

use super::Owner;
use crate::{Errno, services::ServicesRef};

/// A request whose buffer can be filled and that can be submitted, or whose answer can be read.
/// Dropping it gives it back.
pub(crate) struct Buffer {
    pub(super) services: ServicesRef,
    pub(super) request: Option<Request>,
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
        self.services.flush_posted();
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
