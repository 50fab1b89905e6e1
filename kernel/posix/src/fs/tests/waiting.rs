// SPDX-License-Identifier: Apache-2.0
//! Pipes, poll, epoll, eventfd, timerfd.

use std::vec::Vec;

use super::calls::Caller;
use crate::testing::pass_ns;

const EAGAIN: i64 = -11;
const EPIPE: i64 = -32;
const POLLIN: u64 = 1;
const EPOLLET: u64 = 1 << 31;
const EPOLLONESHOT: u64 = 1 << 30;

fn pipe(c: &mut Caller, flags: u64) -> (i64, i64) {
    let at = c.page + 12 * 8192;
    assert_eq!(c.call(293, &[at, flags]), 0);
    let both = c.world.peek_u64(&c.task, at);
    ((both & 0xffff_ffff) as i64, (both >> 32) as i64)
}

#[test]
fn pipe_blocks_wakes_and_ends() {
    let mut c = Caller::new();
    let (reader, writer) = pipe(&mut c, 0);
    let child = c.world.fork(&c.task.clone());
    let at = c.page;
    assert_eq!(c.raw_as(&child, 0, &[reader as u64, at, 100]), None);
    assert_eq!(c.write(writer, b"hello"), 5);
    assert_eq!(child.registers.lock().rax, 5);
    // All writers closed: the end.  The child has one too.
    assert_eq!(c.raw_as(&child, 3, &[writer as u64]), Some(0));
    assert_eq!(c.raw_as(&child, 0, &[reader as u64, at, 100]), None);
    assert_eq!(c.call(3, &[writer as u64]), 0);
    assert_eq!((child.run.lock().call.is_none(), child.registers.lock().rax), (true, 0));
}

#[test]
fn pipe_without_readers_is_broken() {
    let mut c = Caller::new();
    // SIGPIPE is ignored: or the process would end.
    let at = c.page + 13 * 8192;
    c.world.poke(&c.task.clone(), at, &1_u64.to_le_bytes());
    assert_eq!(c.call(13, &[13, at, 0, 8]), 0);
    let (reader, writer) = pipe(&mut c, 0);
    assert_eq!(c.call(3, &[reader as u64]), 0);
    assert_eq!(c.write(writer, b"x"), EPIPE);
}

#[test]
fn small_writes_are_whole_and_large_ones_fill_the_pipe() {
    let mut c = Caller::new();
    let (reader, writer) = pipe(&mut c, 0o4000);
    let large = c.world.map(&c.task.clone(), 1 << 20);
    assert_eq!(c.call(1, &[writer as u64, large, 65_000]), 65_000);
    // 536 bytes are free: less than a small write needs, whole.
    assert_eq!(c.call(1, &[writer as u64, large, 4096]), EAGAIN);
    assert_eq!(c.call(1, &[writer as u64, large, 5000]), 536);
    assert_eq!(c.call(1, &[writer as u64, large, 1]), EAGAIN);
    assert_eq!(c.read(reader, 1).map(|bytes| bytes.len()), Ok(1));
    assert_eq!(c.call(1, &[writer as u64, large, 1]), 1);
}

#[test]
fn a_large_blocking_write_goes_on_as_it_is_read() {
    let mut c = Caller::new();
    let (reader, writer) = pipe(&mut c, 0);
    let child = c.world.fork(&c.task.clone());
    let large = c.world.map(&child, 1 << 20);
    assert_eq!(c.raw_as(&child, 1, &[writer as u64, large, 200_000]), None);
    let mut total = 0;
    while total < 200_000 {
        total += c.read(reader, 8000).expect("data").len();
    }
    assert_eq!((total, child.registers.lock().rax), (200_000, 200_000));
}

fn poll(c: &mut Caller, fd: i64, events: u64, timeout_ms: i64) -> Option<(i64, u16)> {
    let at = c.page + 14 * 8192;
    c.world.poke(&c.task.clone(), at, &(fd as u64 & 0xffff_ffff | events << 32).to_le_bytes());
    let found = c.raw(7, &[at, 1, timeout_ms as u64])?;
    Some((found, (c.world.peek_u64(&c.task, at) >> 48) as u16))
}

#[test]
fn poll_table() {
    let mut c = Caller::new();
    let (reader, writer) = pipe(&mut c, 0);
    assert_eq!(poll(&mut c, reader, POLLIN, 0), Some((0, 0)));
    assert_eq!(poll(&mut c, writer, 4, 0), Some((1, 4)));
    assert_eq!(poll(&mut c, 99, POLLIN, -1), Some((1, 0x20)));
    assert_eq!(poll(&mut c, -1, POLLIN, 0), Some((0, 0)));
    c.write(writer, b"x");
    assert_eq!(poll(&mut c, reader, POLLIN, -1), Some((1, 1)));
    assert_eq!(c.call(3, &[writer as u64]), 0);
    assert_eq!(poll(&mut c, reader, POLLIN, -1), Some((1, 0x11)));
    let (reader, writer) = pipe(&mut c, 0);
    assert_eq!(c.call(3, &[reader as u64]), 0);
    assert_eq!(poll(&mut c, writer, 4, -1), Some((1, 0xc)));
}

#[test]
fn poll_times_out() {
    let mut c = Caller::new();
    let (reader, _) = pipe(&mut c, 0);
    assert_eq!(poll(&mut c, reader, POLLIN, 50), None);
    pass_ns(49_000_000);
    c.world.kernel.tick();
    c.world.run();
    assert!(c.task.run.lock().call.is_some());
    pass_ns(2_000_000);
    c.world.kernel.tick();
    c.world.run();
    assert!(c.task.run.lock().call.is_none());
    assert_eq!(c.task.registers.lock().rax, 0);
}

struct Set {
    fd: u64,
}

impl Set {
    fn new(c: &mut Caller) -> Self {
        Self { fd: c.call(291, &[0]) as u64 }
    }

    fn control(&self, c: &mut Caller, operation: u64, fd: i64, events: u64) -> i64 {
        let at = c.page + 15 * 8192;
        let mut raw = [0; 12];
        raw[..4].copy_from_slice(&(events as u32).to_le_bytes());
        raw[4..].copy_from_slice(&(fd as u64 + 1000).to_le_bytes());
        c.world.poke(&c.task.clone(), at, &raw);
        c.call(233, &[self.fd, operation, fd as u64, at])
    }

    /// Events that are there now: the first one's bits and data.
    fn wait(&self, c: &mut Caller) -> Option<(u32, u64)> {
        let at = c.page + 15 * 8192;
        let count = c.call(232, &[self.fd, at, 8, 0]);
        assert!((0..=1).contains(&count), "{count} events");
        let raw = c.world.peek::<12>(&c.task, at);
        let bits = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
        let data = raw[4..].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        (count == 1).then_some((bits, data))
    }
}

#[test]
fn epoll_level_edge_and_one_shot() {
    let mut c = Caller::new();
    let (reader, writer) = pipe(&mut c, 0);
    let set = Set::new(&mut c);
    assert_eq!(set.control(&mut c, 1, reader, POLLIN), 0);
    assert_eq!(set.control(&mut c, 1, reader, POLLIN), -17);
    assert_eq!(set.wait(&mut c), None);
    c.write(writer, b"a");
    let event = Some((1, reader as u64 + 1000));
    assert_eq!((set.wait(&mut c), set.wait(&mut c)), (event, event));
    // Edge: once per write, though it stays readable.
    assert_eq!(set.control(&mut c, 3, reader, POLLIN | EPOLLET), 0);
    assert_eq!((set.wait(&mut c), set.wait(&mut c)), (event, None));
    c.write(writer, b"b");
    assert_eq!((set.wait(&mut c), set.wait(&mut c)), (event, None));
    // One-shot: once, until it is armed again.
    assert_eq!(set.control(&mut c, 3, reader, POLLIN | EPOLLONESHOT), 0);
    assert_eq!(set.wait(&mut c), event);
    c.write(writer, b"c");
    assert_eq!(set.wait(&mut c), None);
    assert_eq!(set.control(&mut c, 3, reader, POLLIN | EPOLLONESHOT), 0);
    assert_eq!(set.wait(&mut c), event);
    assert_eq!(set.control(&mut c, 2, reader, 0), 0);
    assert_eq!(set.control(&mut c, 2, reader, 0), -2);
}

#[test]
fn epoll_follows_the_open_file_and_wakes() {
    let mut c = Caller::new();
    let (reader, writer) = pipe(&mut c, 0);
    let set = Set::new(&mut c);
    assert_eq!(set.control(&mut c, 1, reader, POLLIN), 0);
    let duplicate = c.call(32, &[reader as u64]);
    assert_eq!(c.call(3, &[reader as u64]), 0);
    let at = c.page + 15 * 8192;
    let child = c.world.fork(&c.task.clone());
    assert_eq!(c.raw(232, &[set.fd, at, 8, -1_i64 as u64]), None);
    let bytes = c.page;
    assert_eq!(c.raw_as(&child, 1, &[writer as u64, bytes, 1]), Some(1));
    assert!(c.task.run.lock().call.is_none());
    assert_eq!(c.task.registers.lock().rax, 1);
    // The last descriptor of the open file ends it: the child has one more.
    assert_eq!(c.call(3, &[duplicate as u64]), 0);
    assert_eq!(set.wait(&mut c), Some((1, reader as u64 + 1000)));
    assert_eq!(c.raw_as(&child, 3, &[duplicate as u64]), Some(0));
    assert_eq!(set.wait(&mut c), None);
}

#[test]
fn epoll_in_epoll_refuses_loops() {
    let mut c = Caller::new();
    let (a, b) = (Set::new(&mut c), Set::new(&mut c));
    assert_eq!(a.control(&mut c, 1, a.fd as i64, POLLIN), -22);
    assert_eq!(a.control(&mut c, 1, b.fd as i64, POLLIN), 0);
    assert_eq!(b.control(&mut c, 1, a.fd as i64, POLLIN), -40);
    let (reader, writer) = pipe(&mut c, 0);
    assert_eq!(b.control(&mut c, 1, reader, POLLIN), 0);
    assert_eq!(a.wait(&mut c), None);
    c.write(writer, b"x");
    assert_eq!(a.wait(&mut c), Some((1, b.fd + 1000)));
}

#[test]
fn eventfd_counts_and_semaphores() {
    let mut c = Caller::new();
    let fd = c.call(290, &[3, 0o4000]);
    assert_eq!(c.read(fd, 8), Ok(3_u64.to_le_bytes().to_vec()));
    assert_eq!(c.read(fd, 8), Err(EAGAIN));
    assert_eq!(c.read(fd, 4), Err(-22));
    assert_eq!(c.write(fd, &u64::MAX.to_le_bytes()), -22);
    assert_eq!(c.write(fd, &(u64::MAX - 1).to_le_bytes()), 8);
    assert_eq!(c.write(fd, &1_u64.to_le_bytes()), EAGAIN);
    let semaphore = c.call(290, &[2, 0o4001]);
    for _ in 0..2 {
        assert_eq!(c.read(semaphore, 8), Ok(1_u64.to_le_bytes().to_vec()));
    }
    assert_eq!(c.read(semaphore, 8), Err(EAGAIN));
}

#[test]
fn timerfd_counts_expirations() {
    let mut c = Caller::new();
    let fd = c.call(283, &[1, 0o4000]);
    let at = c.page + 13 * 8192;
    let mut setting = [0; 32];
    setting[8..16].copy_from_slice(&10_000_000_u64.to_le_bytes());
    setting[24..32].copy_from_slice(&10_000_000_u64.to_le_bytes());
    c.world.poke(&c.task.clone(), at, &setting);
    assert_eq!(c.call(286, &[fd as u64, 0, at, 0]), 0);
    assert_eq!(c.read(fd, 8), Err(EAGAIN));
    pass_ns(35_000_000);
    assert_eq!(c.read(fd, 8), Ok(3_u64.to_le_bytes().to_vec()));
    assert_eq!(poll(&mut c, fd, POLLIN, -1), None);
    pass_ns(10_000_000);
    c.world.kernel.tick();
    c.world.run();
    assert_eq!(c.task.registers.lock().rax, 1);
}

#[test]
fn fifo_open_waits_for_the_other_side() {
    let mut c = Caller::new();
    let path = c.text(0, "/fifo");
    assert_eq!(c.call(133, &[path, 0o010644, 0]), 0);
    assert_eq!(c.call(2, &[path, 0o4001]), -6);
    let child = c.world.fork(&c.task.clone());
    assert_eq!(c.raw_as(&child, 2, &[path, 0]), None);
    let writer = c.call(2, &[path, 1]);
    assert!(writer >= 0);
    assert!(child.run.lock().call.is_none());
    let reader = child.registers.lock().rax;
    assert_eq!(c.write(writer, b"through"), 7);
    let at = c.page;
    assert_eq!(c.raw_as(&child, 0, &[reader, at, 100]), Some(7));
}

#[test]
fn many_timers_are_set_again_and_again() {
    let mut c = Caller::new();
    let fds: Vec<i64> = (0..40).map(|_| c.call(283, &[1, 0o4000])).collect();
    let at = c.page + 13 * 8192;
    let mut setting = [0; 32];
    setting[16..24].copy_from_slice(&100_u64.to_le_bytes());
    c.world.poke(&c.task.clone(), at, &setting);
    for _ in 0..10 {
        for fd in &fds {
            assert_eq!(c.call(286, &[*fd as u64, 0, at, 0]), 0);
        }
    }
    pass_ns(101_000_000_000);
    c.world.kernel.tick();
    assert_eq!(c.read(fds[39], 8), Ok(1_u64.to_le_bytes().to_vec()));
}

#[test]
fn a_pipe_that_cannot_be_reported_is_closed() {
    let mut c = Caller::new();
    let first = pipe(&mut c, 0);
    assert_eq!(c.call(293, &[1 << 46, 0]), -14);
    assert_eq!(pipe(&mut c, 0), (first.0 + 2, first.1 + 2));
}
