// SPDX-License-Identifier: Apache-2.0
//! Waiting.
//!
//! An object that can be waited for has a [`WaitQueue`].  A task that must wait puts a [`Ticket`]
//! in the queue of everything that could end its wait, and blocks.  Waking a queue makes its
//! tickets' tasks runnable; each then makes its system call again.  Tickets of an earlier wait are
//! stale and do nothing, so nobody has to take them out.

use alloc::{sync::Arc, vec::Vec};
use core::fmt;

use crate::sync::Lock;

/// Something that can be woken: a task, or an epoll entry.
pub trait Wake: Send + Sync + fmt::Debug {
    /// Wakes it.  `generation` is the ticket's; returns false if it is over (the ticket is dropped).
    fn wake(&self, generation: u64) -> bool;

    /// Whether a ticket of this generation can still wake anything.
    fn is_current(&self, generation: u64) -> bool;
}

/// One wait of one waiter.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Who waits.
    pub waiter: Arc<dyn Wake>,
    /// Which of its waits.
    pub generation: u64,
}

/// Those who wait for an object.
#[derive(Debug, Default)]
pub struct WaitQueue {
    tickets: Lock<Vec<Ticket>>,
}

impl WaitQueue {
    /// Makes an empty queue.
    pub const fn new() -> Self {
        Self { tickets: Lock::new(Vec::new()) }
    }

    /// Adds a ticket.
    pub fn add(&self, ticket: &Ticket) {
        let mut tickets = self.tickets.lock();
        if tickets.len() >= 8 {
            tickets.retain(|ticket| ticket.waiter.is_current(ticket.generation));
        }
        tickets.push(ticket.clone());
    }

    /// Wakes everybody.  A persistent waiter (epoll) stays in the queue.
    pub fn wake_all(&self) {
        let tickets = core::mem::take(&mut *self.tickets.lock());
        let mut kept: Vec<Ticket> =
            tickets.into_iter().filter(|ticket| ticket.waiter.wake(ticket.generation)).collect();
        if !kept.is_empty() {
            self.tickets.lock().append(&mut kept);
        }
    }

    /// Wakes at most `count` waiters, the longest first; returns how many (for futexes).
    pub fn wake(&self, count: usize) -> usize {
        let mut woken = 0;
        while woken < count {
            let Some(ticket) = ({
                let mut tickets = self.tickets.lock();
                (!tickets.is_empty()).then(|| tickets.remove(0))
            }) else {
                break;
            };
            if ticket.waiter.is_current(ticket.generation) {
                ticket.waiter.wake(ticket.generation);
                woken += 1;
            }
        }
        woken
    }
}
