// SPDX-License-Identifier: Apache-2.0
//! Process descriptors, clone flags, prctl.

use super::World;
use crate::{Errno, process::TaskRef};

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_THREAD: u64 = 0x1_0f00;
const SIGCHLD: u64 = 17;

fn open(world: &mut World, task: &TaskRef, pid: u64) -> u64 {
    world.call(task, 434, &[pid, 0]).expect("a descriptor")
}

/// poll of one descriptor for reading, without waiting.
fn is_readable(world: &mut World, task: &TaskRef, fd: u64) -> bool {
    let at = world.map(task, 4096);
    world.poke(task, at, &(fd | 1 << 32).to_le_bytes());
    world.call(task, 7, &[at, 1, 0]).expect("poll") == 1
}

#[test]
fn pidfd_becomes_readable_at_exit_and_waitid_takes_it() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    let fd = open(&mut world, &init, u64::from(child.process.pid));
    assert!(!is_readable(&mut world, &init, fd));
    let at = world.map(&init, 4096);
    // waitid(P_PIDFD) blocks until the child ends.
    assert_eq!(world.try_call(&init, 247, &[3, fd, at, 4, 0]), None);
    world.call(&child, 231, &[7]).ok();
    assert_eq!(World::result(&init), Ok(0));
    let info: [u8; 28] = world.peek(&init, at);
    assert_eq!(info[8..12], 1_u32.to_le_bytes(), "CLD_EXITED");
    assert_eq!(info[16..20], child.process.pid.to_le_bytes());
    assert_eq!(info[24..28], 7_u32.to_le_bytes());
    assert!(is_readable(&mut world, &init, fd), "also after it was waited for");
    assert_eq!(world.call(&init, 424, &[fd, 0, 0, 0]), Err(Errno::SRCH));
    assert_eq!(world.call(&init, 247, &[3, fd, at, 4, 0]), Err(Errno::CHILD));
}

#[test]
fn pidfd_open_bad_arguments_are_refused() {
    let (mut world, init) = World::with_init();
    assert_eq!(world.call(&init, 434, &[0, 0]), Err(Errno::INVAL));
    assert_eq!(world.call(&init, 434, &[1, 1]), Err(Errno::INVAL));
    assert_eq!(world.call(&init, 434, &[4242, 0]), Err(Errno::SRCH));
    let stack = world.map(&init, 8192) + 8192;
    let tid = world.call(&init, 56, &[CLONE_THREAD, stack, 0, 0, 0]).expect("a thread");
    assert_eq!(world.call(&init, 434, &[tid, 0]), Err(Errno::INVAL), "not a leader");
}

#[test]
fn pidfd_send_signal_reaches_the_process_and_getfd_takes_its_files() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    let fd = open(&mut world, &init, u64::from(child.process.pid));
    let event = world.call(&child, 290, &[5, 0]).expect("eventfd");
    let taken = world.call(&init, 438, &[fd, event, 0]).expect("its eventfd");
    let at = world.map(&init, 4096);
    assert_eq!(world.call(&init, 0, &[taken, at, 8]), Ok(8));
    assert_eq!(world.peek_u64(&init, at), 5);
    assert_eq!(world.call(&init, 438, &[fd, 99, 0]), Err(Errno::BADF));
    assert_eq!(world.call(&init, 424, &[fd, 0, 0, 0]), Ok(0), "only a check");
    assert_eq!(world.call(&init, 424, &[fd, 9, 0, 0]), Ok(0));
    world.run();
    assert!(child.process.is_zombie());
    assert_eq!(world.call(&init, 424, &[taken, 9, 0, 0]), Err(Errno::BADF), "not a process");
}

#[test]
fn clone_with_pidfd_stores_a_descriptor() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let both = CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD;
    assert_eq!(world.call(&init, 56, &[both, 0, at, 0, 0]), Err(Errno::INVAL));
    let pid = world.call(&init, 56, &[CLONE_PIDFD | SIGCHLD, 0, at, 0, 0]).expect("a child");
    let fd = u64::from(u32::from_le_bytes(world.peek(&init, at)));
    assert_eq!(world.call(&init, 72, &[fd, 1, 0]), Ok(1), "close-on-exec");
    // clone3 has a field of its own.
    let args = at + 256;
    for (index, word) in
        [CLONE_PIDFD | CLONE_PARENT_SETTID, at + 8, 0, at + 16, SIGCHLD].iter().enumerate()
    {
        world.poke(&init, args + 8 * index as u64, &word.to_le_bytes());
    }
    let second = world.call(&init, 435, &[args, 88]).expect("a child");
    assert_ne!(pid, second);
    assert_eq!(u64::from(u32::from_le_bytes(world.peek(&init, at + 16))), second);
    let fd = u64::from(u32::from_le_bytes(world.peek(&init, at + 8)));
    assert_eq!(world.call(&init, 424, &[fd, 9, 0, 0]), Ok(0));
    world.run();
    let (outcome, status) = world.wait(&init, second.cast_signed(), 0);
    assert_eq!((outcome, status), (Ok(second), 9));
}

#[test]
fn unshare_splits_tables_and_refuses_namespaces() {
    let (mut world, init) = World::with_init();
    let stack = world.map(&init, 8192) + 8192;
    let tid = world.call(&init, 56, &[CLONE_THREAD, stack, 0, 0, 0]).expect("a thread");
    let thread = world.kernel.services.registry.task(tid as u32).expect("alive");
    assert_eq!(world.call(&thread, 272, &[0x400 | 0x200]), Ok(0));
    let event = world.call(&thread, 290, &[0, 0]).expect("eventfd");
    assert_eq!(world.call(&init, 72, &[event, 1, 0]), Err(Errno::BADF), "only the thread has it");
    assert_eq!(world.call(&init, 272, &[0x2000_0000]), Err(Errno::INVAL), "CLONE_NEWPID");
    assert_eq!(world.call(&init, 272, &[0x100]), Err(Errno::INVAL), "shared by threads");
}

#[test]
fn prctl_keeps_what_it_is_told() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 8192);
    world.poke(&init, at, b"a-name-that-is-too-long\0");
    assert_eq!(world.call(&init, 157, &[15, at]), Ok(0));
    assert_eq!(world.call(&init, 157, &[16, at + 64]), Ok(0));
    assert_eq!(world.peek::<16>(&init, at + 64), *b"a-name-that-is-\0");
    assert_eq!(world.call(&init, 157, &[30]), Ok(50_000));
    assert_eq!(world.call(&init, 157, &[29, 1234]), Ok(0));
    assert_eq!(world.call(&init, 157, &[30]), Ok(1234));
    let child = world.fork(&init);
    assert_eq!(world.call(&child, 157, &[30]), Ok(1234), "inherited");
    assert_eq!(world.call(&init, 157, &[38, 1, 0, 0, 0]), Ok(0));
    assert_eq!(world.call(&init, 157, &[39, 0, 0, 0, 0]), Ok(1));
    assert_eq!(world.call(&child, 157, &[39, 0, 0, 0, 0]), Ok(0));
    world.poke(&init, at, b"arena\0");
    assert_eq!(world.call(&init, 157, &[0x5356_4d41, 0, at + 4096, 4096, at]), Ok(0));
    let areas = init.mm().expect("alive").list();
    let named = areas.iter().find(|area| area.label.is_some()).expect("a name");
    assert_eq!(
        (named.start, named.end, named.label.as_deref()),
        (at + 4096, at + 8192, Some("arena"))
    );
    assert_eq!(world.call(&init, 157, &[9999]), Err(Errno::INVAL));
}

#[test]
fn chosen_thread_ids_are_checked_and_then_refused() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    for (id, count, errno) in [
        (0, 1, Errno::INVAL),
        (u32::MAX, 1, Errno::INVAL),
        (1 << 20, 1, Errno::INVAL),
        (77, 40, Errno::INVAL),
        (77, 0, Errno::INVAL),
        (77, 1, Errno::PERM),
    ] {
        world.poke(&init, at + 256, &id.to_le_bytes());
        for (index, word) in [0, 0, 0, 0, SIGCHLD, 0, 0, 0, at + 256, count].iter().enumerate() {
            world.poke(&init, at + 8 * index as u64, &word.to_le_bytes());
        }
        assert_eq!(world.call(&init, 435, &[at, 88]), Err(errno), "{id} of {count}");
    }
}

#[test]
fn setns_wants_a_process_and_namespaces() {
    let (mut world, init) = World::with_init();
    let event = world.call(&init, 290, &[0, 0]).expect("eventfd");
    assert_eq!(world.call(&init, 308, &[event, 0x2000_0000]), Err(Errno::INVAL));
    let fd = open(&mut world, &init, 1);
    for kind in [0, 1, 0x400] {
        assert_eq!(world.call(&init, 308, &[fd, kind]), Err(Errno::INVAL), "{kind:#x}");
    }
}

#[test]
fn kcmp_tells_what_is_shared() {
    let (mut world, init) = World::with_init();
    let child = world.fork(&init);
    let pid = u64::from(child.process.pid);
    let mut compare = |one: u64, other: u64, kind: u64, index: u64, of_other: u64| {
        world.call(&init, 312, &[one, other, kind, index, of_other])
    };
    for kind in 1..7 {
        assert_eq!(compare(1, 1, kind, 0, 0), Ok(0), "{kind}");
    }
    for kind in [1, 2, 3, 4] {
        let (there, back) = (compare(1, pid, kind, 0, 0), compare(pid, 1, kind, 0, 0));
        assert!(matches!((there, back), (Ok(1), Ok(2)) | (Ok(2), Ok(1))), "{kind}");
    }
    assert_eq!(compare(1, pid, 0, 1000, 0), Err(Errno::BADF));
    assert_eq!(compare(1, 999, 1, 0, 0), Err(Errno::SRCH));
    assert_eq!(compare(1, pid, 99, 0, 0), Err(Errno::INVAL));
    let event = world.call(&init, 290, &[0, 0]).expect("eventfd");
    let copy = world.call(&init, 32, &[event]).expect("dup");
    let second = world.call(&init, 290, &[0, 0]).expect("eventfd");
    assert_eq!(world.call(&init, 312, &[1, 1, 0, event, copy]), Ok(0));
    assert_ne!(world.call(&init, 312, &[1, 1, 0, event, second]), Ok(0));
}
