// SPDX-License-Identifier: Apache-2.0
//! Descriptors that stand for processes (pidfd_open(2)): readable once the process is over.

use alloc::sync::Arc;
use core::any::Any;

use crate::{
    fs::{file::FileOps, types::Ready},
    process::Process,
    wait::Ticket,
};

/// A process, whatever becomes of its id.
#[derive(Debug)]
pub(crate) struct PidFd {
    process: Arc<Process>,
}

impl PidFd {
    /// Stands for a process.
    pub(crate) fn new(process: Arc<Process>) -> Self {
        Self { process }
    }

    /// The process.
    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }
}

impl FileOps for PidFd {
    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        if let Some(ticket) = ticket {
            self.process.end_wait.add(ticket);
        }
        if self.process.is_zombie() { Ready::READABLE } else { Ready::empty() }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
