// SPDX-License-Identifier: Apache-2.0
//! signalfd(2): signals of the *reading* thread and its process.

use alloc::sync::Arc;
use core::any::Any;

use crate::{
    Errno,
    fs::{
        file::{File, FileOps},
        types::Ready,
    },
    io::Sink,
    process::signal::{SI_TIMER, SigInfo, SignalSet},
    services::ServicesRef,
    sync::Lock,
    wait::Ticket,
};

const RECORD: usize = 128;

/// A set of signals to read.
#[derive(Debug)]
pub(crate) struct SignalFd {
    services: ServicesRef,
    mask: Lock<SignalSet>,
}

impl SignalFd {
    /// Reads these signals.
    pub(crate) fn new(services: &ServicesRef, mask: SignalSet) -> Self {
        Self { services: Arc::clone(services), mask: Lock::new(mask) }
    }

    /// Reads other signals from now on.
    pub(crate) fn set_mask(&self, mask: SignalSet) {
        *self.mask.lock() = mask;
    }
}

/// `struct signalfd_siginfo`: `rest` of the signal information begins with pid and uid (or what
/// else the signal has at bytes 16 and 20 of siginfo_t).
fn encode(info: &SigInfo) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[0..4].copy_from_slice(&info.signal.to_le_bytes());
    record[4..8].copy_from_slice(&info.errno.to_le_bytes());
    record[8..12].copy_from_slice(&info.code.to_le_bytes());
    if info.code == SI_TIMER {
        // ssi_tid and ssi_overrun
        record[24..28].copy_from_slice(&info.rest[0..4]);
        record[32..36].copy_from_slice(&info.rest[4..8]);
    } else {
        // pid, uid
        record[12..20].copy_from_slice(&info.rest[0..8]);
    }
    // si_status of SIGCHLD; si_int and si_ptr of a queued signal
    record[40..44].copy_from_slice(&info.rest[8..12]);
    record[44..48].copy_from_slice(&info.rest[8..12]);
    record[48..56].copy_from_slice(&info.rest[8..16]);
    // utime, stime
    record[56..72].copy_from_slice(&info.rest[16..32]);
    // address of a fault
    record[72..80].copy_from_slice(&info.rest[0..8]);
    record
}

impl FileOps for SignalFd {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        if sink.room() < RECORD {
            return Err(Errno::INVAL);
        }
        let task = self.services.current().ok_or(Errno::AGAIN)?;
        let mask = *self.mask.lock();
        let mut done = 0;
        while sink.room() >= RECORD {
            let Some(info) = task.take_signal(mask) else { break };
            let record = encode(&info);
            let put = sink.put(&record);
            if put < RECORD {
                // The memory was there for a part: the rest is lost with it, as after EFAULT.
                return Ok(done + put);
            }
            done += RECORD;
        }
        if done == 0 { Err(Errno::AGAIN) } else { Ok(done) }
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        let Some(task) = self.services.current() else { return Ready::empty() };
        if let Some(ticket) = ticket {
            task.process.signal_wait.add(ticket);
        }
        let pending = task.pending_signals() & *self.mask.lock() != 0;
        if pending { Ready::READABLE } else { Ready::empty() }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
