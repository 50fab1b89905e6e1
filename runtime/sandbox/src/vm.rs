// SPDX-License-Identifier: Apache-2.0
//! One VM: its process, its link, and the state that calls and the reader thread share.

use std::{
    fmt,
    fs::File,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use trine_abi::control::Command;
use trine_link::Link;
use trine_vmm::protocol::{COMMAND, REQUEST, Request};

use crate::{
    Error, ExitStatus,
    cgroup::Cgroup,
    io_process::{IoProcess, into_io},
    launch::HostProcess,
    state::{Exit, State},
};

/// How long a VMM may take to read a message.  A guest that does not take its commands makes it
/// stop reading.
pub(crate) const SEND_PATIENCE: Duration = Duration::from_secs(2);
/// How long a VMM may take to end when it was asked to.
const STOP_PATIENCE: Duration = Duration::from_millis(200);

type Notify = Arc<dyn Fn(&str, ExitStatus) + Send + Sync>;

/// One VM.
pub(crate) struct Vm {
    /// Its number for the I/O process.
    pub(crate) number: u32,
    pub(crate) process: HostProcess,
    pub(crate) io: Arc<IoProcess>,
    pub(crate) cgroup: Option<Cgroup>,
    /// Where lines of the guest kernel go; `None` = nowhere.
    pub(crate) log: Option<File>,
    pub(crate) receiver: Link,
    sender: Mutex<Link>,
    state: Mutex<State>,
    changed: Condvar,
    notifies: Mutex<Vec<Notify>>,
    next_number: AtomicU32,
}

/// The parts of a new [`Vm`].
pub(crate) struct Parts {
    pub(crate) number: u32,
    pub(crate) process: HostProcess,
    pub(crate) io: Arc<IoProcess>,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) log: Option<File>,
    pub(crate) receiver: Link,
    pub(crate) sender: Link,
    pub(crate) state: State,
    /// Handles below this are in use.
    pub(crate) next_number: u32,
}

impl fmt::Debug for Vm {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Vm")
            .field("number", &self.number)
            .field("process", &self.process)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Vm {
    /// Puts a VM together.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            number: parts.number,
            process: parts.process,
            io: parts.io,
            cgroup: parts.cgroup,
            log: parts.log,
            receiver: parts.receiver,
            sender: Mutex::new(parts.sender),
            state: Mutex::new(parts.state),
            changed: Condvar::new(),
            notifies: Mutex::default(),
            next_number: AtomicU32::new(parts.next_number),
        }
    }

    /// A number that this VM never had: for a handle, a ticket or a request.
    pub(crate) fn next_number(&self) -> u32 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// The state.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes who waits for a change.
    pub(crate) fn change<T>(&self, change_fn: impl FnOnce(&mut State) -> T) -> T {
        let result = change_fn(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits, for ever without `patience`, until `done_fn` says something; `None` when the time is
    /// over.
    pub(crate) fn wait_for<T>(
        &self,
        patience: Option<Duration>,
        mut done_fn: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let until = patience.map(|patience| Instant::now() + patience);
        let mut state = self.lock();
        loop {
            if let Some(result) = done_fn(&mut state) {
                return Some(result);
            }
            state = match until {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Sends a command to the guest kernel.
    pub(crate) fn command(&self, command: &Command) -> Result<(), Error> {
        self.send(COMMAND, &command.encode())
    }

    /// Sends a request to the VMM.
    pub(crate) fn request(&self, request: Request) -> Result<(), Error> {
        self.send(REQUEST, &encode(request))
    }

    fn send(&self, kind: u8, payload: &[u8]) -> Result<(), Error> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = sender.send(kind, payload, &[]);
        drop(sender);
        sent.map_err(|error| {
            // Half a message may be in the link now.  If the VMM did not end by itself, it hangs.
            let seconds = SEND_PATIENCE.as_secs();
            self.fail(&format!("vmm did not take a message within {seconds} s"));
            Error::host("send a message to trine-vmm", into_io(error))
        })
    }

    /// Ends the VM because something is wrong with it.
    pub(crate) fn fail(&self, reason: &str) {
        self.change(|state| {
            if !state.is_vm_gone {
                state.end_reason.get_or_insert_with(|| reason.to_owned());
            }
        });
        self.process.kill();
    }

    /// Ends the VM at once: by request, else by force.
    pub(crate) fn end(&self, reason: &str) {
        self.change(|state| {
            state.is_killed = true;
            state.end_reason.get_or_insert_with(|| reason.to_owned());
        });
        // Whoever holds the link may be stuck in it, for a guest that hangs.
        let asked = match self.sender.try_lock() {
            Ok(sender) => sender.send(REQUEST, &encode(Request::Stop), &[]).is_ok(),
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => false,
        };
        let ended = asked
            && self.wait_for(Some(STOP_PATIENCE), |state| state.is_vm_gone.then_some(())).is_some();
        if !ended {
            self.process.kill();
        }
    }

    /// Tells everybody of exits, in order: those who registered, then those who wait.
    pub(crate) fn announce(&self, exits: &[Exit]) {
        for (process, status) in exits {
            if !self.lock().is_discarded {
                let notifies = self.notifies.lock().unwrap_or_else(PoisonError::into_inner).clone();
                for notify_fn in notifies {
                    notify_fn(process, *status);
                }
            }
            self.change(|state| state.announced(process));
        }
    }

    /// Registers for exits.
    pub(crate) fn on_exit(&self, notify: Notify) {
        self.notifies.lock().unwrap_or_else(PoisonError::into_inner).push(notify);
    }

    /// The error for a call that the VM did not live to answer.
    pub(crate) fn ended(&self) -> Error {
        let state = self.lock();
        let reason = state.end_reason.clone().unwrap_or_else(|| "it powered off".to_owned());
        Error::VmEnded { id: state.id.clone(), reason }
    }
}

fn encode(request: Request) -> Vec<u8> {
    // An enum of units: there is nothing that serde_json could refuse.
    serde_json::to_vec(&request).unwrap_or_default()
}
