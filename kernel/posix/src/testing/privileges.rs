// SPDX-License-Identifier: Apache-2.0
//! What execve grants: set-id bits, capabilities of files, no_new_privs; personality.

use super::{World, elf::Builder};
use crate::{Errno, process::TaskRef};

const NET_RAW: u64 = 1 << 13;
const NET_ADMIN: u64 = 1 << 12;
const ADDR_NO_RANDOMIZE: u64 = 0x4_0000;

/// A world with `/bin/tool` of a mode, and a child of init that is user 1000.
fn user(mode: u32) -> (World, TaskRef, u64) {
    let (mut world, init) = World::with_init();
    world.add_file("/bin/tool", mode, &Builder::small().build());
    let child = world.fork(&init);
    let at = world.map(&child, 65536);
    world.poke(&child, at, b"/bin/tool\0");
    for (number, args) in [(116, [0, 0, 0]), (119, [1000; 3]), (117, [1000; 3])] {
        assert_eq!(world.call(&child, number, &args), Ok(0));
    }
    (world, child, at)
}

fn exec(world: &mut World, task: &TaskRef, path: u64) -> super::Outcome {
    world.try_call(task, 59, &[path, 0, 0]).unwrap_or(Err(Errno::INTR))
}

/// Gives /bin/tool capabilities: permitted, and whether they are effective.
fn set_caps(world: &World, permitted: u64, effective: bool) {
    let context = world.context();
    let place = context.lookup(&crate::process::Creds::root(), b"/bin/tool").expect("there");
    let words =
        [0x0200_0000 | u32::from(effective), permitted as u32, 0, (permitted >> 32) as u32, 0];
    let raw = words.map(u32::to_le_bytes).concat();
    place.inode().set_xattr(b"security.capability", Some(&raw)).expect("set");
}

#[test]
fn set_user_id_program_runs_as_its_owner_unless_forbidden() {
    let (mut world, task, path) = user(0o4755);
    assert_eq!(exec(&mut world, &task, path), Ok(0));
    let creds = task.creds();
    assert_eq!((creds.uid, creds.euid, creds.suid, creds.fsuid), (1000, 0, 0, 0));
    assert_ne!(creds.caps.effective, 0);
    let (mut world, task, path) = user(0o4755);
    assert_eq!(world.call(&task, 157, &[38, 1, 0, 0, 0]), Ok(0));
    assert_eq!(exec(&mut world, &task, path), Ok(0));
    assert_eq!((task.creds().euid, task.creds().caps.effective), (1000, 0));
}

#[test]
fn file_capabilities_are_granted_within_the_bounding_set() {
    let (mut world, task, path) = user(0o755);
    set_caps(&world, NET_RAW | NET_ADMIN, true);
    assert_eq!(exec(&mut world, &task, path), Ok(0));
    let caps = task.creds().caps;
    assert_eq!((caps.permitted, caps.effective), (NET_RAW | NET_ADMIN, NET_RAW | NET_ADMIN));
    // They are gone with the next program, which has none.
    let (mut world, task, path) = user(0o755);
    set_caps(&world, NET_RAW, false);
    assert_eq!(exec(&mut world, &task, path), Ok(0));
    let caps = task.creds().caps;
    assert_eq!((caps.permitted, caps.effective), (NET_RAW, 0));
    // A program that takes them for granted does not run without.
    let (mut world, task, path) = user(0o755);
    set_caps(&world, NET_RAW, true);
    let mut creds = (*task.creds()).clone();
    creds.caps.bounding &= !NET_RAW;
    *task.creds.lock() = std::sync::Arc::new(creds);
    assert_eq!(exec(&mut world, &task, path), Err(Errno::PERM));
}

#[test]
fn writing_a_program_takes_its_privileges() {
    let (mut world, task, path) = user(0o6777);
    set_caps(&world, NET_RAW, true);
    let fd = world.call(&task, 257, &[-100_i64 as u64, path, 1, 0]).expect("open");
    assert_eq!(world.call(&task, 1, &[fd, path, 1]), Ok(1));
    let context = world.context();
    let place = context.lookup(&crate::process::Creds::root(), b"/bin/tool").expect("there");
    assert_eq!(place.attr().mode, 0o777);
    assert_eq!(place.inode().xattr(b"security.capability"), Err(Errno::NODATA));
}

#[test]
fn personality_is_inherited_and_fixes_addresses() {
    let (mut world, task, path) = user(0o755);
    assert_eq!(world.call(&task, 135, &[0xffff_ffff]), Ok(0));
    assert_eq!(world.call(&task, 135, &[ADDR_NO_RANDOMIZE]), Ok(0));
    assert_eq!(world.call(&task, 135, &[0x0010_0000]), Err(Errno::INVAL), "MMAP_PAGE_ZERO");
    let other = world.fork(&task);
    assert_eq!(world.call(&other, 135, &[0xffff_ffff]), Ok(ADDR_NO_RANDOMIZE));
    let stacks = [&task, &other].map(|task| {
        assert_eq!(exec(&mut world, task, path), Ok(0));
        task.registers.lock().rsp
    });
    assert_eq!(stacks[0], stacks[1]);
    assert_eq!(world.call(&task, 135, &[8]), Ok(ADDR_NO_RANDOMIZE));
    let at = world.map(&task, 4096);
    assert_eq!(world.call(&task, 63, &[at]), Ok(0));
    assert_eq!(world.peek::<5>(&task, at + 65 * 4), *b"i686\0");
}
