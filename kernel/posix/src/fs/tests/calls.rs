// SPDX-License-Identifier: Apache-2.0
//! System calls on paths, descriptors and directories.

use std::{collections::BTreeSet, format, string::String, vec::Vec};

use crate::{process::TaskRef, testing::World};

const ENOENT: i64 = -2;
const EBADF: i64 = -9;
const EACCES: i64 = -13;
const EEXIST: i64 = -17;
const ENOTDIR: i64 = -20;
const EISDIR: i64 = -21;
const EINVAL: i64 = -22;
const ELOOP: i64 = -40;
const ENAMETOOLONG: i64 = -36;
const ENOTEMPTY: i64 = -39;
const EBUSY: i64 = -16;

const O_RDWR: u64 = 2;
const O_CREAT: u64 = 0o100;
const O_EXCL: u64 = 0o200;
const O_TRUNC: u64 = 0o1000;
const O_APPEND: u64 = 0o2000;
const O_DIRECTORY: u64 = 0o200000;
const O_NOFOLLOW: u64 = 0o400000;
const O_PATH: u64 = 0o10000000;
const O_TMPFILE: u64 = 0o20200000;
const AT_FDCWD: u64 = -100_i64 as u64;

/// A process and a page of its memory for arguments.
pub(super) struct Caller {
    pub(super) world: World,
    pub(super) task: TaskRef,
    pub(super) page: u64,
}

impl Caller {
    pub(super) fn new() -> Self {
        let (mut world, task) = World::with_init();
        let page = world.map(&task, 1 << 20);
        Self { world, task, page }
    }

    /// Makes a call; the value as RAX has it.  `None` if it blocks.
    pub(super) fn raw(&mut self, number: u64, args: &[u64]) -> Option<i64> {
        let task = self.task.clone();
        self.raw_as(&task, number, args)
    }

    pub(super) fn raw_as(&mut self, task: &TaskRef, number: u64, args: &[u64]) -> Option<i64> {
        self.world.raw_call(task, number, args)
    }

    #[track_caller]
    pub(super) fn call(&mut self, number: u64, args: &[u64]) -> i64 {
        self.raw(number, args).expect("the call blocks")
    }

    /// Puts a string into memory, at one of 16 places.
    pub(super) fn text(&self, place: u64, text: &str) -> u64 {
        let at = self.page + place * 8192;
        self.world.poke(&self.task, at, format!("{text}\0").as_bytes());
        at
    }

    #[track_caller]
    pub(super) fn open(&mut self, path: &str, flags: u64) -> i64 {
        let path = self.text(0, path);
        self.call(257, &[AT_FDCWD, path, flags, 0o644])
    }

    /// Calls with paths as arguments.
    #[track_caller]
    fn paths(&mut self, number: u64, first: &str, second: &str) -> i64 {
        let (first, second) = (self.text(0, first), self.text(1, second));
        self.call(number, &[first, second])
    }

    #[track_caller]
    fn mkdir(&mut self, path: &str) -> i64 {
        let path = self.text(0, path);
        self.call(83, &[path, 0o755])
    }

    #[track_caller]
    fn unlink(&mut self, path: &str) -> i64 {
        let path = self.text(0, path);
        self.call(87, &[path])
    }

    #[track_caller]
    pub(super) fn write(&mut self, fd: i64, bytes: &[u8]) -> i64 {
        let at = self.page + 4 * 8192;
        self.world.poke(&self.task, at, bytes);
        self.call(1, &[fd as u64, at, bytes.len() as u64])
    }

    #[track_caller]
    pub(super) fn read(&mut self, fd: i64, room: usize) -> Result<Vec<u8>, i64> {
        let at = self.page + 6 * 8192;
        let done = self.call(0, &[fd as u64, at, room as u64]);
        if done < 0 {
            return Err(done);
        }
        let mut bytes = std::vec![0; done as usize];
        self.task.mm().expect("alive").read_bytes(at, &mut bytes).expect("readable");
        Ok(bytes)
    }

    /// Reads a few entries of a directory.
    fn entries(&mut self, fd: i64, room: u64) -> Vec<String> {
        let at = self.page + 8 * 8192;
        let done = self.call(217, &[fd as u64, at, room]);
        assert!(done >= 0, "getdents: {done}");
        let mut bytes = std::vec![0; done as usize];
        self.task.mm().expect("alive").read_bytes(at, &mut bytes).expect("readable");
        let mut names = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = usize::from(u16::from_le_bytes([rest[16], rest[17]]));
            let name = rest[19..length].split(|&byte| byte == 0).next().expect("a name");
            names.push(String::from_utf8(name.to_vec()).expect("text"));
            rest = &rest[length..];
        }
        names
    }
}

fn with_tree() -> Caller {
    let mut c = Caller::new();
    for dir in ["/d", "/d/e", "/t"] {
        assert_eq!(c.mkdir(dir), 0);
    }
    for file in ["/f", "/d/g"] {
        let fd = c.open(file, O_RDWR | O_CREAT);
        assert_eq!(c.write(fd, file.as_bytes()), file.len() as i64);
        assert_eq!(c.call(3, &[fd as u64]), 0);
    }
    for (target, link) in [
        ("/d", "/ld"),
        ("f", "/lf"),
        ("loop", "/loop"),
        ("nowhere", "/dangling"),
        ("../f", "/d/up"),
    ] {
        assert_eq!(c.paths(88, target, link), 0);
    }
    c
}

#[test]
fn open_table() {
    let long = "x".repeat(256);
    let longest = format!("/{}", "y/".repeat(2100));
    let table: [(&str, u64, i64); 34] = [
        ("/f", 0, 0),
        ("/f/", 0, ENOTDIR),
        ("/f/x", 0, ENOTDIR),
        ("/d", 0, 0),
        ("/d/", 0, 0),
        ("/d", O_RDWR, EISDIR),
        ("/d/.", O_DIRECTORY, 0),
        ("/d/../f", 0, 0),
        ("/../../f", 0, 0),
        ("", 0, ENOENT),
        ("/missing", 0, ENOENT),
        ("/missing/x", O_CREAT, ENOENT),
        ("/ld/g", 0, 0),
        ("/ld", O_NOFOLLOW, ELOOP),
        ("/ld/", O_NOFOLLOW | O_DIRECTORY, 0),
        ("/lf", O_NOFOLLOW | O_PATH, 0),
        ("/lf", O_DIRECTORY, ENOTDIR),
        ("/loop", 0, ELOOP),
        ("/loop/x", 0, ELOOP),
        ("/dangling", 0, ENOENT),
        ("/dangling", O_CREAT | O_EXCL, EEXIST),
        ("/f", O_CREAT | O_EXCL, EEXIST),
        ("/d", O_CREAT, EISDIR),
        ("/new/", O_CREAT, EISDIR),
        ("/dangling", O_CREAT | O_RDWR, 0),
        ("/nowhere", O_CREAT | O_EXCL, EEXIST),
        ("/d/up", 0, 0),
        ("/d/new", O_CREAT | O_EXCL | O_RDWR, 0),
        ("/d", O_TMPFILE, EINVAL),
        ("/d", O_TMPFILE | O_RDWR, 0),
        ("/f", O_DIRECTORY, ENOTDIR),
        (".", 0, 0),
        (&long, 0, ENAMETOOLONG),
        (&longest, 0, ENAMETOOLONG),
    ];
    let mut c = with_tree();
    for (path, flags, expected) in table {
        let got = c.open(path, flags);
        if expected == 0 {
            assert!(got >= 0, "open {path:.20} {flags:o}: {got}");
            assert_eq!(c.call(3, &[got as u64]), 0);
        } else {
            assert_eq!(got, expected, "open {path:.20} {flags:o}");
        }
    }
}

#[test]
fn names_table() {
    let mut c = with_tree();
    assert_eq!(c.mkdir("/d"), EEXIST);
    assert_eq!(c.mkdir("/"), EEXIST);
    assert_eq!(c.mkdir("/new/"), 0);
    assert_eq!(c.unlink("/d"), EISDIR);
    assert_eq!(c.unlink("/f/"), ENOTDIR);
    let rmdir = |c: &mut Caller, path: &str| {
        let path = c.text(0, path);
        c.call(84, &[path])
    };
    assert_eq!(rmdir(&mut c, "/d"), ENOTEMPTY);
    assert_eq!(rmdir(&mut c, "/d/."), EINVAL);
    assert_eq!(rmdir(&mut c, "/d/.."), ENOTEMPTY);
    assert_eq!(rmdir(&mut c, "/f"), ENOTDIR);
    assert_eq!(rmdir(&mut c, "/new"), 0);
    let rename = |c: &mut Caller, old: &str, new: &str| c.paths(82, old, new);
    assert_eq!(rename(&mut c, "/d", "/d/e/x"), EINVAL);
    assert_eq!(rename(&mut c, "/f", "/d"), EISDIR);
    assert_eq!(rename(&mut c, "/t", "/f"), ENOTDIR);
    assert_eq!(rename(&mut c, "/t", "/d"), ENOTEMPTY);
    assert_eq!(rename(&mut c, "/d/.", "/x"), EBUSY);
    assert_eq!(rename(&mut c, "/missing", "/x"), ENOENT);
    assert_eq!(rename(&mut c, "/f", "/f2/"), ENOTDIR);
    assert_eq!(rename(&mut c, "/d", "/t"), 0);
    assert!(c.open("/t/g", 0) >= 0);
    assert_eq!(c.open("/d/g", 0), ENOENT);
    assert_eq!(c.paths(86, "/f", "/hard"), 0);
    assert_eq!(c.paths(86, "/t", "/hard2"), -1);
    assert_eq!(c.unlink("/f"), 0);
    let fd = c.open("/hard", 0);
    assert_eq!(c.read(fd, 10), Ok(b"/f".to_vec()));
}

#[test]
fn current_directory_follows_renames_and_notices_removal() {
    let mut c = with_tree();
    let path = c.text(0, "/d/e");
    assert_eq!(c.call(80, &[path]), 0);
    assert_eq!(c.paths(82, "/d", "/moved"), 0);
    let to = c.page;
    assert_eq!(c.call(79, &[to, 100]), "/moved/e\0".len() as i64);
    assert_eq!(&c.world.peek::<9>(&c.task, to), b"/moved/e\0");
    assert_eq!(c.call(79, &[to, 8]), -34);
    assert!(c.open("../g", 0) >= 0);
    let path = c.text(0, "/moved/e");
    assert_eq!(c.call(84, &[path]), 0);
    assert_eq!(c.call(79, &[to, 100]), ENOENT);
    assert_eq!(c.open("x", O_CREAT | O_RDWR), ENOENT);
}

#[test]
fn append_truncate_seek_and_shared_positions() {
    let mut c = with_tree();
    let fd = c.open("/f", O_RDWR | O_TRUNC);
    assert_eq!(c.write(fd, b"hello"), 5);
    let other = c.call(32, &[fd as u64]);
    assert_eq!(c.call(8, &[other as u64, 1, 0]), 1);
    assert_eq!(c.read(fd, 2), Ok(b"el".to_vec()));
    let append = c.open("/f", O_RDWR | O_APPEND);
    assert_eq!(c.write(append, b"!"), 1);
    assert_eq!(c.call(8, &[fd as u64, 0, 2]), 6);
    assert_eq!(c.call(8, &[fd as u64, 100, 0]), 100);
    assert_eq!(c.read(fd, 5), Ok(Vec::new()));
    assert_eq!(c.call(8, &[fd as u64, -1_i64 as u64, 0]), EINVAL);
    assert_eq!(c.call(3, &[fd as u64]), 0);
    assert_eq!(c.call(3, &[fd as u64]), EBADF);
    let path_only = c.open("/f", O_PATH);
    assert_eq!(c.read(path_only, 1), Err(EBADF));
}

#[test]
fn writes_from_bad_memory_count_what_was_there() {
    let mut c = with_tree();
    let fd = c.open("/f", O_RDWR | O_TRUNC) as u64;
    let edge = c.world.map(&c.task.clone(), 8192);
    assert_eq!(c.call(11, &[edge + 4096, 4096]), 0);
    assert_eq!(c.call(1, &[fd, edge + 4000, 1000]), 96);
    assert_eq!(c.call(1, &[fd, edge + 4096, 10]), -14);
    assert_eq!(c.call(8, &[fd, 0, 0]), 0);
    // A read that meets the hole gives what fits before it.
    assert_eq!(c.call(0, &[fd, edge + 4090, 96]), 6);
    assert_eq!(c.call(0, &[fd, 1 << 46, 1]), -14);
}

#[test]
fn entries_survive_removal_while_they_are_read() {
    let mut c = Caller::new();
    assert_eq!(c.mkdir("/many"), 0);
    for number in 0..200 {
        let fd = c.open(&format!("/many/{number}"), O_CREAT | O_RDWR);
        assert_eq!(c.call(3, &[fd as u64]), 0);
    }
    let fd = c.open("/many", O_DIRECTORY);
    let at = c.page + 8 * 8192;
    assert_eq!(c.call(217, &[fd as u64, at, 10]), EINVAL);
    let mut seen = BTreeSet::new();
    loop {
        let names = c.entries(fd, 200);
        if names.is_empty() {
            break;
        }
        for name in names {
            assert!(seen.insert(name.clone()), "{name} twice");
            if name != "." && name != ".." {
                assert_eq!(c.unlink(&format!("/many/{name}")), 0);
            }
        }
    }
    assert_eq!(seen.len(), 202);
    let path = c.text(0, "/many");
    assert_eq!(c.call(84, &[path]), 0);
}

#[test]
fn permissions_follow_owner_group_and_others() {
    let mut c = with_tree();
    let path = c.text(0, "/f");
    assert_eq!(c.call(90, &[path, 0o640]), 0);
    assert_eq!(c.call(92, &[path, 1000, 2000]), 0);
    let set_ids = |c: &mut Caller, uid: u64, gid: u64| {
        assert_eq!(c.call(119, &[gid, gid, 0]), 0);
        assert_eq!(c.call(117, &[uid, uid, 0]), 0);
    };
    set_ids(&mut c, 3000, 2000);
    assert!(c.open("/f", 0) >= 0);
    assert_eq!(c.open("/f", O_RDWR), EACCES);
    assert_eq!(c.open("/new", O_CREAT | O_RDWR), EACCES);
    let path = c.text(0, "/f");
    assert_eq!(c.call(90, &[path, 0o777]), -1);
    // Back to root through the saved id.
    assert_eq!(c.call(117, &[0, 0, 0]), 0);
    set_ids(&mut c, 1000, 3000);
    assert!(c.open("/f", O_RDWR) >= 0);
}

/// A world with /proc.
fn with_proc() -> Caller {
    let mut c = with_tree();
    assert_eq!(c.mkdir("/proc"), 0);
    let kind = c.text(2, "proc");
    let target = c.text(3, "/proc");
    assert_eq!(c.call(165, &[kind, target, kind, 0, 0]), 0);
    c
}

#[test]
fn proc_files_of_a_process_can_all_be_read() {
    let mut c = with_proc();
    let me = format!("/proc/{}", c.task.process.pid);
    let mut dirs = std::vec![String::from("/proc"), String::from("/proc/self")];
    let mut files = 0;
    while let Some(dir) = dirs.pop() {
        let fd = c.open(&dir, O_DIRECTORY);
        assert!(fd >= 0, "{dir}: {fd}");
        let mut names = Vec::new();
        loop {
            let some = c.entries(fd, 300);
            if some.is_empty() {
                break;
            }
            names.extend(some);
        }
        assert!(names.len() >= 2, "{dir} is empty");
        assert_eq!(c.call(3, &[fd as u64]), 0);
        for name in names {
            let path = format!("{dir}/{name}");
            let at = c.page + 9 * 8192;
            let stat = c.text(5, &path);
            if dir.ends_with("/fd") || dir.ends_with("/fdinfo") {
                // The directory's own descriptor is gone again.
                continue;
            }
            assert_eq!(c.call(6, &[stat, at]), 0, "stat {path}");
            let mode = u32::from_le_bytes(c.world.peek(&c.task, at + 24)) >> 12;
            match mode {
                4 if !name.starts_with('.') && !dir.ends_with("/task") && path != me => {
                    dirs.push(path);
                }
                8 => {
                    let fd = c.open(&path, 0);
                    assert!(fd >= 0, "{path}: {fd}");
                    // Nothing is mapped where memory begins, and no I/O server knows a network.
                    let may_fail = path.ends_with("/mem") || path.contains("/net/");
                    assert!(c.read(fd, 8000).is_ok() || may_fail, "{path}");
                    assert_eq!(c.call(3, &[fd as u64]), 0);
                    files += 1;
                }
                10 => {
                    let link = c.text(5, &path);
                    assert!(c.call(89, &[link, at, 4096]) > 0, "{path}");
                }
                _ => {}
            }
        }
    }
    assert!(files > 80, "only {files} files");
}

#[test]
fn fdinfo_tells_its_own_position() {
    let mut c = with_proc();
    let first = c.open("/f", 0);
    let fd = c.open(&format!("/proc/self/fdinfo/{first}"), 0);
    assert!(c.read(fd, 8).is_ok());
    // Through a duplicate it is its own subject.
    assert_eq!(c.call(33, &[fd as u64, first as u64]), first);
    let text = c.read(first, 100).expect("text");
    assert!(!text.is_empty());
}

#[test]
fn magic_links_lead_to_removed_files_and_pipes() {
    let mut c = with_proc();
    let fd = c.open("/f", O_RDWR);
    assert_eq!(c.unlink("/f"), 0);
    let again = c.open(&format!("/proc/self/fd/{fd}"), 0);
    assert_eq!(c.read(again, 10), Ok(b"/f".to_vec()));
    let link = c.text(0, &format!("/proc/self/fd/{fd}"));
    let to = c.page + 9 * 8192;
    assert_eq!(c.call(89, &[link, to, 100]), 12);
    assert_eq!(&c.world.peek::<12>(&c.task, to), b"/f (deleted)");
    let at = c.page;
    assert_eq!(c.call(22, &[at]), 0);
    let both = c.world.peek_u64(&c.task, at);
    let reader = c.open(&format!("/proc/self/fd/{}", both & 0xffff_ffff), 0);
    assert_eq!(c.write((both >> 32) as i64, b"x"), 1);
    assert_eq!(c.read(reader, 10), Ok(b"x".to_vec()));
    // With no writer left there is nothing to wait for.
    assert_eq!(c.call(3, &[both >> 32]), 0);
    let reader = c.open(&format!("/proc/self/fd/{}", both & 0xffff_ffff), 0);
    assert_eq!(c.read(reader, 10), Ok(Vec::new()));
    let exe = c.text(0, "/proc/self/exe");
    assert_eq!(c.call(89, &[exe, to, 100]), 9);
    assert_eq!(&c.world.peek::<9>(&c.task, to), b"/bin/init");
}

#[test]
fn a_bind_mount_on_a_made_up_file_stays() {
    let mut c = with_proc();
    let (from, to) = (c.text(2, "/f"), c.text(3, "/proc/uptime"));
    assert_eq!(c.call(165, &[from, to, 0, 0x1000, 0]), 0);
    let fd = c.open("/proc/uptime", 0);
    assert_eq!(c.read(fd, 10), Ok(b"/f".to_vec()));
    let to = c.text(3, "/proc/uptime");
    assert_eq!(c.call(166, &[to, 0]), 0);
    let fd = c.open("/proc/uptime", 0);
    assert_ne!(c.read(fd, 10), Ok(b"/f".to_vec()));
}

#[test]
fn locks_conflict_between_processes_and_end_with_a_close() {
    let mut c = with_tree();
    let fd = c.open("/f", O_RDWR) as u64;
    let lock = c.page + 10 * 8192;
    let mut raw = [0_u8; 32];
    raw[0] = 1;
    c.world.poke(&c.task.clone(), lock, &raw);
    assert_eq!(c.call(72, &[fd, 6, lock]), 0);
    let child = c.world.fork(&c.task.clone());
    assert_eq!(c.raw_as(&child, 72, &[fd, 6, lock]), Some(-11));
    assert_eq!(c.raw_as(&child, 72, &[fd, 7, lock]), None);
    // Any close of the file by the owner ends its locks.
    let other = c.open("/f", 0) as u64;
    assert_eq!(c.call(3, &[other]), 0);
    assert!(child.run.lock().call.is_none());
    assert_eq!(child.registers.lock().rax, 0);
    assert_eq!(c.call(72, &[fd, 6, lock]), -11);
}
