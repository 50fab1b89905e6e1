// SPDX-License-Identifier: Apache-2.0
//! Restartable sequences (rseq(2)): a thread that was interrupted in the middle of a sequence finds
//! itself at the sequence's abort handler.

use core::sync::atomic::Ordering;

use super::{
    TaskRef,
    signal::{SI_KERNEL, SIGSEGV, SigInfo},
};
use crate::{Errno, Kernel, mm::HIGHEST};

/// What a thread registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rseq {
    /// struct rseq.
    pub(crate) address: u64,
    /// Bytes of it.
    pub(crate) bytes: u32,
    /// What stands before each abort handler.
    pub(crate) signature: u32,
}

impl Kernel {
    /// Does what a thread's sequence asks for before application code runs on: after it was off its
    /// CPU, and before it runs a signal handler.
    pub(crate) fn restart_sequence(&mut self, task: &TaskRef) {
        if !task.rseq_due.swap(false, Ordering::Relaxed) {
            return;
        }
        let Some(rseq) = *task.rseq.lock() else { return };
        if self.update_rseq(task, rseq).is_err() {
            *task.rseq.lock() = None;
            self.force_signal(task, SigInfo::new(SIGSEGV, SI_KERNEL));
        }
    }

    fn update_rseq(&self, task: &TaskRef, rseq: Rseq) -> Result<(), Errno> {
        let mm = task.mm().ok_or(Errno::FAULT)?;
        let cpu = self.vcpu();
        let mut head = [0; 16];
        mm.read_bytes(rseq.address, &mut head)?;
        let word = |raw: &[u8], at: usize| {
            raw[at..at + 8].iter().rev().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte))
        };
        // cpu_id_start and cpu_id.
        let cpus = u64::from(cpu) | u64::from(cpu) << 32;
        if word(&head, 0) != cpus {
            mm.write_bytes(rseq.address, &cpus.to_le_bytes())?;
        }
        let section_at = word(&head, 8);
        if section_at == 0 {
            return Ok(());
        }
        if section_at >= HIGHEST {
            return Err(Errno::FAULT);
        }
        let mut section = [0; 32];
        mm.read_bytes(section_at, &mut section)?;
        let (start, length, abort) = (word(&section, 8), word(&section, 16), word(&section, 24));
        if section[0..4] != [0; 4] || abort >= HIGHEST || start >= HIGHEST {
            return Err(Errno::INVAL);
        }
        mm.write_bytes(rseq.address + 8, &[0; 8])?;
        let mut registers = task.registers.lock();
        if registers.rip.wrapping_sub(start) >= length {
            return Ok(());
        }
        let mut signature = [0; 4];
        mm.read_bytes(abort.wrapping_sub(4), &mut signature)?;
        if signature != rseq.signature.to_le_bytes() {
            return Err(Errno::INVAL);
        }
        registers.rip = abort;
        Ok(())
    }
}
