// SPDX-License-Identifier: Apache-2.0
//! ptrace.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use trine_machine::Registers;

use crate::{
    Errno,
    cx::{Cx, SysResult},
    mm::HIGHEST,
    process::{
        TaskRef,
        access::may_trace,
        frame::fpu_from_parts,
        signal::{SI_USER, SIGKILL, SIGNAL_MAX, SIGSTOP, SigInfo, UNBLOCKABLE},
        trace::{Mode, RESTARTS, Stop},
    },
};

const TRACEME: u64 = 0;
const PEEKTEXT: u64 = 1;
const PEEKDATA: u64 = 2;
const PEEKUSER: u64 = 3;
const POKETEXT: u64 = 4;
const POKEDATA: u64 = 5;
const POKEUSER: u64 = 6;
const CONT: u64 = 7;
const KILL: u64 = 8;
const SINGLESTEP: u64 = 9;
const GETREGS: u64 = 12;
const SETREGS: u64 = 13;
const GETFPREGS: u64 = 14;
const SETFPREGS: u64 = 15;
const ATTACH: u64 = 16;
const DETACH: u64 = 17;
const SYSCALL: u64 = 24;
const SETOPTIONS: u64 = 0x4200;
const GETEVENTMSG: u64 = 0x4201;
const GETSIGINFO: u64 = 0x4202;
const SETSIGINFO: u64 = 0x4203;
const GETREGSET: u64 = 0x4204;
const SETREGSET: u64 = 0x4205;
const SEIZE: u64 = 0x4206;
const INTERRUPT: u64 = 0x4207;
const LISTEN: u64 = 0x4208;
const GETSIGMASK: u64 = 0x420a;
const SETSIGMASK: u64 = 0x420b;
const GET_SYSCALL_INFO: u64 = 0x420e;

const OPTIONS_KNOWN: u64 = 0xff | 0x30_0000;
/// Words of struct user_regs_struct.
const REGISTER_WORDS: usize = 27;
/// Bytes of it.
const REGISTER_BYTES: usize = REGISTER_WORDS * 8;
/// u_debugreg of struct user: eight debug registers.
const DEBUG_REGISTERS: core::ops::Range<u64> = 848..912;
const FPREGS_BYTES: usize = 512;
const NT_PRSTATUS: u64 = 1;
const NT_FPREGSET: u64 = 2;
const NT_X86_XSTATE: u64 = 0x202;
const CODE_SEGMENT: u64 = 0x33;
const STACK_SEGMENT: u64 = 0x2b;
/// Flags that a tracer may change: as sigreturn, and TF.
const FLAGS_MASK: u64 = 0x5_0dd5;
const ARCH_X86_64: u32 = 0xc000_003e;

pub(super) fn sys_ptrace(
    cx: &mut Cx<'_>,
    request: u64,
    pid: i32,
    address: u64,
    data: u64,
) -> SysResult {
    match request {
        TRACEME => {
            let parent = cx.task.process.parent().ok_or(Errno::PERM)?;
            let task = cx.task.clone();
            cx.kernel.attach(&parent, &task, 0, false)?;
            return Ok(0);
        }
        ATTACH | SEIZE => return attach(cx, request, pid, address, data),
        _ => {}
    }
    let task = u32::try_from(pid).ok().and_then(|tid| cx.kernel.services.registry.task(tid));
    let task = task.ok_or(Errno::SRCH)?;
    let is_mine =
        task.tracer().is_some_and(|tracer| alloc::sync::Arc::ptr_eq(&tracer, &cx.task.process));
    if !is_mine {
        return Err(Errno::SRCH.into());
    }
    match request {
        KILL => {
            let process = task.process.clone();
            cx.kernel.kill_process(&process, SIGKILL);
            return Ok(0);
        }
        INTERRUPT => {
            let is_seized = task.trace.lock().as_ref().is_some_and(|trace| trace.is_seized);
            if !is_seized {
                return Err(Errno::IO.into());
            }
            cx.kernel.trace_interrupt(&task);
            return Ok(0);
        }
        _ => {}
    }
    if !task.is_trace_stopped() || cx.kernel.runs_elsewhere(&task) {
        return Err(Errno::SRCH.into());
    }
    match request {
        CONT | SYSCALL | SINGLESTEP | DETACH => return resume(cx, &task, request, data),
        LISTEN => {
            let mut guard = task.trace.lock();
            let trace = guard.as_mut().ok_or(Errno::SRCH)?;
            trace.stop = None;
            trace.report = None;
            drop(guard);
            task.trace_stopped.store(false, Ordering::Relaxed);
            return Ok(0);
        }
        PEEKTEXT | PEEKDATA => {
            let mut word = [0; 8];
            let mm = task.mm().ok_or(Errno::SRCH)?;
            mm.read_bytes(address, &mut word).map_err(|_| Errno::IO)?;
            cx.write_bytes(data, &word)?;
        }
        POKETEXT | POKEDATA => {
            let mm = task.mm().ok_or(Errno::SRCH)?;
            mm.force_write(address, &data.to_le_bytes()).map_err(|_| Errno::IO)?;
        }
        PEEKUSER => {
            let value = peek_user(cx, &task, address)?;
            cx.write_u64(data, value)?;
        }
        POKEUSER => poke_user(cx, &task, address, data)?,
        GETREGS => cx.write_bytes(data, &encode(&registers(&task)))?,
        SETREGS => {
            let mut raw = [0; REGISTER_BYTES];
            cx.read_bytes(data, &mut raw)?;
            set_registers(cx, &task, &decode(&raw))?;
        }
        GETFPREGS => {
            let image = cx.kernel.fpu_image(&task);
            cx.write_bytes(data, &image[..FPREGS_BYTES])?;
        }
        SETFPREGS => {
            let mut raw = [0; FPREGS_BYTES];
            cx.read_bytes(data, &mut raw)?;
            let image = fpu_from_parts(&cx.kernel.fpu_image(&task), &raw);
            cx.kernel.set_fpu_image(&task, image);
        }
        GETREGSET => get_set(cx, &task, address, data)?,
        SETREGSET => put_set(cx, &task, address, data)?,
        SETOPTIONS => {
            let options = options(data)?;
            if let Some(trace) = task.trace.lock().as_mut() {
                trace.options = options;
            }
        }
        GETEVENTMSG => {
            let message = task.trace.lock().as_ref().map_or(0, |trace| trace.message);
            cx.write_u64(data, message)?;
        }
        GETSIGINFO => {
            let stop = task.trace.lock().as_ref().and_then(|trace| trace.stop);
            let info = signal_info(stop)?;
            cx.write_bytes(data, &info.encode())?;
        }
        SETSIGINFO => {
            let mut raw = [0; 128];
            cx.read_bytes(data, &mut raw)?;
            let signal = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
            let mut guard = task.trace.lock();
            match guard.as_mut().and_then(|trace| trace.stop.as_mut()) {
                Some(Stop::Signal(info)) => *info = SigInfo::decode(signal, &raw),
                _ => return Err(Errno::INVAL.into()),
            }
        }
        GETSIGMASK if address == 8 => {
            let mask = task.signals.lock().mask;
            cx.write_u64(data, mask)?;
        }
        SETSIGMASK if address == 8 => {
            task.signals.lock().mask = cx.read_u64(data)? & !UNBLOCKABLE;
        }
        GET_SYSCALL_INFO => return call_info(cx, &task, address, data),
        _ => return Err(Errno::IO.into()),
    }
    Ok(0)
}

fn options(data: u64) -> Result<u32, Errno> {
    if data & !OPTIONS_KNOWN != 0 { Err(Errno::INVAL) } else { Ok(data as u32) }
}

fn attach(cx: &mut Cx<'_>, request: u64, pid: i32, address: u64, data: u64) -> SysResult {
    let registry = &cx.kernel.services.registry;
    let task = u32::try_from(pid).ok().and_then(|tid| registry.task(tid)).ok_or(Errno::SRCH)?;
    let is_own = alloc::sync::Arc::ptr_eq(&task.process, &cx.task.process);
    if is_own || !may_trace(&cx.task, &task.process) {
        return Err(Errno::PERM.into());
    }
    let tracer = cx.process();
    if request == SEIZE {
        if address != 0 {
            return Err(Errno::IO.into());
        }
        cx.kernel.attach(&tracer, &task, options(data)?, true)?;
        return Ok(0);
    }
    cx.kernel.attach(&tracer, &task, 0, false)?;
    if task.process.stopped.load(Ordering::Relaxed) {
        // It is stopped already, and says so.
        let info = SigInfo::new(SIGSTOP, SI_USER);
        cx.kernel.trace_stop(&task, Stop::Signal(info));
    } else {
        let info = SigInfo::from_sender(SIGSTOP, SI_USER, tracer.pid, cx.creds().uid);
        cx.kernel.signal_task(&task, info);
    }
    Ok(0)
}

fn resume(cx: &mut Cx<'_>, task: &TaskRef, request: u64, data: u64) -> SysResult {
    if data > u64::from(SIGNAL_MAX) {
        return Err(Errno::IO.into());
    }
    let signal = data as u32;
    match request {
        DETACH => cx.kernel.detach(task, signal),
        SYSCALL => cx.kernel.trace_resume(task, Mode::Calls, signal),
        SINGLESTEP => cx.kernel.trace_resume(task, Mode::Step, signal),
        _ => cx.kernel.trace_resume(task, Mode::Run, signal),
    }
    Ok(0)
}

/// What PTRACE_GETSIGINFO tells of a stop.
fn signal_info(stop: Option<Stop>) -> Result<SigInfo, Errno> {
    Ok(match stop.ok_or(Errno::SRCH)? {
        Stop::Signal(info) => info,
        Stop::Entry | Stop::Exit => SigInfo::new(5, 5 | 0x80),
        Stop::Event(event, _, signal) => SigInfo::new(signal, (signal | event << 8).cast_signed()),
    })
}

/// The registers as a debugger sees them, in the order of struct user_regs_struct.
pub(crate) fn registers(task: &TaskRef) -> [u64; REGISTER_WORDS] {
    let mut own = *task.registers.lock();
    let (call, makes_call) = match task.trace.lock().as_ref() {
        Some(trace) => (trace.call, trace.makes_call),
        None => (u64::MAX, false),
    };
    // A call that waits looks as if a signal had interrupted it.
    let waits = task.run.lock().call.is_some() && !makes_call;
    let call =
        if waits { core::mem::replace(&mut own.rax, RESTARTS[0].cast_unsigned()) } else { call };
    let (fs, gs) = (task.fs_base.load(Ordering::Relaxed), task.gs_base.load(Ordering::Relaxed));
    let mut words = [0; REGISTER_WORDS];
    for (word, register) in words.iter_mut().zip(general(&mut own)) {
        *word = *register;
    }
    words[GENERAL..GENERAL + 8].copy_from_slice(&[
        call,
        own.rip,
        CODE_SEGMENT,
        own.rflags,
        own.rsp,
        STACK_SEGMENT,
        fs,
        gs,
    ]);
    words
}

/// How many of the words are general registers; the first ones are.
const GENERAL: usize = 15;

/// The general registers, in the order of struct user_regs_struct.
fn general(own: &mut Registers) -> [&mut u64; GENERAL] {
    [
        &mut own.r15,
        &mut own.r14,
        &mut own.r13,
        &mut own.r12,
        &mut own.rbp,
        &mut own.rbx,
        &mut own.r11,
        &mut own.r10,
        &mut own.r9,
        &mut own.r8,
        &mut own.rax,
        &mut own.rcx,
        &mut own.rdx,
        &mut own.rsi,
        &mut own.rdi,
    ]
}

fn set_registers(
    cx: &mut Cx<'_>,
    task: &TaskRef,
    words: &[u64; REGISTER_WORDS],
) -> Result<(), Errno> {
    let before = registers(task);
    if *words == before {
        return Ok(());
    }
    let [call, rip, _, flags, rsp, _, fs, gs, ..] = words[GENERAL..] else {
        return Err(Errno::IO);
    };
    if rip >= HIGHEST || fs >= HIGHEST || gs >= HIGHEST {
        return Err(Errno::IO);
    }
    // Other registers: the call that waits is given up, unless the tracer puts it back.
    let waits = task.run.lock().call.take().is_some();
    if waits {
        cx.kernel.leave_futex(task);
        let mut run = task.run.lock();
        if run.phase == crate::process::task::Phase::Blocked {
            run.phase = crate::process::task::Phase::Runnable;
        }
    }
    {
        let mut own = task.registers.lock();
        for (register, word) in general(&mut own).into_iter().zip(words) {
            *register = *word;
        }
        (own.rip, own.rsp) = (rip, rsp);
        own.rflags = own.rflags & !FLAGS_MASK | flags & FLAGS_MASK;
    }
    task.fs_base.store(fs, Ordering::Relaxed);
    task.gs_base.store(gs, Ordering::Relaxed);
    if let Some(trace) = task.trace.lock().as_mut() {
        trace.call = call;
    }
    Ok(())
}

/// struct user_regs_struct.
pub(crate) fn encode(words: &[u64; REGISTER_WORDS]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn decode(raw: &[u8; REGISTER_BYTES]) -> [u64; REGISTER_WORDS] {
    let mut words = [0; REGISTER_WORDS];
    for (word, bytes) in words.iter_mut().zip(raw.chunks_exact(8)) {
        *word = bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    }
    words
}

fn peek_user(_cx: &Cx<'_>, task: &TaskRef, offset: u64) -> Result<u64, Errno> {
    if !offset.is_multiple_of(8) {
        return Err(Errno::IO);
    }
    if let Some(word) = registers(task).get((offset / 8) as usize) {
        return Ok(*word);
    }
    // The rest of struct user is of no use to anybody.
    if offset < DEBUG_REGISTERS.end { Ok(0) } else { Err(Errno::IO) }
}

fn poke_user(cx: &mut Cx<'_>, task: &TaskRef, offset: u64, value: u64) -> Result<(), Errno> {
    if !offset.is_multiple_of(8) {
        return Err(Errno::IO);
    }
    let mut words = registers(task);
    if let Some(word) = words.get_mut((offset / 8) as usize) {
        *word = value;
        return set_registers(cx, task, &words);
    }
    // No hardware breakpoints: debuggers single-step then.
    if DEBUG_REGISTERS.contains(&offset) && value == 0 { Ok(()) } else { Err(Errno::IO) }
}

fn read_vector(cx: &Cx<'_>, at: u64) -> Result<(u64, usize), Errno> {
    let bytes = cx.read_u64(at.wrapping_add(8))?;
    Ok((cx.read_u64(at)?, usize::try_from(bytes).unwrap_or(usize::MAX)))
}

/// The floating-point state with what a debugger looks for in it.
fn xstate(cx: &Cx<'_>, task: &TaskRef) -> Vec<u8> {
    let mut image = cx.kernel.fpu_image(task);
    let mask = cx.kernel.options.fpu.mask;
    if let Some(slot) = image.get_mut(464..472) {
        slot.copy_from_slice(&mask.to_le_bytes());
    }
    image
}

fn get_set(cx: &Cx<'_>, task: &TaskRef, kind: u64, at: u64) -> Result<(), Errno> {
    let raw = match kind {
        NT_PRSTATUS => encode(&registers(task)),
        NT_FPREGSET => cx.kernel.fpu_image(task)[..FPREGS_BYTES].to_vec(),
        NT_X86_XSTATE if cx.kernel.options.fpu.mask != 0 => xstate(cx, task),
        _ => return Err(Errno::INVAL),
    };
    let (to, room) = read_vector(cx, at)?;
    let given = raw.len().min(room);
    cx.write_bytes(to, &raw[..given])?;
    cx.write_u64(at.wrapping_add(8), given as u64)
}

fn put_set(cx: &mut Cx<'_>, task: &TaskRef, kind: u64, at: u64) -> Result<(), Errno> {
    let (from, bytes) = read_vector(cx, at)?;
    match kind {
        NT_PRSTATUS => {
            let mut raw = [0; REGISTER_BYTES];
            raw.copy_from_slice(&encode(&registers(task)));
            let bytes = bytes.min(REGISTER_BYTES);
            cx.read_bytes(from, &mut raw[..bytes])?;
            set_registers(cx, task, &decode(&raw))
        }
        NT_FPREGSET | NT_X86_XSTATE => {
            let own = cx.kernel.fpu_image(task);
            let most = if kind == NT_FPREGSET { FPREGS_BYTES } else { own.len() };
            let mut raw = alloc::vec![0; bytes.min(most)];
            cx.read_bytes(from, &mut raw)?;
            cx.kernel.set_fpu_image(task, fpu_from_parts(&own, &raw));
            Ok(())
        }
        _ => Err(Errno::INVAL),
    }
}

/// PTRACE_GET_SYSCALL_INFO: struct ptrace_syscall_info.
fn call_info(cx: &Cx<'_>, task: &TaskRef, room: u64, at: u64) -> SysResult {
    let stop = task.trace.lock().as_ref().and_then(|trace| trace.stop);
    let words = registers(task);
    let (rax, call, rip, rsp) = (words[10], words[15], words[16], words[19]);
    let mut raw = [0; 80];
    raw[4..8].copy_from_slice(&ARCH_X86_64.to_le_bytes());
    raw[8..16].copy_from_slice(&rip.to_le_bytes());
    raw[16..24].copy_from_slice(&rsp.to_le_bytes());
    let bytes = match stop {
        Some(Stop::Entry) => {
            raw[0] = 1;
            // nr, then rdi, rsi, rdx, r10, r8, r9.
            let list = [call, words[14], words[13], words[12], words[7], words[8], words[9]];
            for (slot, word) in raw[24..].chunks_exact_mut(8).zip(list) {
                slot.copy_from_slice(&word.to_le_bytes());
            }
            80
        }
        Some(Stop::Exit) => {
            raw[0] = 2;
            raw[24..32].copy_from_slice(&rax.to_le_bytes());
            raw[32] = u8::from((-4095..0).contains(&rax.cast_signed()));
            33
        }
        _ => 24,
    };
    let given = bytes.min(usize::try_from(room).unwrap_or(usize::MAX));
    cx.write_bytes(at, &raw[..given])?;
    Ok(bytes as u64)
}
