// SPDX-License-Identifier: Apache-2.0
//! The other sides of the I/O server: a sandbox, and a guest kernel with a real window.

use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{Ordering, fence},
    thread,
    time::{Duration, Instant},
};

use rustix::event::EventfdFlags;
use trine_abi::window::{
    self, COMPLETION_BYTES, COMPLETIONS, CQ_HEAD, CQ_TAIL, Completion, DATA, KERNEL_SLEEPS,
    Operation, SERVER_SLEEPS, SMALL_BYTES, SQ_TAIL, SUBMISSION_BYTES, SUBMISSIONS, Submission,
    WINDOW_BYTES,
};
use trine_io::protocol::{
    Direction, NOTICE, Notice, PolicySpec, REQUEST, Request, StreamKind, StreamSpec,
};
use trine_jail::{
    Landlock,
    shared::{self, SharedMemory},
};
use trine_link::Link;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A sandbox with an I/O server on a thread of this process.
pub(crate) struct Sandbox {
    link: Link,
}

impl Sandbox {
    pub(crate) fn start() -> Self {
        let (link, theirs) = Link::pair().expect("socket pair");
        thread::spawn(move || {
            // A test that breaks the protocol looks at the notice.
            let _ = trine_io::serve(
                Link::from_descriptor(theirs),
                |_| Ok::<(), std::io::Error>(()),
                |_| Ok(()),
            );
        });
        Self::over(link)
    }

    pub(crate) fn over(link: Link) -> Self {
        Self::with_policy(link, None, &[])
    }

    /// With a policy, whose log is the file.
    pub(crate) fn with_policy(link: Link, policy: Option<&str>, log: &[BorrowedFd<'_>]) -> Self {
        let sandbox = Self { link };
        let setup = Request::Setup {
            name: "test".into(),
            network: false,
            policy: policy.map(spec),
            narrowing: None,
            audit: !log.is_empty(),
            landlock: Landlock::BestEffort,
            record: false,
        };
        sandbox.send(&setup, log);
        assert_eq!(sandbox.notice(), Notice::Ready);
        sandbox
    }

    pub(crate) fn send(&self, request: &Request, files: &[BorrowedFd<'_>]) {
        let payload = serde_json::to_vec(request).expect("json");
        self.link.send(REQUEST, &payload, files).expect("send");
    }

    pub(crate) fn notice(&self) -> Notice {
        let message = self.link.receive().expect("receive").expect("a notice");
        assert_eq!(message.kind, NOTICE);
        serde_json::from_slice(&message.payload).expect("json")
    }

    /// Attaches a kernel with streams; their handles are 1, 2, ...
    pub(crate) fn attach(&self, vm: u32, kernel: &Kernel, streams: &[TestStream<'_>]) {
        let mut files = kernel.files();
        let specs = specs(1, streams, &mut files);
        self.send(
            &Request::Attach {
                vm,
                container: "c".into(),
                streams: specs,
                volumes: vec![],
                narrowing: None,
            },
            &files,
        );
        assert_eq!(self.notice(), Notice::Attached { vm });
    }

    pub(crate) fn detach(&self, vm: u32, milliseconds: u32) -> u64 {
        self.send(&Request::Detach { vm, milliseconds }, &[]);
        match self.notice() {
            Notice::Detached { vm: number, lost_bytes } if number == vm => lost_bytes,
            other => panic!("{other:?} instead of a detach"),
        }
    }
}

/// A policy of this text.
pub(crate) fn spec(text: &str) -> PolicySpec {
    PolicySpec { name: "policy".into(), text: text.into(), interceptors: vec![] }
}

/// A stream to attach.
pub(crate) struct TestStream<'a> {
    pub(crate) file: BorrowedFd<'a>,
    pub(crate) hold: Option<BorrowedFd<'a>>,
    pub(crate) direction: Direction,
    pub(crate) kind: StreamKind,
}

pub(crate) fn input(file: BorrowedFd<'_>) -> TestStream<'_> {
    TestStream { file, hold: None, direction: Direction::In, kind: StreamKind::Borrowed }
}

pub(crate) fn output(file: BorrowedFd<'_>) -> TestStream<'_> {
    TestStream { file, hold: None, direction: Direction::Out, kind: StreamKind::Borrowed }
}

pub(crate) fn specs<'a>(
    first: u32,
    streams: &[TestStream<'a>],
    files: &mut Vec<BorrowedFd<'a>>,
) -> Vec<StreamSpec> {
    let mut specs = Vec::new();
    for (handle, stream) in (first..).zip(streams) {
        let (direction, kind, held) = (stream.direction, stream.kind, stream.hold.is_some());
        specs.push(StreamSpec { handle, direction, kind, held });
        files.push(stream.file);
        files.extend(stream.hold);
    }
    specs
}

/// A guest kernel: the other side of a window.
pub(crate) struct Kernel {
    file: OwnedFd,
    pub(crate) memory: SharedMemory,
    doorbell: OwnedFd,
    notify: OwnedFd,
    pub(crate) sq_tail: u32,
    pub(crate) cq_head: u32,
    pub(crate) doorbells: u32,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        let file = shared::create("window", WINDOW_BYTES as usize).expect("memfd");
        let memory = SharedMemory::map(file.as_fd(), WINDOW_BYTES as usize).expect("map");
        let eventfd = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
        Self {
            file,
            memory,
            doorbell: eventfd(),
            notify: eventfd(),
            sq_tail: 0,
            cq_head: 0,
            doorbells: 0,
        }
    }

    pub(crate) fn files(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.file.as_fd(), self.doorbell.as_fd(), self.notify.as_fd()]
    }

    /// Writes a raw entry without publishing it.
    pub(crate) fn put(&mut self, entry: &[u8; SUBMISSION_BYTES]) {
        let offset = window::entry_offset(SUBMISSIONS, self.sq_tail, SUBMISSION_BYTES);
        self.memory.write(offset, entry).expect("in the window");
        self.sq_tail = self.sq_tail.wrapping_add(1);
    }

    /// Publishes `tail` and rings if the server sleeps.
    pub(crate) fn publish(&mut self, tail: u32) {
        self.memory.store_release(SQ_TAIL, tail).expect("in the window");
        fence(Ordering::SeqCst);
        if self.memory.load_acquire(SERVER_SLEEPS).expect("in the window") == 1 {
            self.ring();
        }
    }

    pub(crate) fn ring(&mut self) {
        self.doorbells += 1;
        rustix::io::write(&self.doorbell, &1_u64.to_ne_bytes()).expect("doorbell");
    }

    pub(crate) fn submit(&mut self, request: Submission) {
        self.put(&request.encode());
        self.publish(self.sq_tail);
    }

    /// Takes one completion, asleep until it comes.
    pub(crate) fn completion(&mut self) -> Completion {
        self.completion_within(PATIENCE).expect("a completion in time")
    }

    pub(crate) fn completion_within(&mut self, patience: Duration) -> Option<Completion> {
        let until = Instant::now() + patience;
        loop {
            if self.memory.load_acquire(CQ_TAIL).expect("in the window") != self.cq_head {
                let mut entry = [0; COMPLETION_BYTES];
                let offset = window::entry_offset(COMPLETIONS, self.cq_head, COMPLETION_BYTES);
                self.memory.read(offset, &mut entry).expect("in the window");
                self.cq_head = self.cq_head.wrapping_add(1);
                self.memory.store_release(CQ_HEAD, self.cq_head).expect("in the window");
                return Some(Completion::decode(&entry));
            }
            self.memory.store_release(KERNEL_SLEEPS, 1).expect("in the window");
            fence(Ordering::SeqCst);
            if self.memory.load_acquire(CQ_TAIL).expect("in the window") == self.cq_head {
                let left = until.saturating_duration_since(Instant::now());
                if !readable(self.notify.as_fd(), left) {
                    return None;
                }
                rustix::io::read(&self.notify, &mut [0; 8]).expect("notification");
            }
            self.memory.store_release(KERNEL_SLEEPS, 0).expect("in the window");
        }
    }

    /// Writes `bytes` to a handle, whole, and returns the completion.
    pub(crate) fn write(&mut self, handle: u32, bytes: &[u8]) -> Completion {
        self.memory.write(DATA, bytes).expect("in the window");
        self.submit(write(0, handle, bytes.len()));
        self.completion()
    }

    /// Reads from a handle; `Err` is an errno.
    pub(crate) fn read(&mut self, handle: u32, bytes: usize) -> Result<Vec<u8>, u32> {
        self.submit(read(0, handle, bytes));
        let completion = self.completion();
        self.answer(&completion)
    }

    /// Writes encoded arguments; returns a request with them that has room for an answer.
    pub(crate) fn carry(
        &self,
        operation: Operation,
        handle: u32,
        argument: u64,
        input: &[u8],
    ) -> Submission {
        self.memory.write(DATA, input).expect("in the window");
        let (bytes, input) = (SMALL_BYTES, input.len() as u32);
        Submission { operation, id: 0, handle, bytes, data: 0, input, argument }
    }

    /// The bytes of the answer to a request with data at 0; `Err` is an errno.
    pub(crate) fn answer(&self, completion: &Completion) -> Result<Vec<u8>, u32> {
        if completion.errno != 0 {
            return Err(completion.errno);
        }
        let mut answer = vec![0; completion.result as usize];
        self.memory.read(DATA, &mut answer).expect("in the window");
        Ok(answer)
    }
}

/// Waits until a descriptor is readable.
pub(crate) fn readable(file: BorrowedFd<'_>, patience: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 1_000_000 };
    let mut polled = [PollFd::from_borrowed_fd(file, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&timeout)).expect("poll") > 0
}

pub(crate) fn read(id: u32, handle: u32, bytes: usize) -> Submission {
    Submission {
        operation: Operation::Read,
        id,
        handle,
        bytes: bytes as u32,
        data: 0,
        input: 0,
        argument: 0,
    }
}

pub(crate) fn write(id: u32, handle: u32, bytes: usize) -> Submission {
    Submission { operation: Operation::Write, ..read(id, handle, bytes) }
}

pub(crate) fn close(id: u32, handle: u32) -> Submission {
    Submission { operation: Operation::Close, ..read(id, handle, 0) }
}

pub(crate) fn cancel(id: u32, target: u32) -> Submission {
    Submission { operation: Operation::Cancel, argument: target.into(), ..read(id, 0, 0) }
}

/// Writes all of `bytes` on a thread, then closes.
pub(crate) fn feed(mut file: File, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    thread::spawn(move || file.write_all(&bytes).expect("feed"))
}

/// Bytes that differ everywhere, the same for the same seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        noise.extend_from_slice(&random.next().to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// xorshift64*.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn one_in(&mut self, number: u64) -> bool {
        self.next().is_multiple_of(number)
    }
}
