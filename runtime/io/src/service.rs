// SPDX-License-Identifier: Apache-2.0
//! What a family of forwarded calls (files, sockets) looks like to the thread that serves a VM.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
};
use trine_abi::{
    file::Wire,
    window::{DATA, Submission},
};
use trine_jail::shared::SharedMemory;
use trine_policy::case::Case;

use crate::{
    guard::Guard,
    held::What,
    stream::errno_of,
    window::{Window, WindowError},
    workers::{Outcome, Workers},
};

/// Executes the requests of one family for one VM.  Nothing in it may block: what can block goes
/// to [`Context::work`], or waits for an event of [`Context::watch`].
///
/// A request is answered with one of the `answer` methods, at once or later, and exactly once.
pub(crate) trait Service: Send + std::fmt::Debug {
    /// Takes a request, checked as far as the ring goes.
    fn submit(
        &mut self,
        request: &Submission,
        context: &mut Context<'_>,
    ) -> Result<(), WindowError>;

    /// What [`Context::hold_token`] was told to hold goes on.
    fn resume(
        &mut self,
        _token: u32,
        _case: Case,
        _context: &mut Context<'_>,
    ) -> Result<(), WindowError> {
        Ok(())
    }

    /// Something happened to a descriptor that is watched under `token`.
    fn ready(
        &mut self,
        _token: u32,
        _events: EventFlags,
        _context: &mut Context<'_>,
    ) -> Result<(), WindowError> {
        Ok(())
    }

    /// The guest does not want to wait for request `id`, which is one of this family's and perhaps
    /// answered already: if it waits, it is to be answered with ECANCELED.
    fn cancel(&mut self, _id: u32, _context: &mut Context<'_>) -> Result<(), WindowError> {
        Ok(())
    }
}

/// Which service a descriptor is watched for; the upper half of an epoll token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// Streams.
    Stream = 0,
    /// Files.
    File = 1,
    /// Sockets.
    Socket = 2,
}

/// What a service may use.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) window: &'a mut Window,
    pub(crate) epoll: BorrowedFd<'a>,
    pub(crate) workers: &'a mut Workers,
    /// The policy: asked before anything is done.
    pub(crate) guard: &'a Guard,
    /// For which service this is.
    pub(crate) kind: Kind,
    /// A private copy of the request's arguments, read once: what is decided about is what is
    /// done, whatever the guest writes meanwhile.
    pub(crate) input: Vec<u8>,
    /// What is known of the request's decisions.
    pub(crate) case: RefCell<Case>,
    /// What has to wait.
    pub(crate) holds: Vec<(What, Case)>,
}

impl Context<'_> {
    /// The window's memory, for data that system calls move; shared with workers.
    pub(crate) fn memory(&self) -> &Arc<SharedMemory> {
        self.window.memory()
    }

    /// Where a request's buffer begins in [`Context::memory`].
    pub(crate) fn offset(request: &Submission) -> usize {
        DATA + request.data as usize
    }

    /// The request's arguments, decoded; `None` if they make no sense, which is EINVAL.
    pub(crate) fn arguments<T: Wire>(&self) -> Option<T> {
        T::decode(&self.input).ok()
    }

    /// Whether the request has to be held, instead of being answered.
    pub(crate) fn must_hold(&self) -> bool {
        self.case.borrow().waits_for().is_some()
    }

    /// Has the request made again when its decision can go on.
    pub(crate) fn hold(&mut self, request: &Submission) {
        let input = std::mem::take(&mut self.input);
        self.holds.push((What::Request(*request, input), self.case.take()));
    }

    /// Has [`Service::resume`] called when a decision can go on.
    pub(crate) fn hold_token(&mut self, token: u32, case: Case) {
        self.holds.push((What::Token(token), case));
    }

    /// Answers a request with a result.
    pub(crate) fn answer(&mut self, request: &Submission, result: u64) -> Result<(), WindowError> {
        self.window.complete(request.id, 0, result)
    }

    /// Answers a request with an errno.
    pub(crate) fn refuse(&mut self, request: &Submission, errno: Errno) -> Result<(), WindowError> {
        self.window.complete(request.id, errno_of(errno), 0)
    }

    /// Answers a request with bytes; ERANGE if its buffer is too small for them.
    pub(crate) fn answer_bytes(
        &mut self,
        request: &Submission,
        bytes: &[u8],
    ) -> Result<(), WindowError> {
        if bytes.len() > request.bytes as usize {
            return self.refuse(request, Errno::RANGE);
        }
        self.memory().write(Self::offset(request), bytes)?;
        self.answer(request, bytes.len() as u64)
    }

    /// Watches a descriptor, edge-triggered: its events come to [`Service::ready`] with `token`.
    pub(crate) fn watch(
        &self,
        descriptor: impl AsFd,
        token: u32,
        events: EventFlags,
    ) -> Result<(), Errno> {
        let data = EventData::new_u64(event_token(self.kind, token));
        epoll::add(self.epoll, descriptor, data, events | EventFlags::ET)
    }

    /// Does something that may block in a worker, which answers the request.  The descriptors and
    /// memory that it needs are its own or shared.
    pub(crate) fn work(
        &mut self,
        request: &Submission,
        work_fn: impl FnOnce() -> io::Result<u64> + Send + 'static,
    ) -> Result<(), WindowError> {
        let id = request.id;
        let started = self.workers.start(move || match work_fn() {
            Ok(result) => Outcome { id, errno: 0, result },
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
                Outcome { id, errno: errno.unsigned_abs(), result: 0 }
            }
        });
        match started {
            Ok(()) => Ok(()),
            Err(_) => self.refuse(request, Errno::NOMEM),
        }
    }
}

/// The epoll token of a service's descriptor.
pub(crate) fn event_token(kind: Kind, token: u32) -> u64 {
    u64::from(kind as u32) << 32 | u64::from(token)
}

/// Shares a descriptor with workers.
pub(crate) type Shared = Arc<OwnedFd>;
