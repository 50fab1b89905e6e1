// SPDX-License-Identifier: Apache-2.0
//! Futexes with priority inheritance, futex_waitv, restartable sequences, CPU masks.

use trine_machine::context::Trap;

use super::{World, pass_ns};
use crate::{Errno, process::TaskRef};

const CLONE_THREAD: u64 = 0x1_0f00;
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const LOCK_PI: u64 = 6 | 128;
const UNLOCK_PI: u64 = 7 | 128;
const TRYLOCK_PI: u64 = 8 | 128;
const WAIT_REQUEUE_PI: u64 = 11 | 128;
const CMP_REQUEUE_PI: u64 = 12 | 128;

fn thread(world: &mut World, init: &TaskRef) -> TaskRef {
    let stack = world.map(init, 8192) + 8192;
    let tid = world.call(init, 56, &[CLONE_THREAD, stack, 0, 0, 0]).expect("a thread");
    world.kernel.services.registry.task(tid as u32).expect("alive")
}

fn word(world: &World, task: &TaskRef, at: u64) -> u32 {
    u32::from_le_bytes(world.peek(task, at))
}

#[test]
fn pi_lock_is_handed_over_in_order() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let (a, b) = (thread(&mut world, &init), thread(&mut world, &init));
    assert_eq!(world.call(&init, 202, &[at, LOCK_PI, 0, 0]), Ok(0));
    assert_eq!(word(&world, &init, at), init.tid());
    assert_eq!(world.call(&init, 202, &[at, LOCK_PI, 0, 0]), Err(Errno::DEADLK));
    assert_eq!(world.call(&a, 202, &[at, TRYLOCK_PI]), Err(Errno::AGAIN));
    assert_eq!(world.call(&a, 202, &[at, UNLOCK_PI]), Err(Errno::PERM));
    assert_eq!(world.try_call(&a, 202, &[at, LOCK_PI, 0, 0]), None);
    assert_eq!(world.try_call(&b, 202, &[at, LOCK_PI, 0, 0]), None);
    assert_eq!(word(&world, &init, at), init.tid() | WAITERS);
    assert_eq!(world.call(&init, 202, &[at, UNLOCK_PI]), Ok(0));
    assert_eq!(World::result(&a), Ok(0));
    assert_eq!(word(&world, &init, at), a.tid() | WAITERS, "b still waits");
    assert_eq!(world.call(&a, 202, &[at, UNLOCK_PI]), Ok(0));
    assert_eq!(World::result(&b), Ok(0));
    assert_eq!(word(&world, &init, at), b.tid());
    assert_eq!(world.call(&b, 202, &[at, UNLOCK_PI]), Ok(0));
    assert_eq!(word(&world, &init, at), 0);
}

#[test]
fn pi_lock_finds_circles_dead_owners_and_the_end_of_time() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let a = thread(&mut world, &init);
    assert_eq!(world.call(&init, 202, &[at, LOCK_PI, 0, 0]), Ok(0));
    assert_eq!(world.call(&a, 202, &[at + 4, LOCK_PI, 0, 0]), Ok(0));
    assert_eq!(world.try_call(&a, 202, &[at, LOCK_PI, 0, 0]), None);
    assert_eq!(world.call(&init, 202, &[at + 4, LOCK_PI, 0, 0]), Err(Errno::DEADLK));
    assert_eq!(world.call(&init, 202, &[at, UNLOCK_PI]), Ok(0));
    // The owner of both ends: whoever waits gets the lock, and is told.
    assert_eq!(world.try_call(&init, 202, &[at + 4, LOCK_PI, 0, 0]), None);
    world.call(&a, 60, &[0]).ok();
    world.run();
    assert_eq!(World::result(&init), Ok(0));
    assert_eq!(word(&world, &init, at + 4), init.tid() | OWNER_DIED);
    assert_eq!(world.call(&init, 202, &[at, LOCK_PI, 0, 0]), Err(Errno::SRCH), "a is gone");
    // A time of day as time-out.
    let b = thread(&mut world, &init);
    world.poke(&init, at + 64, &[3_u64, 0].map(u64::to_le_bytes).concat());
    assert_eq!(world.try_call(&b, 202, &[at + 4, LOCK_PI, 0, at + 64]), None);
    pass_ns(4_000_000_000);
    world.kernel.tick();
    world.run();
    assert_eq!(World::result(&b), Err(Errno::TIMEDOUT));
}

#[test]
fn requeue_pi_moves_waiters_to_the_lock() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let lock = at + 64;
    let (a, b) = (thread(&mut world, &init), thread(&mut world, &init));
    for task in [&a, &b] {
        assert_eq!(world.try_call(task, 202, &[at, WAIT_REQUEUE_PI, 0, 0, lock, 0]), None);
    }
    assert_eq!(world.call(&init, 202, &[at, 3 | 128, 1, 1, lock]), Err(Errno::INVAL), "plain");
    assert_eq!(world.call(&init, 202, &[at, CMP_REQUEUE_PI, 1, 9, lock, 5]), Err(Errno::AGAIN));
    assert_eq!(world.call(&init, 202, &[at, CMP_REQUEUE_PI, 1, 9, lock, 0]), Ok(2));
    assert_eq!(World::result(&a), Ok(0), "the lock was free");
    assert_eq!(word(&world, &init, lock), a.tid() | WAITERS);
    assert_eq!(world.call(&a, 202, &[lock, UNLOCK_PI]), Ok(0));
    assert_eq!(World::result(&b), Ok(0));
    assert_eq!(word(&world, &init, lock), b.tid());
}

#[test]
fn waitv_returns_which_one_was_woken() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let a = thread(&mut world, &init);
    let list = at + 256;
    for index in 0..3_u64 {
        let words = [index, at + 4 * index, 2 | 128];
        world.poke(&init, list + 24 * index, &words.map(u64::to_le_bytes).concat());
        world.poke(&init, at + 4 * index, &(index as u32).to_le_bytes());
    }
    assert_eq!(world.try_call(&a, 449, &[list, 3, 0, 0, 1]), None);
    assert_eq!(world.call(&init, 202, &[at + 8, 1 | 128, 5]), Ok(1));
    assert_eq!(World::result(&a), Ok(2));
    assert_eq!(world.call(&init, 202, &[at, 1 | 128, 5]), Ok(0), "it left the others");
    world.poke(&init, at + 4, &7_u32.to_le_bytes());
    assert_eq!(world.call(&a, 449, &[list, 3, 0, 0, 1]), Err(Errno::AGAIN));
    assert_eq!(world.call(&a, 449, &[list, 0, 0, 0, 1]), Err(Errno::INVAL));
}

#[test]
fn interrupted_sequence_goes_to_its_abort_handler() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let section = at + 128;
    let abort = at + 1024;
    world.poke(&init, abort - 4, &0x5305_3053_u32.to_le_bytes());
    let words = [0, 0x40_0100, 0x20, abort];
    world.poke(&init, section, &words.map(u64::to_le_bytes).concat());
    assert_eq!(world.call(&init, 334, &[at, 31, 0, 0x5305_3053]), Err(Errno::INVAL));
    assert_eq!(world.call(&init, 334, &[at, 32, 0, 0x5305_3053]), Ok(0));
    assert_eq!(world.call(&init, 334, &[at, 32, 0, 0x5305_3053]), Err(Errno::BUSY));
    assert_eq!(world.peek_u64(&init, at), 0, "vCPU 0");
    world.poke(&init, at + 8, &section.to_le_bytes());
    // A second thread makes the first give way in the middle of the sequence.
    let other = thread(&mut world, &init);
    init.registers.lock().rip = 0x40_0110;
    pass_ns(20_000_000);
    world.kernel.trap(&init, Trap::Kick);
    world.kernel.enqueue(&other, true);
    world.run();
    assert_eq!(init.registers.lock().rip, abort);
    assert_eq!(world.peek_u64(&init, at + 8), 0);
    // Outside of it nothing happens but that it is forgotten.
    world.poke(&init, at + 8, &section.to_le_bytes());
    init.registers.lock().rip = 0x40_0120;
    pass_ns(20_000_000);
    world.kernel.trap(&init, Trap::Kick);
    world.kernel.enqueue(&other, true);
    world.run();
    assert_eq!(init.registers.lock().rip, 0x40_0120);
    assert_eq!(world.call(&init, 334, &[at, 32, 1, 1]), Err(Errno::PERM));
    assert_eq!(world.call(&init, 334, &[at, 32, 1, 0x5305_3053]), Ok(0));
}

#[test]
fn scheduling_parameters_are_kept() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    world.poke(&init, at, &0xff_u64.to_le_bytes());
    assert_eq!(world.call(&init, 203, &[0, 8, at]), Ok(0));
    assert_eq!(world.call(&init, 204, &[0, 128, at]), Ok(8));
    assert_eq!(world.peek_u64(&init, at), 1, "there is one vCPU");
    world.poke(&init, at, &2_u64.to_le_bytes());
    assert_eq!(world.call(&init, 203, &[0, 8, at]), Err(Errno::INVAL));
    world.poke(&init, at, &5_u32.to_le_bytes());
    assert_eq!(world.call(&init, 144, &[0, 1, at]), Ok(0), "SCHED_FIFO for root");
    assert_eq!(world.call(&init, 145, &[0]), Ok(1));
    assert_eq!(world.call(&init, 315, &[0, at, 48, 0]), Ok(0));
    assert_eq!((word(&world, &init, at + 4), word(&world, &init, at + 20)), (1, 5));
    assert_eq!(world.call(&init, 324, &[8, 0]), Err(Errno::PERM), "not registered");
    assert_eq!(world.call(&init, 324, &[16, 0]), Ok(0));
    assert_eq!(world.call(&init, 324, &[8, 0]), Ok(0));
    assert_eq!(world.call(&init, 251, &[1, 0, 2 << 13 | 4]), Ok(0));
    assert_eq!(world.call(&init, 252, &[1, 0]), Ok(2 << 13 | 4));
}
