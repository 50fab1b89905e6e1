// SPDX-License-Identifier: Apache-2.0
//! The loop: commands and completions in, events out, application code in between.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use trine_abi::{control::Command, vcpu::Call};
use trine_machine::{
    channel::Channel,
    context::{Bases, Trap},
};
use trine_posix::{Kernel, mm::MmRef, process::TaskRef};

use crate::fpu;

/// The kernel and what connects it to the VMM.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) kernel: Kernel,
    pub(crate) channel: Channel,
    pub(crate) is_ready: bool,
    /// The memory whose page tables the vCPU uses: kept until it uses others, even if every
    /// process that had it is gone.
    pub(crate) active: Option<MmRef>,
}

impl Machine {
    /// Runs until the container has ended.
    pub(crate) fn run(mut self) -> ! {
        loop {
            self.take_commands();
            self.take_completions();
            let next = self.kernel.next_task();
            let finished = self.kernel.finished().is_some();
            self.send_events(finished);
            if finished && self.channel.is_flushed() {
                call(Call::PowerOff);
            }
            match next {
                Some(task) => {
                    if !self.is_ready {
                        self.is_ready = true;
                        call(Call::Ready);
                    }
                    let trap = self.run_task(&task);
                    self.kernel.trap(&task, trap);
                }
                None => self.idle(),
            }
        }
    }

    fn take_commands(&mut self) {
        loop {
            let (message, took) = self.channel.receive();
            let Some(message) = message else {
                if took {
                    // Part of a long message: the VMM may have more now that there is room.
                    call(Call::Control);
                }
                return;
            };
            match Command::decode(&message) {
                Ok(command) => self.kernel.command(command),
                Err(_) => panic!("command of {} bytes cannot be decoded", message.len()),
            }
        }
    }

    fn take_completions(&mut self) {
        loop {
            let completion = self.kernel.services.next_completion();
            let Some((request, completion)) = completion else { return };
            self.kernel.completion(request, completion);
        }
    }

    fn send_events(&mut self, finished: bool) {
        for event in self.kernel.take_events() {
            self.channel.send(&event.encode());
        }
        // The end of the VM makes the VMM look as well: no call of its own is needed then.
        if self.channel.flush() && !(finished && self.channel.is_flushed()) {
            call(Call::Control);
        }
    }

    /// Asks for a notification at the next completion; says whether one is there already.
    fn sleep_window(&self, sleeping: bool) -> bool {
        self.kernel.services.set_window_sleeping(sleeping)
    }

    fn run_task(&mut self, task: &TaskRef) -> Trap {
        let Some(mm) = task.mm() else { return Trap::Kick };
        if self.sleep_window(true) {
            // A completion is there: look around before the application runs on.
            self.sleep_window(false);
            self.take_completions();
            self.sleep_window(true);
        }
        let deadline = self.kernel.next_deadline().unwrap_or(u64::MAX);
        let wants_tick = self.kernel.wants_tick();
        let trap = fpu::with(|state| {
            state.switch_to(task);
            state.cpu.set_timers(deadline, wants_tick);
            let mut bases = Bases {
                fs: task.fs_base.load(Ordering::Relaxed),
                gs: task.gs_base.load(Ordering::Relaxed),
            };
            let mut registers = task.registers.lock();
            let trap = state.cpu.run(&mut mm.space.lock(), &mut registers, &mut bases);
            task.fs_base.store(bases.fs, Ordering::Relaxed);
            task.gs_base.store(bases.gs, Ordering::Relaxed);
            trap
        });
        self.active = Some(mm);
        self.sleep_window(false);
        trap
    }

    fn idle(&mut self) {
        if self.active.as_ref().is_some_and(|mm| Arc::strong_count(mm) == 1) {
            fpu::with(|state| state.cpu.leave_space());
            self.active = None;
        }
        if !self.sleep_window(true) {
            let deadline = self.kernel.next_deadline().unwrap_or(u64::MAX);
            fpu::with(|state| {
                state.cpu.set_timers(deadline, false);
                state.cpu.call(Call::Idle);
            });
        }
        self.sleep_window(false);
        self.kernel.tick();
    }
}

fn call(call: Call) {
    fpu::with(|state| state.cpu.call(call));
}
