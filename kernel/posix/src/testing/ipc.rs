// SPDX-License-Identifier: Apache-2.0
//! System V IPC.

use super::{World, pass_ns};
use crate::{Errno, process::TaskRef};

const CREATE: u64 = 0o1000 | 0o600;
const EXCL: u64 = 0o2000;
const NOWAIT: u64 = 0o4000;

fn nattch(world: &mut World, task: &TaskRef, id: u64) -> u64 {
    let at = world.map(task, 4096);
    world.call(task, 31, &[id, 2, at]).expect("IPC_STAT");
    world.peek_u64(task, at + 88)
}

#[test]
fn shm_is_shared_by_key_and_over_fork_and_goes_with_its_last_user() {
    let (mut world, init) = World::with_init();
    let free = world.kernel.services.arena.free_bytes();
    let id = world.call(&init, 29, &[77, 1 << 20, CREATE]).expect("a segment");
    assert_eq!(world.call(&init, 29, &[77, 1 << 20, CREATE | EXCL]), Err(Errno::EXIST));
    assert_eq!(world.call(&init, 29, &[77, 2 << 20, 0]), Err(Errno::INVAL), "larger than it is");
    assert_eq!(world.call(&init, 29, &[77, 0, 0]), Ok(id));
    assert_eq!(world.call(&init, 29, &[78, 4096, 0]), Err(Errno::NOENT));
    let at = world.call(&init, 30, &[id, 0, 0]).expect("attached");
    assert_eq!(nattch(&mut world, &init, id), 1);
    let child = world.fork(&init);
    assert_eq!(nattch(&mut world, &init, id), 2);
    world.poke(&child, at, &vec![1; 1 << 20]);
    world.poke(&child, at + 9000, b"hello");
    assert_eq!(world.peek::<5>(&init, at + 9000), *b"hello");
    // Removed: the key is free, those who have it go on.
    assert_eq!(world.call(&init, 31, &[id, 0, 0]), Ok(0));
    assert_eq!(world.call(&init, 29, &[77, 0, 0]), Err(Errno::NOENT));
    assert_eq!(nattch(&mut world, &init, id), 2);
    assert_eq!(world.call(&init, 67, &[at + 4096]), Err(Errno::INVAL), "not its start");
    assert_eq!(world.call(&init, 67, &[at]), Ok(0));
    assert_eq!(world.peek::<5>(&child, at + 9000), *b"hello");
    world.call(&child, 231, &[0]).ok();
    world.wait(&init, -1, 0).0.expect("waited");
    assert_eq!(world.call(&init, 31, &[id, 2, at]), Err(Errno::INVAL), "gone");
    assert!(free - world.kernel.services.arena.free_bytes() < 512 << 10, "its pages are free");
}

#[test]
fn shm_attach_addresses_and_rights() {
    let (mut world, init) = World::with_init();
    let id = world.call(&init, 29, &[0, 8192, CREATE]).expect("a segment");
    let hole = world.map(&init, 16 * 4096);
    assert_eq!(world.call(&init, 30, &[id, hole, 0]), Err(Errno::INVAL), "taken");
    assert_eq!(world.call(&init, 30, &[id, hole, 0o40000]), Ok(hole), "SHM_REMAP");
    assert_eq!(world.call(&init, 30, &[id, 0x7000_0123, 0]), Err(Errno::INVAL));
    assert_eq!(world.call(&init, 30, &[id, 0x7000_0123, 0o20000]), Ok(0x7000_0000), "SHM_RND");
    world.poke(&init, hole, b"both");
    assert_eq!(world.peek::<4>(&init, 0x7000_0000), *b"both");
    let read_only = world.call(&init, 30, &[id, 0, 0o10000]).expect("attached");
    let mm = init.mm().expect("alive");
    assert_eq!(mm.write_bytes(read_only, b"x"), Err(Errno::FAULT));
    // Another user has no rights to mode 0600.
    let child = world.fork(&init);
    assert_eq!(world.call(&child, 117, &[5, 5, 5]), Ok(0));
    assert_eq!(world.call(&child, 30, &[id, 0, 0]), Err(Errno::ACCES));
    assert_eq!(world.call(&child, 31, &[id, 0, 0]), Err(Errno::PERM));
}

fn ops(world: &World, task: &TaskRef, at: u64, list: &[(u16, i16, u16)]) -> [u64; 2] {
    let raw: Vec<u8> = list
        .iter()
        .flat_map(|(index, change, flags)| {
            [index.to_le_bytes(), change.to_le_bytes(), flags.to_le_bytes()].concat()
        })
        .collect();
    world.poke(task, at, &raw);
    [at, list.len() as u64]
}

#[test]
fn semaphores_wait_wake_and_time_out() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let id = world.call(&init, 64, &[0, 2, CREATE]).expect("a set");
    let child = world.fork(&init);
    let [ops_at, n] = ops(&world, &child, at, &[(0, -1, 0), (1, 1, 0)]);
    assert_eq!(world.try_call(&child, 65, &[id, ops_at, n]), None, "waits");
    assert_eq!(world.call(&init, 66, &[id, 0, 14]), Ok(1), "GETNCNT");
    assert_eq!(world.call(&init, 66, &[id, 1, 12]), Ok(0), "all or nothing");
    let [ops_at, n] = ops(&world, &init, at, &[(0, 2, 0)]);
    assert_eq!(world.call(&init, 65, &[id, ops_at, n]), Ok(0));
    assert_eq!(World::result(&child), Ok(0));
    assert_eq!(world.call(&init, 66, &[id, 0, 12]), Ok(1));
    assert_eq!(world.call(&init, 66, &[id, 1, 12]), Ok(1));
    assert_eq!(world.call(&init, 66, &[id, 1, 11]), Ok(u64::from(child.process.pid)), "GETPID");
    // Zero, with NOWAIT and with a time-out.
    let [ops_at, n] = ops(&world, &init, at, &[(0, 0, NOWAIT as u16)]);
    assert_eq!(world.call(&init, 65, &[id, ops_at, n]), Err(Errno::AGAIN));
    let [ops_at, n] = ops(&world, &init, at, &[(0, 0, 0)]);
    world.poke(&init, at + 64, &[0_u64.to_le_bytes(), 5_000_u64.to_le_bytes()].concat());
    assert_eq!(world.try_call(&init, 220, &[id, ops_at, n, at + 64]), None);
    pass_ns(10_000_000);
    world.kernel.tick();
    world.run();
    assert_eq!(World::result(&init), Err(Errno::AGAIN));
    // Removal ends a wait.
    let [ops_at, n] = ops(&world, &child, at, &[(0, -9, 0)]);
    assert_eq!(world.try_call(&child, 65, &[id, ops_at, n]), None);
    assert_eq!(world.call(&init, 66, &[id, 0, 0]), Ok(0));
    assert_eq!(World::result(&child), Err(Errno::IDRM));
    assert_eq!(world.call(&init, 66, &[id, 0, 12]), Err(Errno::INVAL));
}

#[test]
fn semaphore_undo_happens_at_exit() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    let id = world.call(&init, 64, &[0, 1, CREATE]).expect("a set");
    assert_eq!(world.call(&init, 66, &[id, 0, 16, 1]), Ok(0), "SETVAL");
    let child = world.fork(&init);
    let [ops_at, n] = ops(&world, &child, at, &[(0, -1, 0x1000)]);
    assert_eq!(world.call(&child, 65, &[id, ops_at, n]), Ok(0));
    let [ops_at, n] = ops(&world, &init, at, &[(0, -1, 0)]);
    assert_eq!(world.try_call(&init, 65, &[id, ops_at, n]), None, "the child has it");
    world.call(&child, 231, &[0]).ok();
    world.run();
    assert_eq!(World::result(&init), Ok(0), "its end gave it back");
    assert_eq!(world.call(&init, 66, &[id, 0, 16, 40_000]), Err(Errno::RANGE));
}

#[test]
fn messages_keep_kinds_and_wait_for_room() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 16 << 10);
    let id = world.call(&init, 68, &[9, CREATE]).expect("a queue");
    let send = |world: &mut World, task: &TaskRef, kind: u64, text: &[u8]| {
        world.poke(task, at, &kind.to_le_bytes());
        world.poke(task, at + 8, text);
        world.try_call(task, 69, &[id, at, text.len() as u64, 0])
    };
    for (kind, text) in [(3, &b"three"[..]), (1, b"one"), (2, b"two"), (1, b"uno")] {
        assert_eq!(send(&mut world, &init, kind, text), Some(Ok(0)));
    }
    assert_eq!(send(&mut world, &init, 0, b"no kind"), Some(Err(Errno::INVAL)));
    let receive = |world: &mut World, bytes: u64, kind: i64, flags: u64| {
        let got = world.call(&init, 70, &[id, at, bytes, kind.cast_unsigned(), flags | NOWAIT])?;
        let mut text = std::vec![0; got as usize];
        init.mm().expect("alive").read_bytes(at + 8, &mut text)?;
        Ok::<_, Errno>((world.peek_u64(&init, at), text))
    };
    assert_eq!(receive(&mut world, 64, 2, 0), Ok((2, b"two".to_vec())));
    assert_eq!(receive(&mut world, 64, -2, 0), Ok((1, b"one".to_vec())), "the lowest");
    assert_eq!(receive(&mut world, 64, 3, 0o20000), Ok((1, b"uno".to_vec())), "MSG_EXCEPT");
    assert_eq!(receive(&mut world, 2, 0, 0), Err(Errno::TOO_BIG));
    assert_eq!(receive(&mut world, 2, 0, 0o10000), Ok((3, b"th".to_vec())), "MSG_NOERROR");
    assert_eq!(receive(&mut world, 64, 0, 0), Err(Errno::NOMSG));
    // A full queue makes a sender wait.
    let child = world.fork(&init);
    let long = [b'x'; 8000];
    assert_eq!(send(&mut world, &child, 1, &long), Some(Ok(0)));
    assert_eq!(send(&mut world, &child, 1, &long), Some(Ok(0)));
    assert_eq!(send(&mut world, &child, 1, &long), None);
    assert!(receive(&mut world, 8192, 0, 0).is_ok());
    assert_eq!(World::result(&child), Ok(0));
    // A receiver waits, and is told of the removal.
    let other = world.call(&init, 68, &[10, CREATE]).expect("a queue");
    assert_eq!(world.try_call(&child, 70, &[other, at, 64, 0, 0]), None);
    assert_eq!(world.call(&init, 71, &[other, 0, 0]), Ok(0));
    assert_eq!(World::result(&child), Err(Errno::IDRM));
}
