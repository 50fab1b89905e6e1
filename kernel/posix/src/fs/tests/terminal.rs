// SPDX-License-Identifier: Apache-2.0
//! Pseudo-terminals and job control.

use super::calls::Caller;
use crate::{
    fs::{
        Location,
        boot::{Options, mount_kind},
        memory::root_directory,
    },
    process::Creds,
    testing::World,
};

const EIO: i64 = -5;
const ENOTTY: i64 = -25;
const TIOCGPTN: u64 = 0x8004_5430;
const TIOCSPTLCK: u64 = 0x4004_5431;
const TCGETS: u64 = 0x5401;
const TCGETA: u64 = 0x5405;
const TCSETA: u64 = 0x5406;
const TIOCSCTTY: u64 = 0x540e;
const TIOCGPGRP: u64 = 0x540f;
const TIOCSPGRP: u64 = 0x5410;
const TIOCSWINSZ: u64 = 0x5414;
const TIOCGWINSZ: u64 = 0x5413;

fn mount_pts(world: &World) {
    let context = world.context();
    let new = root_directory(0o755, 0, 0);
    let point: Location =
        context.create(&Creds::root(), &context.root, b"pts", &new).expect("a directory");
    mount_kind(&context, point, b"devpts", b"devpts", &Options::default()).expect("mounted");
}

/// A session leader with a terminal: (master, slave).
fn terminal() -> (Caller, i64, i64) {
    let mut c = Caller::new();
    mount_pts(&c.world);
    let master = c.open("/pts/ptmx", 2);
    assert!(master >= 0, "ptmx: {master}");
    assert_eq!(c.open("/pts/0", 2), EIO, "it is locked at first");
    let at = c.page;
    c.world.poke(&c.task.clone(), at, &[0; 4]);
    assert_eq!(c.call(16, &[master as u64, TIOCSPTLCK, at]), 0);
    assert_eq!(c.call(16, &[master as u64, TIOCGPTN, at]), 0);
    assert_eq!(c.world.peek::<4>(&c.task, at), [0; 4]);
    let slave = c.open("/pts/0", 2);
    assert!(slave >= 0, "slave: {slave}");
    (c, master, slave)
}

#[test]
fn lines_go_through_and_echo() {
    let (mut c, master, slave) = terminal();
    let at = c.page;
    assert_eq!(c.call(16, &[slave as u64, TCGETS, at]), 0);
    let (reader, _) = {
        let at = c.page + 8;
        assert_eq!(c.call(22, &[at]), 0);
        let both = c.world.peek_u64(&c.task, at);
        (both & 0xffff_ffff, both >> 32)
    };
    assert_eq!(c.call(16, &[reader, TCGETS, at]), ENOTTY);
    assert_eq!(c.write(master, b"hi\r"), 3);
    assert_eq!(c.read(slave, 100), Ok(b"hi\n".to_vec()));
    assert_eq!(c.read(master, 100), Ok(b"hi\r\n".to_vec()));
    assert_eq!(c.write(slave, b"a\nb"), 3);
    assert_eq!(c.read(master, 100), Ok(b"a\r\nb".to_vec()));
    assert_eq!(c.call(3, &[slave as u64]), 0);
    assert_eq!(c.read(master, 100), Err(EIO));
}

#[test]
fn interrupt_ends_the_foreground_group_only() {
    let (mut c, master, slave) = terminal();
    // Init leads a session, and the open made the terminal its own.
    let child = c.world.fork(&c.task.clone());
    let pid = u64::from(child.process.pid);
    assert_eq!(c.call(109, &[pid, pid]), 0);
    let at = c.page;
    c.world.poke(&c.task.clone(), at, &(pid as u32).to_le_bytes());
    assert_eq!(c.call(16, &[slave as u64, TIOCSPGRP, at]), 0);
    assert_eq!(c.call(16, &[slave as u64, TIOCGPGRP, at]), 0);
    assert_eq!(u64::from(u32::from_le_bytes(c.world.peek(&c.task, at))), pid);
    let buffer = c.page + 100;
    assert_eq!(c.raw_as(&child, 0, &[slave as u64, buffer, 10]), None);
    assert_eq!(c.write(master, b"\x03"), 1);
    let (outcome, status) = c.world.wait(&c.task.clone(), -1, 0);
    assert_eq!((outcome, status), (Ok(pid), 2));
}

#[test]
fn a_background_reader_is_stopped_and_a_writer_is_not() {
    let (mut c, master, slave) = terminal();
    let child = c.world.fork(&c.task.clone());
    let pid = u64::from(child.process.pid);
    assert_eq!(c.call(109, &[pid, pid]), 0);
    let buffer = c.page + 100;
    c.world.poke(&child, buffer, b"x");
    assert_eq!(c.raw_as(&child, 1, &[slave as u64, buffer, 1]), Some(1));
    assert_eq!(c.read(master, 10), Ok(b"x".to_vec()));
    assert_eq!(c.raw_as(&child, 0, &[slave as u64, buffer, 10]), None);
    let (outcome, status) = c.world.wait(&c.task.clone(), -1, 2);
    assert_eq!((outcome, status), (Ok(pid), 21 << 8 | 0x7f));
    // In the foreground and continued, it reads.
    let at = c.page;
    c.world.poke(&c.task.clone(), at, &(pid as u32).to_le_bytes());
    assert_eq!(c.call(16, &[slave as u64, TIOCSPGRP, at]), 0);
    assert_eq!(c.call(62, &[pid, 18]), 0);
    assert_eq!(c.write(master, b"go\n"), 3);
    assert_eq!((child.run.lock().call.is_none(), child.registers.lock().rax), (true, 3));
}

#[test]
fn old_settings_are_half_of_the_new() {
    let (mut c, _master, slave) = terminal();
    let (at, task) = (c.page, c.task.clone());
    assert_eq!(c.call(16, &[slave as u64, TCGETS, at]), 0);
    let new: [u8; 36] = c.world.peek(&task, at);
    assert_eq!(c.call(16, &[slave as u64, TCGETA, at]), 0);
    let mut old: [u8; 18] = c.world.peek(&task, at);
    assert_eq!((&old[..2], &old[6..8]), (&new[..2], &new[12..14]));
    assert_eq!(old[9..17], new[17..25]);
    // No echo.
    old[6] &= !8;
    c.world.poke(&task, at, &old);
    assert_eq!(c.call(16, &[slave as u64, TCSETA, at]), 0);
    assert_eq!(c.call(16, &[slave as u64, TCGETS, at]), 0);
    let mut expected = new;
    expected[12] &= !8;
    assert_eq!(c.world.peek::<36>(&task, at), expected);
}

#[test]
fn window_size_is_kept() {
    let (mut c, master, slave) = terminal();
    let at = c.page;
    c.world.poke(&c.task.clone(), at, &[24, 0, 80, 0, 0, 0, 0, 0]);
    assert_eq!(c.call(16, &[master as u64, TIOCSWINSZ, at]), 0);
    c.world.poke(&c.task.clone(), at, &[0; 8]);
    assert_eq!(c.call(16, &[slave as u64, TIOCGWINSZ, at]), 0);
    assert_eq!(c.world.peek::<8>(&c.task, at), [24, 0, 80, 0, 0, 0, 0, 0]);
}

#[test]
fn closing_the_master_hangs_up() {
    let (mut c, master, slave) = terminal();
    // SIGHUP is ignored: or the session leader would end.
    let at = c.page + 13 * 8192;
    c.world.poke(&c.task.clone(), at, &1_u64.to_le_bytes());
    assert_eq!(c.call(13, &[1, at, 0, 8]), 0);
    assert_eq!(c.call(3, &[master as u64]), 0);
    assert_eq!(c.read(slave, 10), Ok(vec![]));
    assert_eq!(c.write(slave, b"x"), EIO);
    assert_eq!(c.call(16, &[slave as u64, TCGETS, at]), EIO);
}

#[test]
fn a_pseudo_terminal_outlives_the_session_that_it_controlled() {
    // As apt does: one session after the other on a terminal that it keeps open.
    let (mut c, master, slave) = terminal();
    let init = c.task.clone();
    let mut ttys = vec![];
    for _ in 0..2 {
        let leader = c.world.fork(&init);
        assert_eq!(c.raw_as(&leader, 112, &[]), Some(leader.process.pid.into()), "setsid");
        ttys.push(c.raw_as(&leader, 16, &[slave as u64, TIOCSCTTY, 1]));
        c.raw_as(&leader, 231, &[0]);
        let (outcome, _) = c.world.wait(&init, -1, 0);
        assert_eq!(outcome, Ok(leader.process.pid.into()));
        assert_eq!(c.write(slave, b"x"), 1);
        assert_eq!(c.read(master, 10), Ok(b"x".to_vec()));
    }
    assert_eq!(ttys, [Some(0), Some(0)]);
}
