// SPDX-License-Identifier: Apache-2.0
//! Whose floating-point state the vCPU holds.  It is saved when another thread runs, or when the
//! personality asks for it (signal frames, fork).

use alloc::sync::Arc;

use spin::{Mutex, MutexGuard};
use trine_machine::cpu::Cpu;
use trine_posix::process::{Task, TaskRef};

/// The vCPU and the thread that ran on it last.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) cpu: Cpu,
    owner: Option<TaskRef>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

/// Gives the vCPU away.
pub(crate) fn init(cpu: Cpu) {
    *STATE.lock() = Some(State { cpu, owner: None });
}

/// Takes the vCPU; never held while the personality runs.
pub(crate) fn with<T>(use_fn: impl FnOnce(&mut State) -> T) -> T {
    let mut guard: MutexGuard<'_, Option<State>> =
        STATE.try_lock().expect("the personality does not run while a vcpu is in use");
    use_fn(guard.as_mut().expect("init was called"))
}

impl State {
    /// Makes `task` the owner: its state is loaded, that of the last owner saved.
    pub(crate) fn switch_to(&mut self, task: &TaskRef) {
        if self.owner.as_ref().is_some_and(|owner| Arc::ptr_eq(owner, task)) {
            return;
        }
        if let Some(owner) = self.owner.take() {
            save_to(&mut self.cpu, &owner);
        }
        self.cpu.load_fpu(&task.fpu.lock());
        self.owner = Some(task.clone());
    }
}

fn save_to(cpu: &mut Cpu, task: &Task) {
    let mut area = task.fpu.lock();
    area.resize(cpu.fpu_bytes(), 0);
    cpu.save_fpu(&task.registers.lock(), &mut area);
}

/// Brings a thread's area up to date.
pub(crate) fn save(task: &Task) {
    with(|state| {
        if state.owner.as_ref().is_some_and(|owner| core::ptr::eq(&raw const **owner, task)) {
            save_to(&mut state.cpu, task);
        }
    });
}

/// A thread's area was written: what the vCPU holds of it is old.
pub(crate) fn forget(task: &Task) {
    with(|state| {
        if state.owner.as_ref().is_some_and(|owner| core::ptr::eq(&raw const **owner, task)) {
            state.owner = None;
        }
    });
}
