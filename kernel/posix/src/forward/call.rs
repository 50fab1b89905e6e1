// SPDX-License-Identifier: Apache-2.0
//! Calls whose answer somebody needs.

use alloc::sync::Arc;
use core::{any::Any, fmt, sync::atomic::Ordering};

use trine_abi::window::Operation;
use trine_machine::window::{BUFFER_BYTES, BULK_BUFFER_BYTES};

use super::{Answer, Buffer, Owner, journal::Slot, look::PATIENCE_NS};
use crate::{Errno, services::Services};

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

impl Services {
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
                self.look_for(slot.id);
            }
            return slot.take_or_wait(task.map(|task| task.ticket()).as_ref());
        }
        let begun = self.begin_call(call);
        let buffer = match begun {
            Some(buffer) => buffer,
            None => {
                let is_patient = self.requests.is_patient.load(Ordering::Relaxed);
                if let Some(task) = task.as_ref().filter(|_| !is_patient) {
                    self.await_free(&task.ticket());
                    return Err(Errno::PENDING);
                }
                self.begin_with_patience(call)?
            }
        };
        let id = buffer.id();
        buffer.write(0, call.input);
        let bytes = call.input.len().max(call.room.min(buffer.capacity()));
        let slot = Arc::new(Slot::new(id, decode_fn));
        let owner: Arc<dyn Owner> = slot.clone();
        buffer.submit(owner, call.operation, call.handle, (bytes, call.input.len()), call.argument);
        let Some(task) = task else {
            return if self.spin(id, PATIENCE_NS) {
                slot.take_or_wait(None)
            } else {
                Err(Errno::IO)
            };
        };
        task.journal.lock().add(call, slot.clone());
        self.look_for(id);
        slot.take_or_wait(Some(&task.ticket()))
    }

    /// Takes a free request that will do for a call, unless something that was posted before wants
    /// one.
    pub(super) fn begin_call(self: &Arc<Self>, call: &Call<'_>) -> Option<Buffer> {
        if self.has_posted() {
            return None;
        }
        if call.input.len() > BUFFER_BYTES {
            // Only a large buffer will do for large arguments.
            let request = self.window.lock().as_mut()?.begin_bulk()?;
            Some(Buffer { services: Arc::clone(self), request: Some(request) })
        } else if call.room > BUFFER_BYTES {
            // An answer may come in parts.
            self.begin_bulk()
        } else {
            self.begin()
        }
    }

    /// Waits for a free request on behalf of nobody who could block.
    fn begin_with_patience(self: &Arc<Self>, call: &Call<'_>) -> Result<Buffer, Errno> {
        let until = self.monotonic_ns().saturating_add(PATIENCE_NS);
        while self.monotonic_ns() < until {
            if let Some((request, completion)) = self.next_completion() {
                self.complete(request, completion);
            }
            if let Some(buffer) = self.begin_call(call) {
                return Ok(buffer);
            }
            core::hint::spin_loop();
        }
        Err(Errno::IO)
    }
}
