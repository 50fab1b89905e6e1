// SPDX-License-Identifier: Apache-2.0
//! inotify.

use std::{string::String, vec::Vec};

use super::calls::Caller;

const O_RDWR: u64 = 2;
const O_CREAT: u64 = 0o100;
const NONBLOCK: u64 = 0o4000;
const EAGAIN: i64 = -11;
const EEXIST: i64 = -17;
const EINVAL: i64 = -22;

/// An event: watch, mask, whether it has a cookie, name.
type Seen = (i32, u32, bool, String);

fn seen(descriptor: i64, mask: u32, name: &str) -> Seen {
    (descriptor as i32, mask, false, String::from(name))
}

fn watch(c: &mut Caller, fd: i64, path: &str, mask: u64) -> i64 {
    let path = c.text(0, path);
    c.call(254, &[fd as u64, path, mask])
}

fn events(c: &mut Caller, fd: i64) -> Vec<Seen> {
    let raw = match c.read(fd, 4096) {
        Ok(raw) => raw,
        Err(errno) => {
            assert_eq!(errno, EAGAIN);
            return Vec::new();
        }
    };
    let mut list = Vec::new();
    let mut rest = &raw[..];
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("4 bytes"));
        let name = &rest[16..16 + word(12) as usize];
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8(name.to_vec()).expect("text");
        list.push((word(0).cast_signed(), word(4), word(8) != 0, name));
        rest = &rest[16 + word(12) as usize..];
    }
    list
}

fn path_call(c: &mut Caller, number: u64, first: &str, second: &str) -> i64 {
    let (first, second) = (c.text(0, first), c.text(1, second));
    c.call(number, &[first, second])
}

#[test]
fn directory_watch_tells_what_happens_to_its_files() {
    let mut c = Caller::new();
    assert_eq!(path_call(&mut c, 83, "/w", ""), 0);
    let fd = c.call(294, &[NONBLOCK]);
    assert_eq!(watch(&mut c, fd, "/w", 0), EINVAL);
    let wd = watch(&mut c, fd, "/w", 0xfff);
    assert_eq!(watch(&mut c, fd, "/w", 0xfff | 0x1000_0000), EEXIST, "IN_MASK_CREATE");
    assert_eq!(watch(&mut c, fd, "/w", 0xfff), wd, "the same watch");
    let file = c.open("/w/a", O_RDWR | O_CREAT);
    assert_eq!(c.write(file, b"12"), 2);
    assert_eq!(c.write(file, b"34"), 2);
    assert_eq!(c.call(3, &[file as u64]), 0);
    let list = events(&mut c, fd);
    let wanted = [(0x100, "a"), (0x20, "a"), (0x2, "a"), (0x8, "a")].map(|(m, n)| seen(wd, m, n));
    assert_eq!(list, wanted, "alike events become one");
    assert_eq!(path_call(&mut c, 82, "/w/a", "/w/b"), 0);
    let list = events(&mut c, fd);
    let names: Vec<_> =
        list.iter().map(|(_, mask, cookie, name)| (*mask, *cookie, &name[..])).collect();
    assert_eq!(names, [(0x40, true, "a"), (0x80, true, "b")]);
    assert_eq!(path_call(&mut c, 83, "/w/d", ""), 0);
    assert_eq!(events(&mut c, fd), [seen(wd, 0x4000_0100, "d")]);
    assert_eq!(path_call(&mut c, 90, "/w/b", ""), 0, "chmod");
    assert_eq!(events(&mut c, fd), [seen(wd, 0x4, "b")]);
    assert_eq!(path_call(&mut c, 87, "/w/b", ""), 0);
    assert_eq!(events(&mut c, fd), [seen(wd, 0x200, "b")]);
    assert_eq!(path_call(&mut c, 84, "/w/d", ""), 0);
    assert_eq!(path_call(&mut c, 84, "/w", ""), 0);
    let list = events(&mut c, fd);
    let wanted = [(0x4000_0200, "d"), (0x400, ""), (0x8000, "")];
    assert_eq!(list, wanted.map(|(mask, name)| seen(wd, mask, name)));
    assert_eq!(c.call(255, &[fd as u64, wd as u64]), EINVAL, "it went with the directory");
}

#[test]
fn file_watch_is_told_of_its_move_and_end() {
    let mut c = Caller::new();
    let file = c.open("/f", O_RDWR | O_CREAT);
    let fd = c.call(294, &[NONBLOCK]);
    let wd = watch(&mut c, fd, "/f", 0x800 | 0x400 | 0x4 | 0x2);
    let once = c.call(294, &[NONBLOCK]);
    let single = watch(&mut c, once, "/f", 0x8000_0002);
    assert_eq!(c.write(file, b"1"), 1);
    assert_eq!(c.call(77, &[file as u64, 0]), 0, "truncated");
    assert_eq!(events(&mut c, fd), [seen(wd, 0x2, "")]);
    assert_eq!(events(&mut c, once), [seen(single, 0x2, ""), seen(single, 0x8000, "")]);
    assert_eq!(path_call(&mut c, 82, "/f", "/g"), 0);
    assert_eq!(path_call(&mut c, 87, "/g", ""), 0);
    let list = events(&mut c, fd);
    assert_eq!(
        list,
        [(0x800, ""), (0x4, ""), (0x400, ""), (0x8000, "")].map(|(m, n)| seen(wd, m, n))
    );
}

#[test]
fn watch_wakes_a_reader_and_small_buffers_are_refused() {
    let mut c = Caller::new();
    assert_eq!(path_call(&mut c, 83, "/w", ""), 0);
    let fd = c.call(253, &[]);
    let wd = watch(&mut c, fd, "/w", 0x100);
    let child = {
        let task = c.task.clone();
        c.world.fork(&task)
    };
    let to = c.page + 6 * 8192;
    assert_eq!(c.raw_as(&child, 0, &[fd as u64, to, 100]), None, "waits");
    assert_eq!(path_call(&mut c, 83, "/w/long-enough-name", ""), 0);
    assert_eq!(child.registers.lock().rax, 16 + 32);
    assert_eq!(path_call(&mut c, 83, "/w/x", ""), 0);
    assert_eq!(c.read(fd, 16), Err(EINVAL));
    assert_eq!(events(&mut c, fd), [seen(wd, 0x4000_0100, "x")]);
    assert_eq!(c.call(255, &[fd as u64, wd as u64]), 0);
    assert_eq!(events(&mut c, fd), [seen(wd, 0x8000, "")]);
}
