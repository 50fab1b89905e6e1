// SPDX-License-Identifier: Apache-2.0
//! Whether other vCPUs wait for the kernel's lock: who holds it then does nothing that can be left.

use core::sync::atomic::{AtomicU32, Ordering};

/// vCPUs that wait.
static WAITING: AtomicU32 = AtomicU32::new(0);

/// A vCPU that waits, as long as this lives.
#[derive(Debug)]
pub struct Waiting(());

impl Waiting {
    /// One more waits.
    pub fn begin() -> Self {
        WAITING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a vCPU waits.
pub fn is_wanted() -> bool {
    WAITING.load(Ordering::Relaxed) > 0
}
