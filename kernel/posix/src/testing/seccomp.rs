// SPDX-License-Identifier: Apache-2.0
//! Filters on system calls.

use super::World;
use crate::{Errno, process::TaskRef};

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const TRAP: u32 = 0x0003_0000;
const GETPPID: u64 = 110;
const GETUID: u64 = 102;

/// code, jt, jf, k
type Insn = (u16, u8, u8, u32);

const LOAD_NR: Insn = (0x20, 0, 0, 0);

fn ret(action: u32) -> Insn {
    (0x06, 0, 0, action)
}

/// Puts a program into memory; returns the address of its struct sock_fprog.
fn program(world: &mut World, task: &TaskRef, list: &[Insn]) -> u64 {
    let at = world.map(task, 65536);
    world.poke(task, at, &(list.len() as u64).to_le_bytes());
    world.poke(task, at + 8, &(at + 16).to_le_bytes());
    let raw: Vec<u8> = list
        .iter()
        .flat_map(|(code, jt, jf, k)| {
            [&code.to_le_bytes()[..], &[*jt, *jf], &k.to_le_bytes()].concat()
        })
        .collect();
    world.poke(task, at + 16, &raw);
    at
}

fn install(world: &mut World, task: &TaskRef, list: &[Insn]) -> super::Outcome {
    let at = program(world, task, list);
    world.call(task, 317, &[1, 0, at])
}

/// An action for one call, whatever its arguments.
fn only(number: u64, action: u32) -> Vec<Insn> {
    vec![LOAD_NR, (0x15, 0, 1, number as u32), ret(action), ret(ALLOW)]
}

#[test]
fn filter_answers_with_an_errno_and_is_inherited() {
    let (mut world, init) = World::with_init();
    assert_eq!(install(&mut world, &init, &only(GETPPID, ERRNO | 13)), Ok(0));
    assert_eq!(world.call(&init, GETPPID, &[]), Err(Errno::ACCES));
    assert_eq!(world.call(&init, GETUID, &[]), Ok(0));
    let child = world.fork(&init);
    assert_eq!(world.call(&child, GETPPID, &[]), Err(Errno::ACCES));
    // A second one can only take away: the more severe action counts.
    assert_eq!(install(&mut world, &child, &only(GETPPID, ALLOW)), Ok(0));
    assert_eq!(world.call(&child, GETPPID, &[]), Err(Errno::ACCES));
    assert_eq!(install(&mut world, &child, &only(GETUID, ERRNO)), Ok(0));
    assert_eq!(world.call(&child, GETUID, &[]), Ok(0), "errno 0");
    assert_eq!(world.call(&child, 157, &[21]), Ok(2), "PR_GET_SECCOMP");
}

#[test]
fn filter_sees_arguments() {
    let (mut world, init) = World::with_init();
    // dup(7) is EPERM, other descriptors are let through: the low word of args[0] is at 16.
    let list =
        [LOAD_NR, (0x15, 0, 3, 32), (0x20, 0, 0, 16), (0x15, 0, 1, 7), ret(ERRNO | 1), ret(ALLOW)];
    assert_eq!(install(&mut world, &init, &list), Ok(0));
    assert_eq!(world.call(&init, 32, &[7]), Err(Errno::PERM));
    assert_eq!(world.call(&init, 32, &[99]), Err(Errno::BADF));
}

#[test]
fn trap_sends_sigsys_with_the_call() {
    let (mut world, init) = World::with_init();
    assert_eq!(install(&mut world, &init, &only(GETPPID, TRAP | 42)), Ok(0));
    let at = world.map(&init, 4096);
    for (index, word) in [0x40_0300_u64, 0x0400_0004, 0x40_0400, 0].iter().enumerate() {
        world.poke(&init, at + 8 * index as u64, &word.to_le_bytes());
    }
    world.call(&init, 13, &[31, at, 0, 8]).expect("sigaction");
    let rip = init.registers.lock().rip + 2;
    world.try_call(&init, GETPPID, &[]);
    let registers = *init.registers.lock();
    assert_eq!(registers.rip, 0x40_0300);
    let info: [u8; 32] = world.peek(&init, registers.rsi);
    assert_eq!(info[0..12], [31, 0, 0, 0, 42, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(info[16..24], rip.to_le_bytes());
    assert_eq!(info[24..28], (GETPPID as u32).to_le_bytes());
    assert_eq!(info[28..32], 0xc000_003e_u32.to_le_bytes());
}

#[test]
fn killing_actions_end_thread_or_process() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    let stack = world.map(&child, 8192) + 8192;
    let tid = world.call(&child, 56, &[0x1_0f00, stack, 0, 0, 0]).expect("a thread");
    let thread = world.kernel.services.registry.task(tid as u32).expect("alive");
    // SECCOMP_RET_KILL_THREAD of a thread leaves the others.
    assert_eq!(install(&mut world, &thread, &only(GETPPID, 0)), Ok(0));
    world.try_call(&thread, GETPPID, &[]);
    assert!(world.kernel.services.registry.task(tid as u32).is_none());
    assert_eq!(world.call(&child, GETPPID, &[]), Ok(1));
    assert_eq!(install(&mut world, &child, &only(GETPPID, 0x8000_0000)), Ok(0));
    world.try_call(&child, GETPPID, &[]);
    let (outcome, status) = world.wait(&init, -1, 0);
    assert_eq!((outcome, status & 0x7f), (Ok(u64::from(child.process.pid)), 31));
    // The strict mode.
    let child = world.fork(&init);
    assert_eq!(world.call(&child, 157, &[22, 1]), Ok(0));
    world.try_call(&child, GETPPID, &[]);
    assert_eq!(world.wait(&init, -1, 0), (Ok(u64::from(child.process.pid)), 9));
}

#[test]
fn tsync_reaches_all_threads_unless_one_differs() {
    let (mut world, init) = World::with_init();
    let stack = world.map(&init, 8192) + 8192;
    let tid = world.call(&init, 56, &[0x1_0f00, stack, 0, 0, 0]).expect("a thread");
    let thread = world.kernel.services.registry.task(tid as u32).expect("alive");
    let at = program(&mut world, &init, &only(GETPPID, ERRNO | 1));
    assert_eq!(world.call(&init, 317, &[1, 1, at]), Ok(0));
    assert_eq!(world.call(&thread, GETPPID, &[]), Err(Errno::PERM));
    assert_eq!(install(&mut world, &thread, &only(GETUID, ERRNO | 1)), Ok(0));
    assert_eq!(world.call(&init, 317, &[1, 1, at]), Ok(tid), "the thread has one of its own");
    assert_eq!(world.call(&init, 317, &[1, 0x11, at]), Err(Errno::SRCH));
}

#[test]
fn bad_programs_and_callers_without_right_are_refused() {
    let (mut world, init) = World::with_init();
    let bad: [&[Insn]; 9] = [
        &[],
        &[LOAD_NR],
        &[(0x20, 0, 0, 2), ret(ALLOW)],
        &[(0x20, 0, 0, 64), ret(ALLOW)],
        &[(0x15, 1, 0, 0), ret(ALLOW)],
        &[(0x05, 0, 0, 9), ret(ALLOW)],
        &[(0x34, 0, 0, 0), ret(ALLOW)],
        &[(0x60, 0, 0, 0), ret(ALLOW)],
        &[(0x30, 0, 0, 0), ret(ALLOW)],
    ];
    for list in bad {
        assert_eq!(install(&mut world, &init, list), Err(Errno::INVAL), "{list:?}");
    }
    // Memory that only one way has written.
    let list = [LOAD_NR, (0x15, 0, 1, 1), (0x02, 0, 0, 3), (0x60, 0, 0, 3), ret(ALLOW)];
    assert_eq!(install(&mut world, &init, &list), Err(Errno::INVAL));
    let list = [LOAD_NR, (0x02, 0, 0, 3), (0x60, 0, 0, 3), (0x16, 0, 0, 0)];
    let child = world.fork(&init);
    assert_eq!(install(&mut world, &child, &list), Ok(0), "returns the number as the action");
    assert_eq!(world.call(&init, 105, &[5]), Ok(0), "setuid");
    assert_eq!(install(&mut world, &init, &only(1, ALLOW)), Err(Errno::ACCES));
    assert_eq!(world.call(&init, 157, &[38, 1, 0, 0, 0]), Ok(0), "no_new_privs");
    assert_eq!(install(&mut world, &init, &only(1, ALLOW)), Ok(0));
}
