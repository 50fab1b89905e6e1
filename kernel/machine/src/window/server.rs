// SPDX-License-Identifier: Apache-2.0
//! The other end of a window, for tests on a host: it takes requests and answers them.

extern crate alloc;

use alloc::alloc::alloc_zeroed;
use core::{alloc::Layout, sync::atomic::Ordering};

use trine_abi::window::{
    COMPLETION_BYTES, COMPLETIONS, CQ_TAIL, Completion, SQ_TAIL, SUBMISSION_BYTES, SUBMISSIONS,
    Submission, WINDOW_BYTES, entry_offset,
};

use super::Window;

/// The end of the I/O server.
#[derive(Debug)]
pub struct TestServer {
    /// The same memory.
    view: Window,
    taken: u32,
    answered: u32,
}

/// A window in heap memory, and who serves it.  It is leaked.
///
/// # Panics
/// If there is no memory.
pub fn for_tests() -> (Window, TestServer) {
    let layout = Layout::from_size_align(WINDOW_BYTES as usize, 4096).expect("a sane size");
    // SAFETY: the layout is not empty.
    let base = unsafe { alloc_zeroed(layout) };
    assert!(!base.is_null(), "out of memory for a test window");
    // SAFETY: zeroed, of that size and alignment, and leaked.
    let window = unsafe { Window::new(base, || {}) };
    // SAFETY: as above; all that both do to the memory is atomic or an opaque copy.
    let view = unsafe { Window::new(base, || {}) };
    (window, TestServer { view, taken: 0, answered: 0 })
}

impl TestServer {
    /// Takes the next request.
    ///
    /// # Panics
    /// If it makes no sense.
    pub fn take(&mut self) -> Option<Submission> {
        if self.view.word(SQ_TAIL).load(Ordering::Acquire) == self.taken {
            return None;
        }
        let mut entry = [0; SUBMISSION_BYTES];
        self.view.copy_out(entry_offset(SUBMISSIONS, self.taken, SUBMISSION_BYTES), &mut entry);
        self.taken = self.taken.wrapping_add(1);
        Some(Submission::check(&entry).expect("a well-formed request"))
    }

    /// Answers a request.
    pub fn answer(&mut self, completion: &Completion) {
        let at = entry_offset(COMPLETIONS, self.answered, COMPLETION_BYTES);
        self.view.copy_in(at, &completion.encode());
        self.answered = self.answered.wrapping_add(1);
        self.view.word(CQ_TAIL).store(self.answered, Ordering::Release);
    }
}
