// SPDX-License-Identifier: Apache-2.0
//! mmap and its family, faults.

use super::World;
use crate::{Errno, process::TaskRef};

const PAGE: u64 = 4096;
const ANONYMOUS: u64 = 0x22;
const FIXED: u64 = 0x10;
const NOREPLACE: u64 = 0x10_0000;

fn mmap(
    world: &mut World,
    task: &TaskRef,
    at: u64,
    bytes: u64,
    prot: u64,
    flags: u64,
) -> super::Outcome {
    world.call(task, 9, &[at, bytes, prot, flags, u64::MAX, 0])
}

#[test]
fn mmap_placement() {
    let (mut world, init) = World::with_init();
    let at = mmap(&mut world, &init, 0, 4 * PAGE, 3, ANONYMOUS).expect("room");
    let hint = 0x1234_5000;
    assert_eq!(mmap(&mut world, &init, hint, PAGE, 3, ANONYMOUS), Ok(hint));
    let again = mmap(&mut world, &init, hint, PAGE, 3, ANONYMOUS).expect("room");
    assert_ne!(again, hint);
    let noreplace = ANONYMOUS | NOREPLACE;
    assert_eq!(mmap(&mut world, &init, hint, PAGE, 3, noreplace), Err(Errno::EXIST));
    world.poke(&init, at, &[1]);
    assert_eq!(mmap(&mut world, &init, at, PAGE, 3, ANONYMOUS | FIXED), Ok(at));
    assert_eq!(world.peek::<1>(&init, at), [0], "replaced");
    assert_eq!(mmap(&mut world, &init, 0x1000, PAGE, 3, ANONYMOUS | FIXED), Err(Errno::PERM));
    assert_eq!(mmap(&mut world, &init, at + 1, PAGE, 3, ANONYMOUS | FIXED), Err(Errno::INVAL));
    assert_eq!(mmap(&mut world, &init, 0, 0, 3, ANONYMOUS), Err(Errno::INVAL));
    assert_eq!(mmap(&mut world, &init, 0, u64::MAX, 3, ANONYMOUS), Err(Errno::NOMEM));
    assert_eq!(mmap(&mut world, &init, 0, PAGE, 3, 0x20), Err(Errno::INVAL), "neither kind");
}

#[test]
fn huge_reservation_costs_nothing() {
    let (mut world, init) = World::with_init();
    let before = world.kernel.services.arena.free_bytes();
    let at = mmap(&mut world, &init, 0, 1 << 40, 0, ANONYMOUS | 0x4000).expect("reserved");
    let half = at + (1 << 39);
    assert_eq!(world.call(&init, 10, &[half, 16 * PAGE, 3]), Ok(0));
    world.poke(&init, half, b"x");
    assert!(before - world.kernel.services.arena.free_bytes() < 64 * PAGE);
    assert_eq!(world.call(&init, 11, &[at, 1 << 40]), Ok(0));
}

#[test]
fn munmap_and_mprotect_split_areas() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 8 * PAGE);
    world.poke(&init, at, &[7; 8 * 4096]);
    assert_eq!(world.call(&init, 11, &[at + 2 * PAGE, PAGE]), Ok(0));
    let mm = init.mm().expect("alive");
    assert_eq!(mm.read_bytes(at + 2 * PAGE, &mut [0]), Err(Errno::FAULT));
    assert_eq!(world.call(&init, 10, &[at + PAGE, 2 * PAGE, 1]), Err(Errno::NOMEM), "a gap");
    assert_eq!(world.call(&init, 10, &[at + 4 * PAGE, PAGE, 1]), Ok(0));
    assert_eq!(mm.write_bytes(at + 4 * PAGE, &[1]), Err(Errno::FAULT));
    assert_eq!(world.peek::<1>(&init, at + 4 * PAGE), [7]);
    assert_eq!(world.call(&init, 10, &[at + 4 * PAGE, PAGE, 3]), Ok(0));
    assert_eq!(mm.write_bytes(at + 4 * PAGE, &[1]), Ok(()));
    assert_eq!(world.call(&init, 10, &[at + 4 * PAGE, PAGE, 0]), Ok(0));
    assert_eq!(mm.read_bytes(at + 4 * PAGE, &mut [0]), Err(Errno::FAULT));
    assert_eq!(world.call(&init, 10, &[at + 4 * PAGE, PAGE, 3]), Ok(0));
    assert_eq!(world.peek::<1>(&init, at + 4 * PAGE), [1], "PROT_NONE keeps the page");
}

#[test]
fn protected_after_fork_still_copies() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 200 * PAGE);
    for page in 0..200 {
        world.poke(&init, at + page * PAGE, &[1]);
    }
    world.call(&init, 10, &[at, 200 * PAGE, 1]).expect("mprotect");
    let child = world.fork(&init);
    world.call(&init, 10, &[at, 200 * PAGE, 3]).expect("mprotect");
    for page in 0..200 {
        world.poke(&init, at + page * PAGE, &[2]);
        assert_eq!(world.peek::<1>(&child, at + page * PAGE), [1]);
    }
}

#[test]
fn brk_grows_shrinks_and_never_fails_with_an_errno() {
    let (mut world, init) = World::with_init();
    let start = world.call(&init, 12, &[0]).expect("a break");
    assert_eq!(world.call(&init, 12, &[start + 10_000]), Ok(start + 10_000));
    world.poke(&init, start, &[5; 10_000]);
    assert_eq!(world.call(&init, 12, &[start + 10]), Ok(start + 10));
    assert_eq!(world.call(&init, 12, &[start + 10_000]), Ok(start + 10_000));
    assert_eq!(world.peek::<1>(&init, start + 9000), [0], "fresh again");
    assert_eq!(world.call(&init, 12, &[u64::MAX]), Ok(start + 10_000));
    assert_eq!(world.call(&init, 12, &[start - 1]), Ok(start + 10_000));
}

#[test]
fn mremap_grows_moves_and_keeps_contents() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 2 * PAGE);
    world.poke(&init, at, b"keep");
    mmap(&mut world, &init, at + 2 * PAGE, PAGE, 3, ANONYMOUS | FIXED).expect("a neighbour");
    assert_eq!(
        world.call(&init, 25, &[at, 2 * PAGE, 4 * PAGE, 0, 0]),
        Err(Errno::NOMEM),
        "in the way"
    );
    let moved = world.call(&init, 25, &[at, 2 * PAGE, 64 * PAGE, 1, 0]).expect("moves");
    assert_ne!(moved, at);
    assert_eq!(world.peek::<4>(&init, moved), *b"keep");
    let mm = init.mm().expect("alive");
    assert_eq!(mm.read_bytes(at, &mut [0]), Err(Errno::FAULT));
    assert_eq!(world.call(&init, 25, &[moved, 64 * PAGE, PAGE, 0, 0]), Ok(moved));
    assert_eq!(mm.read_bytes(moved + PAGE, &mut [0]), Err(Errno::FAULT));
}

#[test]
fn madvise_dontneed_zeroes_at_once() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 4 * PAGE);
    world.poke(&init, at, &[9; 4 * 4096]);
    assert_eq!(world.call(&init, 28, &[at + PAGE, PAGE, 4]), Ok(0));
    assert_eq!(world.peek::<1>(&init, at + PAGE), [0]);
    assert_eq!(world.peek::<1>(&init, at), [9]);
    assert_eq!(world.call(&init, 28, &[at, PAGE, 999]), Err(Errno::INVAL));
    assert_eq!(world.call(&init, 28, &[at, 1 << 30, 4]), Err(Errno::NOMEM));
    // WIPEONFORK and DONTFORK.
    world.poke(&init, at, &[9; 4 * 4096]);
    world.call(&init, 28, &[at, PAGE, 18]).expect("wipe");
    world.call(&init, 28, &[at + PAGE, PAGE, 10]).expect("no fork");
    let child = world.fork(&init);
    assert_eq!(world.peek::<1>(&child, at), [0]);
    let mm = child.mm().expect("alive");
    assert_eq!(mm.read_bytes(at + PAGE, &mut [0]), Err(Errno::FAULT));
    assert_eq!(world.peek::<1>(&child, at + 2 * PAGE), [9]);
}

#[test]
fn stack_grows_down_to_its_limit() {
    let (world, init) = World::with_init();
    let rsp = init.registers.lock().rsp;
    world.poke(&init, rsp - (1 << 20), b"deep");
    assert_eq!(world.peek::<4>(&init, rsp - (1 << 20)), *b"deep");
    let mm = init.mm().expect("alive");
    assert_eq!(mm.write_bytes(rsp - (9 << 20), b"too deep"), Err(Errno::FAULT));
}

#[test]
fn faults_bring_in_a_growing_window() {
    let (mut world, init) = World::with_init();
    let at = world.map(&init, 512 * PAGE);
    let mm = init.mm().expect("alive");
    let mut faults = 0;
    for page in 0..512 {
        if !mm.space.lock().is_mapped(at + page * PAGE) {
            world.touch(&init, at + page * PAGE, true);
            faults += 1;
        }
    }
    assert!(faults <= 16, "{faults} faults for 512 pages in sequence");
    assert!(!mm.space.lock().is_mapped(at + 512 * PAGE));
}

#[test]
fn long_sequences_of_faults_use_large_pages_that_can_be_split() {
    let (mut world, init) = World::with_init();
    let bytes = 8 << 20;
    let at = world.map(&init, bytes);
    let mm = init.mm().expect("alive");
    let mut faults = 0;
    for page in 0..bytes / PAGE {
        if !mm.space.lock().is_mapped(at + page * PAGE) {
            world.touch(&init, at + page * PAGE, true);
            faults += 1;
        }
        world.poke(&init, at + page * PAGE, &page.to_le_bytes());
    }
    assert!(faults < 40, "{faults} faults for 8 MiB");
    let middle = at + bytes / 2 + 5 * PAGE;
    assert_eq!(world.call(&init, 10, &[middle, PAGE, 1]), Ok(0));
    assert_eq!(world.call(&init, 28, &[middle + PAGE, PAGE, 4]), Ok(0));
    let child = world.fork(&init);
    world.poke(&init, middle + 2 * PAGE, b"new");
    for page in 0..bytes / PAGE {
        let expected = if at + page * PAGE == middle + PAGE { 0 } else { page };
        assert_eq!(world.peek_u64(&child, at + page * PAGE), expected);
    }
}

#[test]
fn file_mapping_private_shared_and_beyond_the_end() {
    let (mut world, init) = World::with_init();
    world.add_file("/bin/data", 0o644, &[b'a'; 5000]);
    let context = world.context();
    let file = {
        use crate::fs::{
            open::{How, Opener},
            types::OpenFlags,
            walk::Walk,
        };
        let how = How { flags: OpenFlags::RDWR, mode: 0, walk: Walk::empty() };
        let opener = Opener { ticket: None, task: 0 };
        let creds = crate::process::Creds::root();
        context.open(&creds, &context.root, b"/bin/data", how, &opener).expect("there")
    };
    let fd = init.files().expect("alive").lock().insert(file, false, 0, 64).expect("room");
    let fd = u64::from(fd.cast_unsigned());
    let map = |world: &mut World, flags| {
        world.call(&init, 9, &[0, 4 * PAGE, 3, flags, fd, 0]).expect("maps")
    };
    let (private, shared) = (map(&mut world, 2), map(&mut world, 1));
    assert_eq!(world.peek::<2>(&init, private + 4998), *b"aa");
    assert_eq!(world.peek::<2>(&init, private + 5000), [0, 0], "the tail reads as zero");
    world.poke(&init, private, b"p");
    assert_eq!(world.peek::<1>(&init, shared), *b"a");
    world.poke(&init, shared + 1, b"s");
    let mut back = [0; 2];
    let read = |back: &mut [u8]| {
        let file = init.files().expect("alive").lock().get(fd as i32).expect("open");
        crate::fs::read_at(&file, 0, back).expect("reads")
    };
    read(&mut back);
    assert_eq!(&back, b"as");
    let mm = init.mm().expect("alive");
    assert_eq!(mm.read_bytes(private + 2 * PAGE, &mut [0]), Err(Errno::FAULT), "beyond the end");
    let fault = mm.fault(private + 2 * PAGE, crate::mm::FaultKind::Read);
    assert_eq!(fault, Err(crate::mm::Fault::BeyondEnd));
}

#[test]
fn out_of_memory_among_many_small_processes_spares_init() {
    let mut world = World::with_ram(8 << 20);
    let init = world.start(0, &["/bin/init"]);
    let children: Vec<_> = (0..60).map(|_| world.fork(&init)).collect();
    let is_dead = |task: &&TaskRef| task.phase() == crate::process::task::Phase::Dead;
    let take = |world: &mut World, task: &TaskRef, pages: u64| {
        let at = world.map(task, pages * PAGE);
        for page in 0..pages {
            if !is_dead(&task) {
                world.touch(task, at + page * PAGE, true);
            }
        }
    };
    // Init has more than any of them, and all of them have more than there is.
    take(&mut world, &init, 55);
    for child in &children {
        if !is_dead(&child) {
            take(&mut world, child, 40);
        }
    }
    let dead = children.iter().filter(is_dead).count();
    assert!((1..children.len()).contains(&dead), "{dead} of them died");
    assert!(!is_dead(&&init), "init has done nothing");
}

#[test]
fn out_of_memory_waits_for_those_who_end_anyhow() {
    let mut world = World::with_ram(8 << 20);
    let init = world.start(0, &["/bin/init"]);
    let hog = world.fork(&init);
    let at = world.map(&hog, 4 << 20);
    (0..1024).for_each(|page| world.touch(&hog, at + page * PAGE, true));
    // Killed, but it has not run since.
    world.kernel.exit_group(&hog.process, 9);
    world.kernel.out_of_memory();
    let dead = crate::process::task::Phase::Dead;
    assert_eq!((hog.phase(), init.phase() == dead), (dead, false));
    let is_oom = |event: &_| matches!(event, trine_abi::control::Event::OutOfMemory { .. });
    assert!(!world.kernel.take_events().iter().any(is_oom));
}

#[test]
fn out_of_memory_kills_the_largest_process() {
    let mut world = World::with_ram(8 << 20);
    let init = world.start(0, &["/bin/init"]);
    let hog = world.fork(&init);
    let at = world.map(&hog, 16 << 20);
    let mut page = 0;
    while hog.phase() != crate::process::task::Phase::Dead {
        assert!(page < 4096, "memory cannot last that long");
        world.touch(&hog, at + page * PAGE, true);
        page += 1;
    }
    let pid = hog.process.pid;
    assert!(world.events.contains(&trine_abi::control::Event::OutOfMemory { pid }));
    assert!(!init.process.is_zombie());
    assert_eq!(world.wait(&init, -1, 0), (Ok(u64::from(pid)), 9));
}
