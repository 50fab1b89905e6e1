// SPDX-License-Identifier: Apache-2.0
//! Futexes and time-outs.

use super::{World, pass_ns};
use crate::{Errno, process::TaskRef};

const THREAD: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000;

fn thread(world: &mut World, parent: &TaskRef) -> TaskRef {
    let tid = world.call(parent, 56, &[THREAD, 0x40_1800, 0, 0, 0]).expect("a thread");
    world.kernel.services.registry.task(tid as u32).expect("there")
}

#[test]
fn wait_wake_and_value_mismatch() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let other = thread(&mut world, &init);
    assert_eq!(world.call(&init, 202, &[at, 128, 1, 0]), Err(Errno::AGAIN));
    assert_eq!(world.call(&init, 202, &[at + 2, 128, 0, 0]), Err(Errno::INVAL));
    assert_eq!(world.try_call(&other, 202, &[at, 128, 0, 0]), None);
    assert_eq!(world.call(&init, 202, &[at, 129, 5]), Ok(1));
    assert_eq!(World::result(&other), Ok(0));
    assert_eq!(world.call(&init, 202, &[at, 129, 5]), Ok(0));
}

#[test]
fn wait_times_out() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    world.poke(&init, at + 64, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]);
    world.poke(&init, at + 72, &1_000_000_u64.to_le_bytes());
    assert_eq!(world.try_call(&init, 202, &[at, 128, 0, at + 64]), None);
    assert!(world.kernel.next_deadline().is_some());
    pass_ns(2_000_000);
    world.kernel.tick();
    world.run();
    assert_eq!(World::result(&init), Err(Errno::TIMEDOUT));
    assert_eq!(world.call(&init, 202, &[at, 129, 5]), Ok(0), "it left the queue");
}

#[test]
fn shared_futex_works_between_processes() {
    let (mut world, init) = World::with_init();
    let at = world.call(&init, 9, &[0, 4096, 3, 0x21, u64::MAX, 0]).expect("room");
    let child = world.fork(&init);
    assert_eq!(world.try_call(&child, 202, &[at, 0, 0, 0]), None);
    assert_eq!(world.call(&init, 202, &[at, 1, 1]), Ok(1));
    assert_eq!(World::result(&child), Ok(0));
    let private = world.map(&init, 4096);
    let child = world.fork(&init);
    assert_eq!(world.try_call(&child, 202, &[private, 0, 0, 0]), None);
    assert_eq!(world.call(&init, 202, &[private, 1, 1]), Ok(0), "different memory");
}

#[test]
fn requeue_moves_waiters() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let threads = [thread(&mut world, &init), thread(&mut world, &init), thread(&mut world, &init)];
    for thread in &threads {
        assert_eq!(world.try_call(thread, 202, &[at, 128, 0, 0]), None);
    }
    // CMP_REQUEUE: wake one, move the others.
    assert_eq!(world.call(&init, 202, &[at, 132, 1, 10, at + 4, 9]), Err(Errno::AGAIN));
    assert_eq!(world.call(&init, 202, &[at, 132, 1, 10, at + 4, 0]), Ok(3));
    assert_eq!(World::result(&threads[0]), Ok(0));
    assert_eq!(world.call(&init, 202, &[at, 129, 10]), Ok(0));
    assert_eq!(world.call(&init, 202, &[at + 4, 129, 10]), Ok(2));
}

#[test]
fn wake_op_changes_and_wakes_both() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let (one, two) = (thread(&mut world, &init), thread(&mut world, &init));
    world.try_call(&one, 202, &[at, 128, 0, 0]);
    world.try_call(&two, 202, &[at + 4, 128, 0, 0]);
    // SET 7, compare old EQ 0.
    let encoded = 7 << 12;
    assert_eq!(world.call(&init, 202, &[at, 133, 1, 1, at + 4, encoded]), Ok(2));
    assert_eq!(world.peek::<4>(&init, at + 4), [7, 0, 0, 0]);
}

#[test]
fn robust_list_marks_dead_owner() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let owner = thread(&mut world, &init);
    // head { next = entry, offset = 8, pending = 0 }, entry { next = head }, word at entry + 8.
    let (head, entry) = (at, at + 64);
    for (slot, value) in [(head, entry), (head + 8, 8), (head + 16, 0), (entry, head)] {
        world.poke(&init, slot, &value.to_le_bytes());
    }
    let word = owner.tid() | 0x8000_0000;
    world.poke(&init, entry + 8, &word.to_le_bytes());
    world.call(&owner, 273, &[head, 24]).expect("accepted");
    assert_eq!(world.try_call(&init, 202, &[entry + 8, 128, u64::from(word), 0]), None);
    world.try_call(&owner, 60, &[0]);
    assert_eq!(World::result(&init), Ok(0), "one waiter is woken");
    assert_eq!(world.peek::<4>(&init, entry + 8), 0xc000_0000_u32.to_le_bytes());
}

#[test]
fn nanosleep_sleeps_until_its_time() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    world.poke(&init, at, &2_u64.to_le_bytes());
    assert_eq!(world.try_call(&init, 35, &[at, 0]), None);
    pass_ns(1_000_000_000);
    world.kernel.tick();
    world.run();
    assert!(init.run.lock().call.is_some(), "half of the time");
    pass_ns(1_000_000_000);
    world.kernel.tick();
    world.run();
    assert_eq!(World::result(&init), Ok(0));
    world.poke(&init, at + 8, &1_000_000_000_u64.to_le_bytes());
    assert_eq!(world.call(&init, 35, &[at, 0]), Err(Errno::INVAL));
}

#[test]
fn only_some_operations_choose_their_clock() {
    const REALTIME: u64 = 256;
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    // A lock that is free, so that nothing waits.
    for command in [0, 1, 3, 4, 5, 6, 7, 8, 10, 12] {
        let outcome = world.call(&init, 202, &[at, command | REALTIME, 1, 0, at + 8, 0]);
        assert_eq!(outcome, Err(Errno::NOSYS), "{command}");
    }
    assert_eq!(world.call(&init, 202, &[at, 9 | REALTIME, 1, 0, 0, 1]), Err(Errno::AGAIN));
    assert_eq!(world.call(&init, 202, &[at, 13 | REALTIME, 0, 0]), Ok(0), "FUTEX_LOCK_PI2");
}
