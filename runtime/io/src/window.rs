// SPDX-License-Identifier: Apache-2.0
//! The server's side of one window: the rings, and the table of ids in use.
//!
//! Everything that the guest could change under us is read once, into private memory, and believed
//! only after a check.  An id goes through these states:
//!
//! ```text
//! free ──submitted──> in flight ──completed──> published ──cq_head passes it──> free
//! ```
//!
//! A submission with an id that is not free is a violation, and so there are never more than
//! `ENTRIES` completions that the guest has not taken: the completion ring cannot overflow.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use rustix::io::Errno;
use trine_abi::window::{
    self, COMPLETION_BYTES, COMPLETIONS, CQ_HEAD, CQ_TAIL, Completion, ENTRIES, KERNEL_SLEEPS,
    SERVER_SLEEPS, SQ_HEAD, SQ_TAIL, SUBMISSION_BYTES, SUBMISSIONS, Submission, Violation,
};
use trine_jail::shared::{SharedError, SharedMemory};

/// Why a window is not served any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WindowError {
    /// The guest's doing.
    #[error("{}", describe(.0))]
    Violation(Violation),
    /// Ours: an offset that is not in the window.
    #[error("window access failed")]
    Memory(#[from] SharedError),
}

fn describe(violation: &Violation) -> &'static str {
    match violation {
        Violation::Index => "ring index moved back or by more than the ring holds",
        Violation::Operation => "submission with an unknown operation",
        Violation::Id => "submission with an id that is out of range or in flight",
        Violation::Buffer => "submission with a buffer outside the data area",
        Violation::Reserved => "submission with a reserved field that is not zero",
    }
}

/// The rings of one window.
#[derive(Debug)]
pub(crate) struct Window {
    memory: Arc<SharedMemory>,
    notify: OwnedFd,
    /// Submissions taken.
    sq_head: u32,
    /// Completions made, and those of them that are published.
    cq_tail: u32,
    cq_published: u32,
    /// Completions that the guest has taken, as far as we know.
    cq_head: u32,
    /// Among those that are not published is one that the guest waits for.
    is_urgent: bool,
    /// Bit per id: not free.
    used: u64,
    /// The ids of the completions made, by ring index.
    completed: [u8; ENTRIES as usize],
}

const _: () = assert!(ENTRIES == u64::BITS);

impl Window {
    /// Serves `memory`, whose guest is told of completions through `notify`.
    pub(crate) fn new(memory: SharedMemory, notify: OwnedFd) -> Self {
        Self {
            memory: Arc::new(memory),
            notify,
            sq_head: 0,
            cq_tail: 0,
            cq_published: 0,
            cq_head: 0,
            is_urgent: false,
            used: 0,
            completed: [0; ENTRIES as usize],
        }
    }

    /// The memory, for stream data.
    pub(crate) fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }

    /// Takes every submission that waits, checked, into `taken`; at most `ENTRIES`.
    pub(crate) fn take(&mut self, taken: &mut Vec<Submission>) -> Result<(), WindowError> {
        let tail = self.memory.load_acquire(SQ_TAIL)?;
        let waiting =
            window::waiting(self.sq_head, tail).ok_or(WindowError::Violation(Violation::Index))?;
        if waiting == 0 {
            return Ok(());
        }
        for _ in 0..waiting {
            let mut entry = [0; SUBMISSION_BYTES];
            let offset = window::entry_offset(SUBMISSIONS, self.sq_head, SUBMISSION_BYTES);
            self.memory.read(offset, &mut entry)?;
            let submission = Submission::check(&entry).map_err(WindowError::Violation)?;
            self.claim(submission.id)?;
            taken.push(submission);
            self.sq_head = self.sq_head.wrapping_add(1);
        }
        self.memory.store_release(SQ_HEAD, self.sq_head)?;
        Ok(())
    }

    fn claim(&mut self, id: u32) -> Result<(), WindowError> {
        let bit = 1_u64.checked_shl(id).ok_or(WindowError::Violation(Violation::Id))?;
        if self.used & bit != 0 {
            self.reclaim()?;
        }
        if self.used & bit != 0 {
            return Err(WindowError::Violation(Violation::Id));
        }
        self.used |= bit;
        Ok(())
    }

    /// Frees the ids whose completions the guest has taken.
    fn reclaim(&mut self) -> Result<(), WindowError> {
        let head = self.memory.load_acquire(CQ_HEAD)?;
        let taken = head.wrapping_sub(self.cq_head);
        if taken > self.cq_published.wrapping_sub(self.cq_head) {
            return Err(WindowError::Violation(Violation::Index));
        }
        for _ in 0..taken {
            let slot = (self.cq_head % ENTRIES) as usize;
            let id = self.completed.get(slot).copied().unwrap_or_default();
            self.used &= !(1_u64 << id);
            self.cq_head = self.cq_head.wrapping_add(1);
        }
        Ok(())
    }

    /// Makes a completion; the guest sees it after [`Window::publish`].
    pub(crate) fn complete(&mut self, id: u32, errno: u32, result: u64) -> Result<(), WindowError> {
        self.is_urgent = true;
        self.complete_quietly(id, errno, result)
    }

    /// Makes a completion that the guest need not be woken for.
    pub(crate) fn complete_quietly(
        &mut self,
        id: u32,
        errno: u32,
        result: u64,
    ) -> Result<(), WindowError> {
        let slot = (self.cq_tail % ENTRIES) as usize;
        if let Some(completed) = self.completed.get_mut(slot) {
            // Ids are below ENTRIES, as checked when the submission was taken.
            *completed = id as u8;
        }
        let offset = window::entry_offset(COMPLETIONS, self.cq_tail, COMPLETION_BYTES);
        self.memory.write(offset, &Completion { id, errno, result }.encode())?;
        self.cq_tail = self.cq_tail.wrapping_add(1);
        Ok(())
    }

    /// Publishes the completions made since the last time, and wakes the guest if it sleeps.
    pub(crate) fn publish(&mut self) -> Result<(), WindowError> {
        if self.cq_published == self.cq_tail {
            return Ok(());
        }
        self.memory.store_release(CQ_TAIL, self.cq_tail)?;
        self.cq_published = self.cq_tail;
        if !std::mem::take(&mut self.is_urgent) {
            return Ok(());
        }
        // Our tail, then their flag; they set the flag, then look at the tail.  Without the fence
        // both could miss the other's store.
        fence(Ordering::SeqCst);
        if self.memory.load_acquire(KERNEL_SLEEPS)? == 1 {
            // A full counter (EAGAIN) is a notification too, and a failed one hurts this VM only.
            while let Err(Errno::INTR) = rustix::io::write(&self.notify, &1_u64.to_ne_bytes()) {}
        }
        Ok(())
    }

    /// Tells the guest to ring the doorbell; false if a submission came before it could know, and
    /// the server must not sleep.
    pub(crate) fn fall_asleep(&self) -> Result<bool, WindowError> {
        self.memory.store_release(SERVER_SLEEPS, 1)?;
        fence(Ordering::SeqCst);
        if self.has_work()? {
            self.wake_up()?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Tells the guest that no doorbell is needed.
    pub(crate) fn wake_up(&self) -> Result<(), WindowError> {
        Ok(self.memory.store_release(SERVER_SLEEPS, 0)?)
    }

    /// Tells whether a submission waits.
    pub(crate) fn has_work(&self) -> Result<bool, WindowError> {
        Ok(self.memory.load_acquire(SQ_TAIL)? != self.sq_head)
    }
}
