// SPDX-License-Identifier: Apache-2.0
//! A vCPU's thread: runs the guest, answers its calls, sleeps when it idles, injects kicks.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicUsize, Ordering},
    },
};

use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::event::{PollFd, PollFlags};
use trine_abi::{
    layout::{MMIO_CALL, PAGE_SIZE, USER_END, VCPU_PAGES, VECTOR_KICK},
    nucleus::{DATA_PAGE, EXCEPTION_STACK, KICK_STACK},
    vcpu::{Call, TEXT_BYTES, VcpuPage},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    Error,
    machine::{self, clock_ns},
    memory::Memory,
    protocol::Cause,
};

const KICK_SIGNAL: libc::c_int = libc::SIGUSR1;

/// What the vCPU threads and the rest of the VMM share.
#[derive(Debug)]
pub struct Shared {
    /// Why the VM ended, once it has.
    pub end: Mutex<Option<(Cause, String)>>,
    /// Written when the server must look: events, readiness, the end, leaving idle.
    pub to_server: OwnedFd,
    /// Completions from the I/O server.
    pub notify: OwnedFd,
    /// The guest put events on its ring or took commands.
    pub control_moved: AtomicBool,
    /// CLOCK_MONOTONIC of the first application instruction, once; 0 before.
    pub ready_ns: std::sync::atomic::AtomicU64,
    /// The server sleeps without a tick: whoever leaves idle must wake it.
    pub server_sleeps: AtomicBool,
    /// Stop as soon as possible.
    pub stop: AtomicBool,
    /// Stand still; the flag under the lock is "paused".
    pub paused: Mutex<bool>,
    /// Signalled when `paused` ends, and when the other vCPUs start.
    pub resumed: Condvar,
    /// vCPUs other than the first may run.
    others_run: AtomicBool,
    /// The idle vCPU that waits for `notify`, or `NOBODY`: then the server does.
    listener: AtomicUsize,
    vcpus: Vec<Vcpu>,
}

const NOBODY: usize = usize::MAX;

/// What the others know of one vCPU.
#[derive(Debug)]
struct Vcpu {
    /// It sleeps in the VMM, or was not started yet.
    idle: AtomicBool,
    /// It stands still because of `paused`, or was not started yet.
    standing: AtomicBool,
    /// Ends its idling.
    wake: OwnedFd,
    want_kick: AtomicBool,
    thread: AtomicI32,
    immediate_exit: Mutex<Option<ImmediateExit>>,
}

/// The `immediate_exit` byte of a vCPU's run structure, which makes KVM_RUN return at once.
#[derive(Debug)]
struct ImmediateExit(*const AtomicU8);

// SAFETY: an atomic byte in a mapping that lives until the vCPU thread has taken it back.
unsafe impl Send for ImmediateExit {}

impl Shared {
    /// Makes the shared state for one vCPU per event in `wakes`.
    pub fn new(to_server: OwnedFd, notify: OwnedFd, wakes: Vec<OwnedFd>) -> Self {
        let vcpu = |(index, wake)| Vcpu {
            idle: AtomicBool::new(index > 0),
            standing: AtomicBool::new(index > 0),
            wake,
            want_kick: AtomicBool::new(false),
            thread: AtomicI32::new(0),
            immediate_exit: Mutex::new(None),
        };
        Self {
            end: Mutex::new(None),
            to_server,
            notify,
            control_moved: AtomicBool::new(false),
            ready_ns: std::sync::atomic::AtomicU64::new(0),
            server_sleeps: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            paused: Mutex::new(false),
            resumed: Condvar::new(),
            others_run: AtomicBool::new(false),
            listener: AtomicUsize::new(NOBODY),
            vcpus: wakes.into_iter().enumerate().map(vcpu).collect(),
        }
    }

    /// Whether every vCPU sleeps.
    pub fn is_idle(&self) -> bool {
        self.vcpus.iter().all(|vcpu| vcpu.idle.load(Ordering::SeqCst))
    }

    /// Whether one vCPU sleeps.
    pub fn idles(&self, index: usize) -> bool {
        self.vcpus.get(index).is_none_or(|vcpu| vcpu.idle.load(Ordering::SeqCst))
    }

    /// Whether every vCPU stands still.
    pub fn stands(&self) -> bool {
        self.vcpus.iter().all(|vcpu| vcpu.standing.load(Ordering::SeqCst))
    }

    /// Whether an idle vCPU waits for completions.
    pub fn has_listener(&self) -> bool {
        self.listener.load(Ordering::SeqCst) != NOBODY
    }

    /// Makes some vCPU look around: one that sleeps, if there is one.
    pub fn kick_one(&self) {
        let started = self.others_run.load(Ordering::SeqCst);
        let index = (0..self.vcpus.len()).find(|&i| (i == 0 || started) && self.idles(i));
        self.kick(index.unwrap_or(0), true);
    }

    /// Makes every vCPU leave the guest, for a pause or a stop.
    pub fn interrupt(&self) {
        for index in 0..self.vcpus.len() {
            self.kick(index, false);
        }
    }

    /// Makes a vCPU leave the guest, or wake; with `inject`, the guest gets a kick.
    pub fn kick(&self, index: usize, inject: bool) {
        let Some(vcpu) = self.vcpus.get(index) else { return };
        if inject {
            vcpu.want_kick.store(true, Ordering::SeqCst);
        }
        if let Some(exit) = &*lock(&vcpu.immediate_exit) {
            // SAFETY: the vCPU thread removes the pointer before its mapping goes away.
            unsafe { &*exit.0 }.store(1, Ordering::SeqCst);
        }
        signal(&vcpu.wake);
        let thread = vcpu.thread.load(Ordering::SeqCst);
        if thread != 0 && !vcpu.idle.load(Ordering::SeqCst) {
            // SAFETY: signals a thread of this process, or nobody if it has just ended.
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, KICK_SIGNAL) };
        }
    }

    fn start_others(&self) {
        let paused = lock(&self.paused);
        self.others_run.store(true, Ordering::SeqCst);
        drop(paused);
        self.resumed.notify_all();
    }

    /// Waits until the guest wants more than its first vCPU.
    fn await_start(&self) {
        let mut paused = lock(&self.paused);
        while !self.others_run.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
            paused = self.resumed.wait(paused).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn finish(&self, cause: Cause, reason: String) {
        lock(&self.end).get_or_insert((cause, reason));
        signal(&self.to_server);
    }
}

/// Takes a lock; a thread that panicked aborted the process, so it is never poisoned.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Adds 1 to an eventfd.
pub fn signal(event: &OwnedFd) {
    // It can only fail when the counter is full, and then the reader has enough to do.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

/// Empties an eventfd.
pub fn drain(event: &OwnedFd) {
    // Nothing to read is fine.
    let _ = rustix::io::read(event, &mut [0; 8]);
}

/// Lets signals interrupt KVM_RUN.
///
/// # Errors
/// If the handler cannot be installed.
pub fn install_signal_handler() -> Result<(), Error> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a zeroed sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: the handler does nothing, so it is safe at any time.
    let result = unsafe { libc::sigaction(KICK_SIGNAL, &raw const action, core::ptr::null_mut()) };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        return Err(Error::host("install a signal handler", error));
    }
    Ok(())
}

/// Runs a vCPU until the VM ends.
pub fn run(mut vcpu: VcpuFd, index: usize, machine: &Guest, shared: &Arc<Shared>) {
    let Some(own) = shared.vcpus.get(index) else { return };
    own.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::SeqCst);
    if index > 0 {
        shared.await_start();
    }
    let exit = &raw const vcpu.get_kvm_run().immediate_exit;
    *lock(&own.immediate_exit) = Some(ImmediateExit(exit.cast()));
    own.idle.store(false, Ordering::SeqCst);
    let (cause, reason) = match Loop::new(&mut vcpu, index, own, machine, shared).run() {
        Ok(end) => end,
        Err(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            (Cause::Host, format!("{error}{}", source.unwrap_or_default()))
        }
    };
    *lock(&own.immediate_exit) = None;
    shared.finish(cause, reason);
}

/// What the vCPU threads use of the VM.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// Guest-physical memory.
    pub memory: &'a Memory,
    /// Guest-physical address of each vCPU's nucleus pages.
    pub nucleus: &'a [u64],
}

struct Loop<'a> {
    vcpu: &'a mut VcpuFd,
    index: usize,
    own: &'a Vcpu,
    page: Page,
    guest: &'a Guest<'a>,
    shared: &'a Arc<Shared>,
    /// The last exit was a call, which the next entry completes.
    completing: bool,
    /// CLOCK_MONOTONIC of the last injection.
    injected_ns: u64,
}

/// After so long in a running guest, an injection that it has not seen was lost (seen on PVM hosts),
/// in nanoseconds.
const LOST_AFTER_NS: u64 = 20_000_000;

impl<'a> Loop<'a> {
    fn new(
        vcpu: &'a mut VcpuFd,
        index: usize,
        own: &'a Vcpu,
        guest: &'a Guest<'a>,
        shared: &'a Arc<Shared>,
    ) -> Self {
        let page = Page::new(guest.memory, index);
        Self { vcpu, index, own, page, guest, shared, completing: false, injected_ns: 0 }
    }

    /// What KVM says of an exit with KVM_EXIT_INTERNAL_ERROR, and where the guest was.
    fn internal_error(&mut self) -> String {
        let rip = self.vcpu.get_regs().map_or(0, |registers| registers.rip);
        let nucleus = self.guest.nucleus.get(self.index).copied().unwrap_or_default();
        let last = self.page.last_trap(nucleus);
        // SAFETY: KVM fills in this part of the union at such an exit; all of it is plain integers.
        let error = unsafe { self.vcpu.get_kvm_run().__bindgen_anon_1.internal };
        let data = error.data.iter().take((error.ndata as usize).min(4));
        let data: Vec<String> = data.map(|word| format!("{word:#x}")).collect();
        format!(
            "kvm cannot run an instruction at {rip:#x} on vcpu {} (error {}, data {}; {last})",
            self.index,
            error.suberror,
            data.join(" "),
        )
    }

    fn run(&mut self) -> Result<(Cause, String), Error> {
        loop {
            self.stand_while_paused();
            if self.shared.stop.load(Ordering::SeqCst) {
                return Ok((Cause::Stopped, "stopped".into()));
            }
            self.inject_kick()?;
            let exit = self.vcpu.run();
            self.completing = matches!(exit, Ok(VcpuExit::MmioWrite(..)));
            let call = match exit {
                Ok(VcpuExit::MmioWrite(MMIO_CALL, data)) => match data.try_into() {
                    Ok(bytes) => u32::from_le_bytes(bytes),
                    Err(_) => return Ok(bad("a call of the wrong size")),
                },
                Ok(VcpuExit::IrqWindowOpen | VcpuExit::Intr) => continue,
                Ok(VcpuExit::Shutdown) => {
                    let nucleus = self.guest.nucleus.get(self.index).copied().unwrap_or_default();
                    let last = self.page.last_trap(nucleus);
                    return Ok(bad(&format!("triple fault on vcpu {} ({last})", self.index)));
                }
                Ok(VcpuExit::MmioWrite(address, _) | VcpuExit::MmioRead(address, _)) => {
                    return Ok(bad(&format!("access to unbacked address {address:#x}")));
                }
                Ok(VcpuExit::InternalError) => return Ok(bad(&self.internal_error())),
                Ok(exit) => return Ok(bad(&format!("unexpected exit {exit:?}"))),
                Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                    self.vcpu.set_kvm_immediate_exit(0);
                    continue;
                }
                Err(error) if error.errno() == libc::EFAULT || error.errno() == libc::ENOMEM => {
                    return Ok((
                        Cause::OutOfMemory,
                        "the host has no memory for the guest (or its cgroup's limit was met)"
                            .into(),
                    ));
                }
                Err(source) => return Err(Error::Kvm { action: "run a vcpu", source }),
            };
            match Call::from_guest(call) {
                Some(Call::Idle) => self.idle(),
                Some(Call::Control) => {
                    self.shared.control_moved.store(true, Ordering::SeqCst);
                    signal(&self.shared.to_server);
                }
                Some(Call::Ready) => {
                    let now = clock_ns(rustix::time::ClockId::Monotonic);
                    let ready = &self.shared.ready_ns;
                    if ready.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                        signal(&self.shared.to_server);
                    }
                }
                Some(Call::Release) => {
                    self.guest.memory.release(self.page.argument(0), self.page.argument(1));
                }
                Some(Call::Kick) => {
                    let set = self.page.argument(0);
                    for index in (0..self.shared.vcpus.len()).filter(|i| set >> i & 1 == 1) {
                        self.shared.kick(index, true);
                    }
                }
                Some(Call::Timer) => signal(&self.shared.to_server),
                Some(Call::Yield) => std::thread::yield_now(),
                Some(Call::StartOthers) => self.shared.start_others(),
                Some(Call::PowerOff) => return Ok((Cause::PowerOff, "powered off".into())),
                Some(Call::Panic) => {
                    let nucleus = self.guest.nucleus.get(self.index).copied().unwrap_or_default();
                    let text = Page::new(self.guest.memory, 0)
                        .text()
                        .unwrap_or_else(|| format!("early trap: {}", self.page.last_trap(nucleus)));
                    return Ok((Cause::Panic, format!("kernel panic: {text}")));
                }
                None => return Ok(bad(&format!("unknown call {call}"))),
            }
        }
    }

    fn stand_while_paused(&self) {
        let mut paused = lock(&self.shared.paused);
        while *paused && !self.shared.stop.load(Ordering::SeqCst) {
            if !self.own.standing.swap(true, Ordering::SeqCst) {
                signal(&self.shared.to_server);
            }
            paused =
                self.shared.resumed.wait(paused).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        self.own.standing.store(false, Ordering::SeqCst);
    }

    fn inject_kick(&mut self) -> Result<(), Error> {
        if !self.own.want_kick.load(Ordering::SeqCst) {
            return Ok(());
        }
        if self.completing {
            // The guest's call must be completed before the interrupt is put in.
            self.vcpu.set_kvm_immediate_exit(1);
            return Ok(());
        }
        let now = clock_ns(rustix::time::ClockId::Monotonic);
        let may_be_lost = now >= self.injected_ns.saturating_add(LOST_AFTER_NS);
        if self.page.kick() && !(may_be_lost && self.runs_application()?) {
            // The guest has not seen the last one: it will look around soon anyway.
            self.own.want_kick.store(false, Ordering::SeqCst);
            return Ok(());
        }
        let run = self.vcpu.get_kvm_run();
        let ready = run.ready_for_interrupt_injection != 0;
        run.request_interrupt_window = u8::from(!ready);
        if ready {
            self.own.want_kick.store(false, Ordering::SeqCst);
            self.page.set_kick();
            self.injected_ns = now;
            machine::inject(self.vcpu, VECTOR_KICK)?;
        }
        Ok(())
    }

    /// Whether the guest is in application code.  Elsewhere it may be between the arrival of a kick
    /// and reading what the CPU pushed for it, which a second kick would overwrite.
    fn runs_application(&self) -> Result<bool, Error> {
        let registers = self.vcpu.get_regs().map_err(Error::kvm("read the registers"))?;
        Ok(registers.rip < USER_END)
    }

    /// Sleeps until the guest's deadline, a completion, a command, or a stop.
    fn idle(&self) {
        self.own.idle.store(true, Ordering::SeqCst);
        let order = Ordering::SeqCst;
        let listens =
            self.shared.listener.compare_exchange(NOBODY, self.index, order, order).is_ok();
        let deadline = self.page.deadline_ns();
        let now = clock_ns(rustix::time::ClockId::Monotonic);
        if deadline > now {
            let timeout = (deadline != u64::MAX).then(|| rustix::time::Timespec {
                tv_sec: ((deadline - now) / 1_000_000_000) as i64,
                tv_nsec: ((deadline - now) % 1_000_000_000) as i64,
            });
            let mut events = [
                PollFd::from_borrowed_fd(self.own.wake.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.shared.notify.as_fd(), PollFlags::IN),
            ];
            let count = if listens { 2 } else { 1 };
            // An interrupted or failed poll is a spurious wake-up, which the guest allows.
            let _ = rustix::event::poll(&mut events[..count], timeout.as_ref());
            let [woken, notified] = events.map(|event| !event.revents().is_empty());
            if notified {
                drain(&self.shared.notify);
            }
            if woken {
                drain(&self.own.wake);
            }
        }
        if listens {
            self.shared.listener.store(NOBODY, Ordering::SeqCst);
        }
        // The guest looks around when this call returns: a kick would tell it nothing new.
        self.own.want_kick.store(false, Ordering::SeqCst);
        self.own.idle.store(false, Ordering::SeqCst);
        if self.shared.server_sleeps.swap(false, Ordering::SeqCst) {
            signal(&self.shared.to_server);
        }
    }
}

fn bad(what: &str) -> (Cause, String) {
    (Cause::BadGuest, format!("guest failed: {what}"))
}

/// The shared page of a vCPU, read with care: the guest writes it at any time.
#[derive(Clone, Debug)]
pub struct Page {
    ram: GuestMemoryMmap<()>,
    /// Guest-physical address of the page.
    base: u64,
}

impl Page {
    /// The page of a vCPU.
    pub fn new(memory: &Memory, index: usize) -> Self {
        Self { ram: memory.ram.clone(), base: VCPU_PAGES + index as u64 * PAGE_SIZE }
    }

    fn load_u64(&self, offset: usize) -> u64 {
        let address = GuestAddress(self.base + offset as u64);
        // The page is RAM by construction.
        self.ram.load(address, Ordering::Relaxed).unwrap_or(0)
    }

    fn load_u32(&self, offset: usize) -> u32 {
        let address = GuestAddress(self.base + offset as u64);
        self.ram.load(address, Ordering::Relaxed).unwrap_or(0)
    }

    fn kick(&self) -> bool {
        self.load_u32(core::mem::offset_of!(VcpuPage, kick)) != 0
    }

    fn set_kick(&self) {
        let offset = core::mem::offset_of!(VcpuPage, kick) as u64;
        // The page is RAM by construction.
        let _ = self.ram.store(1_u32, GuestAddress(self.base + offset), Ordering::SeqCst);
    }

    /// Whether the guest wants a kick at every tick.
    pub fn wants_tick(&self) -> bool {
        self.load_u32(core::mem::offset_of!(VcpuPage, wants_tick)) != 0
    }

    /// When the guest's next timer is due.
    pub fn deadline_ns(&self) -> u64 {
        self.load_u64(core::mem::offset_of!(VcpuPage, deadline_ns))
    }

    /// Tells the guest when deadlines are looked at next.
    pub fn set_next_look_ns(&self, at: u64) {
        let offset = core::mem::offset_of!(VcpuPage, next_look_ns) as u64;
        // The page is RAM by construction.
        let _ = self.ram.store(at, GuestAddress(self.base + offset), Ordering::Relaxed);
    }

    fn argument(&self, index: usize) -> u64 {
        self.load_u64(core::mem::offset_of!(VcpuPage, args) + index * 8)
    }

    /// What the CPU and the nucleus left behind at the last exception and the last kick: vector and
    /// error code are those of the last exception that was no page fault, or stale.
    fn last_trap(&self, nucleus: u64) -> String {
        let data = nucleus + DATA_PAGE;
        let word = |offset: u64| -> u64 {
            self.ram.load(GuestAddress(data + offset), Ordering::Relaxed).unwrap_or(0)
        };
        let exception = EXCEPTION_STACK - DATA_PAGE - 40;
        let kick = KICK_STACK - DATA_PAGE - 40;
        format!(
            "vector {}, fault address {:#x}, error {:#x}, rip {:#x}, rsp {:#x}; kick at rip {:#x}, \
             rsp {:#x}",
            word(0x18),
            word(0x10),
            word(exception - 8),
            word(exception),
            word(exception + 24),
            word(kick),
            word(kick + 24),
        )
    }

    /// The text of a panic, if there is one.
    fn text(&self) -> Option<String> {
        let bytes = self.load_u32(core::mem::offset_of!(VcpuPage, text_bytes)) as usize;
        if bytes == 0 {
            return None;
        }
        let mut text = vec![0; bytes.min(TEXT_BYTES)];
        let offset = core::mem::offset_of!(VcpuPage, text) as u64;
        let _ = self.ram.read_slice(&mut text, GuestAddress(self.base + offset));
        let text = String::from_utf8_lossy(&text);
        // One line, printable: it goes into logs and messages.
        Some(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }
}
