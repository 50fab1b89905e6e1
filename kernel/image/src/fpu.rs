// SPDX-License-Identifier: Apache-2.0
//! The vCPUs, and whose floating-point state each holds.  It is saved when another thread runs there,
//! before its thread can go on elsewhere, or when the personality asks for it (signal frames, fork).

use alloc::{boxed::Box, sync::Arc};

use spin::{Mutex, MutexGuard};
use trine_abi::layout::MAX_VCPUS;
use trine_machine::cpu::Cpu;
use trine_posix::process::{Task, TaskRef};

use crate::run::holder;

/// Whose state a vCPU holds.  Used under the kernel's lock.
#[derive(Debug)]
struct Owner {
    task: Option<TaskRef>,
    /// It ran since its state was saved.
    is_newer: bool,
}

static CPUS: [Mutex<Option<Box<Cpu>>>; MAX_VCPUS] = [const { Mutex::new(None) }; MAX_VCPUS];
static OWNERS: [Mutex<Owner>; MAX_VCPUS] =
    [const { Mutex::new(Owner { task: None, is_newer: false }) }; MAX_VCPUS];

/// A vCPU, in use.
pub(crate) struct Used(MutexGuard<'static, Option<Box<Cpu>>>);

impl core::ops::Deref for Used {
    type Target = Cpu;

    fn deref(&self) -> &Cpu {
        self.0.as_ref().expect("this vcpu was given")
    }
}

impl core::ops::DerefMut for Used {
    fn deref_mut(&mut self) -> &mut Cpu {
        self.0.as_mut().expect("this vcpu was given")
    }
}

/// Gives vCPU `index` away, once it runs.
pub(crate) fn give(index: usize, cpu: Cpu) {
    *CPUS[index].lock() = Some(Box::new(cpu));
}

/// Takes the vCPU that this runs on; never held while the personality runs.
pub(crate) fn cpu(index: usize) -> Used {
    Used(CPUS[index].try_lock().expect("the personality does not run while a vcpu is in use"))
}

fn is(owner: &Owner, task: &Task) -> bool {
    owner.task.as_ref().is_some_and(|owner| core::ptr::eq(&raw const **owner, task))
}

/// Makes the vCPU hold the state of `task`.
pub(crate) fn switch_to(vcpu: usize, task: &TaskRef) {
    let mut owner = OWNERS[vcpu].lock();
    if is(&owner, task) {
        return;
    }
    save(vcpu, &mut owner);
    for (_, other) in (0..).zip(&OWNERS).filter(|(index, _)| *index != vcpu) {
        let mut other = other.lock();
        if is(&other, task) {
            other.task = None;
        }
    }
    cpu(vcpu).load_fpu(&task.fpu.lock());
    owner.task = Some(Arc::clone(task));
}

/// The owner has run application code.
pub(crate) fn ran(vcpu: usize) {
    OWNERS[vcpu].lock().is_newer = true;
}

/// Brings the owner's area up to date.
pub(crate) fn save_owner(vcpu: usize) {
    save(vcpu, &mut OWNERS[vcpu].lock());
}

fn save(vcpu: usize, owner: &mut Owner) {
    if !core::mem::take(&mut owner.is_newer) {
        return;
    }
    if let Some(task) = &owner.task {
        let mut cpu = cpu(vcpu);
        let mut area = task.fpu.lock();
        area.resize(cpu.fpu_bytes(), 0);
        cpu.save_fpu(&task.registers.lock(), &mut area);
    }
}

/// Brings a thread's area up to date.
pub(crate) fn save_task(task: &Task) {
    let vcpu = holder();
    let mut owner = OWNERS[vcpu].lock();
    if is(&owner, task) {
        save(vcpu, &mut owner);
    }
}

/// A thread's area was written: what a vCPU holds of it is old.
pub(crate) fn forget(task: &Task) {
    for owner in &OWNERS {
        let mut owner = owner.lock();
        if is(&owner, task) {
            *owner = Owner { task: None, is_newer: false };
        }
    }
}
