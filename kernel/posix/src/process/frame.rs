// SPDX-License-Identifier: Apache-2.0
//! The frame that a signal handler finds on its stack, exactly as Linux lays it out for x86-64
//! (arch/x86/include/uapi/asm/sigcontext.h, ucontext.h), and the way back.
//!
//! ```text
//! rsp ->  0  return address (SA_RESTORER)      64-byte aligned, above:
//!         8  uc_flags, uc_link, uc_stack         0  FXSAVE image, fx_sw_reserved at 464
//!        48  mcontext: 18 registers, ...       512  XSAVE header and components
//!       304  uc_sigmask                      bytes  FP_XSTATE_MAGIC2
//!       312  siginfo
//! ```

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering;

use trine_machine::Registers;

use super::{
    Task, TaskRef,
    signal::{Action, SA_ONSTACK, SA_RESTORER, SigInfo, SignalSet, UNBLOCKABLE},
    task::AltStack,
};
use crate::{Errno, Kernel, kernel::FpuOps, mm::HIGHEST};

const FRAME_BYTES: u64 = 440;
const RED_ZONE: u64 = 128;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS.
const UC_FLAGS: u64 = 7;
/// CS and SS of the application, and GS and FS between them.
const SELECTORS: u64 = 0x33 | 0x2b << 48;
/// Flags that sigreturn restores: AC RF OF DF TF SF ZF AF PF CF.
const FLAGS_MASK: u64 = 0x5_0dd5;
const FLAG_TF_DF_RF: u64 = 1 << 8 | 1 << 10 | 1 << 16;
/// SS_ONSTACK.
pub(crate) const SS_ONSTACK: u32 = 1;
/// SS_DISABLE.
pub(crate) const SS_DISABLE: u32 = 2;
/// SS_AUTODISARM.
pub(crate) const SS_AUTODISARM: u32 = 1 << 31;

/// The floating-point area of a thread that has not used it.
pub(crate) fn initial_fpu(ops: &FpuOps) -> Vec<u8> {
    let mut area = vec![0; ops.bytes];
    area[0..2].copy_from_slice(&0x037f_u16.to_le_bytes());
    area[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    area[28..32].copy_from_slice(&0xffff_u32.to_le_bytes());
    area
}

/// A floating-point area with a part replaced; state that the part names and has not is initial.
pub(crate) fn fpu_from_parts(own: &[u8], part: &[u8]) -> Vec<u8> {
    let mut area = own.to_vec();
    let bytes = part.len().min(area.len());
    area[..bytes].copy_from_slice(&part[..bytes]);
    if let Some(reserved) = area.get_mut(464..512) {
        reserved.fill(0);
    }
    if area.len() >= 576 {
        let known = get(own, 512) | 3;
        let named = if bytes >= 520 { get(&area, 512) } else { known };
        put(&mut area, 512, named | 3);
        area[520..576].fill(0);
    }
    area
}

/// Bytes that a frame takes at most (AT_MINSIGSTKSZ).
pub(crate) fn frame_bytes_max(ops: &FpuOps) -> u64 {
    (FRAME_BYTES + RED_ZONE + ops.bytes as u64 + 4 + 64 + 16).next_multiple_of(16)
}

/// Whether a stack pointer is on the alternate stack.
pub(crate) fn is_on_stack(stack: &AltStack, rsp: u64) -> bool {
    stack.flags & SS_AUTODISARM == 0 && rsp.wrapping_sub(stack.base).wrapping_sub(1) < stack.bytes
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The registers in the order of struct sigcontext.
fn fields(r: &mut Registers) -> [&mut u64; 18] {
    [
        &mut r.r8,
        &mut r.r9,
        &mut r.r10,
        &mut r.r11,
        &mut r.r12,
        &mut r.r13,
        &mut r.r14,
        &mut r.r15,
        &mut r.rdi,
        &mut r.rsi,
        &mut r.rbp,
        &mut r.rbx,
        &mut r.rdx,
        &mut r.rax,
        &mut r.rcx,
        &mut r.rsp,
        &mut r.rip,
        &mut r.rflags,
    ]
}

impl Kernel {
    /// The thread's whole floating-point state, with XMM and MXCSR from its registers.
    pub(crate) fn fpu_image(&self, task: &Task) -> Vec<u8> {
        (self.options.fpu.save_fn)(task);
        let mut area = task.fpu.lock().clone();
        if area.len() < 512 {
            area = initial_fpu(&self.options.fpu);
        }
        let registers = task.registers.lock();
        area[24..28].copy_from_slice(&registers.mxcsr.to_le_bytes());
        for (index, xmm) in registers.xmm.iter().enumerate() {
            let at = 160 + 16 * index;
            area[at..at + 16].copy_from_slice(&xmm.to_le_bytes());
        }
        if let Some(used) = area.get_mut(512) {
            *used |= 3;
        }
        area
    }

    /// Replaces the thread's floating-point state.
    pub(crate) fn set_fpu_image(&self, task: &Task, area: Vec<u8>) {
        {
            let mut registers = task.registers.lock();
            registers.mxcsr = get32(&area, 24) & 0xffff;
            for (index, xmm) in registers.xmm.iter_mut().enumerate() {
                let at = 160 + 16 * index;
                *xmm = u128::from(get(&area, at)) | u128::from(get(&area, at + 8)) << 64;
            }
        }
        *task.fpu.lock() = area;
        (self.options.fpu.changed_fn)(task);
    }

    /// Builds the frame of a handler and sets the registers to run it.
    pub(crate) fn push_frame(
        &self,
        task: &TaskRef,
        info: &SigInfo,
        action: &Action,
        saved_mask: SignalSet,
    ) -> Result<(), Errno> {
        if action.flags & SA_RESTORER == 0 {
            return Err(Errno::FAULT);
        }
        let ops = &self.options.fpu;
        let mut fpu = self.fpu_image(task);
        let has_xsave = ops.mask != 0 && fpu.len() >= 576;
        if has_xsave {
            let bytes = fpu.len() as u32;
            fpu[464..468].copy_from_slice(&MAGIC1.to_le_bytes());
            fpu[468..472].copy_from_slice(&(bytes + 4).to_le_bytes());
            put(&mut fpu, 472, ops.mask);
            fpu[480..484].copy_from_slice(&bytes.to_le_bytes());
            fpu.extend_from_slice(&MAGIC2.to_le_bytes());
        }
        let mut registers = *task.registers.lock();
        let mut signals = task.signals.lock();
        let stack = signals.stack;
        let on_stack = is_on_stack(&stack, registers.rsp);
        let mut top = registers.rsp.wrapping_sub(RED_ZONE);
        let entering = action.flags & SA_ONSTACK != 0 && stack.bytes > 0 && !on_stack;
        if entering {
            top = stack.base.wrapping_add(stack.bytes);
        }
        let fpu_at = top.wrapping_sub(fpu.len() as u64) & !63;
        let frame_at = (fpu_at.wrapping_sub(FRAME_BYTES) & !15).wrapping_sub(8);
        if (entering || on_stack) && frame_at < stack.base {
            return Err(Errno::FAULT);
        }

        let mut frame = [0; FRAME_BYTES as usize];
        put(&mut frame, 0, action.restorer);
        put(&mut frame, 8, if has_xsave { UC_FLAGS } else { UC_FLAGS & !1 });
        put(&mut frame, 24, stack.base);
        let flags = stack_flags(&stack, on_stack);
        put(&mut frame, 32, u64::from(flags));
        put(&mut frame, 40, stack.bytes);
        for (index, field) in fields(&mut registers).into_iter().enumerate() {
            put(&mut frame, 48 + 8 * index, *field);
        }
        put(&mut frame, 192, SELECTORS);
        let (vector, error, address) = signals.trap;
        put(&mut frame, 200, error);
        put(&mut frame, 208, vector);
        put(&mut frame, 216, saved_mask);
        put(&mut frame, 224, address);
        put(&mut frame, 232, fpu_at);
        put(&mut frame, 304, saved_mask);
        frame[312..440].copy_from_slice(&info.encode());

        if stack.flags & SS_AUTODISARM != 0 && entering {
            signals.stack = AltStack { flags: SS_DISABLE, ..AltStack::default() };
        }
        drop(signals);
        let mm = task.mm().ok_or(Errno::FAULT)?;
        mm.write_bytes(fpu_at, &fpu)?;
        mm.write_bytes(frame_at, &frame)?;

        registers.rdi = u64::from(info.signal);
        registers.rsi = frame_at + 312;
        registers.rdx = frame_at + 8;
        registers.rax = 0;
        registers.rsp = frame_at;
        registers.rip = action.handler;
        registers.rflags &= !FLAG_TF_DF_RF;
        *task.registers.lock() = registers;
        self.set_fpu_image(task, initial_fpu(ops));
        Ok(())
    }

    /// Undoes a frame (rt_sigreturn).
    ///
    /// # Errors
    /// EFAULT if the frame cannot be read or is not one.
    pub(crate) fn pop_frame(&self, task: &TaskRef) -> Result<(), Errno> {
        let mm = task.mm().ok_or(Errno::FAULT)?;
        let context_at = task.registers.lock().rsp;
        let mut frame = [0; FRAME_BYTES as usize];
        mm.read_bytes(context_at, &mut frame[8..312])?;
        let mut registers = *task.registers.lock();
        let flags = registers.rflags;
        for (index, field) in fields(&mut registers).into_iter().enumerate() {
            *field = get(&frame, 48 + 8 * index);
        }
        registers.rflags = flags & !FLAGS_MASK | registers.rflags & FLAGS_MASK;
        if registers.rip >= HIGHEST {
            return Err(Errno::FAULT);
        }
        let fpu_at = get(&frame, 232);
        let area = self.read_fpu(task, fpu_at)?;
        *task.registers.lock() = registers;
        self.set_fpu_image(task, area);
        let mut signals = task.signals.lock();
        signals.mask = get(&frame, 304) & !UNBLOCKABLE;
        let restored = AltStack {
            base: get(&frame, 24),
            bytes: get(&frame, 40),
            flags: get32(&frame, 32) & (SS_DISABLE | SS_AUTODISARM),
        };
        if !is_on_stack(&signals.stack, registers.rsp) {
            signals.stack =
                if restored.flags & SS_DISABLE != 0 { AltStack::default() } else { restored };
        }
        Ok(())
    }

    fn read_fpu(&self, task: &Task, at: u64) -> Result<Vec<u8>, Errno> {
        let ops = &self.options.fpu;
        if at == 0 {
            return Ok(initial_fpu(ops));
        }
        let mm = task.mm().ok_or(Errno::FAULT)?;
        let mut area = vec![0; 512];
        mm.read_bytes(at, &mut area)?;
        let bytes = ops.bytes;
        let extended = ops.mask != 0
            && get32(&area, 464) == MAGIC1
            && get32(&area, 480) as usize == bytes
            && get32(&area, 468) as usize >= bytes + 4;
        area.resize(bytes, 0);
        if extended {
            let mut magic = [0; 4];
            mm.read_bytes(at + bytes as u64, &mut magic)?;
            if u32::from_le_bytes(magic) == MAGIC2 {
                mm.read_bytes(at + 512, &mut area[512..])?;
                let used = get(&area, 512) & ops.mask;
                put(&mut area, 512, used);
                area[520..576].fill(0);
            }
        } else if bytes >= 576 {
            put(&mut area, 512, 3);
        }
        area[464..512].fill(0);
        Ok(area)
    }
}

/// What sigaltstack reports as flags.
pub(crate) fn stack_flags(stack: &AltStack, on_stack: bool) -> u32 {
    let state = if stack.bytes == 0 {
        SS_DISABLE
    } else if on_stack {
        SS_ONSTACK
    } else {
        0
    };
    state | stack.flags & SS_AUTODISARM
}

impl Task {
    /// Sets the segment base that TLS uses.
    pub(crate) fn set_fs_base(&self, base: u64) {
        self.fs_base.store(base, Ordering::Relaxed);
    }
}
