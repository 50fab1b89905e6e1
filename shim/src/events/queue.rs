// SPDX-License-Identifier: Apache-2.0
//! The queue between tasks, which must not wait, and containerd, which may be away.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time};

use super::Event;
use crate::log;

/// Most events that wait: minutes of churn in a large pod, some hundred KiB.
const CAPACITY: usize = 4096;

/// An event that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued {
    /// When it happened.
    pub at: SystemTime,
    /// What happened.
    pub event: Event,
}

/// Events in the order in which they happened.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<VecDeque<Queued>>,
    /// How many wait, the one under way included.
    count: watch::Sender<usize>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: Mutex::default(), count: watch::Sender::new(0) }
    }
}

impl Queue {
    /// Adds an event, without waiting; when the queue is full the oldest is lost.
    pub fn push(&self, event: Event) {
        let mut waiting = self.lock();
        if waiting.len() == CAPACITY {
            waiting.pop_front();
            log::error("an event was lost: containerd takes none, and the queue is full");
        }
        waiting.push_back(Queued { at: SystemTime::now(), event });
        self.count.send_replace(waiting.len());
    }

    /// Waits for an event and returns it; it stays the first until [`Queue::done`].
    pub async fn first(&self) -> Queued {
        let mut count = self.count.subscribe();
        loop {
            if let Some(first) = self.lock().front() {
                return first.clone();
            }
            // The sender lives as long as `self`.
            let _ = count.wait_for(|count| *count > 0).await;
        }
    }

    /// Removes the first event if it still is this one.
    pub fn done(&self, first: &Queued) {
        let mut waiting = self.lock();
        if waiting.front() == Some(first) {
            waiting.pop_front();
        }
        self.count.send_replace(waiting.len());
    }

    /// Waits until nothing waits; says whether that came about in time.
    pub async fn flushed(&self, timeout: Duration) -> bool {
        let mut count = self.count.subscribe();
        time::timeout(timeout, count.wait_for(|count| *count == 0)).await.is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Queued>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: usize) -> Event {
        Event::OutOfMemory { id: number.to_string() }
    }

    #[tokio::test]
    async fn queue_keeps_order_and_an_event_until_it_is_done() {
        let queue = Queue::default();
        queue.push(event(1));
        queue.push(event(2));
        let first = queue.first().await;
        assert_eq!(first.event, event(1));
        assert_eq!(queue.first().await, first, "not done, so it comes again");
        queue.done(&first);
        queue.done(&first);
        assert_eq!(queue.first().await.event, event(2));
        assert!(!queue.flushed(Duration::from_millis(1)).await);
        queue.done(&queue.first().await);
        assert!(queue.flushed(Duration::from_millis(1)).await);
    }

    #[tokio::test]
    async fn queue_is_bounded_and_loses_the_oldest() {
        let queue = Queue::default();
        for number in 0..CAPACITY + 3 {
            queue.push(event(number));
        }
        assert_eq!(queue.lock().len(), CAPACITY);
        assert_eq!(queue.first().await.event, event(3));
    }
}
