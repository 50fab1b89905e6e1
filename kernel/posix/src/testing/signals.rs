// SPDX-License-Identifier: Apache-2.0
//! Signal delivery, frames, restarts.

use trine_machine::context::Trap;

use super::{World, pass_ns};
use crate::{
    Errno,
    process::{TaskRef, task::Phase},
};

const HANDLER: u64 = 0x40_0300;
const RESTORER: u64 = 0x40_0400;
const SA_SIGINFO: u64 = 4;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_ONSTACK: u64 = 0x0800_0000;
const SA_RESTART: u64 = 0x1000_0000;

fn handle(world: &mut World, task: &TaskRef, signal: u64, flags: u64) {
    let at = world.map(task, 4096);
    for (index, word) in [HANDLER, flags | SA_RESTORER | SA_SIGINFO, RESTORER, 0].iter().enumerate()
    {
        world.poke(task, at + 8 * index as u64, &word.to_le_bytes());
    }
    world.call(task, 13, &[signal, at, 0, 8]).expect("sigaction");
}

/// The handler returns: RET to the restorer, which calls sigreturn.
fn sigreturn(world: &mut World, task: &TaskRef) {
    let rsp = task.registers.lock().rsp;
    assert_eq!(world.peek_u64(task, rsp), RESTORER);
    {
        let mut registers = task.registers.lock();
        registers.rsp += 8;
        registers.rip = RESTORER;
        registers.rax = 15;
    }
    world.kernel.trap(task, Trap::SystemCall);
    world.run();
}

#[test]
fn handler_frame_holds_all_and_sigreturn_restores_all() {
    let (mut world, init) = World::with_init();
    handle(&mut world, &init, 10, 0);
    let rsp = init.registers.lock().rsp - 4096;
    let before = {
        let mut registers = init.registers.lock();
        registers.rsp = rsp;
        registers.rbx = 0xbb;
        registers.rcx = 0xcc;
        registers.r11 = 0x11;
        registers.r15 = 0xff;
        registers.rflags = 0x246;
        registers.mxcsr = 0x1f80;
        for (index, xmm) in registers.xmm.iter_mut().enumerate() {
            *xmm = u128::from(index as u64) << 64 | 0x5a5a;
        }
        *registers
    };
    init.fpu.lock()[32..40].copy_from_slice(b"x87state");
    world.call(&init, 200, &[1, 10]).expect("tkill");
    let inside = *init.registers.lock();
    assert_eq!(inside.rip, HANDLER);
    assert_eq!(inside.rdi, 10);
    assert_eq!((inside.rsp + 8) % 16, 0, "as after a call");
    assert!(inside.rsp < rsp - 128, "below the red zone");
    assert_eq!(inside.rsi, inside.rsp + 312);
    assert_eq!(inside.rdx, inside.rsp + 8);
    let info: [u8; 24] = world.peek(&init, inside.rsi);
    assert_eq!(info[0..4], 10_u32.to_le_bytes());
    assert_eq!(info[8..12], (-6_i32).to_le_bytes(), "SI_TKILL");
    assert_eq!(info[16..20], 1_u32.to_le_bytes());
    assert_eq!(init.signals.lock().mask, 1 << 9, "blocked while it is handled");
    let fpu = world.peek_u64(&init, inside.rdx + 40 + 184);
    assert!(fpu.is_multiple_of(64));
    assert_eq!(world.peek::<4>(&init, fpu + 464), 0x4650_5853_u32.to_le_bytes());
    let bytes = u64::from(u32::from_le_bytes(world.peek(&init, fpu + 480)));
    assert_eq!(world.peek::<4>(&init, fpu + bytes), 0x4650_5845_u32.to_le_bytes());
    assert_eq!(world.peek::<8>(&init, fpu + 32), *b"x87state");
    // The handler uses registers; the frame brings the old ones back.
    {
        let mut registers = init.registers.lock();
        registers.xmm = [1; 16];
        registers.rbx = 0;
    }
    sigreturn(&mut world, &init);
    let after = *init.registers.lock();
    assert_eq!(after.rsp, before.rsp);
    assert_eq!((after.rbx, after.rcx, after.r11, after.r15), (0xbb, 0xcc, 0x11, 0xff));
    assert_eq!(after.xmm, before.xmm);
    assert_eq!(after.rflags, before.rflags);
    assert_eq!(after.rax, 0, "tkill's result");
    assert_eq!(&init.fpu.lock()[32..40], b"x87state");
    assert_eq!(init.signals.lock().mask, 0);
}

#[test]
fn handler_can_edit_the_frame() {
    let (mut world, init) = World::with_init();
    handle(&mut world, &init, 11, 0);
    world.kernel.trap(&init, Trap::PageFault { address: 0x9999_0000, code: 6 });
    world.run();
    let inside = *init.registers.lock();
    assert_eq!(inside.rip, HANDLER);
    let info: [u8; 24] = world.peek(&init, inside.rsi);
    assert_eq!(info[8..12], 1_i32.to_le_bytes(), "SEGV_MAPERR");
    assert_eq!(info[16..24], 0x9999_0000_u64.to_le_bytes(), "si_addr");
    let context = inside.rdx + 40;
    assert_eq!(world.peek_u64(&init, context + 152), 6, "error code");
    assert_eq!(world.peek_u64(&init, context + 160), 14, "trap number");
    assert_eq!(world.peek_u64(&init, context + 176), 0x9999_0000, "cr2");
    world.poke(&init, context + 128, &0x40_0777_u64.to_le_bytes());
    sigreturn(&mut world, &init);
    assert_eq!(init.registers.lock().rip, 0x40_0777);
}

#[test]
fn access_errors_have_their_code() {
    let (mut world, init) = World::with_init();
    handle(&mut world, &init, 11, 0);
    let at = world.call(&init, 9, &[0, 4096, 1, 0x22, u64::MAX, 0]).expect("room");
    world.touch(&init, at, true);
    let info: [u8; 12] = world.peek(&init, init.registers.lock().rsi);
    assert_eq!(info[8..12], 2_i32.to_le_bytes(), "SEGV_ACCERR");
}

#[test]
fn unhandled_fault_kills_even_init() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    world.kernel.trap(&child, Trap::Exception { vector: 0, code: 0 });
    world.run();
    assert_eq!(world.wait(&init, -1, 0).1, 8, "SIGFPE");
    world.kernel.trap(&init, Trap::Exception { vector: 6, code: 0 });
    world.run();
    assert_eq!(world.kernel.finished(), Some(4), "SIGILL");
}

#[test]
fn blocked_call_restarts_or_fails_as_the_handler_says() {
    for (flags, restarts) in [(0, false), (SA_RESTART, true)] {
        let (mut world, init) = World::with_init();
        let child = world.fork(&init);
        handle(&mut world, &init, 10, flags);
        assert_eq!(world.try_call(&init, 61, &[u64::MAX, 0, 0, 0]), None);
        let rip = init.registers.lock().rip;
        world.call(&child, 62, &[1, 10]).expect("kill");
        assert_eq!(init.registers.lock().rip, HANDLER);
        sigreturn(&mut world, &init);
        let registers = *init.registers.lock();
        if restarts {
            assert_eq!((registers.rip, registers.rax), (rip - 2, 61), "made again");
        } else {
            assert_eq!(registers.rip, rip);
            assert_eq!(World::result(&init), Err(Errno::INTR));
        }
    }
}

#[test]
fn ignored_signal_and_stop_leave_a_blocked_call_alone() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    let grandchild = world.fork(&child);
    assert_eq!(world.try_call(&child, 61, &[u64::MAX, 0, 0, 0]), None);
    let pid = u64::from(child.tid());
    for signal in [28, 17, 19, 18] {
        world.call(&init, 62, &[pid, signal]).expect("kill");
        assert!(child.run.lock().call.is_some(), "signal {signal}");
    }
    world.try_call(&grandchild, 231, &[0]);
    assert_eq!(World::result(&child), Ok(u64::from(grandchild.tid())));
}

#[test]
fn sigsuspend_restores_the_mask_after_the_handler() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    handle(&mut world, &init, 10, SA_RESTART);
    let at = world.map(&init, 4096);
    world.poke(&init, at, &(1_u64 << 9 | 1 << 11).to_le_bytes());
    world.call(&init, 14, &[2, at, 0, 8]).expect("block 10 and 12");
    world.call(&child, 62, &[1, 10]).expect("kill");
    assert_eq!(world.call(&init, 39, &[]), Ok(1), "blocked: nothing happens");
    world.poke(&init, at, &(1_u64 << 11).to_le_bytes());
    world.try_call(&init, 130, &[at, 8]);
    assert_eq!(init.registers.lock().rip, HANDLER);
    assert_eq!(init.signals.lock().mask, 1 << 9 | 1 << 11);
    sigreturn(&mut world, &init);
    assert_eq!(World::result(&init), Err(Errno::INTR));
    assert_eq!(init.signals.lock().mask, 1 << 9 | 1 << 11, "the mask from before sigsuspend");
}

#[test]
fn real_time_signals_queue_and_ordinary_ones_do_not() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    world.poke(&init, at, &u64::MAX.to_le_bytes());
    world.call(&init, 14, &[0, at, 0, 8]).expect("block all");
    for _ in 0..3 {
        world.call(&init, 200, &[1, 40]).expect("tkill");
        world.call(&init, 200, &[1, 12]).expect("tkill");
    }
    let mut got = Vec::new();
    world.poke(&init, at + 8, &[0; 16]);
    while let Ok(signal) = world.call(&init, 128, &[at, 0, at + 8, 8]) {
        got.push(signal);
    }
    assert_eq!(got, [12, 40, 40, 40]);
    assert_eq!(World::result(&init), Err(Errno::AGAIN));
}

#[test]
fn alternate_stack_is_used_and_protected() {
    let (mut world, init) = World::with_init();
    handle(&mut world, &init, 10, SA_ONSTACK);
    let at = world.map(&init, 16 * 4096);
    world.poke(&init, at, &(at + 4096).to_le_bytes());
    world.poke(&init, at + 16, &(8 * 4096_u64).to_le_bytes());
    world.call(&init, 131, &[at, 0]).expect("sigaltstack");
    world.call(&init, 200, &[1, 10]).expect("tkill");
    let rsp = init.registers.lock().rsp;
    assert!((at + 4096..at + 9 * 4096).contains(&rsp));
    assert_eq!(world.call(&init, 131, &[at, 0]), Err(Errno::PERM), "in use");
    init.registers.lock().rip = HANDLER;
    sigreturn(&mut world, &init);
    assert_eq!(world.call(&init, 131, &[at, 0]), Ok(0));
}

#[test]
fn handler_without_stack_kills() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    handle(&mut world, &child, 10, 0);
    child.registers.lock().rsp = 0x5000;
    world.call(&init, 62, &[u64::from(child.tid()), 10]).expect("kill");
    world.kernel.trap(&child, Trap::Kick);
    world.run();
    assert_eq!(child.phase(), Phase::Dead);
    assert_eq!(world.wait(&init, -1, 0).1, 11, "SIGSEGV");
}

#[test]
fn timers_send_their_signals() {
    let (mut world, init) = World::with_init();
    handle(&mut world, &init, 14, 0);
    assert_eq!(world.call(&init, 37, &[5]), Ok(0));
    assert_eq!(world.try_call(&init, 34, &[]), None, "pause");
    pass_ns(5_000_000_000);
    world.kernel.tick();
    world.run();
    assert_eq!(init.registers.lock().rip, HANDLER);
    sigreturn(&mut world, &init);
    assert_eq!(World::result(&init), Err(Errno::INTR));
    assert_eq!(world.call(&init, 37, &[0]), Ok(0), "it fired once");
}

#[test]
fn timers_of_absurd_length_do_no_harm() {
    let (mut world, init) = World::with_init();
    handle(&mut world, &init, 14, 0);
    let at = world.map(&init, 4096);
    let far = (i64::MAX).cast_unsigned();
    for (slot, value) in [(0, far), (8, 999_999), (16, 0), (24, 1)] {
        world.poke(&init, at + slot, &value.to_le_bytes());
    }
    assert_eq!(world.call(&init, 38, &[0, at, 0]), Ok(0));
    pass_ns(1_000_000);
    world.kernel.tick();
    world.kick(&init);
    assert_eq!(init.registers.lock().rip, HANDLER);
    assert!(world.call(&init, 37, &[0]).expect("alarm") > 0, "the interval is armed");
}

#[test]
fn sigreturn_with_a_bad_frame_kills_and_takes_no_flags() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    child.registers.lock().rsp = 0x1234;
    world.try_call(&child, 15, &[]);
    assert_eq!(child.phase(), Phase::Dead);
    handle(&mut world, &init, 10, 0);
    world.call(&init, 200, &[1, 10]).expect("tkill");
    let context = init.registers.lock().rdx + 40;
    world.poke(&init, context + 136, &u64::MAX.to_le_bytes());
    sigreturn(&mut world, &init);
    let flags = init.registers.lock().rflags;
    assert_eq!(flags & 0x3000 | flags & 1 << 17, 0, "neither IOPL nor VM");
}
