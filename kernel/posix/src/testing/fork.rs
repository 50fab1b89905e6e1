// SPDX-License-Identifier: Apache-2.0
//! fork, vfork, threads, exit, wait, job control.

use trine_abi::control::{Command, Event};

use super::World;
use crate::{Errno, process::task::Phase};

const WNOHANG: u64 = 1;
const WUNTRACED: u64 = 2;
const WCONTINUED: u64 = 8;

#[test]
fn fork_copies_memory_on_write() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 200 * 4096);
    for page in 0..200 {
        world.poke(&init, at + page * 4096, &[1]);
    }
    let child = world.fork(&init);
    assert_eq!(child.registers.lock().rax, 0);
    for page in [0, 150, 199] {
        world.poke(&child, at + page * 4096, &[2]);
        assert_eq!(world.peek::<1>(&init, at + page * 4096), [1]);
        world.poke(&init, at + page * 4096, &[3]);
        assert_eq!(world.peek::<1>(&child, at + page * 4096), [2]);
    }
    assert_eq!(world.peek::<1>(&child, at + 7 * 4096), [1]);
}

#[test]
fn fork_shares_shared_memory() {
    let (mut world, init) = World::with_init();
    let at = world.call(&init, 9, &[0, 0x4000, 3, 0x21, u64::MAX, 0]).expect("room");
    let child = world.fork(&init);
    world.poke(&child, at + 0x3000, b"hi");
    assert_eq!(world.peek::<2>(&init, at + 0x3000), *b"hi");
}

#[test]
fn fork_exit_wait_frees_every_frame() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 64 * 4096);
    world.poke(&init, at, &[1]);
    let cycle = |world: &mut World| {
        let child = world.fork(&init);
        world.poke(&child, at + 30 * 4096, &[9]);
        world.try_call(&child, 231, &[3]);
        assert_eq!(child.phase(), Phase::Dead);
        let (pid, status) = world.wait(&init, -1, 0);
        assert_eq!((pid, status), (Ok(u64::from(child.tid())), 3 << 8));
    };
    cycle(&mut world);
    let before = world.kernel.services.arena.free_bytes();
    for _ in 0..20 {
        cycle(&mut world);
    }
    let after = world.kernel.services.arena.free_bytes();
    // wait() maps a page for the status each time.
    assert!(before - after <= 21 * 4 * 4096, "leaked {} KiB", (before - after) / 1024);
    assert_eq!(world.wait(&init, -1, 0).0, Err(Errno::CHILD));
}

#[test]
fn wait_blocks_until_child_exits() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    assert_eq!(world.wait(&init, -1, WNOHANG).0, Ok(0));
    assert_eq!(world.try_call(&init, 61, &[u64::MAX, 0, 0, 0]), None);
    assert_eq!(init.phase(), Phase::Blocked);
    world.try_call(&child, 60, &[0]);
    assert_eq!(World::result(&init), Ok(u64::from(child.tid())));
}

#[test]
fn ignored_sigchld_reaps_and_wait_says_echild() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    world.poke(&init, at, &1_u64.to_le_bytes());
    world.call(&init, 13, &[17, at, 0, 8]).expect("sigaction");
    let child = world.fork(&init);
    assert_eq!(world.try_call(&init, 61, &[u64::MAX, 0, 0, 0]), None);
    world.try_call(&child, 231, &[0]);
    assert_eq!(World::result(&init), Err(Errno::CHILD));
    assert!(world.kernel.services.registry.process(child.tid()).is_none());
}

#[test]
fn orphans_go_to_init_or_the_subreaper() {
    let (mut world, init) = World::with_init();
    let middle = world.fork(&init);
    let leaf = world.fork(&middle);
    world.try_call(&middle, 231, &[0]);
    assert_eq!(leaf.process.parent_pid(), 1);
    world.wait(&init, -1, 0).0.expect("middle");
    let reaper = world.fork(&init);
    world.call(&reaper, 157, &[36, 1]).expect("subreaper");
    let middle = world.fork(&reaper);
    let leaf = world.fork(&middle);
    world.try_call(&middle, 231, &[0]);
    assert_eq!(leaf.process.parent_pid(), reaper.process.pid);
}

#[test]
fn vfork_parent_waits_for_exec_or_exit() {
    let (mut world, init) = World::with_init();
    assert_eq!(world.try_call(&init, 58, &[]), None);
    let child = init.process.children.lock()[0].any_thread().expect("a child");
    assert_eq!(child.mm().map(|mm| mm.id), init.mm().map(|mm| mm.id));
    world.try_call(&child, 60, &[5]);
    assert_eq!(World::result(&init), Ok(u64::from(child.tid())));
    assert_eq!(world.wait(&init, -1, 0).1, 5 << 8);
}

#[test]
fn thread_exit_clears_and_wakes_its_tid_word() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let flags = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x8_0000 | 0x10_0000 | 0x20_0000;
    let tid = world.call(&init, 56, &[flags, at + 4096, at, at, 0x7777]).expect("a thread");
    let thread = world.kernel.services.registry.task(tid as u32).expect("there");
    assert_eq!(world.peek::<4>(&init, at), (tid as u32).to_le_bytes());
    assert_eq!(thread.fs_base.load(core::sync::atomic::Ordering::Relaxed), 0x7777);
    assert_eq!(world.call(&thread, 39, &[]), Ok(1));
    assert_eq!(world.call(&thread, 186, &[]), Ok(tid));
    assert_eq!(world.try_call(&init, 202, &[at, 0, tid, 0]), None, "join waits");
    world.try_call(&thread, 60, &[0]);
    assert_eq!(World::result(&init), Ok(0));
    assert_eq!(world.peek::<4>(&init, at), [0; 4]);
    assert!(!init.process.is_zombie());
}

#[test]
fn init_exit_ends_everything_and_reports() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    let exec = world.start(7, &["/bin/init"]);
    assert_eq!(exec.process.parent_pid(), 0);
    assert_eq!(exec.process.sid(), exec.process.pid);
    world.try_call(&init, 231, &[7]);
    assert_eq!(child.phase(), Phase::Dead);
    assert_eq!(exec.phase(), Phase::Dead);
    let exited = |key, status| Event::Exited { key, status };
    assert!(world.events.contains(&exited(0, 7 << 8)), "{:?}", world.events);
    assert!(world.events.contains(&exited(7, 9)));
    assert_eq!(world.kernel.finished(), Some(7 << 8));
    assert!(world.kernel.services.registry.processes().is_empty());
}

#[test]
fn stop_and_continue_report_to_the_parent() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    let pid = u64::from(child.tid());
    world.call(&init, 62, &[pid, 19]).expect("kill");
    // It is in application code: the signal meets it at the next kick.
    world.kick(&child);
    assert_eq!(world.wait(&init, -1, WUNTRACED | WNOHANG), (Ok(pid), 19 << 8 | 0x7f));
    assert_eq!(world.wait(&init, -1, WUNTRACED | WNOHANG).0, Ok(0), "told once");
    world.call(&init, 62, &[pid, 18]).expect("kill");
    assert_eq!(world.wait(&init, -1, WCONTINUED | WNOHANG), (Ok(pid), 0xffff));
    world.call(&init, 62, &[pid, 15]).expect("kill");
    world.kick(&child);
    assert_eq!(world.wait(&init, -1, 0), (Ok(pid), 15));
}

#[test]
fn kill_from_outside_respects_init_rules() {
    let (mut world, init) = World::with_init();
    world.kernel.command(Command::Kill { key: 0, signal: 15, all: false });
    world.run();
    assert!(!init.process.is_zombie(), "no handler: ignored");
    world.call(&init, 62, &[1, 9]).expect("kill");
    assert!(!init.process.is_zombie(), "from inside nothing kills init");
    world.kernel.command(Command::Kill { key: 0, signal: 9, all: false });
    world.run();
    assert_eq!(world.kernel.finished(), Some(9));
}

#[test]
fn session_and_group_rules() {
    let (mut world, init) = World::with_init();
    assert_eq!(world.call(&init, 112, &[]), Err(Errno::PERM), "a leader already");
    let child = world.fork(&init);
    let pid = u64::from(child.tid());
    assert_eq!(world.call(&init, 109, &[pid, 0]), Ok(0));
    assert_eq!(world.call(&child, 111, &[]), Ok(pid));
    assert_eq!(world.call(&child, 109, &[0, 9999]), Err(Errno::PERM));
    let grandchild = world.fork(&child);
    assert_eq!(world.call(&grandchild, 112, &[]), Ok(u64::from(grandchild.tid())));
    let other = u64::from(grandchild.tid());
    assert_eq!(world.call(&child, 109, &[other, pid]), Err(Errno::PERM), "another session");
}
