// SPDX-License-Identifier: Apache-2.0
//! Memory of other processes, seals, locked memory, memory policies.

use super::World;
use crate::Errno;

#[test]
fn process_vm_copies_between_processes_up_to_what_is_mapped() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4 * 4096);
    let child = world.fork(&init);
    let pid = u64::from(child.process.pid);
    let lone = 0x6000_0000;
    world.call(&child, 9, &[lone, 4096, 3, 0x32, u64::MAX, 0]).expect("mapped");
    world.poke(&child, lone, b"remote");
    let words = [at + 4096, 8192, lone, 8192].map(u64::to_le_bytes).concat();
    world.poke(&init, at, &words);
    assert_eq!(world.call(&init, 310, &[pid, at, 1, at + 16, 1, 0]), Ok(4096), "one page");
    assert_eq!(world.peek::<6>(&init, at + 4096), *b"remote");
    world.poke(&init, at + 4096, b"LOCAL!");
    assert_eq!(world.call(&init, 311, &[pid, at, 1, at + 16, 1, 0]), Ok(4096));
    assert_eq!(world.peek::<6>(&child, lone), *b"LOCAL!");
    assert_eq!(world.call(&init, 310, &[pid, at, 1, at + 16, 1, 1]), Err(Errno::INVAL));
    assert_eq!(world.call(&init, 310, &[999, at, 1, at + 16, 1, 0]), Err(Errno::SRCH));
    // Somebody else may not.
    assert_eq!(world.call(&child, 117, &[7, 7, 7]), Ok(0));
    assert_eq!(world.call(&child, 310, &[1, at, 1, at + 16, 1, 0]), Err(Errno::PERM));
}

#[test]
fn memfd_seals_hold_against_mappings() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    world.poke(&init, at, b"m\0");
    let fd = world.call(&init, 319, &[at, 2]).expect("a memfd");
    assert_eq!(world.call(&init, 77, &[fd, 8192]), Ok(0));
    let shared = world.call(&init, 9, &[0, 8192, 3, 1, fd, 0]).expect("mapped");
    assert_eq!(world.call(&init, 72, &[fd, 1033, 8]), Err(Errno::BUSY), "written through a map");
    assert_eq!(world.call(&init, 11, &[shared, 8192]), Ok(0));
    assert_eq!(world.call(&init, 72, &[fd, 1033, 8 | 2]), Ok(0));
    assert_eq!(world.call(&init, 9, &[0, 8192, 3, 1, fd, 0]), Err(Errno::PERM));
    let read_only = world.call(&init, 9, &[0, 8192, 1, 1, fd, 0]).expect("mapped");
    assert_eq!(world.call(&init, 10, &[read_only, 4096, 3]), Err(Errno::ACCES));
    assert_eq!(world.call(&init, 1, &[fd, at, 1]), Err(Errno::PERM));
    assert_eq!(world.call(&init, 77, &[fd, 4096]), Err(Errno::PERM), "does not shrink");
    let private = world.call(&init, 9, &[0, 8192, 3, 2, fd, 0]).expect("mapped");
    world.poke(&init, private, b"mine");
    assert_eq!(world.call(&init, 72, &[fd, 1034]), Ok(8 | 2));
    assert_eq!(world.call(&init, 72, &[fd, 1033, 1]), Ok(0));
    assert_eq!(world.call(&init, 72, &[fd, 1033, 4]), Err(Errno::PERM), "sealed");
}

#[test]
fn locked_memory_has_a_limit_for_ordinary_users() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 16 * 4096);
    assert_eq!(world.call(&init, 149, &[at, 16 * 4096]), Ok(0));
    assert_eq!(world.call(&init, 325, &[at, 4096, 1]), Ok(0), "MLOCK_ONFAULT");
    assert_eq!(world.call(&init, 325, &[at, 4096, 2]), Err(Errno::INVAL));
    world.poke(&init, at, &[8192_u64, 8192].map(u64::to_le_bytes).concat());
    assert_eq!(world.call(&init, 160, &[8, at]), Ok(0), "RLIMIT_MEMLOCK");
    assert_eq!(world.call(&init, 105, &[9]), Ok(0), "setuid");
    assert_eq!(world.call(&init, 149, &[at, 16 * 4096]), Err(Errno::NOMEM));
    assert_eq!(world.call(&init, 149, &[at, 4096]), Ok(0));
    assert_eq!(world.call(&init, 150, &[at, 4096]), Ok(0));
    assert_eq!(world.call(&init, 151, &[1]), Err(Errno::NOMEM));
    assert_eq!(world.call(&init, 151, &[2]), Ok(0), "MCL_FUTURE");
}

#[test]
fn memory_policy_knows_one_node() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4096);
    assert_eq!(world.call(&init, 239, &[at, at + 8, 64, 0, 4]), Ok(0), "MPOL_F_MEMS_ALLOWED");
    assert_eq!(world.peek_u64(&init, at + 8), 1);
    world.poke(&init, at, &1_u64.to_le_bytes());
    assert_eq!(world.call(&init, 238, &[2, at, 64]), Ok(0), "MPOL_BIND to node 0");
    world.poke(&init, at, &2_u64.to_le_bytes());
    assert_eq!(world.call(&init, 238, &[2, at, 64]), Err(Errno::INVAL), "node 1");
    assert_eq!(world.call(&init, 237, &[at, 4096, 0, 0, 0, 0]), Ok(0));
    assert_eq!(world.call(&init, 330, &[0, 0]), Err(Errno::NOSPC), "no protection keys");
}
