// SPDX-License-Identifier: Apache-2.0
//! What the tests stand on.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, Weak},
    thread,
    time::Duration,
};

use rustix::{
    event::EventfdFlags,
    process::{Pid, Signal},
};
use trine_abi::{
    control::{Command, Event, INIT_KEY, Process},
    window::WINDOW_BYTES,
};
use trine_io::protocol::{REQUEST as IO_REQUEST, Request as IoRequest};
use trine_jail::{Landlock, shared::SharedMemory};
use trine_link::Link;
use trine_vmm::protocol::{COMMAND, EVENT, NOTICE, Notice, REQUEST, Request};

use crate::{
    Container, ExitStatus, Stdio, Stream,
    io_process::{IoProcess, Trouble},
    launch::{HostProcess, Launch},
    policy::Interceptor,
    reader,
    state::State,
    stdio::OpenStdio,
    vm::{Parts, Vm},
};

/// Longer than anything here takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What the VMM's end of a link received.
#[derive(Debug, PartialEq)]
pub(super) enum Received {
    Command(Command),
    Request(Request),
    End,
}

/// The VMM's end of a link, and the guest's side of the window.
pub(super) struct Guest {
    link: Link,
    pub(super) window: SharedMemory,
    pub(super) doorbell: OwnedFd,
}

impl Guest {
    pub(super) fn receive(&self) -> Received {
        assert!(self.link.wait(PATIENCE).expect("poll"), "nothing came");
        match self.link.receive().expect("receive") {
            None => Received::End,
            Some(message) if message.kind == COMMAND => {
                Received::Command(Command::decode(&message.payload).expect("a command"))
            }
            Some(message) => {
                assert_eq!(message.kind, REQUEST);
                Received::Request(serde_json::from_slice(&message.payload).expect("a request"))
            }
        }
    }

    pub(super) fn command(&self) -> Command {
        match self.receive() {
            Received::Command(command) => command,
            other => panic!("{other:?} instead of a command"),
        }
    }

    pub(super) fn event(&self, event: &Event) {
        self.raw_event(&event.encode());
    }

    pub(super) fn raw_event(&self, bytes: &[u8]) {
        self.link.send(EVENT, bytes, &[]).expect("send");
    }

    pub(super) fn notice(&self, notice: &Notice) {
        let payload = serde_json::to_vec(notice).expect("json");
        self.link.send(NOTICE, &payload, &[]).expect("send");
    }

    pub(super) fn exited(&self, key: u32, status: u32) {
        self.event(&Event::Exited { key, status });
    }
}

/// A container whose first process is loaded.
pub(super) struct Rig {
    pub(super) container: Arc<Container>,
    pub(super) guest: Guest,
    pub(super) exits: Arc<Mutex<Vec<(String, u32)>>>,
    pub(super) io: Arc<IoProcess>,
    /// The other end of the I/O process's link.
    pub(super) io_peer: Link,
    /// Stands for the VMM: holds its end of the link, and reads nothing.
    pub(super) vmm_pid: u32,
    _cleanup: Cleanup,
}

/// Ends the processes that stand for others, which would outlive the test.
struct Cleanup {
    vm: Arc<Vm>,
    io_pid: u32,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        self.vm.process.kill();
        // A child that nobody reaps, so that the number is still its own.
        let pid = Pid::from_raw(self.io_pid.cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, Signal::KILL).expect("killed");
    }
}

fn sleeper(link: OwnedFd) -> HostProcess {
    let log = File::options().write(true).open("/dev/null").expect("/dev/null");
    let program = Path::new("/bin/sleep");
    Launch { program, name: "1000", link, log: &log, cgroup: None }.start().expect("sleep")
}

fn io_process(interceptors: &[Interceptor]) -> (Arc<IoProcess>, Link) {
    let (sender, theirs) = Link::pair().expect("link");
    let receiver = sender.try_clone().expect("clone");
    let peer = theirs.try_clone().expect("clone");
    let serving = Link::from_descriptor(theirs);
    thread::spawn(move || {
        let _ = trine_io::serve(serving, |_| Ok::<(), std::io::Error>(()), |_| Ok(()));
    });
    let setup = serde_json::to_vec(&IoRequest::Setup {
        name: "test".into(),
        network: false,
        policy: None,
        narrowing: None,
        audit: false,
        landlock: Landlock::Off,
        record: false,
    })
    .expect("json");
    sender.send(IO_REQUEST, &setup, &[]).expect("send");
    // Its process stands for nothing but a process id.
    let (_, other) = Link::pair().expect("link");
    (
        Arc::new(IoProcess::new(sleeper(other), sender, receiver, ("test", interceptors))),
        Link::from_descriptor(peer),
    )
}

pub(super) fn null() -> Stdio {
    Stdio { stdin: Stream::Null, stdout: Stream::Null, stderr: Stream::Null }
}

pub(super) fn process(terminal: bool) -> Process {
    Process { args: vec![b"/bin/sh".to_vec()], terminal, ..Process::default() }
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(null(), false)
    }

    /// A container that runs.
    pub(super) fn running() -> Self {
        let rig = Self::new();
        rig.start();
        rig
    }

    pub(super) fn start(&self) {
        self.container.start("").expect("started");
        assert_eq!(self.guest.command(), Command::Start { key: INIT_KEY });
    }

    pub(super) fn with(stdio: Stdio, terminal: bool) -> Self {
        Self::make(stdio, terminal, &[])
    }

    /// With functions that may be asked about calls.
    pub(super) fn with_interceptors(interceptors: &[Interceptor]) -> Self {
        Self::make(null(), false, interceptors)
    }

    fn make(stdio: Stdio, terminal: bool, interceptors: &[Interceptor]) -> Self {
        let (io, io_peer) = io_process(interceptors);
        let (sender, theirs) = Link::pair().expect("link");
        sender.set_send_timeout(crate::vm::SEND_PATIENCE).expect("timeout");
        let receiver = sender.try_clone().expect("clone");
        let link = Link::from_descriptor(theirs.try_clone().expect("clone"));
        let process = sleeper(theirs);
        let vmm_pid = process.pid();

        let mut next_number = 1;
        let stdio = OpenStdio::open(stdio, terminal, || {
            next_number += 1;
            next_number - 1
        });
        let stdio = stdio.expect("streams");
        let state = State::new("c".into(), &super::rig::process(terminal), stdio.handles);
        let parts = Parts {
            number: 1,
            process,
            io: Arc::clone(&io),
            cgroup: None,
            log: None,
            receiver,
            sender,
            state,
            next_number,
        };
        let vm = Arc::new(Vm::new(parts));
        let (reading, watched) = (Arc::clone(&io), Arc::clone(&vm));
        thread::spawn(move || {
            reading.read(|trouble| match trouble {
                Trouble::Vm(_, reason) | Trouble::All(reason) => watched.fail(&reason),
            });
        });
        let reading = Arc::clone(&vm);
        thread::spawn(move || reader::run(&reading));

        let window = trine_jail::shared::create("w", WINDOW_BYTES as usize).expect("window");
        let eventfd = || {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            rustix::event::eventfd(0, flags).expect("eventfd")
        };
        let (doorbell, notify) = (eventfd(), eventfd());
        io.attach(1, ("c", None), [window.as_fd(), doorbell.as_fd(), notify.as_fd()], &stdio, &[])
            .expect("attach");
        io.await_attached(1).expect("attached");
        let window = SharedMemory::map(window.as_fd(), WINDOW_BYTES as usize).expect("map");

        let exits = Arc::new(Mutex::new(Vec::new()));
        let container = Arc::new(Container::new("c".into(), Arc::clone(&vm), Weak::new()));
        let told = Arc::clone(&exits);
        container.on_exit(Box::new(move |process, status: ExitStatus| {
            told.lock().expect("lock").push((process.to_owned(), status.code));
        }));
        let guest = Guest { link, window, doorbell };
        guest.event(&Event::Spawned { key: INIT_KEY, pid: 1 });
        vm.wait_for(Some(PATIENCE), |state| {
            (state.phase == crate::state::Phase::Created).then_some(())
        })
        .expect("loaded");
        let _cleanup = Cleanup { vm, io_pid: io.pid() };
        Self { container, guest, exits, io, io_peer, vmm_pid, _cleanup }
    }

    /// Registers and starts an exec; returns its key.
    pub(super) fn run_exec(&self, id: &str) -> u32 {
        self.container.exec(id, process(false), null()).expect("registered");
        thread::scope(|scope| {
            let starting = scope.spawn(|| self.container.start(id));
            let Command::Spawn(process) = self.guest.command() else { panic!("no spawn") };
            self.guest.event(&Event::Spawned { key: process.key, pid: 100 + process.key });
            starting.join().expect("joined").expect("started");
            assert_eq!(self.guest.command(), Command::Start { key: process.key });
            process.key
        })
    }

    pub(super) fn exits(&self) -> Vec<(String, u32)> {
        self.exits.lock().expect("lock").clone()
    }

    pub(super) fn exit_of(&self, process: &str) -> u32 {
        self.container.wait(process).expect("an exit").code
    }
}
