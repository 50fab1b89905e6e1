// SPDX-License-Identifier: Apache-2.0
//! Points in time at which something is woken.

use alloc::collections::BinaryHeap;
use core::cmp::Reverse;

use crate::{sync::Lock, wait::Ticket};

#[derive(Debug)]
struct Entry {
    deadline_ns: u64,
    order: u64,
    ticket: Ticket,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.deadline_ns, self.order).cmp(&(other.deadline_ns, other.order))
    }
}

#[derive(Debug, Default)]
struct Heap {
    entries: BinaryHeap<Reverse<Entry>>,
    order: u64,
    /// Stale entries are thrown out when the heap grows beyond this.
    prune_at: usize,
}

/// All timers, by deadline.  Whoever no longer waits leaves its entry: it is stale, and does
/// nothing.
#[derive(Debug, Default)]
pub struct Timers {
    heap: Lock<Heap>,
}

impl Timers {
    /// Wakes a ticket when CLOCK_MONOTONIC reaches a deadline.
    pub fn wake_at(&self, deadline_ns: u64, ticket: Ticket) {
        let mut heap = self.heap.lock();
        heap.order += 1;
        let order = heap.order;
        heap.entries.push(Reverse(Entry { deadline_ns, order, ticket }));
        if heap.entries.len() > heap.prune_at.max(64) {
            heap.entries.retain(|Reverse(e)| e.ticket.waiter.is_current(e.ticket.generation));
            heap.prune_at = heap.entries.len() * 2;
        }
    }

    /// The next deadline that matters.
    pub fn next_deadline(&self) -> Option<u64> {
        let mut heap = self.heap.lock();
        while let Some(Reverse(first)) = heap.entries.peek() {
            if first.ticket.waiter.is_current(first.ticket.generation) {
                return Some(first.deadline_ns);
            }
            heap.entries.pop();
        }
        None
    }

    /// Wakes everything whose deadline has come.
    pub fn expire(&self, now_ns: u64) {
        loop {
            let due = {
                let mut heap = self.heap.lock();
                match heap.entries.peek() {
                    Some(Reverse(first)) if first.deadline_ns <= now_ns => heap.entries.pop(),
                    _ => None,
                }
            };
            // Woken without the lock: what is woken may set its next deadline.
            let Some(Reverse(entry)) = due else { return };
            entry.ticket.waiter.wake(entry.ticket.generation);
        }
    }
}
