// SPDX-License-Identifier: Apache-2.0
//! A machine without a CPU, for tests on a host: a kernel over heap memory with a tmpfs root, whose
//! tasks make the system calls that a test tells them to.

mod core_dump;
mod cpu_time;
pub(crate) mod elf;
mod exec;
mod fork;
mod futex;
mod hostile;
mod ipc;
mod memory;
mod mqueue;
mod pi;
mod pidfd;
mod privileges;
mod ptrace;
mod remote;
mod seccomp;
mod signals;
mod text;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    vec::Vec,
};

use trine_abi::control::{Command, Event, NO_HANDLE, Process as Spec};
use trine_machine::{arena::for_tests, context::Trap};

use crate::{
    Errno, Kernel,
    fs::{
        FsContext, Location, Vfs,
        dentry::Dentry,
        erofs::Erofs,
        memory::{MemFs, root_directory},
        mount::MountFlags,
        open::{How, Opener},
        types::OpenFlags,
        walk::Walk,
    },
    io::SliceSource,
    kernel::BootOptions,
    process::{Creds, TaskRef, creds::CAP_ALL},
    services::Services,
};

/// Size of the RAM of a test.
const RAM_BYTES: u64 = 32 << 20;

std::thread_local! {
    static NOW_NS: AtomicU64 = const { AtomicU64::new(1_000_000_000) };
}

/// The clock of a test: it moves by a microsecond at each look, and when the test says so.
fn now_ns() -> u64 {
    NOW_NS.with(|now| now.fetch_add(1000, Ordering::Relaxed))
}

/// Lets time pass.
pub(crate) fn pass_ns(ns: u64) {
    NOW_NS.with(|now| now.fetch_add(ns, Ordering::Relaxed));
}

/// A kernel with a container.
pub(crate) struct World {
    pub(crate) kernel: Kernel,
    pub(crate) events: Vec<Event>,
}

/// A result of a system call, as a number or an errno.
pub(crate) type Outcome = Result<u64, Errno>;

impl World {
    /// A container whose root is an empty tmpfs with `/bin/init`.
    pub(crate) fn new() -> Self {
        Self::with_ram(RAM_BYTES)
    }

    pub(crate) fn with_ram(bytes: u64) -> Self {
        Self::with_root(bytes, &[])
    }

    /// A container whose root is an image under a writable file system, with `/bin/init`.
    pub(crate) fn over_image(image: &'static [u8]) -> Self {
        Self::with_root(RAM_BYTES, image)
    }

    fn with_root(bytes: u64, image: &'static [u8]) -> Self {
        let arena = for_tests(bytes, image);
        let services = Services::new(arena, now_ns, 0, None, [7; 32]);
        services.rewritten_text.store(true, Ordering::Relaxed);
        let vfs = Vfs::new(services.clone());
        let device = vfs.new_device();
        let (fs, root) = if image.is_empty() {
            let root = root_directory(0o755, 0, 0);
            MemFs::tmpfs(services.clone(), device, "tmpfs", bytes / 2, &root)
        } else {
            let image = Erofs::open(image).expect("a good image");
            MemFs::overlay(services.clone(), device, image).expect("a good root")
        };
        let flags = MountFlags::default();
        let mount = vfs.mount(None, fs, Dentry::root(root, b""), b"tmpfs", &flags);
        let root = Location { dentry: mount.root().clone(), mount };
        let mut kernel = Kernel::new(services, BootOptions::default());
        kernel.container = Some(FsContext::new(vfs, root));
        let world = Self { kernel, events: Vec::new() };
        world.add_dir("bin");
        world.add_file("/bin/init", 0o755, &elf::Builder::small().build());
        world
    }

    pub(crate) fn context(&self) -> FsContext {
        self.kernel.container.clone().expect("configured")
    }

    pub(crate) fn add_dir(&self, name: &str) {
        let context = self.context();
        let new = root_directory(0o755, 0, 0);
        context.create(&Creds::root(), &context.root, name.as_bytes(), &new).expect("room");
    }

    pub(crate) fn add_file(&self, path: &str, mode: u32, contents: &[u8]) {
        let context = self.context();
        let flags = OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::TRUNC;
        let how = How { flags, mode, walk: Walk::empty() };
        let opener = Opener { ticket: None, task: 0 };
        let mut place = context.clone();
        place.umask = 0;
        let file = place
            .open(&Creds::root(), &context.root, path.as_bytes(), how, &opener)
            .expect("a new file");
        let mut source = SliceSource(contents);
        while !source.0.is_empty() {
            file.write(&mut source).expect("room");
        }
    }

    /// What the control channel is told to load.
    pub(crate) fn spec(key: u32, args: &[&str]) -> Spec {
        Spec {
            key,
            args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            env: vec![b"PATH=/bin".to_vec()],
            cwd: b"/".to_vec(),
            capabilities: [CAP_ALL, CAP_ALL, 0, CAP_ALL, 0],
            stdio: [NO_HANDLE; 3],
            umask: 0o022,
            ..Spec::default()
        }
    }

    /// Loads and starts a process; returns its first thread.
    pub(crate) fn start(&mut self, key: u32, args: &[&str]) -> TaskRef {
        self.kernel.command(Command::Spawn(Self::spec(key, args)));
        let events = self.kernel.take_events();
        let [Event::Spawned { pid, .. }] = events[..] else { panic!("not spawned: {events:?}") };
        self.kernel.command(Command::Start { key });
        let task = self.kernel.services.registry.task(pid).expect("a thread");
        self.run();
        task
    }

    /// A world with init, and init.
    pub(crate) fn with_init() -> (Self, TaskRef) {
        let mut world = Self::new();
        let init = world.start(0, &["/bin/init"]);
        (world, init)
    }

    /// Lets everything happen that can without application code.
    pub(crate) fn run(&mut self) {
        while let Some(task) = self.kernel.next_task() {
            self.kernel.put_down(&task);
        }
        let events = self.kernel.take_events();
        self.events.extend(events);
    }

    /// Makes a system call; the value as RAX has it.  `None` if it blocks.
    pub(crate) fn raw_call(&mut self, task: &TaskRef, number: u64, args: &[u64]) -> Option<i64> {
        {
            let mut registers = task.registers.lock();
            let mut values = args.iter().copied().chain(std::iter::repeat(0));
            let mut next = || values.next().unwrap_or(0);
            registers.rax = number;
            registers.rdi = next();
            registers.rsi = next();
            registers.rdx = next();
            registers.r10 = next();
            registers.r8 = next();
            registers.r9 = next();
            registers.rip += 2;
        }
        self.kernel.trap(task, Trap::SystemCall);
        self.run();
        let blocked = task.run.lock().call.is_some();
        (!blocked).then(|| task.registers.lock().rax.cast_signed())
    }

    /// Makes a system call; `None` if it blocks.
    pub(crate) fn try_call(
        &mut self,
        task: &TaskRef,
        number: u64,
        args: &[u64],
    ) -> Option<Outcome> {
        self.raw_call(task, number, args).map(|_| Self::result(task))
    }

    /// What is in RAX.
    pub(crate) fn result(task: &TaskRef) -> Outcome {
        let value = task.registers.lock().rax.cast_signed();
        if (-4095..0).contains(&value) { Err(errno(-value)) } else { Ok(value.cast_unsigned()) }
    }

    /// Makes a system call that must not block.
    #[track_caller]
    pub(crate) fn call(&mut self, task: &TaskRef, number: u64, args: &[u64]) -> Outcome {
        self.try_call(task, number, args).expect("the call blocks")
    }

    /// A kick interrupts application code.
    pub(crate) fn kick(&mut self, task: &TaskRef) {
        self.kernel.trap(task, Trap::Kick);
        self.run();
    }

    /// Reserves application memory.
    pub(crate) fn map(&mut self, task: &TaskRef, bytes: u64) -> u64 {
        self.call(task, 9, &[0, bytes, 3, 0x22, u64::MAX, 0]).expect("room")
    }

    /// Writes application memory.
    pub(crate) fn poke(&self, task: &TaskRef, at: u64, bytes: &[u8]) {
        task.mm().expect("alive").write_bytes(at, bytes).expect("writable");
    }

    /// Reads application memory.
    pub(crate) fn peek<const N: usize>(&self, task: &TaskRef, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        task.mm().expect("alive").read_bytes(at, &mut bytes).expect("readable");
        bytes
    }

    pub(crate) fn peek_u64(&self, task: &TaskRef, at: u64) -> u64 {
        u64::from_le_bytes(self.peek(task, at))
    }

    /// Application code touches an address.
    pub(crate) fn touch(&mut self, task: &TaskRef, address: u64, write: bool) {
        let code = 4 | if write { 2 } else { 0 };
        self.kernel.trap(task, Trap::PageFault { address, code });
        self.run();
    }

    /// fork; returns the child.
    pub(crate) fn fork(&mut self, parent: &TaskRef) -> TaskRef {
        let pid = self.call(parent, 57, &[]).expect("a child");
        self.kernel.services.registry.task(pid as u32).expect("the child's thread")
    }

    /// wait4(pid, status, options).
    pub(crate) fn wait(&mut self, task: &TaskRef, pid: i64, options: u64) -> (Outcome, u32) {
        let at = self.map(task, 4096);
        let outcome = self.call(task, 61, &[pid.cast_unsigned(), at, options, 0]);
        (outcome, u32::from_le_bytes(self.peek(task, at)))
    }
}

/// An errno by number.
fn errno(number: i64) -> Errno {
    u16::try_from(number).map_or(Errno::NOSYS, Errno::of)
}
