// SPDX-License-Identifier: Apache-2.0
//! The kernel's end of the window to the I/O server (`trine_abi::window`).
//!
//! Request `id` owns the data bytes `id * BUFFER_BYTES ..` as long as it is in flight: allotting
//! an id allots its buffer.  A bulk request ([`Window::begin_bulk`]) has one of a few large buffers
//! instead.

mod server;

use core::sync::atomic::{AtomicU32, Ordering, fence};

use trine_abi::{
    boot::BootInfo,
    layout::DIRECT_MAP,
    window::{
        BULK_BUFFERS, BULK_BYTES, COMPLETION_BYTES, COMPLETIONS, CQ_HEAD, CQ_TAIL, Completion,
        DATA, ENTRIES, KERNEL_SLEEPS, Operation, SERVER_SLEEPS, SMALL_BYTES, SQ_TAIL,
        SUBMISSION_BYTES, SUBMISSIONS, Submission, WINDOW_BYTES, entry_offset, waiting,
    },
};

pub use self::server::{TestServer, for_tests};
use crate::{cpu, raw};

/// Bytes of the buffer of one request.
pub const BUFFER_BYTES: usize = SMALL_BYTES as usize;
/// Bytes of the buffer of one bulk request.
pub const BULK_BUFFER_BYTES: usize = BULK_BYTES as usize;

/// The window.
#[derive(Debug)]
pub struct Window {
    base: *mut u8,
    /// Rings the doorbell.
    ring_fn: fn(),
    /// Bit `id` set: free.
    free: u64,
    /// Bit set: the large buffer is free.
    free_bulk: u32,
    /// The large buffer of each request.
    bulk: [Option<u8>; ENTRIES as usize],
    sq_tail: u32,
    cq_head: u32,
}

// SAFETY: the window's memory is shared with another process anyway: every access is atomic or an
// opaque copy, and `&mut self` serialises the kernel's side.
unsafe impl Send for Window {}

/// A buffer that waits to be submitted, or whose completion has come.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    id: u32,
    bulk: Option<u8>,
}

impl Request {
    /// Its number, below `ENTRIES`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Bytes of its buffer.
    pub fn capacity(&self) -> usize {
        if self.bulk.is_some() { BULK_BUFFER_BYTES } else { BUFFER_BYTES }
    }

    /// Where its buffer begins in the data area.
    fn data(&self) -> usize {
        match self.bulk {
            Some(bulk) => ENTRIES as usize * BUFFER_BYTES + usize::from(bulk) * BULK_BUFFER_BYTES,
            None => self.id as usize * BUFFER_BYTES,
        }
    }
}

impl Window {
    /// Takes over the window's memory, whose rings must be empty.
    ///
    /// # Safety
    /// `base` is mapped and writable for `WINDOW_BYTES`, for ever, and 64-byte aligned.
    pub unsafe fn new(base: *mut u8, ring_fn: fn()) -> Self {
        Self {
            base,
            ring_fn,
            free: u64::MAX,
            free_bulk: (1 << BULK_BUFFERS) - 1,
            bulk: [None; ENTRIES as usize],
            sq_tail: 0,
            cq_head: 0,
        }
    }

    /// The window that the VMM mapped, if it did.
    ///
    /// # Safety
    /// Only in the guest, and once.
    pub unsafe fn of_guest(info: &BootInfo) -> Option<Self> {
        let base = (DIRECT_MAP + info.window) as *mut u8;
        // SAFETY: the VMM mapped a whole window there.
        (info.window != 0).then(|| unsafe { Self::new(base, cpu::doorbell) })
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < SUBMISSIONS);
        // SAFETY: aligned and within the window.
        unsafe { AtomicU32::from_ptr(self.base.wrapping_add(offset).cast()) }
    }

    fn copy_in(&self, offset: usize, from: &[u8]) {
        assert!(offset + from.len() <= WINDOW_BYTES as usize);
        // SAFETY: within the window; `from` is private memory.
        unsafe { raw::copy(from.as_ptr(), self.base.wrapping_add(offset), from.len()) };
    }

    fn copy_out(&self, offset: usize, to: &mut [u8]) {
        assert!(offset + to.len() <= WINDOW_BYTES as usize);
        // SAFETY: within the window; `to` is private memory.
        unsafe { raw::copy(self.base.wrapping_add(offset), to.as_mut_ptr(), to.len()) };
    }

    /// Takes a free request and its buffer; `None` while all are in flight.
    pub fn begin(&mut self) -> Option<Request> {
        let id = self.free.trailing_zeros();
        (id < ENTRIES).then(|| {
            self.free &= !(1 << id);
            Request { id, bulk: None }
        })
    }

    /// Takes a free request with a large buffer; `None` while there is none.
    pub fn begin_bulk(&mut self) -> Option<Request> {
        let bulk = self.free_bulk.trailing_zeros();
        if bulk >= BULK_BUFFERS {
            return None;
        }
        let mut request = self.begin()?;
        self.free_bulk &= !(1 << bulk);
        request.bulk = Some(bulk as u8);
        self.bulk[request.id as usize] = request.bulk;
        Some(request)
    }

    /// Gives a request back that was not submitted, or whose completion was handled.
    pub fn end(&mut self, request: Request) {
        if let Some(bulk) = self.bulk[request.id as usize].take() {
            self.free_bulk |= 1 << bulk;
        }
        self.free |= 1 << request.id;
    }

    /// Copies into a request's buffer, from `offset` on; returns how many bytes fit.
    pub fn write(&self, request: &Request, offset: usize, from: &[u8]) -> usize {
        let bytes = from.len().min(request.capacity().saturating_sub(offset));
        self.copy_in(DATA + request.data() + offset, &from[..bytes]);
        bytes
    }

    /// Copies out of a request's buffer, from `offset` on; returns how many bytes there were.
    pub fn read(&self, request: &Request, offset: usize, to: &mut [u8]) -> usize {
        let bytes = to.len().min(request.capacity().saturating_sub(offset));
        self.copy_out(DATA + request.data() + offset, &mut to[..bytes]);
        bytes
    }

    /// Submits a request that may use the first `bytes` of its buffer, of which the first `input`
    /// are arguments.  The id comes back from [`Window::poll`].
    pub fn submit(
        &mut self,
        request: Request,
        operation: Operation,
        handle: u32,
        bytes: usize,
        input: usize,
        argument: u64,
    ) {
        let bytes = bytes.min(request.capacity());
        let entry = Submission {
            operation,
            id: request.id,
            handle,
            bytes: bytes as u32,
            data: request.data() as u32,
            input: input.min(bytes) as u32,
            argument,
        };
        self.copy_in(entry_offset(SUBMISSIONS, self.sq_tail, SUBMISSION_BYTES), &entry.encode());
        self.sq_tail = self.sq_tail.wrapping_add(1);
        self.word(SQ_TAIL).store(self.sq_tail, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.word(SERVER_SLEEPS).load(Ordering::Relaxed) != 0 {
            (self.ring_fn)();
        }
    }

    /// Takes the next completion.
    pub fn poll(&mut self) -> Option<(Request, Completion)> {
        let tail = self.word(CQ_TAIL).load(Ordering::Acquire);
        if waiting(self.cq_head, tail)? == 0 {
            return None;
        }
        let mut entry = [0; COMPLETION_BYTES];
        self.copy_out(entry_offset(COMPLETIONS, self.cq_head, COMPLETION_BYTES), &mut entry);
        self.cq_head = self.cq_head.wrapping_add(1);
        self.word(CQ_HEAD).store(self.cq_head, Ordering::Release);
        let completion = Completion::decode(&entry);
        let in_flight = completion.id < ENTRIES && self.free >> completion.id & 1 == 0;
        in_flight.then(|| {
            let bulk = self.bulk[completion.id as usize];
            (Request { id: completion.id, bulk }, completion)
        })
    }

    /// Asks for a notification at the next completion, or not; returns whether one is there already.
    pub fn set_sleeping(&self, sleeping: bool) -> bool {
        self.word(KERNEL_SLEEPS).store(u32::from(sleeping), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.word(CQ_TAIL).load(Ordering::Acquire) != self.cq_head
    }

    /// Whether a completion waits to be taken.
    pub fn has_news(&self) -> bool {
        self.word(CQ_TAIL).load(Ordering::Acquire) != self.cq_head
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        ENTRIES - self.free.count_ones()
    }
}
