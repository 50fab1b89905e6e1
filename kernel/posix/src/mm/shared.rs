// SPDX-License-Identifier: Apache-2.0
//! Shared anonymous memory: the pages of a MAP_SHARED | MAP_ANONYMOUS mapping.

use alloc::{collections::BTreeMap, sync::Arc};

use trine_machine::{Arena, Frame};

use crate::sync::Lock;

/// Pages that several memories map.
#[derive(Debug, Default)]
pub struct SharedMemory {
    pages: Lock<BTreeMap<u64, Frame>>,
}

impl SharedMemory {
    /// Makes an object without pages.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The page with an index, made if it is not there; `None` when no frame is free.
    pub fn page(&self, index: u64, arena: &'static Arena) -> Option<Frame> {
        let mut pages = self.pages.lock();
        if let Some(frame) = pages.get(&index) {
            return Some(frame.clone());
        }
        let frame = Frame::zeroed(arena)?;
        pages.insert(index, frame.clone());
        Some(frame)
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.pages.lock().len() as u64
    }

    /// Frees the pages from `start` to `end` (madvise MADV_REMOVE).
    pub fn remove(&self, start: u64, end: u64) {
        self.pages.lock().retain(|index, _| !(start..end).contains(index));
    }
}
