// SPDX-License-Identifier: Apache-2.0
//! Terminals.
//!
//! A [`Tty`] is what a process has open; behind its line discipline is a far end: the master of a
//! pseudo-terminal ([`pty`]), or a stream of the I/O server ([`console`]).

pub mod console;
pub(crate) mod discipline;
mod ioctl;
pub mod pty;
pub(crate) mod termios;

use alloc::{sync::Arc, vec::Vec};
use core::{
    any::Any,
    fmt,
    sync::atomic::{AtomicU32, Ordering},
};

use self::discipline::Discipline;
pub(crate) use self::ioctl::is_change;
use crate::{
    Errno,
    fs::{
        file::{File, FileOps, IoctlMemory},
        mount::SignalQueue,
        types::{OpenFlags, Ready, device_number},
    },
    io::{Sink, Source},
    process::{
        Process, Terminal,
        signal::{SIGCONT, SIGHUP, SIGTTIN, SIGTTOU, SIGWINCH},
    },
    services::ServicesRef,
    sync::Lock,
    wait::{Ticket, WaitQueue},
};

/// What is behind a terminal.
#[derive(Debug)]
pub(crate) enum Far {
    /// The master of a pseudo-terminal.
    Master,
    /// A stream.
    Console(console::Wire),
}

/// What is at stake when a background process touches its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It changes settings.
    Change,
}

/// What becomes of a background process that touches its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may.
    Go,
    /// It gets this errno.
    Fail(Errno),
    /// Its group gets this signal, and the call is made again.
    Signal(u32),
}

#[derive(Debug, Default)]
struct State {
    discipline: Discipline,
    /// Rows, columns, and two sizes in pixels.
    size: [u16; 4],
    session: u32,
    foreground: u32,
    /// Open files of the process's side, and whether there ever was one.
    slaves: u32,
    was_open: bool,
    master_gone: bool,
    locked: bool,
    exclusive: bool,
    packet: bool,
    last_input_ns: u64,
}

/// A terminal.
pub struct Tty {
    services: ServicesRef,
    signals: SignalQueue,
    /// Number in /dev/pts.
    pub(crate) index: u32,
    state: Lock<State>,
    wait: WaitQueue,
    master_wait: WaitQueue,
    far: Far,
    owner: AtomicU32,
    group: AtomicU32,
    mode: AtomicU32,
}

impl fmt::Debug for Tty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tty({})", self.index)
    }
}

/// The terminal that a process is controlled by, as what it is.
pub(crate) fn of_process(process: &Process) -> Option<Arc<Tty>> {
    let terminal = process.terminal.lock().clone()?;
    terminal.downcast::<Tty>().ok()
}

/// Ends the hold of a terminal on a session whose leader ends; returns the group that is to be told
/// (SIGHUP), if the terminal was the session's.  Files that are open stay usable: Linux hangs up
/// other terminals then, but not pseudo-terminals, and apt runs one dpkg after the other on one.
pub fn release_session(terminal: &Terminal, session: u32) -> Option<u32> {
    let tty = Arc::clone(terminal).downcast::<Tty>().ok()?;
    let foreground = {
        let mut state = tty.state.lock();
        if state.session != session {
            return None;
        }
        state.session = 0;
        core::mem::take(&mut state.foreground)
    };
    (foreground != 0).then_some(foreground)
}

impl Tty {
    pub(super) fn new(
        services: ServicesRef,
        signals: SignalQueue,
        index: u32,
        size: [u16; 4],
        far: Far,
    ) -> Self {
        Self {
            services,
            signals,
            index,
            state: Lock::new(State { size, ..State::default() }),
            wait: WaitQueue::new(),
            master_wait: WaitQueue::new(),
            far,
            owner: AtomicU32::new(0),
            group: AtomicU32::new(5),
            mode: AtomicU32::new(0o620),
        }
    }

    /// `st_rdev`.
    pub(crate) fn device(&self) -> u64 {
        device_number(136 + (self.index >> 8), self.index & 0xff)
    }

    /// The foreground process group.
    pub(crate) fn foreground(&self) -> u32 {
        self.state.lock().foreground
    }

    fn signal_group(&self, group: u32, signal: u32) {
        if group != 0 {
            self.signals.lock().push((group, signal));
        }
    }

    /// Sets the size in rows and columns, and tells the foreground group if it changed.
    pub fn resize(&self, rows: u32, columns: u32) {
        let size = [rows.min(0xffff) as u16, columns.min(0xffff) as u16];
        let mut state = self.state.lock();
        let new = [size[0], size[1], state.size[2], state.size[3]];
        self.set_size(&mut state, new);
    }

    fn set_size(&self, state: &mut State, size: [u16; 4]) {
        if state.size != size {
            state.size = size;
            self.signal_group(state.foreground, SIGWINCH);
        }
    }

    /// Takes bytes from the far end; returns how many.
    pub(super) fn receive(&self, bytes: &[u8]) -> usize {
        let now = self.services.monotonic_ns();
        let mut state = self.state.lock();
        let mut taken = 0;
        for &byte in bytes {
            let canonical = state.discipline.termios.has_local(termios::ICANON);
            if !canonical && state.discipline.input_room() == 0 {
                break;
            }
            if let Some(signal) = state.discipline.receive(byte) {
                self.signal_group(state.foreground, signal);
            }
            taken += 1;
        }
        state.last_input_ns = now;
        drop(state);
        self.pump();
        self.wait.wake_all();
        taken
    }

    /// Hands output over to the far end.
    fn pump(&self) {
        if let Far::Console(wire) = &self.far {
            wire.pump(self);
        }
        self.master_wait.wake_all();
    }

    /// The first bytes of the output.
    fn peek_output(&self, max: usize) -> Vec<u8> {
        let mut state = self.state.lock();
        if state.discipline.stopped {
            return Vec::new();
        }
        let output = state.discipline.output();
        output.iter().take(max).copied().collect()
    }

    fn took_output(&self, bytes: usize) {
        self.state.lock().discipline.output().drain(..bytes);
        self.wait.wake_all();
    }

    /// Opens the process's side.
    pub(crate) fn open(self: &Arc<Self>, flags: OpenFlags) -> Result<Arc<TtyFile>, Errno> {
        {
            let mut state = self.state.lock();
            if state.locked || state.master_gone {
                return Err(Errno::IO);
            }
            if state.exclusive {
                return Err(Errno::BUSY);
            }
            state.slaves += 1;
            state.was_open = true;
        }
        if !flags.contains(OpenFlags::NOCTTY)
            && let Some(task) = self.services.current()
        {
            let process = &task.process;
            let leads = process.sid() == process.pid && process.terminal.lock().is_none();
            if leads && self.state.lock().session == 0 {
                self.control(process);
            }
        }
        Ok(Arc::new(TtyFile { tty: Arc::clone(self) }))
    }

    /// Becomes the controlling terminal of a session leader.
    pub fn control(self: &Arc<Self>, leader: &Process) {
        {
            let mut state = self.state.lock();
            state.session = leader.sid();
            state.foreground = leader.pgid();
        }
        let before = leader.terminal.lock().replace(Arc::clone(self) as Terminal);
        drop(before);
    }

    /// Judges what a process does with the terminal (job control).
    pub(crate) fn judge(&self, touch: Touch) -> Verdict {
        let Some(task) = self.services.current() else { return Verdict::Go };
        let process = &task.process;
        let state = self.state.lock();
        let controls = state.session != 0 && state.session == process.sid();
        if !controls || state.foreground == process.pgid() || state.foreground == 0 {
            return Verdict::Go;
        }
        let tostop = state.discipline.termios.has_local(termios::TOSTOP);
        drop(state);
        if touch == Touch::Write && !tostop {
            return Verdict::Go;
        }
        let signal = if touch == Touch::Read { SIGTTIN } else { SIGTTOU };
        let blocked = task.signals.lock().mask & crate::process::signal::bit(signal) != 0;
        let ignored = process.actions.lock().lock().is_ignored(signal);
        if blocked || ignored {
            let fails = touch == Touch::Read;
            return if fails { Verdict::Fail(Errno::IO) } else { Verdict::Go };
        }
        if self.is_orphaned(process.pgid(), process.sid()) {
            return Verdict::Fail(Errno::IO);
        }
        Verdict::Signal(signal)
    }

    /// Whether no member of a group has a parent in the session but outside the group.
    fn is_orphaned(&self, group: u32, session: u32) -> bool {
        let members = self.services.registry.processes();
        !members.iter().any(|process| {
            process.pgid() == group
                && !process.is_zombie()
                && process
                    .parent()
                    .is_some_and(|parent| parent.pgid() != group && parent.sid() == session)
        })
    }

    fn read(&self, sink: &mut dyn Sink, elapsed: bool) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        let Some(bytes) = state.discipline.readable(sink.room(), elapsed) else {
            return if state.master_gone { Ok(0) } else { Err(Errno::AGAIN) };
        };
        let taken = sink.put(state.discipline.peek(bytes));
        if taken > 0 || bytes == 0 {
            state.discipline.take(taken);
        }
        drop(state);
        if let Far::Console(wire) = &self.far {
            wire.refill(self);
        }
        self.master_wait.wake_all();
        Ok(taken)
    }

    /// When a read that waits since `since_ns` has waited long enough (VTIME).
    pub(crate) fn read_deadline(&self, since_ns: u64) -> Option<u64> {
        let state = self.state.lock();
        let wait = state.discipline.wait_ns()?;
        Some(since_ns.max(state.last_input_ns) + wait)
    }

    fn write(&self, source: &mut dyn Source) -> Result<usize, Errno> {
        let mut done = 0;
        let mut buffer = [0; 256];
        loop {
            let wanted = source.left().min(buffer.len());
            if wanted == 0 {
                return Ok(done);
            }
            let mut state = self.state.lock();
            if state.master_gone {
                return if done > 0 { Ok(done) } else { Err(Errno::IO) };
            }
            if !state.discipline.can_write() {
                drop(state);
                self.pump();
                if self.state.lock().discipline.can_write() {
                    continue;
                }
                return if done > 0 { Ok(done) } else { Err(Errno::AGAIN) };
            }
            let taken = source.take(&mut buffer[..wanted]);
            for byte in &buffer[..taken] {
                state.discipline.write(*byte);
            }
            drop(state);
            done += taken;
            if taken < wanted || source.left() == 0 {
                self.pump();
            }
            if taken < wanted {
                return Ok(done);
            }
        }
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        if let Some(ticket) = ticket {
            self.wait.add(ticket);
        }
        let state = self.state.lock();
        let gone = state.master_gone;
        let mut ready = Ready::empty();
        ready.set(Ready::READABLE, state.discipline.has_input() || gone);
        ready.set(Ready::WRITABLE, state.discipline.can_write() || gone);
        ready.set(Ready::HUP | Ready::ERR, gone);
        ready
    }

    /// The far end is gone.
    pub(crate) fn hang_up(&self) {
        let (session, foreground) = {
            let mut state = self.state.lock();
            state.master_gone = true;
            (state.session, state.foreground)
        };
        // The session leader is told; what it controls is told when it ends.
        let leader = self.services.registry.process(session).map_or(foreground, |p| p.pgid());
        self.signal_group(leader, SIGHUP);
        self.signal_group(leader, SIGCONT);
        self.wait.wake_all();
    }

    fn leader_gone(&self) {
        let foreground = {
            let mut state = self.state.lock();
            state.session = 0;
            core::mem::take(&mut state.foreground)
        };
        self.signal_group(foreground, SIGHUP);
        self.signal_group(foreground, SIGCONT);
    }

    fn slave_closed(&self) {
        let mut state = self.state.lock();
        state.slaves = state.slaves.saturating_sub(1);
        if state.slaves == 0 {
            state.exclusive = false;
        }
        drop(state);
        self.master_wait.wake_all();
    }

    pub(crate) fn ownership(&self) -> (u32, u32, u32) {
        let get = |value: &AtomicU32| value.load(Ordering::Relaxed);
        (get(&self.owner), get(&self.group), get(&self.mode))
    }

    pub(crate) fn set_ownership(&self, uid: Option<u32>, gid: Option<u32>, mode: Option<u32>) {
        let slots = [(&self.owner, uid), (&self.group, gid), (&self.mode, mode)];
        for (slot, value) in slots {
            if let Some(value) = value {
                slot.store(value, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        if let Far::Console(wire) = &self.far {
            wire.close();
        }
    }
}

/// A terminal as an open file.
#[derive(Debug)]
pub(crate) struct TtyFile {
    tty: Arc<Tty>,
}

impl TtyFile {
    /// Reads although VTIME's condition is not met: the time is over.
    pub(crate) fn read_elapsed(&self, sink: &mut dyn Sink) -> Result<usize, Errno> {
        self.tty.read(sink, true)
    }
}

impl FileOps for TtyFile {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        if sink.room() == 0 { Ok(0) } else { self.tty.read(sink, false) }
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        self.tty.write(source)
    }

    fn poll(&self, ticket: Option<&Ticket>) -> Ready {
        self.tty.poll(ticket)
    }

    fn ioctl(
        &self,
        _file: &File,
        command: u32,
        memory: &mut IoctlMemory<'_>,
    ) -> Result<u64, Errno> {
        self.tty.ioctl(command, memory, false)
    }

    fn tty(&self) -> Option<&Arc<Tty>> {
        Some(&self.tty)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for TtyFile {
    fn drop(&mut self) {
        self.tty.slave_closed();
    }
}
