// SPDX-License-Identifier: Apache-2.0
//! Signals: numbers, sets, actions, queues (signal(7)).

use alloc::collections::VecDeque;

/// A set of signals: signal `n` is bit `n - 1`.
pub type SignalSet = u64;

/// Highest signal number.
pub const SIGNAL_MAX: u32 = 64;
/// First real-time signal.
pub const SIGRTMIN: u32 = 32;

macro_rules! signals {
    ($($name:ident = $number:literal;)*) => {
        $(#[doc = concat!("Signal ", stringify!($name), ".")] pub const $name: u32 = $number;)*
    };
}

signals! {
    SIGHUP = 1; SIGINT = 2; SIGQUIT = 3; SIGILL = 4; SIGTRAP = 5; SIGABRT = 6; SIGBUS = 7;
    SIGFPE = 8; SIGKILL = 9; SIGUSR1 = 10; SIGSEGV = 11; SIGUSR2 = 12; SIGPIPE = 13; SIGALRM = 14;
    SIGTERM = 15; SIGSTKFLT = 16; SIGCHLD = 17; SIGCONT = 18; SIGSTOP = 19; SIGTSTP = 20;
    SIGTTIN = 21; SIGTTOU = 22; SIGURG = 23; SIGXCPU = 24; SIGXFSZ = 25; SIGVTALRM = 26;
    SIGPROF = 27; SIGWINCH = 28; SIGIO = 29; SIGPWR = 30; SIGSYS = 31;
}

/// The set of one signal; empty for 0 and for numbers that do not exist.
pub const fn bit(signal: u32) -> SignalSet {
    if signal == 0 || signal > SIGNAL_MAX { 0 } else { 1 << (signal - 1) }
}

/// Signals that cannot be blocked, caught or ignored.
pub const UNBLOCKABLE: SignalSet = bit(SIGKILL) | bit(SIGSTOP);
/// Signals whose default action stops.
pub const STOPPING: SignalSet = bit(SIGSTOP) | bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGTTOU);
/// Signals that an instruction causes.
pub const SYNCHRONOUS: SignalSet =
    bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGFPE) | bit(SIGSYS);

/// SA_NOCLDSTOP.
pub const SA_NOCLDSTOP: u64 = 1;
/// SA_NOCLDWAIT.
pub const SA_NOCLDWAIT: u64 = 2;
/// SA_SIGINFO.
pub const SA_SIGINFO: u64 = 4;
/// SA_RESTORER.
pub const SA_RESTORER: u64 = 0x0400_0000;
/// SA_ONSTACK.
pub const SA_ONSTACK: u64 = 0x0800_0000;
/// SA_RESTART.
pub const SA_RESTART: u64 = 0x1000_0000;
/// SA_NODEFER.
pub const SA_NODEFER: u64 = 0x4000_0000;
/// SA_RESETHAND.
pub const SA_RESETHAND: u64 = 0x8000_0000;

/// SIG_DFL.
pub const SIG_DFL: u64 = 0;
/// SIG_IGN.
pub const SIG_IGN: u64 = 1;

/// SI_USER.
pub const SI_USER: i32 = 0;
/// SI_KERNEL.
pub const SI_KERNEL: i32 = 0x80;
/// SI_TIMER.
pub const SI_TIMER: i32 = -2;
/// SI_MESGQ.
pub const SI_MESGQ: i32 = -3;
/// SI_TKILL.
pub const SI_TKILL: i32 = -6;

/// What a signal does if nobody says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// Ends the process.
    Terminate,
    /// Ends the process; the wait status says "core dumped" if the limit allows cores.
    Core,
    /// Nothing.
    Ignore,
    /// Stops the process.
    Stop,
    /// Nothing more than continuing, which sending it did.
    Continue,
}

/// The default action of a signal.
pub fn default_of(signal: u32) -> Default {
    match signal {
        SIGCHLD | SIGURG | SIGWINCH => Default::Ignore,
        SIGCONT => Default::Continue,
        SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU => Default::Stop,
        SIGQUIT | SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGFPE | SIGSEGV | SIGXCPU | SIGXFSZ
        | SIGSYS => Default::Core,
        _ => Default::Terminate,
    }
}

/// What comes with a signal (siginfo_t).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigInfo {
    /// Signal number.
    pub signal: u32,
    /// `si_errno`.
    pub errno: i32,
    /// `si_code`.
    pub code: i32,
    /// Bytes 16 to 127 of siginfo_t.
    pub rest: [u8; 112],
}

impl SigInfo {
    /// A signal with a code and nothing else.
    pub fn new(signal: u32, code: i32) -> Self {
        Self { signal, errno: 0, code, rest: [0; 112] }
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.rest[at - 16..at - 16 + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// A signal that a process sent.
    pub fn from_sender(signal: u32, code: i32, pid: u32, uid: u32) -> Self {
        Self::new(signal, code).put(16, &pid.to_le_bytes()).put(20, &uid.to_le_bytes())
    }

    /// A signal with a value (sigval).
    pub fn queued(signal: u32, code: i32, pid: u32, uid: u32, value: u64) -> Self {
        Self::from_sender(signal, code, pid, uid).put(24, &value.to_le_bytes())
    }

    /// A system call that is not made (SIGSYS).
    pub fn call(signal: u32, code: i32, instruction: u64, number: u32, arch: u32) -> Self {
        Self::new(signal, code)
            .put(16, &instruction.to_le_bytes())
            .put(24, &number.to_le_bytes())
            .put(28, &arch.to_le_bytes())
    }

    /// A fault at an address.
    pub fn fault(signal: u32, code: i32, address: u64) -> Self {
        Self::new(signal, code).put(16, &address.to_le_bytes())
    }

    /// SIGCHLD.
    pub fn child(code: i32, pid: u32, uid: u32, status: i32, user: u64, system: u64) -> Self {
        Self::from_sender(SIGCHLD, code, pid, uid)
            .put(24, &status.to_le_bytes())
            .put(32, &user.to_le_bytes())
            .put(40, &system.to_le_bytes())
    }

    /// A timer's signal.
    pub fn timer(signal: u32, id: i32, overrun: i32, value: u64) -> Self {
        Self::new(signal, SI_TIMER)
            .put(16, &id.to_le_bytes())
            .put(20, &overrun.to_le_bytes())
            .put(24, &value.to_le_bytes())
    }

    /// The u32 at a byte offset of siginfo_t, 16 or more: pid at 16, uid at 20, status at 24.
    pub fn word(&self, at: usize) -> u32 {
        let mut word = [0; 4];
        if let Some(from) = self.rest.get(at.wrapping_sub(16)..).and_then(|rest| rest.get(..4)) {
            word.copy_from_slice(from);
        }
        u32::from_le_bytes(word)
    }

    /// siginfo_t.
    pub fn encode(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[0..4].copy_from_slice(&self.signal.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.errno.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_le_bytes());
        bytes[16..].copy_from_slice(&self.rest);
        bytes
    }

    /// From a siginfo_t of the application's.
    pub fn decode(signal: u32, bytes: &[u8; 128]) -> Self {
        let word = |at: usize| {
            i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut rest = [0; 112];
        rest.copy_from_slice(&bytes[16..]);
        Self { signal, errno: word(4), code: word(8), rest }
    }
}

/// What a process does on a signal (struct sigaction of the kernel ABI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// SIG_DFL, SIG_IGN or an address.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: SignalSet,
}

impl Action {
    /// The default action.
    pub const DEFAULT: Self = Self { handler: SIG_DFL, flags: 0, restorer: 0, mask: 0 };
}

/// The actions of a process.
#[derive(Clone, Debug)]
pub struct Actions(pub [Action; SIGNAL_MAX as usize]);

impl Actions {
    /// All default.
    pub fn new() -> Self {
        Self([Action::DEFAULT; SIGNAL_MAX as usize])
    }

    /// The action for a signal from 1 to 64.
    pub fn of(&self, signal: u32) -> Action {
        self.0.get(signal.wrapping_sub(1) as usize).copied().unwrap_or(Action::DEFAULT)
    }

    /// Whether a signal that is not blocked would be dropped.
    pub fn ignores(&self, signal: u32) -> bool {
        match self.of(signal).handler {
            SIG_IGN => true,
            SIG_DFL => default_of(signal) == Default::Ignore,
            _ => false,
        }
    }

    /// Whether a signal's action is SIG_IGN.
    pub fn is_ignored(&self, signal: u32) -> bool {
        self.of(signal).handler == SIG_IGN
    }

    /// What execve leaves: caught signals become default, ignored ones stay.
    pub fn reset_for_exec(&mut self) {
        for action in &mut self.0 {
            let handler = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
            *action = Action { handler, ..Action::DEFAULT };
        }
    }
}

impl core::default::Default for Actions {
    fn default() -> Self {
        Self::new()
    }
}

/// Signals that were sent and not yet taken.
#[derive(Clone, Debug, core::default::Default)]
pub struct Pending {
    set: SignalSet,
    queue: VecDeque<SigInfo>,
}

/// Most queued signals of one queue (RLIMIT_SIGPENDING has the same order).
const QUEUE_MAX: usize = 4096;

impl Pending {
    /// Which signals are pending.
    pub fn set(&self) -> SignalSet {
        self.set
    }

    /// How many are queued.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none is queued.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a signal.  An ordinary signal is pending at most once; returns false if a real-time
    /// signal found the queue full.
    pub fn push(&mut self, info: SigInfo) -> bool {
        let known = self.set & bit(info.signal) != 0;
        if info.signal < SIGRTMIN && known {
            return true;
        }
        if self.queue.len() >= QUEUE_MAX {
            if info.signal >= SIGRTMIN {
                return false;
            }
            // The signal still arrives, only without what came with it.
            self.set |= bit(info.signal);
            return true;
        }
        self.set |= bit(info.signal);
        self.queue.push_back(info);
        true
    }

    /// Takes the next signal of `allowed`: synchronous ones first, then the lowest number.
    pub fn take(&mut self, allowed: SignalSet) -> Option<SigInfo> {
        let candidates = self.set & allowed;
        if candidates == 0 {
            return None;
        }
        let first =
            if candidates & SYNCHRONOUS != 0 { candidates & SYNCHRONOUS } else { candidates };
        let signal = first.trailing_zeros() + 1;
        let at = self.queue.iter().position(|info| info.signal == signal);
        let info = at.and_then(|at| self.queue.remove(at));
        if !self.queue.iter().any(|info| info.signal == signal) {
            self.set &= !bit(signal);
        }
        Some(info.unwrap_or_else(|| SigInfo::new(signal, SI_USER)))
    }

    /// Drops the signals of a set.
    pub fn discard(&mut self, set: SignalSet) {
        if self.set & set != 0 {
            self.set &= !set;
            self.queue.retain(|info| bit(info.signal) & set == 0);
        }
    }
}
