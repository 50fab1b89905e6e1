// SPDX-License-Identifier: Apache-2.0
//! Files that several use at once: mappings of files that change, locks, running programs, pipes
//! that are copied.

use super::calls::Caller;
use crate::process::TaskRef;

const O_RDWR: u64 = 2;
const O_CREAT: u64 = 0o100;
const PAGE: u64 = 4096;
const ETXTBSY: i64 = -26;
const EDEADLK: i64 = -35;
const EINVAL: i64 = -22;
const EAGAIN: i64 = -11;

fn map(c: &mut Caller, fd: i64, bytes: u64, prot: u64, flags: u64) -> u64 {
    let at = c.call(9, &[0, bytes, prot, flags, fd as u64, 0]);
    assert!(at > 0, "mmap: {at}");
    at as u64
}

fn byte(c: &Caller, at: u64) -> u8 {
    c.world.peek::<1>(&c.task, at)[0]
}

fn fork(c: &mut Caller) -> TaskRef {
    let task = c.task.clone();
    c.world.fork(&task)
}

#[test]
fn truncated_file_is_gone_from_mappings() {
    let mut c = Caller::new();
    let fd = c.open("/f", O_RDWR | O_CREAT);
    assert_eq!(c.write(fd, &[7; 2 * 4096]), 8192);
    let shared = map(&mut c, fd, 2 * PAGE, 3, 1);
    let private = map(&mut c, fd, 2 * PAGE, 3, 2);
    c.world.poke(&c.task, private + PAGE, b"copy");
    assert_eq!((byte(&c, shared + PAGE), byte(&c, private)), (7, 7));
    assert_eq!(c.call(77, &[fd as u64, 100]), 0);
    assert_eq!((byte(&c, shared), byte(&c, shared + 100)), (7, 0), "the rest of the page is zero");
    let mm = c.task.mm().expect("alive");
    for at in [shared + PAGE, private + PAGE] {
        assert_eq!(mm.fault(at, crate::mm::FaultKind::Read), Err(crate::mm::Fault::BeyondEnd));
    }
    assert_eq!(c.call(77, &[fd as u64, 2 * PAGE]), 0);
    assert_eq!(byte(&c, shared + PAGE), 0, "it grew again");
    // A child that touches what is not there gets SIGBUS.
    let child = fork(&mut c);
    assert_eq!(c.call(77, &[fd as u64, 0]), 0);
    c.world.touch(&child, shared, false);
    assert_eq!(c.raw(61, &[u64::MAX, c.page, 0, 0]), Some(i64::from(child.process.pid)));
    assert_eq!(c.world.peek::<4>(&c.task, c.page), 7_u32.to_le_bytes(), "SIGBUS");
}

#[test]
fn mapped_holes_follow_later_writes() {
    let mut c = Caller::new();
    let fd = c.open("/f", O_RDWR | O_CREAT);
    assert_eq!(c.call(77, &[fd as u64, 4 * PAGE]), 0);
    let reader = map(&mut c, fd, 4 * PAGE, 1, 1);
    let private = map(&mut c, fd, 4 * PAGE, 3, 2);
    assert_eq!((byte(&c, reader), byte(&c, private)), (0, 0));
    assert_eq!(c.write(fd, b"x"), 1);
    assert_eq!((byte(&c, reader), byte(&c, private)), (b'x', b'x'));
    // A write through another mapping is seen, too, and one's own copy stays.
    let writer = map(&mut c, fd, 4 * PAGE, 3, 1);
    assert_eq!(byte(&c, reader + 2 * PAGE), 0);
    c.world.poke(&c.task, private + 2 * PAGE, b"mine");
    let task = c.task.clone();
    c.world.touch(&task, writer + 2 * PAGE, true);
    c.world.poke(&c.task, writer + 2 * PAGE, b"y");
    assert_eq!((byte(&c, reader + 2 * PAGE), byte(&c, private + 2 * PAGE)), (b'y', b'm'));
    // A hole that is punched reads as zero everywhere.
    assert_eq!(c.call(285, &[fd as u64, 3, 0, 4 * PAGE]), 0);
    assert_eq!((byte(&c, reader), byte(&c, reader + 2 * PAGE)), (0, 0));
}

#[test]
fn running_programs_are_not_written_and_written_files_not_run() {
    let mut c = Caller::new();
    let init = c.open("/bin/init", O_RDWR);
    assert_eq!(init, ETXTBSY);
    let path = c.text(0, "/bin/init");
    assert_eq!(c.call(76, &[path, 0]), ETXTBSY, "truncate");
    let program = crate::testing::elf::Builder::small().build();
    c.world.add_file("/bin/other", 0o755, &program);
    let fd = c.open("/bin/other", O_RDWR);
    assert!(fd >= 0);
    let path = c.text(0, "/bin/other");
    assert_eq!(c.call(59, &[path, 0, 0]), ETXTBSY);
    assert_eq!(c.call(3, &[fd as u64]), 0);
    let child = fork(&mut c);
    c.raw_as(&child, 59, &[path, 0, 0]);
    assert_eq!(&child.name.lock()[..5], b"other");
    // A symbolic link's worth of difference: a script may be edited while it runs.
    c.world.add_file("/plain", 0o644, b"text");
    assert!(c.open("/plain", O_RDWR) >= 0);
}

/// F_SETLKW of a byte, exclusively.
fn lock(c: &mut Caller, task: &TaskRef, fd: i64, byte: u64) -> Option<i64> {
    let at = c.page + 15 * 8192;
    let mut raw = [0; 32];
    raw[0] = 1;
    raw[8..16].copy_from_slice(&byte.to_le_bytes());
    raw[16] = 1;
    c.world.poke(task, at, &raw);
    c.raw_as(task, 72, &[fd as u64, 7, at])
}

#[test]
fn locks_that_wait_for_each_other_are_a_deadlock() {
    let mut c = Caller::new();
    let fd = c.open("/f", O_RDWR | O_CREAT);
    let (a, b) = (fork(&mut c), fork(&mut c));
    let task = c.task.clone();
    for (task, byte) in [(&task, 0), (&a, 1), (&b, 2)] {
        assert_eq!(lock(&mut c, task, fd, byte), Some(0));
    }
    assert_eq!(lock(&mut c, &a, fd, 2), None, "waits for b");
    assert_eq!(lock(&mut c, &b, fd, 0), None, "waits for init");
    assert_eq!(lock(&mut c, &task, fd, 1), Some(EDEADLK), "a waits for b, b for init");
    assert_eq!(c.call(3, &[fd as u64]), 0);
    assert_eq!(b.registers.lock().rax, 0, "init closed the file, which gave up its lock");
    c.raw_as(&b, 231, &[0]);
    assert_eq!(a.registers.lock().rax, 0);
}

#[test]
fn tee_and_vmsplice_move_bytes_through_pipes() {
    let mut c = Caller::new();
    let ends = c.page + 12 * 8192;
    let pipe = |c: &mut Caller| {
        assert_eq!(c.call(22, &[ends]), 0);
        let raw: [u8; 8] = c.world.peek(&c.task, ends);
        [0, 4].map(|at: usize| i64::from(u32::from_le_bytes([raw[at], raw[at + 1], 0, 0])))
    };
    let (first, second) = (pipe(&mut c), pipe(&mut c));
    let tee =
        |c: &mut Caller, flags: u64| c.raw(276, &[first[0] as u64, second[1] as u64, 100, flags]);
    assert_eq!(tee(&mut c, 2), Some(EAGAIN), "SPLICE_F_NONBLOCK");
    let iov = c.page + 13 * 8192;
    let text = c.text(5, "spliced");
    c.world.poke(&c.task, iov, &[text, 7].map(u64::to_le_bytes).concat());
    assert_eq!(c.call(278, &[first[1] as u64, iov, 1, 0]), 7);
    assert_eq!(tee(&mut c, 0), Some(7));
    assert_eq!(c.read(second[0], 64), Ok(b"spliced".to_vec()));
    assert_eq!(c.read(first[0], 64), Ok(b"spliced".to_vec()), "still there");
    assert_eq!(c.call(276, &[first[0] as u64, first[1] as u64, 1, 0]), EINVAL);
    assert_eq!(c.call(3, &[first[1] as u64]), 0);
    assert_eq!(tee(&mut c, 0), Some(0), "nobody writes any longer");
}
