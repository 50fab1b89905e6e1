// SPDX-License-Identifier: Apache-2.0
//! The thread that listens to one VMM, and the guest behind it, until they are gone.
//!
//! Nothing that arrives is believed further than [`crate::state`] allows; a message that cannot be
//! read ends the VM.

use std::{io::Write, sync::Arc, time::Duration};

use trine_abi::control::{Event, INIT_KEY};
use trine_link::Message;
use trine_vmm::protocol::{Cause, EVENT, NOTICE, Notice};

use crate::{
    launch::End,
    state::{self, KILLED, Phase, exit_code},
    vm::Vm,
};

/// How long the output of a container that ended may take to be read.
const DRAIN: Duration = Duration::from_secs(10);
/// The same after SIGKILL.
const DRAIN_KILLED: Duration = Duration::from_secs(1);
/// How long a VM may take to power off after its first process ended.
const POWER_OFF: Duration = Duration::from_secs(2);
/// How long a process may take to be gone when its link is closed.
const GONE: Duration = Duration::from_secs(2);
/// Lines that one guest kernel may write to the log.
const LOG_LINES: u32 = 1000;

/// Runs the thread.
pub(crate) fn run(vm: &Arc<Vm>) {
    let mut reader = Reader { vm, log_lines: 0, cause: None };
    loop {
        if vm.lock().phase == Phase::Stopped && !vm.receiver.wait(POWER_OFF).unwrap_or(true) {
            vm.process.kill();
        }
        match vm.receiver.receive() {
            Ok(Some(message)) => {
                if let Err(reason) = reader.take(&message) {
                    vm.fail(reason);
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                vm.fail(&format!("vmm broke its link: {error}"));
                break;
            }
        }
    }
    reader.finish();
}

struct Reader<'a> {
    vm: &'a Arc<Vm>,
    log_lines: u32,
    cause: Option<Cause>,
}

impl Reader<'_> {
    fn take(&mut self, message: &Message) -> Result<(), &'static str> {
        match message.kind {
            EVENT => {
                let event = Event::decode(&message.payload)
                    .map_err(|_| "guest sent an event that cannot be read")?;
                self.event(event);
                Ok(())
            }
            NOTICE => {
                let notice = serde_json::from_slice(&message.payload)
                    .map_err(|_| "vmm sent a notice that cannot be read")?;
                self.notice(notice);
                Ok(())
            }
            _ => Err("vmm sent a message of an unknown kind"),
        }
    }

    fn event(&mut self, event: Event) {
        let vm = self.vm;
        match event {
            Event::Spawned { key, pid } => vm.change(|state| state.loaded(key, pid)),
            Event::SpawnFailed { key, errno, reason } => {
                vm.change(|state| state.load_failed(key, errno, &reason));
            }
            Event::Exited { key: INIT_KEY, status } => {
                // A signal can end a process that is loaded and does not run yet.
                if matches!(vm.lock().phase, Phase::Created | Phase::Running) {
                    self.init_exited(exit_code(status), DRAIN);
                }
            }
            Event::Exited { key, status } => {
                let exit = vm.change(|state| state.exec_exited(key, status));
                vm.announce(exit.as_slice());
            }
            Event::OutOfMemory { pid } => vm.change(|state| state.ran_out_of_memory(pid)),
            Event::Log { text } => self.log(&text),
            Event::Processes { request, list } => {
                vm.change(|state| state.list = Some((request, list)));
            }
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Booted => {}
            Notice::Ready(stages) => self.vm.change(|state| state.stages = stages),
            Notice::Paused => self.vm.change(|state| state.is_paused = true),
            Notice::Resumed => self.vm.change(|state| state.is_paused = false),
            Notice::Ended { cause, reason } => {
                self.cause = Some(cause);
                self.vm.change(|state| {
                    let unasked = !matches!(cause, Cause::PowerOff | Cause::Stopped);
                    if state.phase != Phase::Stopped && unasked {
                        let reason = state::printable(reason.as_bytes());
                        state.end_reason.get_or_insert(reason);
                    }
                    state.out_of_memory |= cause == Cause::OutOfMemory;
                    state.is_vm_gone = true;
                });
            }
        }
    }

    fn log(&mut self, text: &[u8]) {
        let Some(mut log) = self.vm.log.as_ref().filter(|_| self.log_lines <= LOG_LINES) else {
            return;
        };
        let id = self.vm.lock().id.clone();
        let line = match self.log_lines {
            LOG_LINES => format!("{id}: kernel: further lines are dropped\n"),
            _ => format!("{id}: kernel: {}\n", state::printable(text)),
        };
        self.log_lines += 1;
        // A full disk must not end the container.
        let _ = log.write_all(line.as_bytes());
    }

    /// The end of the first process: every exec ends, output is handed over, everybody is told.
    fn init_exited(&self, code: u32, drain: Duration) {
        let vm = self.vm;
        let execs = vm.change(|state| state.end_execs());
        vm.announce(&execs);
        vm.io.detach(vm.number, drain);
        let exit = vm.change(|state| state.init_exited(code));
        vm.announce(exit.as_slice());
    }

    /// The VMM is gone.
    fn finish(&self) {
        let vm = self.vm;
        vm.change(|state| state.is_vm_gone = true);
        if vm.lock().phase == Phase::Stopped {
            return;
        }
        let end = self.end_of_process();
        let out_of_memory = end == Some(End::Killed(9))
            && vm.cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills() > 0);
        let is_killed = vm.change(|state| {
            state.out_of_memory |= out_of_memory;
            state.end_reason.get_or_insert_with(|| match (self.cause, end) {
                _ if out_of_memory => "vmm ran out of memory in its cgroup".to_owned(),
                (Some(Cause::PowerOff), _) => "guest powered off without an exit status".to_owned(),
                (Some(Cause::Stopped), _) => "it was stopped".to_owned(),
                (_, Some(end)) => format!("vmm {end}"),
                (_, None) => "vmm closed its link".to_owned(),
            });
            state.is_killed
        });
        self.init_exited(KILLED, if is_killed { DRAIN_KILLED } else { DRAIN });
    }

    fn end_of_process(&self) -> Option<End> {
        if !self.vm.process.wait(GONE) {
            self.vm.process.kill();
            self.vm.process.wait(GONE);
        }
        self.vm.process.end()
    }
}
