// SPDX-License-Identifier: Apache-2.0
//! A guest's kernel whose calls are bytes, in front of an I/O server.
//!
//! The server runs on threads of this process, in a network namespace of its own, with one volume.
//! Bytes are read as calls: an operation, a handle among those that were given out, an argument and
//! input.  Words of the window can be overwritten at any time, also while calls are under way.

use std::{
    collections::VecDeque,
    env, fs,
    os::fd::{AsFd, OwnedFd},
    panic,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::event::EventfdFlags;
use tempfile::TempDir;
use trine_abi::{
    file::FIRST_VOLUME,
    window::{
        self, CQ_HEAD, CQ_TAIL, DATA, ENTRIES, Operation, SMALL_BYTES, SQ_TAIL, SUBMISSION_BYTES,
        SUBMISSIONS, Submission, WINDOW_BYTES,
    },
};
use trine_io::protocol::{NOTICE, Notice, REQUEST, Request, VolumeSpec};
use trine_jail::{
    Landlock, mount, network,
    shared::{self, SharedMemory},
};
use trine_link::Link;

/// How long the server may take to answer the sandbox.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a call is waited for that may have to wait for others.
const MOMENT: Duration = Duration::from_millis(2);

static PANICKED: AtomicBool = AtomicBool::new(false);

/// An I/O server, and the tree in which its volume is.
#[derive(Debug)]
pub struct Ground {
    link: Link,
    tree: TempDir,
    vms: u32,
}

impl Ground {
    /// Starts the server; nothing if this process is not root.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let inherited = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICKED.store(true, Ordering::SeqCst);
            inherited(info);
        }));
        // Where a confined server finds its descriptors.
        env::set_current_dir("/proc/self/fd").expect("the own descriptors");
        let (link, theirs) = Link::pair().expect("a link");
        thread::spawn(move || {
            let serving = Link::from_descriptor(theirs);
            let _ = trine_io::serve(serving, network::enter, |_| Ok(()));
        });
        let tree = tempfile::tempdir().expect("a directory");
        fs::write(tree.path().join("canary"), "secret").expect("written");
        let ground = Self { link, tree, vms: 0 };
        let setup = Request::Setup {
            name: "fuzz".into(),
            network: false,
            policy: None,
            narrowing: None,
            audit: false,
            record: false,
            landlock: Landlock::BestEffort,
        };
        ground.send(&setup, &[]);
        assert_eq!(ground.notice(), Notice::Ready);
        Some(ground)
    }

    fn send(&self, request: &Request, files: &[&OwnedFd]) {
        let payload = serde_json::to_vec(request).expect("json");
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        self.link.send(REQUEST, &payload, &files).expect("sent");
    }

    fn notice(&self) -> Notice {
        let message = self.link.receive().expect("received").expect("the server is there");
        assert_eq!(message.kind, NOTICE);
        serde_json::from_slice(&message.payload).expect("json")
    }

    fn volume(&self) -> PathBuf {
        self.tree.path().join("volume")
    }

    /// Makes the calls that some bytes stand for, and checks that nothing outside changed.
    ///
    /// # Panics
    /// If the server did, if it does not answer, or if the file beside the volume was touched.
    pub fn run(&mut self, bytes: &[u8]) {
        self.vms += 1;
        let vm = self.vms;
        let volume = self.volume();
        fs::create_dir_all(volume.join("d")).expect("mkdir");
        fs::write(volume.join("f"), "inside").expect("written");
        // A name may have been made a loop, or be there already.
        let _ = std::os::unix::fs::symlink("../canary", volume.join("l"));
        let root = mount::detached(&volume, true, false).expect("a mount");
        let eventfd = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let file = shared::create("window", WINDOW_BYTES as usize).expect("a memfd");
        let memory = SharedMemory::map(file.as_fd(), WINDOW_BYTES as usize).expect("mapped");
        let (doorbell, notify) = (eventfd(), eventfd());
        let volumes =
            vec![VolumeSpec { handle: FIRST_VOLUME, readonly: false, destination: "/d".into() }];
        let container = "c".into();
        let attach = Request::Attach { vm, container, streams: vec![], volumes, narrowing: None };
        self.send(&attach, &[&file, &doorbell, &notify, &root]);
        assert_eq!(self.notice(), Notice::Attached { vm });
        let mut guest = Guest { memory, doorbell, tail: 0, handles: VecDeque::new() };
        guest.play(bytes);
        drop(guest);

        self.send(&Request::Detach { vm, milliseconds: 1 }, &[]);
        let end = Instant::now() + PATIENCE;
        loop {
            match self.notice() {
                Notice::Detached { vm: number, .. } if number == vm => break,
                Notice::Violation { vm: number, .. } if number == vm => {}
                other => panic!("{other:?}"),
            }
            assert!(Instant::now() < end, "the server does not detach");
        }
        assert!(!PANICKED.load(Ordering::SeqCst), "a thread of the server panicked");
        let canary = fs::read(self.tree.path().join("canary")).expect("the canary");
        assert_eq!(canary, b"secret");
        let beside = fs::read_dir(self.tree.path()).expect("listed").count();
        assert_eq!(beside, 2, "something was made beside the volume");
        fs::remove_dir_all(&volume).expect("removed");
    }
}

struct Guest {
    memory: SharedMemory,
    doorbell: OwnedFd,
    tail: u32,
    /// What the server gave out lately.
    handles: VecDeque<u32>,
}

/// Takes values off the front of bytes; zeros when there are no more.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self, count: usize) -> u64 {
        let mut word = [0; 8];
        let taken = self.take(count);
        word[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(word)
    }
}

impl Guest {
    fn play(&mut self, bytes: &[u8]) {
        let mut source = Source(bytes);
        let mut id = 0;
        while !source.0.is_empty() {
            if source.number(1) == 0xff {
                // Any word of the window, at any time.
                let at = (source.number(4) as usize) % (WINDOW_BYTES as usize - 4);
                let word = source.take(4);
                self.memory.write(at, word).expect("in the window");
                continue;
            }
            let operation = Operation::ALL[source.number(1) as usize % Operation::ALL.len()];
            let handle = self.handle(source.number(1) as u8);
            let width = [0, 1, 4, 8][source.number(1) as usize % 4];
            let argument = source.number(width);
            let length = source.number(1) as usize;
            let input = source.take(length);
            let data = id * SMALL_BYTES;
            self.memory.write(DATA + data as usize, input).expect("in the window");
            let input = input.len() as u32;
            let bytes = SMALL_BYTES;
            self.submit(&Submission { operation, id, handle, bytes, data, input, argument });
            id = (id + 1) % ENTRIES;
            self.collect();
        }
    }

    fn handle(&self, choice: u8) -> u32 {
        match choice {
            0..=63 => FIRST_VOLUME,
            64..=247 => {
                let index = usize::from(choice) % self.handles.len().max(1);
                self.handles.get(index).copied().unwrap_or(FIRST_VOLUME)
            }
            _ => u32::from(choice) - 248,
        }
    }

    fn submit(&mut self, request: &Submission) {
        let at = window::entry_offset(SUBMISSIONS, self.tail, SUBMISSION_BYTES);
        self.memory.write(at, &request.encode()).expect("in the window");
        self.tail = self.tail.wrapping_add(1);
        self.memory.store_release(SQ_TAIL, self.tail).expect("in the window");
        rustix::io::write(&self.doorbell, &1_u64.to_ne_bytes()).expect("rung");
    }

    /// Takes what is answered, for a moment; words of answers may be handles.
    fn collect(&mut self) {
        let end = Instant::now() + MOMENT;
        loop {
            let tail = self.memory.load_acquire(CQ_TAIL).expect("in the window");
            if tail == self.tail || Instant::now() > end {
                self.memory.store_release(CQ_HEAD, tail).expect("in the window");
                break;
            }
            thread::yield_now();
        }
        let mut answer = [0; 256];
        let latest = self.tail.wrapping_sub(1) % ENTRIES;
        let at = DATA + (latest * SMALL_BYTES) as usize;
        self.memory.read(at, &mut answer).expect("in the window");
        for word in answer.windows(4) {
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            // Handles of nodes and files are numbered from here.
            if (word & 0xffff_0000 == 0x5000_0000) && !self.handles.contains(&word) {
                self.handles.push_front(word);
            }
        }
        self.handles.truncate(64);
    }
}
