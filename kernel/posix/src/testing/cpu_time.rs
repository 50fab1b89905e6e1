// SPDX-License-Identifier: Apache-2.0
//! Timers, limits and sleeps that go by CPU time; queues of real-time signals.

use trine_machine::context::Trap;

use super::{World, pass_ns};
use crate::{Errno, process::TaskRef};

const MS: u64 = 1_000_000;
const SIGVTALRM: u32 = 26;
const SIGPROF: u32 = 27;
const SIGXCPU: u32 = 24;

/// Blocks all signals, so that they can be looked at.
fn block_all(world: &mut World, task: &TaskRef) {
    let at = world.map(task, 4096);
    world.poke(task, at, &u64::MAX.to_le_bytes());
    assert_eq!(world.call(task, 14, &[2, at, 0, 8]), Ok(0));
}

fn is_pending(task: &TaskRef, signal: u32) -> bool {
    task.pending_signals() >> (signal - 1) & 1 == 1
}

/// Application code runs for a while.
fn compute(world: &mut World, task: &TaskRef, ns: u64) {
    world.run();
    pass_ns(ns);
    world.kernel.trap(task, Trap::Kick);
    world.run();
}

/// A struct with an interval and a value, in pairs of words.
fn span(world: &World, task: &TaskRef, at: u64, interval: u64, value: u64) {
    world.poke(task, at, &[0, interval, 0, value].map(u64::to_le_bytes).concat());
}

#[test]
fn interval_timers_count_cpu_time_only() {
    let (mut world, init) = World::with_init();
    block_all(&mut world, &init);
    let at = world.map(&init, 4096);
    span(&world, &init, at, 0, 20_000);
    assert_eq!(world.call(&init, 38, &[2, at, 0]), Ok(0), "ITIMER_PROF");
    assert_eq!(world.call(&init, 38, &[1, at, 0]), Ok(0), "ITIMER_VIRTUAL");
    compute(&mut world, &init, 5 * MS);
    assert!(!is_pending(&init, SIGPROF));
    let deadline = world.kernel.next_deadline().expect("it is stopped in time");
    assert!(deadline < world.kernel.services.monotonic_ns() + 16 * MS);
    assert_eq!(world.call(&init, 36, &[2, at]), Ok(0));
    let left = world.peek_u64(&init, at + 24);
    assert!((10_000..=15_000).contains(&left), "{left} us left");
    // Time in which nobody runs does not count.
    world.poke(&init, at, &[0_u64, 50_000_000].map(u64::to_le_bytes).concat());
    assert_eq!(world.try_call(&init, 35, &[at, 0]), None, "sleeps");
    pass_ns(60 * MS);
    world.kernel.tick();
    world.run();
    assert!(!is_pending(&init, SIGPROF) && !is_pending(&init, SIGVTALRM));
    compute(&mut world, &init, 16 * MS);
    assert!(is_pending(&init, SIGPROF) && is_pending(&init, SIGVTALRM));
}

#[test]
fn posix_timer_on_a_cpu_clock_repeats_and_counts_overruns() {
    let (mut world, init) = World::with_init();
    block_all(&mut world, &init);
    let at = world.map(&init, 4096);
    world.poke(&init, at, &[7_u64, 40].map(u64::to_le_bytes).concat());
    assert_eq!(world.call(&init, 222, &[3, at, at + 64]), Ok(0), "CLOCK_THREAD_CPUTIME_ID");
    let id = u64::from(u32::from_le_bytes(world.peek(&init, at + 64)));
    span(&world, &init, at, 10 * MS, 10 * MS);
    assert_eq!(world.call(&init, 223, &[id, 0, at, 0]), Ok(0));
    compute(&mut world, &init, 35 * MS);
    assert!(is_pending(&init, 40));
    assert_eq!(world.call(&init, 225, &[id]), Ok(2));
    assert_eq!(world.call(&init, 222, &[5, 0, at]), Err(Errno::OPNOTSUPP), "a coarse clock");
}

#[test]
fn cpu_limit_warns_and_then_kills() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    block_all(&mut world, &child);
    let at = world.map(&child, 4096);
    world.poke(&child, at, &[1_u64, 3].map(u64::to_le_bytes).concat());
    assert_eq!(world.call(&child, 160, &[0, at]), Ok(0));
    compute(&mut world, &child, 500 * MS);
    assert!(!is_pending(&child, SIGXCPU));
    compute(&mut world, &child, 600 * MS);
    assert!(is_pending(&child, SIGXCPU));
    compute(&mut world, &child, 2000 * MS);
    assert_eq!(world.wait(&init, -1, 0), (Ok(u64::from(child.process.pid)), 9));
}

#[test]
fn sleep_on_the_cpu_clock_of_another_process() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    let at = world.map(&init, 4096);
    world.poke(&init, at, &[0, 30 * MS].map(u64::to_le_bytes).concat());
    let clock = (!u64::from(child.process.pid)) << 3 | 2;
    assert_eq!(world.call(&init, 230, &[3, 0, at, 0]), Err(Errno::INVAL), "its own thread");
    assert_eq!(world.try_call(&init, 230, &[clock & 0xffff_ffff, 0, at, 0]), None);
    compute(&mut world, &child, 20 * MS);
    assert!(init.run.lock().call.is_some());
    compute(&mut world, &child, 11 * MS);
    assert_eq!(World::result(&init), Ok(0));
}

#[test]
fn real_time_signals_queue_up_to_the_limit() {
    let (mut world, init) = World::with_init();
    block_all(&mut world, &init);
    let at = world.map(&init, 4096);
    world.poke(&init, at, &[3_u64, 3].map(u64::to_le_bytes).concat());
    assert_eq!(world.call(&init, 160, &[11, at]), Ok(0), "RLIMIT_SIGPENDING");
    for value in 0..3_u64 {
        let mut info = [0; 128];
        info[8..12].copy_from_slice(&(-1_i32).to_le_bytes());
        info[24..32].copy_from_slice(&value.to_le_bytes());
        world.poke(&init, at, &info);
        assert_eq!(world.call(&init, 129, &[1, 34, at]), Ok(0));
    }
    assert_eq!(world.call(&init, 129, &[1, 34, at]), Err(Errno::AGAIN));
    assert_eq!(world.call(&init, 129, &[1, 10, at]), Ok(0), "ordinary signals always arrive");
    world.poke(&init, at + 512, &(1_u64 << 33).to_le_bytes());
    for value in 0..3_u64 {
        assert_eq!(world.call(&init, 128, &[at + 512, at, 0, 8]), Ok(34));
        assert_eq!(world.peek_u64(&init, at + 24), value, "in order");
    }
}
