// SPDX-License-Identifier: Apache-2.0
//! The loop of each vCPU: commands and completions in, events out, application code in between.
//!
//! One lock is around all of it, except while application code runs and while a vCPU sleeps.

use alloc::sync::Arc;
use core::{
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicUsize, Ordering},
};

use spin::{Mutex, MutexGuard};
use trine_abi::{boot::BootInfo, control::Command, layout::MAX_VCPUS, vcpu::Call};
use trine_machine::{
    channel::Channel,
    contention::Waiting,
    context::{Bases, Trap},
    cpu, shootdown,
};
use trine_posix::{Kernel, mm::MmRef, process::TaskRef};

use crate::{fpu, start};

/// The kernel and what connects it to the VMM.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) kernel: Kernel,
    pub(crate) channel: Channel,
    pub(crate) info: &'static BootInfo,
    pub(crate) is_ready: bool,
}

static MACHINE: Mutex<Option<Machine>> = Mutex::new(None);
/// The memory whose page tables each vCPU uses: kept until it uses others, even if every process that
/// had it is gone.  Used under the kernel's lock.
static ACTIVE: [Mutex<Option<MmRef>>; MAX_VCPUS] = [const { Mutex::new(None) }; MAX_VCPUS];
/// Turns of waiting for a vCPU after which it is kicked again: a kick can get lost on a PVM host.
const KICK_AGAIN: u32 = 1 << 16;
/// The vCPU that holds the lock.
static HOLDER: AtomicUsize = AtomicUsize::new(0);

/// The vCPU that holds the kernel's lock: the one that this is called on.
pub(crate) fn holder() -> usize {
    HOLDER.load(Ordering::Relaxed)
}

/// Makes the kernel, before any vCPU runs its loop.
pub(crate) fn init(machine: Machine) {
    shootdown::set_vcpus(machine.info.vcpus);
    *MACHINE.lock() = Some(machine);
}

/// The kernel's lock, held.
struct Held(MutexGuard<'static, Option<Machine>>);

impl Held {
    fn take(vcpu: usize) -> Self {
        let guard = MACHINE.try_lock().unwrap_or_else(wait_for_lock);
        HOLDER.store(vcpu, Ordering::Relaxed);
        let mut held = Self(guard);
        held.kernel.set_vcpu(vcpu);
        held
    }
}

/// Waits for the lock, which is known to be held.
fn wait_for_lock() -> MutexGuard<'static, Option<Machine>> {
    let _waiting = Waiting::begin();
    let mut turn = 0;
    loop {
        if let Some(guard) = MACHINE.try_lock() {
            return guard;
        }
        cpu::relax(turn);
        turn = turn.wrapping_add(1);
    }
}

impl Deref for Held {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        self.0.as_ref().expect("init was called")
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Machine {
        self.0.as_mut().expect("init was called")
    }
}

/// Runs a vCPU until the container has ended.
pub(crate) fn run(vcpu: usize) -> ! {
    let mut machine = Held::take(vcpu);
    loop {
        machine.take_commands();
        machine.take_completions();
        let next = machine.kernel.next_task();
        let finished = machine.kernel.finished().is_some();
        machine.send_events(finished);
        if finished && machine.channel.is_flushed() {
            call(Call::PowerOff);
        }
        machine.stop_others(next.is_some());
        machine = match next {
            Some(task) => run_task(machine, vcpu, &task),
            None => idle(machine, vcpu),
        };
    }
}

/// Runs application code until it traps, and handles the trap.
fn run_task(mut machine: Held, vcpu: usize, task: &TaskRef) -> Held {
    let Some(mm) = task.mm() else {
        machine.kernel.trap(task, Trap::Kick);
        return machine;
    };
    if !machine.is_ready {
        machine.is_ready = true;
        call(Call::Ready);
        start::start_others(machine.info);
    }
    if machine.sleep_window(true) {
        // A completion is there: look around before the application runs on.
        machine.sleep_window(false);
        machine.take_completions();
        machine.sleep_window(true);
    }
    let deadline = machine.kernel.next_deadline().unwrap_or(u64::MAX);
    let wants_tick = machine.kernel.wants_tick();
    let mut bases = Bases {
        fs: task.fs_base.load(Ordering::Relaxed),
        gs: task.gs_base.load(Ordering::Relaxed),
    };
    let gate = mm.uses_rewritten_text().then(|| fpu::cpu(vcpu).gate_base());
    let own_gs = bases.gs;
    bases.gs = gate.unwrap_or(own_gs);
    // A copy: whoever holds the lock meanwhile may look at the task.
    let mut registers = *task.registers.lock();
    fpu::switch_to(vcpu, task);
    let mut cpu = fpu::cpu(vcpu);
    cpu.set_timers(deadline, wants_tick);
    cpu.hurry_timers();
    cpu.enter(mm.space.lock().translations());
    let is_other = ACTIVE[vcpu].lock().as_ref().is_none_or(|active| !Arc::ptr_eq(active, &mm));
    if is_other {
        // Under the lock: the memory before may be freed from here on.
        cpu.load();
        let before = ACTIVE[vcpu].lock().replace(Arc::clone(&mm));
        drop(before);
    }
    drop(machine);
    let trap = cpu.run(&mut registers, &mut bases);
    drop(cpu);
    let mut machine = Held::take(vcpu);
    fpu::ran(vcpu);
    *task.registers.lock() = registers;
    task.fs_base.store(bases.fs, Ordering::Relaxed);
    if gate == Some(bases.gs) {
        bases.gs = own_gs;
    } else if gate.is_some() {
        // The program has set a GS base of its own.
        mm.use_own_text();
    }
    task.gs_base.store(bases.gs, Ordering::Relaxed);
    machine.sleep_window(false);
    machine.kernel.trap(task, trap);
    machine
}

/// Sleeps until there may be something to do.
fn idle(mut machine: Held, vcpu: usize) -> Held {
    if machine.info.vcpus > 1 {
        // The task that ran last may go on elsewhere.
        fpu::save_owner(vcpu);
    }
    if is_kept_only_by(vcpu) {
        fpu::cpu(vcpu).leave_space();
        let active = ACTIVE[vcpu].lock().take();
        drop(active);
    }
    // Other vCPUs would have to wait meanwhile.
    if machine.info.vcpus == 1 && machine.kernel.services.look_before_sleep() {
        return machine;
    }
    if machine.sleep_window(true) {
        machine.sleep_window(false);
        return machine;
    }
    let asleep_ns = machine.kernel.services.monotonic_ns();
    let deadline = machine.kernel.sleep().unwrap_or(u64::MAX);
    let cpu = fpu::cpu(vcpu);
    cpu.set_timers(deadline, false);
    drop(machine);
    cpu.call(Call::Idle);
    drop(cpu);
    let mut machine = Held::take(vcpu);
    machine.sleep_window(false);
    machine.kernel.services.woke_after(asleep_ns);
    machine.kernel.tick();
    machine
}

/// Whether nobody but this vCPU still has the memory whose page tables it uses.
fn is_kept_only_by(vcpu: usize) -> bool {
    ACTIVE[vcpu].lock().as_ref().is_some_and(|mm| Arc::strong_count(mm) == 1)
}

impl Machine {
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

    /// Kicks the vCPUs that must look around, and waits for those that use stale translations.
    fn stop_others(&mut self, will_run: bool) {
        let mut kicks = self.kernel.kicks(will_run);
        // A vCPU that sleeps must let go of memory that nobody else has.
        for index in (0..self.info.vcpus as usize).filter(|index| *index != holder()) {
            if is_kept_only_by(index) {
                kicks |= 1 << index;
            }
        }
        let stale = shootdown::requested();
        if kicks | stale != 0 {
            fpu::cpu(holder()).kick(kicks | stale);
        }
        if stale == 0 {
            return;
        }
        let mut turn: u32 = 1;
        while !shootdown::is_over(stale) {
            cpu::relax(turn);
            turn = turn.wrapping_add(1);
            if turn.is_multiple_of(KICK_AGAIN) {
                fpu::cpu(holder()).kick(stale);
            }
        }
        shootdown::finish();
    }

    /// Asks for a notification at the next completion; says whether one is there already.
    fn sleep_window(&self, sleeping: bool) -> bool {
        self.kernel.services.set_window_sleeping(sleeping)
    }
}

fn call(call: Call) {
    fpu::cpu(holder()).call(call);
}
