// SPDX-License-Identifier: Apache-2.0
//! Forwarded calls: to their services, aside while a decision waits, and on again.

use std::{cell::RefCell, os::fd::AsFd, time::Instant};

use rustix::io::Errno;
use trine_abi::window::Submission;
use trine_policy::case::Case;

use super::{Server, ServerError};
use crate::{
    held::What,
    service::{Context, Kind, Service},
    stream,
    window::WindowError,
};

impl Server {
    /// Runs something of a service, if the VM has it, and takes over what it has to hold.
    pub(super) fn with_service<R>(
        &mut self,
        kind: Kind,
        (input, case): (Vec<u8>, Case),
        run_fn: impl FnOnce(&mut dyn Service, &mut Context<'_>) -> R,
    ) -> Option<R> {
        self.guard.refresh();
        let service = match kind {
            Kind::Stream => None,
            Kind::File => self.files.as_deref_mut(),
            Kind::Socket => self.sockets.as_deref_mut(),
        };
        let mut context = Context {
            window: &mut self.window,
            epoll: self.epoll.as_fd(),
            workers: &mut self.workers,
            guard: &self.guard,
            kind,
            input,
            case: RefCell::new(case),
            holds: Vec::new(),
        };
        let done = service.map(|service| run_fn(service, &mut context));
        for (what, case) in std::mem::take(&mut context.holds) {
            self.holds.hold(self.vm, &self.guard, kind, what, case);
        }
        done
    }

    /// Hands a request to its service.
    pub(super) fn forward(&mut self, kind: Kind, request: &Submission) -> Result<(), ServerError> {
        if let Some(slot) = self.in_flight.get_mut(request.id as usize) {
            *slot = Some((kind, request.handle));
        }
        let mut input = vec![0; request.input as usize];
        self.window
            .memory()
            .read(Context::offset(request), &mut input)
            .map_err(WindowError::from)?;
        self.hand_over(kind, request, (input, Case::default()))
    }

    fn hand_over(
        &mut self,
        kind: Kind,
        request: &Submission,
        private: (Vec<u8>, Case),
    ) -> Result<(), ServerError> {
        match self.with_service(kind, private, |service, context| service.submit(request, context))
        {
            Some(done) => Ok(done?),
            None => Ok(self.window.complete(request.id, stream::errno_of(Errno::NOSYS), 0)?),
        }
    }

    /// Goes on with what waited long enough, or has its answer.
    pub(super) fn release_held(&mut self) -> Result<(), ServerError> {
        if self.holds.deadline().is_none() {
            return Ok(());
        }
        let now = Instant::now();
        while let Some(held) = self.holds.next_due(now) {
            let (kind, case) = (held.kind, held.case);
            match held.what {
                What::Request(request, input) => self.hand_over(kind, &request, (input, case))?,
                What::Token(token) => {
                    let resume = |service: &mut dyn Service, context: &mut Context<'_>| {
                        service.resume(token, case, context)
                    };
                    self.with_service(kind, <_>::default(), resume).transpose()?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, id: u32, argument: u64) -> Result<(), WindowError> {
        let target = u32::try_from(argument).ok().filter(|&target| target != id);
        let slot = target.and_then(|target| self.in_flight.get(target as usize));
        let (Some(target), Some(&handle)) = (target, slot) else {
            return self.window.complete(id, stream::errno_of(Errno::INVAL), 0);
        };
        if self.holds.cancel(target) {
            self.window.complete(target, stream::errno_of(Errno::CANCELED), 0)?;
            return self.window.complete(id, 0, 0);
        }
        // An id whose request had completed already is in no queue.
        match handle {
            Some((Kind::Stream, handle)) => {
                if let Some(stream) = self.streams.get_mut(&handle) {
                    stream.cancel(target, &mut self.window)?;
                }
            }
            Some((kind, _)) => {
                let cancel = |service: &mut dyn Service, context: &mut Context<'_>| {
                    service.cancel(target, context)
                };
                self.with_service(kind, <_>::default(), cancel).transpose()?;
            }
            None => {}
        }
        self.window.complete(id, 0, 0)
    }
}
