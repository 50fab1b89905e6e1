// SPDX-License-Identifier: Apache-2.0
//! The process: the link to the sandbox, ticks, notifications, the end.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
    thread,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags},
    fs::OFlags,
};
use trine_abi::layout::MAX_VCPUS;
use trine_jail::Landlock;
use trine_link::{Link, Message};

use crate::{
    Error,
    control::{BrokenRing, Control},
    machine::{Machine, clock_ns},
    memory::{MappedFile, Memory},
    protocol::{
        BOOT, BootRequest, COMMAND, Cause, EVENT, NOTICE, Notice, REQUEST, Request, Stages,
    },
    vcpu::{self, Guest, Page, Shared, drain, lock},
};

/// How often a busy vCPU is looked at, in nanoseconds.
const TICK_NS: u64 = 10_000_000;
/// The shortest sleep between two looks, in nanoseconds: what a guest can make this thread work.
const LEAST_NS: u64 = 200_000;

/// Runs the VM that the sandbox asks for over `link`, until it ends.
///
/// # Errors
/// If the VM cannot be made; the sandbox is told too.
pub fn serve(link: &Link) -> Result<(), Error> {
    let Some(message) = link.receive()? else { return Ok(()) };
    let result = boot(message).and_then(|(server, stages)| server.run(link, stages));
    if let Err(error) = &result {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            reason.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        // The sandbox may be gone; the caller reports the error as well.
        let _ = notice(link, &Notice::Ended { cause: Cause::Host, reason });
    }
    result
}

fn notice(link: &Link, notice: &Notice) -> Result<(), Error> {
    let payload = serde_json::to_vec(notice)
        .map_err(|error| Error::host("encode a notice", std::io::Error::other(error)))?;
    Ok(link.send(NOTICE, &payload, &[])?)
}

struct Server {
    machine: Machine,
    shared: Arc<Shared>,
    control: Control,
    landlock: Landlock,
}

fn boot(message: Message) -> Result<(Server, Stages), Error> {
    if message.kind != BOOT {
        return Err(Error::Request(format!("message {} came before boot", message.kind)));
    }
    let request: BootRequest = serde_json::from_slice(&message.payload)
        .map_err(|error| Error::Request(error.to_string()))?;
    if request.vcpus == 0 || request.vcpus as usize > MAX_VCPUS {
        return Err(Error::Request(format!("{} vcpus, but 1 to {MAX_VCPUS}", request.vcpus)));
    }
    let mut descriptors = message.descriptors.into_iter();
    let mut next = |what: &str| {
        descriptors.next().ok_or_else(|| Error::Request(format!("no {what} descriptor")))
    };
    let (kernel, window) = (next("kernel")?, next("window")?);
    let (doorbell, notify) = (next("doorbell")?, next("notify")?);
    let images: Vec<OwnedFd> = descriptors.collect();
    rustix::fs::fcntl_setfl(&notify, OFlags::NONBLOCK)
        .map_err(|error| Error::host("set the notify event's mode", error))?;
    if images.len() != request.images as usize {
        return Err(Error::Request(format!("{} image descriptors came", images.len())));
    }
    let kernel = MappedFile::new(&kernel, "kernel image")?;
    let mut stages =
        Stages { create_ns: clock_ns(rustix::time::ClockId::Monotonic), ..Stages::default() };
    let memory = Memory::new(request.memory_bytes, &window, &images)?;
    let machine = Machine::new(&request, memory, kernel.contents(), doorbell)?;
    stages.loaded_ns = clock_ns(rustix::time::ClockId::Monotonic);
    let event = |what: &str| {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::host(format!("make the {what} event"), error))
    };
    let wakes = machine.vcpus.iter().map(|_| event("wake")).collect::<Result<_, _>>()?;
    let shared = Arc::new(Shared::new(event("server")?, notify, wakes));
    let control = Control::new(machine.memory.ram.clone());
    Ok((Server { machine, shared, control, landlock: request.landlock }, stages))
}

impl Server {
    fn run(mut self, link: &Link, stages: Stages) -> Result<(), Error> {
        vcpu::install_signal_handler()?;
        // Before the first thread: capabilities belong to threads, and the filter is inherited.
        trine_jail::vmm::confine(self.landlock)?;
        notice(link, &Notice::Booted)?;
        let vcpus = core::mem::take(&mut self.machine.vcpus);
        let Self { machine, shared, mut control, landlock: _ } = self;
        let pages: Vec<Page> =
            (0..vcpus.len()).map(|index| Page::new(&machine.memory, index)).collect();
        let guest = &Guest { memory: &machine.memory, nucleus: &machine.nucleus };
        thread::scope(|scope| {
            for (index, fd) in vcpus.into_iter().enumerate() {
                let shared = &shared;
                thread::Builder::new()
                    .name(format!("vcpu{index}"))
                    .spawn_scoped(scope, move || vcpu::run(fd, index, guest, shared))
                    .map_err(|error| Error::host("start a vcpu thread", error))?;
            }
            let mut session = Session { link, shared: &shared, control: &mut control, stages };
            let result = session.run(&pages);
            // Whatever happened: no vCPU thread may outlive this function.
            shared.stop.store(true, Ordering::SeqCst);
            drop(lock(&shared.paused));
            shared.resumed.notify_all();
            shared.interrupt();
            result
        })
    }
}

struct Session<'a> {
    link: &'a Link,
    shared: &'a Shared,
    control: &'a mut Control,
    stages: Stages,
}

impl Session<'_> {
    fn run(&mut self, pages: &[Page]) -> Result<(), Error> {
        let mut was_idle = false;
        loop {
            let idle = self.shared.is_idle();
            let timeout = self.timeout(pages, idle && was_idle);
            was_idle = idle;
            let [linked, moved, notified] = self.wait(timeout)?;
            self.shared.server_sleeps.store(false, Ordering::SeqCst);
            if moved {
                drain(&self.shared.to_server);
            }
            if self.guest_moved()? {
                return Ok(());
            }
            if linked && !self.sandbox_spoke()? {
                return Ok(());
            }
            if notified {
                drain(&self.shared.notify);
                self.shared.kick_one();
            }
            for (index, _) in self.running(pages).filter(|(_, page)| tick_is_due(page)) {
                self.shared.kick(index, true);
            }
        }
    }

    /// vCPUs that do not sleep.
    fn running<'b>(&'b self, pages: &'b [Page]) -> impl Iterator<Item = (usize, &'b Page)> {
        pages.iter().enumerate().filter(|(index, _)| !self.shared.idles(*index))
    }

    /// How long to sleep: for ever once the guest has been idle for a whole tick.
    fn timeout(&self, pages: &[Page], asleep: bool) -> Option<u64> {
        if asleep {
            self.shared.server_sleeps.store(true, Ordering::SeqCst);
            if self.shared.is_idle() {
                pages.iter().for_each(|page| page.set_next_look_ns(0));
                return None;
            }
        }
        let now = clock_ns(rustix::time::ClockId::Monotonic);
        // First the promise, then the look: a deadline set in between comes with a call.
        pages.iter().for_each(|page| page.set_next_look_ns(now + TICK_NS));
        let next = self.running(pages).map(|(_, page)| page.deadline_ns()).min();
        let timeout = next.unwrap_or(u64::MAX).saturating_sub(now).clamp(LEAST_NS, TICK_NS);
        pages.iter().for_each(|page| page.set_next_look_ns(now + timeout));
        Some(timeout)
    }

    fn wait(&self, timeout_ns: Option<u64>) -> Result<[bool; 3], Error> {
        let timeout = timeout_ns.map(|ns| rustix::time::Timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        });
        let mut events = [
            PollFd::from_borrowed_fd(self.link.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.shared.to_server.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.shared.notify.as_fd(), PollFlags::IN),
        ];
        // An idle vCPU waits for notifications itself.
        let count = if self.shared.has_listener() { 2 } else { 3 };
        match rustix::event::poll(&mut events[..count], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::host("wait for events", error)),
        }
        Ok(events.map(|event| !event.revents().is_empty()))
    }

    /// Passes on what the guest did; true when the VM has ended.
    fn guest_moved(&mut self) -> Result<bool, Error> {
        let ready_ns = self.shared.ready_ns.load(Ordering::SeqCst);
        if ready_ns != 0 && self.stages.ready_ns == 0 {
            self.stages.ready_ns = ready_ns;
            notice(self.link, &Notice::Ready(self.stages))?;
        }
        let ended = lock(&self.shared.end).clone();
        if self.shared.control_moved.swap(false, Ordering::SeqCst) || ended.is_some() {
            match self.move_control() {
                Ok(()) => {}
                Err(Either::Link(error)) => return Err(error),
                Err(Either::Guest(BrokenRing)) => {
                    let reason = "guest failed: broken control ring".to_owned();
                    notice(self.link, &Notice::Ended { cause: Cause::BadGuest, reason })?;
                    return Ok(true);
                }
            }
        }
        if self.shared.stands() && *lock(&self.shared.paused) {
            notice(self.link, &Notice::Paused)?;
        }
        if let Some((cause, reason)) = ended {
            notice(self.link, &Notice::Ended { cause, reason })?;
            return Ok(true);
        }
        Ok(false)
    }

    fn move_control(&mut self) -> Result<(), Either> {
        for event in self.control.receive()? {
            self.link.send(EVENT, &event, &[]).map_err(|error| Either::Link(error.into()))?;
        }
        if self.control.pump()? {
            self.shared.kick_one();
        }
        Ok(())
    }

    /// Handles one message of the sandbox; false when the VM must end.
    fn sandbox_spoke(&mut self) -> Result<bool, Error> {
        let Some(message) = self.link.receive()? else { return Ok(false) };
        match message.kind {
            COMMAND => {
                // A guest with a broken ring ends by itself; the command is lost with it.
                if self.control.send(&message.payload).unwrap_or(false) {
                    self.shared.kick_one();
                }
            }
            REQUEST => {
                let request: Request = serde_json::from_slice(&message.payload)
                    .map_err(|error| Error::Request(error.to_string()))?;
                match request {
                    Request::Pause => {
                        *lock(&self.shared.paused) = true;
                        self.shared.interrupt();
                    }
                    Request::Resume => {
                        *lock(&self.shared.paused) = false;
                        self.shared.resumed.notify_all();
                        notice(self.link, &Notice::Resumed)?;
                    }
                    Request::Stop => {
                        let reason = "stopped".to_owned();
                        notice(self.link, &Notice::Ended { cause: Cause::Stopped, reason })?;
                        return Ok(false);
                    }
                }
            }
            kind => return Err(Error::Request(format!("unknown message {kind}"))),
        }
        Ok(true)
    }
}

fn tick_is_due(page: &Page) -> bool {
    page.wants_tick() || page.deadline_ns() <= clock_ns(rustix::time::ClockId::Monotonic)
}

enum Either {
    Link(Error),
    Guest(BrokenRing),
}

impl From<BrokenRing> for Either {
    fn from(broken: BrokenRing) -> Self {
        Self::Guest(broken)
    }
}
