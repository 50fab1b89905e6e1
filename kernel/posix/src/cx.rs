// SPDX-License-Identifier: Apache-2.0
//! What a system call sees: the calling task, its resources, and how to wait.

use alloc::{sync::Arc, vec, vec::Vec};

use crate::{
    Errno, Kernel,
    fs::{FdTable, FsContext},
    mm::{MmRef, UserSink, UserSource},
    process::{
        Creds, Process, TaskRef,
        signal::{SI_KERNEL, SigInfo, SignalSet, UNBLOCKABLE},
    },
    services::ServicesRef,
    sync::Lock,
    wait::Ticket,
};

/// Longest path in bytes, with its NUL.
pub const PATH_MAX: usize = 4096;
/// Most elements of an iovec list.
pub const IOV_MAX: usize = 1024;

/// Why a system call does not return a value now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It failed.
    Errno(Errno),
    /// It waits, and will be made again.  Only [`Cx::block`] makes one.
    Block,
    /// It returns to other registers than it came from: execve, sigreturn, exit.
    Jump,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// What a system call returns.
pub type SysResult<T = u64> = Result<T, Stop>;

/// What becomes of a blocked call that a signal handler interrupts.  Whatever this says, a call
/// that has progress ([`Progress::done`]) returns that, and a call that is interrupted without a
/// handler being run goes on waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// It is made again if the handler has SA_RESTART, else EINTR (ERESTARTSYS).
    Always,
    /// It is made again, whatever the handler has (ERESTARTNOINTR).
    Resume,
    /// EINTR (ERESTARTNOHAND: poll, pause, ...).
    NoHandler,
    /// EINTR.
    Never,
    /// Only SIGKILL ends the wait (vfork).
    Uninterruptible,
}

/// What a call remembers while it is blocked; fresh for each new call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What it did so far; its result if a signal interrupts it, unless it is 0.
    pub done: u64,
    /// Its time-out as a point of CLOCK_MONOTONIC in nanoseconds, once it is computed.
    pub deadline_ns: Option<u64>,
    /// Whatever else.
    pub value: u64,
}

/// The context of a system call.
#[derive(Debug)]
pub struct Cx<'a> {
    /// The kernel.
    pub kernel: &'a mut Kernel,
    /// Who calls.
    pub task: TaskRef,
    pub(crate) progress: Progress,
    /// The deadline that the call blocked with the last time.
    pub(crate) waited_until_ns: Option<u64>,
    pub(crate) blocked: Option<(Option<u64>, Restart)>,
}

impl Cx<'_> {
    /// The services.
    pub fn services(&self) -> ServicesRef {
        self.kernel.services.clone()
    }

    /// The caller's process.
    pub fn process(&self) -> Arc<Process> {
        self.task.process.clone()
    }

    /// The caller's credentials.
    pub fn creds(&self) -> Arc<Creds> {
        self.task.creds()
    }

    /// The caller's descriptors.
    ///
    /// # Panics
    /// If the caller is over, which no caller is.
    pub fn files(&self) -> Arc<Lock<FdTable>> {
        self.task.files().expect("a calling task lives")
    }

    /// The caller's directories.
    ///
    /// # Panics
    /// If the caller is over, which no caller is.
    pub fn fs(&self) -> Arc<Lock<FsContext>> {
        self.task.fs().expect("a calling task lives")
    }

    /// The caller's memory.
    ///
    /// # Panics
    /// If the caller is over, which no caller is.
    pub fn mm(&self) -> MmRef {
        self.task.mm().expect("a calling task lives")
    }

    /// A sink into the caller's memory.
    pub fn sink(&self, address: u64, bytes: usize) -> UserSink {
        UserSink::new(self.mm(), address, bytes)
    }

    /// A source from the caller's memory.
    pub fn source(&self, address: u64, bytes: usize) -> UserSource {
        UserSource::new(self.mm(), address, bytes)
    }

    /// A sink over an iovec list.
    ///
    /// # Errors
    /// EINVAL for too many or too large elements, EFAULT.
    pub fn sink_vector(&self, iov: u64, count: usize) -> Result<UserSink, Errno> {
        Ok(UserSink::vector(self.mm(), self.read_iovec(iov, count)?))
    }

    /// A source over an iovec list.
    ///
    /// # Errors
    /// EINVAL for too many or too large elements, EFAULT.
    pub fn source_vector(&self, iov: u64, count: usize) -> Result<UserSource, Errno> {
        Ok(UserSource::vector(self.mm(), self.read_iovec(iov, count)?))
    }

    /// Reads an iovec list: addresses and lengths.
    ///
    /// # Errors
    /// EINVAL for too many or too large elements, EFAULT.
    pub fn read_iovec(&self, iov: u64, count: usize) -> Result<Vec<(u64, usize)>, Errno> {
        if count > IOV_MAX {
            return Err(Errno::INVAL);
        }
        let mut raw = vec![0; count * 16];
        self.read_bytes(iov, &mut raw)?;
        let mut list = Vec::with_capacity(count);
        let mut total: u64 = 0;
        for entry in raw.chunks_exact(16) {
            let (base, bytes) = entry.split_at(8);
            let base = u64::from_le_bytes(base.try_into().unwrap_or_default());
            let bytes = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            total = total.checked_add(bytes).ok_or(Errno::INVAL)?;
            if total > i64::MAX.cast_unsigned() {
                return Err(Errno::INVAL);
            }
            list.push((base, bytes as usize));
        }
        Ok(list)
    }

    /// Copies from the caller's memory.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_bytes(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        self.mm().read_bytes(address, to)
    }

    /// Copies to the caller's memory.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write_bytes(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        self.mm().write_bytes(address, from)
    }

    /// Reads a 32-bit word.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_u32(&self, address: u64) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        self.read_bytes(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a 64-bit word.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_u64(&self, address: u64) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        self.read_bytes(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a 32-bit word.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write_u32(&self, address: u64, value: u32) -> Result<(), Errno> {
        self.write_bytes(address, &value.to_le_bytes())
    }

    /// Writes a 64-bit word.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write_u64(&self, address: u64, value: u64) -> Result<(), Errno> {
        self.write_bytes(address, &value.to_le_bytes())
    }

    /// Reads a string that ends in NUL, without the NUL.
    ///
    /// # Errors
    /// EFAULT; ENAMETOOLONG if there is no NUL in the first `max` bytes.
    pub fn read_string(&self, address: u64, max: usize) -> Result<Vec<u8>, Errno> {
        self.mm().read_string(address, max)?.ok_or(Errno::NAMETOOLONG)
    }

    /// Reads a path.
    ///
    /// # Errors
    /// EFAULT; ENAMETOOLONG.
    pub fn read_path(&self, address: u64) -> Result<Vec<u8>, Errno> {
        self.read_string(address, PATH_MAX)
    }

    /// A ticket for the caller's wait: put it in every queue that could end it, then
    /// [`Cx::block`].
    pub fn ticket(&self) -> Ticket {
        self.task.ticket()
    }

    /// Waits: return this as the error.  The call is made again when one of its tickets is woken,
    /// or when CLOCK_MONOTONIC reaches the deadline.
    pub fn block(&mut self, deadline_ns: Option<u64>, restart: Restart) -> Stop {
        self.blocked = Some((deadline_ns, restart));
        Stop::Block
    }

    /// Whether the deadline that the call blocked with has come.
    pub fn timed_out(&self) -> bool {
        self.waited_until_ns.is_some_and(|at| self.kernel.services.monotonic_ns() >= at)
    }

    /// What the call remembers.
    pub fn progress(&mut self) -> &mut Progress {
        &mut self.progress
    }

    /// Whether a signal that is to be handled waits for the caller: a call that blocks now would
    /// be interrupted.
    pub fn interrupted(&self) -> bool {
        self.kernel.has_deliverable_handler(&self.task)
    }

    /// Blocks other signals until this call ends (ppoll, pselect, epoll_pwait).
    pub fn set_temporary_mask(&self, mask: SignalSet) {
        let mut signals = self.task.signals.lock();
        if signals.saved_mask.is_none() {
            signals.saved_mask = Some(signals.mask);
        }
        signals.mask = mask & !UNBLOCKABLE;
    }

    /// Sends the calling thread a signal from the kernel (SIGPIPE, SIGXFSZ).
    pub fn send_signal_to_self(&mut self, signal: u32) {
        let task = self.task.clone();
        self.kernel.signal_task(&task, SigInfo::new(signal, SI_KERNEL));
    }
}
