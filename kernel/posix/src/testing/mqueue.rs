// SPDX-License-Identifier: Apache-2.0
//! POSIX message queues.

use super::{World, pass_ns};
use crate::{Errno, process::TaskRef};

const O_RDWR: u64 = 2;
const O_CREAT: u64 = 0o100;
const O_EXCL: u64 = 0o200;
const O_NONBLOCK: u64 = 0o4000;

struct Page(u64);

impl Page {
    fn text(&self, world: &World, task: &TaskRef, offset: u64, bytes: &[u8]) -> u64 {
        world.poke(task, self.0 + offset, bytes);
        self.0 + offset
    }
}

fn open(world: &mut World, task: &TaskRef, page: &Page, name: &str, flags: u64) -> super::Outcome {
    let name = page.text(world, task, 0, format!("{name}\0").as_bytes());
    let words = [0_u64, 2, 16].map(u64::to_le_bytes).concat();
    let attr = page.text(world, task, 512, &words);
    world.call(task, 240, &[name, flags, 0o600, attr])
}

#[test]
fn queue_orders_by_priority_blocks_and_times_out() {
    let (mut world, init) = World::with_init();
    let page = Page(world.map(&init, 4096));
    assert_eq!(open(&mut world, &init, &page, "q", O_RDWR), Err(Errno::NOENT));
    assert_eq!(open(&mut world, &init, &page, "a/b", O_RDWR), Err(Errno::ACCES));
    let q = open(&mut world, &init, &page, "q", O_RDWR | O_CREAT).expect("a queue");
    assert_eq!(open(&mut world, &init, &page, "q", O_CREAT | O_EXCL), Err(Errno::EXIST));
    let send = |world: &mut World, task: &TaskRef, text: &[u8], priority: u64| {
        let at = page.text(world, task, 1024, text);
        world.try_call(task, 242, &[q, at, text.len() as u64, priority, 0])
    };
    assert_eq!(send(&mut world, &init, b"low", 1), Some(Ok(0)));
    assert_eq!(send(&mut world, &init, b"high", 7), Some(Ok(0)));
    assert_eq!(send(&mut world, &init, &[0; 17], 0), Some(Err(Errno::MSGSIZE)));
    let child = world.fork(&init);
    assert_eq!(send(&mut world, &child, b"third", 9), None, "full");
    let at = page.0 + 2048;
    assert_eq!(world.call(&init, 243, &[q, at, 8, at + 64, 0]), Err(Errno::MSGSIZE));
    assert_eq!(world.call(&init, 243, &[q, at, 16, at + 64, 0]), Ok(4));
    assert_eq!((world.peek(&init, at), world.peek::<1>(&init, at + 64)), (*b"high", [7]));
    assert_eq!(World::result(&child), Ok(0), "there was room");
    assert_eq!(world.call(&init, 243, &[q, at, 16, at + 64, 0]), Ok(5), "the new highest");
    assert_eq!(world.call(&init, 243, &[q, at, 16, at + 64, 0]), Ok(3));
    let time = page.text(&world, &init, 3000, &[2_u64, 0].map(u64::to_le_bytes).concat());
    assert_eq!(world.try_call(&init, 243, &[q, at, 16, 0, time]), None);
    pass_ns(2_000_000_000);
    world.kernel.tick();
    world.run();
    assert_eq!(World::result(&init), Err(Errno::TIMEDOUT));
    assert_eq!(world.call(&init, 241, &[page.0]), Ok(0));
    assert_eq!(world.call(&init, 241, &[page.0]), Err(Errno::NOENT));
}

#[test]
fn queue_notifies_once_and_is_seen_in_its_directory() {
    let (mut world, init) = World::with_init();
    let page = Page(world.map(&init, 4096));
    let q = open(&mut world, &init, &page, "n", O_RDWR | O_CREAT | O_NONBLOCK).expect("a queue");
    // SIGUSR1, blocked, with a value.
    let mask = page.text(&world, &init, 700, &(1_u64 << 9).to_le_bytes());
    world.call(&init, 14, &[0, mask, 0, 8]).expect("blocked");
    let event = page.text(&world, &init, 600, &[0x55_u64, 10].map(u64::to_le_bytes).concat());
    assert_eq!(world.call(&init, 244, &[q, event]), Ok(0));
    let child = world.fork(&init);
    assert_eq!(world.call(&child, 244, &[q, event]), Err(Errno::BUSY));
    assert_eq!(world.call(&child, 242, &[q, page.0, 1, 0, 0]), Ok(0));
    assert_eq!(world.call(&child, 242, &[q, page.0, 1, 0, 0]), Ok(0));
    assert_eq!(world.call(&child, 242, &[q, page.0, 1, 0, 0]), Err(Errno::AGAIN));
    let info = page.0 + 2048;
    assert_eq!(world.call(&init, 128, &[mask, info, 0, 8]), Ok(10));
    let raw: [u8; 32] = world.peek(&init, info);
    assert_eq!(raw[8..12], (-3_i32).to_le_bytes(), "SI_MESGQ");
    assert_eq!(raw[16..20], child.process.pid.to_le_bytes());
    assert_eq!(raw[24..32], 0x55_u64.to_le_bytes());
    assert_eq!(init.pending_signals(), 0, "once");
    let attr = page.0 + 2048;
    assert_eq!(world.call(&init, 245, &[q, 0, attr]), Ok(0));
    assert_eq!(world.peek_u64(&init, attr), O_NONBLOCK);
    assert_eq!(world.peek_u64(&init, attr + 24), 2, "mq_curmsgs");
    let vfs = world.context().vfs;
    let (_, root) = crate::fs::mqueue::new(&vfs.queues, 99);
    assert!(root.lookup(b"n").is_ok());
    page.text(&world, &init, 0, b"n\0");
    assert_eq!(world.call(&init, 241, &[page.0]), Ok(0));
    assert!(root.lookup(b"n").is_err());
    assert_eq!(world.call(&init, 243, &[q, info, 16, 0, 0]), Ok(1), "still open");
}
