// SPDX-License-Identifier: Apache-2.0
//! Tracing.

use std::vec::Vec;

use trine_machine::context::Trap;

use super::World;
use crate::{Errno, process::TaskRef};

const CONT: u64 = 7;
const SYSCALL: u64 = 24;
const SINGLESTEP: u64 = 9;
const GETREGS: u64 = 12;
const SETREGS: u64 = 13;
const ATTACH: u64 = 16;
const DETACH: u64 = 17;
const SETOPTIONS: u64 = 0x4200;
const GETEVENTMSG: u64 = 0x4201;
const GETSIGINFO: u64 = 0x4202;
const SEIZE: u64 = 0x4206;
const INTERRUPT: u64 = 0x4207;
const GET_SYSCALL_INFO: u64 = 0x420e;
const GETPPID: u64 = 110;

/// init, a child of it, and a page of init's.
fn pair() -> (World, TaskRef, TaskRef, u64) {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    let at = world.map(&init, 8192);
    (world, init, child, at)
}

fn ptrace(
    world: &mut World,
    task: &TaskRef,
    request: u64,
    pid: u64,
    args: [u64; 2],
) -> super::Outcome {
    world.call(task, 101, &[request, pid, args[0], args[1]])
}

fn status(world: &mut World, task: &TaskRef, pid: u64) -> u32 {
    let (outcome, status) = world.wait(task, pid.cast_signed(), 0x4000_0000);
    assert_eq!(outcome, Ok(pid));
    status
}

/// A register of the child's: rax 10, orig_rax 15, rip 16.
fn register(world: &mut World, task: &TaskRef, pid: u64, at: u64, index: u64) -> u64 {
    assert_eq!(ptrace(world, task, GETREGS, pid, [0, at]), Ok(0));
    world.peek_u64(task, at + 8 * index)
}

#[test]
fn attach_stops_and_calls_are_seen_from_both_sides() {
    let (mut world, init, child, at) = pair();
    let pid = u64::from(child.tid());
    assert_eq!(ptrace(&mut world, &init, ATTACH, pid, [0, 0]), Ok(0));
    world.kick(&child);
    assert_eq!(status(&mut world, &init, pid), 19 << 8 | 0x7f, "SIGSTOP");
    assert_eq!(child.process.state_letter(), b't');
    assert_eq!(ptrace(&mut world, &init, ATTACH, pid, [0, 0]), Err(Errno::PERM), "twice");
    assert_eq!(ptrace(&mut world, &init, SETOPTIONS, pid, [0, 1]), Ok(0));
    assert_eq!(ptrace(&mut world, &init, SYSCALL, pid, [0, 0]), Ok(0));
    assert_eq!(ptrace(&mut world, &init, GETREGS, pid, [0, at]), Err(Errno::SRCH), "it runs");
    world.try_call(&child, GETPPID, &[1, 2, 3, 4, 5, 6]);
    assert_eq!(status(&mut world, &init, pid), 0x85 << 8 | 0x7f);
    assert_eq!(register(&mut world, &init, pid, at, 15), GETPPID);
    assert_eq!(register(&mut world, &init, pid, at, 10).cast_signed(), -38);
    assert_eq!(ptrace(&mut world, &init, GET_SYSCALL_INFO, pid, [80, at]), Ok(80));
    assert_eq!((world.peek::<1>(&init, at), world.peek_u64(&init, at + 24)), ([1], GETPPID));
    let given: Vec<u64> = (0..6).map(|n| world.peek_u64(&init, at + 32 + 8 * n)).collect();
    assert_eq!(given, [1, 2, 3, 4, 5, 6]);
    // The tracer makes it another call.
    assert_eq!(ptrace(&mut world, &init, 6, pid, [15 * 8, 39]), Ok(0), "POKEUSER");
    assert_eq!(ptrace(&mut world, &init, SYSCALL, pid, [0, 0]), Ok(0));
    world.run();
    assert_eq!(status(&mut world, &init, pid), 0x85 << 8 | 0x7f);
    assert_eq!(register(&mut world, &init, pid, at, 10), pid, "getpid");
    assert_eq!(ptrace(&mut world, &init, GET_SYSCALL_INFO, pid, [80, at]), Ok(33));
    assert_eq!(world.peek::<1>(&init, at), [2]);
    assert_eq!(ptrace(&mut world, &init, DETACH, pid, [0, 0]), Ok(0));
    assert_eq!(world.call(&child, GETPPID, &[]), Ok(1));
}

#[test]
fn signals_are_shown_and_may_be_dropped_or_changed() {
    let (mut world, init, child, at) = pair();
    let pid = u64::from(child.tid());
    assert_eq!(world.call(&child, 101, &[0]), Ok(0), "PTRACE_TRACEME");
    assert_eq!(world.call(&init, 62, &[pid, 10]), Ok(0), "kill");
    world.kick(&child);
    assert_eq!(status(&mut world, &init, pid), 10 << 8 | 0x7f);
    assert_eq!(ptrace(&mut world, &init, GETSIGINFO, pid, [0, at]), Ok(0));
    assert_eq!(world.peek::<4>(&init, at), 10_u32.to_le_bytes());
    assert_eq!(ptrace(&mut world, &init, CONT, pid, [0, 0]), Ok(0), "dropped");
    assert_eq!(world.call(&child, GETPPID, &[]), Ok(1));
    assert_eq!(world.call(&init, 62, &[pid, 10]), Ok(0));
    world.kick(&child);
    status(&mut world, &init, pid);
    assert_eq!(ptrace(&mut world, &init, CONT, pid, [0, 15]), Ok(0), "SIGTERM instead");
    world.run();
    assert_eq!(status(&mut world, &init, pid), 15);
}

#[test]
fn breakpoints_and_steps() {
    let (mut world, init, child, at) = pair();
    let pid = u64::from(child.tid());
    assert_eq!(world.call(&child, 101, &[0]), Ok(0));
    // A breakpoint in code that nobody may write: only the child's copy has it.
    let code = 0x40_0200;
    let word = world.peek_u64(&init, code);
    assert_eq!(world.call(&init, 62, &[pid, 10]), Ok(0));
    world.kick(&child);
    status(&mut world, &init, pid);
    assert_eq!(ptrace(&mut world, &init, 4, pid, [code, word & !0xff | 0xcc]), Ok(0));
    assert_eq!(ptrace(&mut world, &init, 1, pid, [code, at]), Ok(0));
    assert_eq!(world.peek_u64(&init, at), word & !0xff | 0xcc);
    assert_eq!(world.peek_u64(&init, code), word);
    assert_eq!(ptrace(&mut world, &init, CONT, pid, [0, 0]), Ok(0));
    world.kernel.trap(&child, Trap::Exception { vector: 3, code: 0 });
    world.run();
    assert_eq!(status(&mut world, &init, pid), 5 << 8 | 0x7f);
    let rip = register(&mut world, &init, pid, at, 16);
    world.poke(&init, at + 16 * 8, &(rip - 1).to_le_bytes());
    assert_eq!(ptrace(&mut world, &init, SETREGS, pid, [0, at]), Ok(0));
    assert_eq!(ptrace(&mut world, &init, SINGLESTEP, pid, [0, 0]), Ok(0));
    assert_eq!(child.registers.lock().rflags >> 8 & 1, 1, "TF");
    assert_eq!(child.registers.lock().rip, rip - 1);
    world.kernel.trap(&child, Trap::Exception { vector: 1, code: 0 });
    world.run();
    assert_eq!(status(&mut world, &init, pid), 5 << 8 | 0x7f);
    assert_eq!(child.registers.lock().rflags >> 8 & 1, 0);
}

#[test]
fn seized_children_and_interrupts_report_events() {
    let (mut world, init, child, at) = pair();
    let pid = u64::from(child.tid());
    // TRACESYSGOOD | TRACEFORK
    assert_eq!(ptrace(&mut world, &init, SEIZE, pid, [0, 3]), Ok(0));
    assert_eq!(world.try_call(&child, 34, &[]), None, "pause");
    assert_eq!(ptrace(&mut world, &init, INTERRUPT, pid, [0, 0]), Ok(0));
    assert_eq!(status(&mut world, &init, pid), (5 | 128 << 8) << 8 | 0x7f);
    assert_eq!(register(&mut world, &init, pid, at, 10).cast_signed(), -512, "ERESTARTSYS");
    assert_eq!(register(&mut world, &init, pid, at, 15), 34);
    assert_eq!(ptrace(&mut world, &init, CONT, pid, [0, 0]), Ok(0));
    world.run();
    assert!(child.run.lock().call.is_some(), "it waits on");
    assert_eq!(world.call(&init, 62, &[pid, 10]), Ok(0));
    world.run();
    status(&mut world, &init, pid);
    assert_eq!(ptrace(&mut world, &init, 8, pid, [0, 0]), Ok(0), "PTRACE_KILL");
    world.run();
    assert_eq!(status(&mut world, &init, pid), 9);
    // fork of a traced process: both stop.
    let child = world.fork(&init);
    let pid = u64::from(child.tid());
    assert_eq!(ptrace(&mut world, &init, SEIZE, pid, [0, 3]), Ok(0));
    world.try_call(&child, 57, &[]);
    assert_eq!(status(&mut world, &init, pid), (5 | 1 << 8) << 8 | 0x7f);
    assert_eq!(ptrace(&mut world, &init, GETEVENTMSG, pid, [0, at]), Ok(0));
    let grandchild = world.peek_u64(&init, at);
    assert_eq!(status(&mut world, &init, grandchild), (5 | 128 << 8) << 8 | 0x7f);
    for pid in [grandchild, pid] {
        assert_eq!(ptrace(&mut world, &init, CONT, pid, [0, 0]), Ok(0));
    }
    let task = world.kernel.services.registry.task(grandchild as u32).expect("alive");
    world.call(&task, 231, &[3]).ok();
    world.run();
    assert_eq!(status(&mut world, &init, grandchild), 3 << 8, "its tracer is told first");
}

#[test]
fn tracing_needs_the_right_and_ends_with_the_tracer() {
    let (mut world, init, child, _) = pair();
    let other = world.fork(&init);
    assert_eq!(world.call(&child, 117, &[7, 7, 7]), Ok(0), "setresuid");
    let pid = u64::from(other.tid());
    assert_eq!(ptrace(&mut world, &child, ATTACH, pid, [0, 0]), Err(Errno::PERM));
    assert_eq!(ptrace(&mut world, &child, ATTACH, 999, [0, 0]), Err(Errno::SRCH));
    let target = u64::from(child.tid());
    assert_eq!(ptrace(&mut world, &other, SEIZE, target, [0, 0x10_0000]), Ok(0), "EXITKILL");
    world.call(&other, 231, &[0]).ok();
    world.run();
    assert!(child.process.is_zombie());
}

#[test]
fn call_that_waits_shows_its_result() {
    let (mut world, init, child, at) = pair();
    let pid = u64::from(child.tid());
    assert_eq!(ptrace(&mut world, &init, SEIZE, pid, [0, 1]), Ok(0));
    assert_eq!(ptrace(&mut world, &init, INTERRUPT, pid, [0, 0]), Ok(0));
    status(&mut world, &init, pid);
    assert_eq!(ptrace(&mut world, &init, SYSCALL, pid, [0, 0]), Ok(0));
    let time = child.mm().expect("alive").layout.lock().stack_start;
    world.poke(&child, time, &[0_u64, 5_000_000].map(u64::to_le_bytes).concat());
    world.try_call(&child, 230, &[0, 0, time, 0]);
    assert_eq!(status(&mut world, &init, pid), 0x85 << 8 | 0x7f, "entry");
    assert_eq!(ptrace(&mut world, &init, SYSCALL, pid, [0, 0]), Ok(0));
    world.run();
    assert!(child.run.lock().call.is_some());
    super::pass_ns(10_000_000);
    world.kernel.tick();
    world.run();
    assert!(!world.kernel.prepare(&child), "it is held");
    assert_eq!(status(&mut world, &init, pid), 0x85 << 8 | 0x7f, "exit");
    assert_eq!(ptrace(&mut world, &init, GET_SYSCALL_INFO, pid, [80, at]), Ok(33));
    assert_eq!((world.peek::<1>(&init, at), world.peek_u64(&init, at + 24)), ([2], 0));
}
