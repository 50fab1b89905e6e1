// SPDX-License-Identifier: Apache-2.0
//! Forwarded file calls, in front of the real and confined process: what a kernel asks for works,
//! as far as the volume and the policy allow it.

use std::fs;

use rustix::io::Errno;
use trine_abi::{
    file::{Attr, Entry, Link as NewName, Rename, SetAttr, SetXattr, Wire},
    window::Operation,
    wire::Reader,
};

use crate::volume::{Bed, DIRECTORY, REGULAR, ROOT, libc_flags};

#[test]
fn files_are_made_written_read_and_listed() {
    let mut bed = Bed::new(false, None);
    let made = bed.create(ROOT, b"new", 0o104_751, b"").expect("made");
    assert_eq!(made.attr.mode, 0o104_751);
    let file = bed.open(made.node, libc_flags::RDWR).expect("opened");
    assert_eq!(bed.put(file, 3, b"hello"), Ok(5));
    assert_eq!(fs::read(bed.volume().join("new")).expect("read"), b"\0\0\0hello");
    assert_eq!(bed.contents(made.node).expect("read"), b"\0\0\0hello");
    let seek = trine_abi::file::Seek { offset: 0, hole: true }.encode();
    bed.call(Operation::FileSeek, file, 0, &seek).expect("sought");
    bed.call(Operation::FileSync, file, 0, &[]).expect("synced");

    let directory = bed.create(ROOT, b"d", DIRECTORY, b"").expect("made");
    for index in 0..500 {
        let name = format!("{index:0100}");
        fs::write(bed.volume().join("d").join(name), "").expect("written");
    }
    let open = bed.open(directory.node, libc_flags::RDONLY).expect("opened");
    let (mut cookie, mut names) = (0, Vec::new());
    loop {
        let list = bed.call(Operation::FileReadDir, open, cookie, &[]).expect("read");
        if list.is_empty() {
            break;
        }
        let mut reader = Reader::new(&list);
        while reader.end().is_err() {
            let entry = Entry::take(&mut reader).expect("an entry");
            assert_eq!(entry.kind, 8);
            cookie = entry.next;
            names.push(entry.name);
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 500);

    let set = SetAttr { uid: Some(7), gid: Some(8), mode: Some(0o600), ..SetAttr::default() };
    let answer = bed.call(Operation::FileSetAttr, made.node, 0, &set.encode()).expect("set");
    let attr = Attr::decode(&answer).expect("an answer");
    assert_eq!((attr.uid, attr.gid, attr.mode), (7, 8, 0o100_600));

    // The node is the file's, whatever its name is.
    fs::rename(bed.volume().join("new"), bed.volume().join("d/other")).expect("renamed");
    assert_eq!(bed.contents(made.node).expect("read"), b"\0\0\0hello");
    assert_eq!(bed.find(&[b"d", b"other"]).node, made.node);
    fs::remove_file(bed.volume().join("d/other")).expect("removed");
    assert_eq!(bed.contents(made.node).expect("read"), b"\0\0\0hello");
    bed.call(Operation::FileForget, made.node, 1000, &[]).expect("forgotten");
    assert_eq!(bed.contents(made.node), Err(Errno::BADF));
    assert_eq!(bed.walk(ROOT, &[b"gone"]).expect("walked").errno, 2);
}

#[test]
fn read_only_is_read_only_by_every_call() {
    let mut bed = Bed::new(true, None);
    fs::write(bed.volume().join("f"), "same").expect("written");
    fs::create_dir(bed.volume().join("d")).expect("mkdir");
    let f = bed.find(&[b"f"]).node;
    let set = |change: SetAttr| change.encode();
    let name = |name: &[u8]| NewName { directory: ROOT, name: name.to_vec() }.encode();
    let rename = Rename { old: b"f".to_vec(), directory: ROOT, new: b"g".to_vec(), flags: 0 };
    let xattr = SetXattr { name: b"user.x".to_vec(), value: Some(vec![1]), flags: 0 };
    let rofs = Err(Errno::ROFS);
    assert_eq!(bed.open(f, libc_flags::RDWR), Err(Errno::ROFS));
    assert_eq!(bed.create(ROOT, b"n", REGULAR, b"").map(|_| ()), Err(Errno::ROFS));
    let calls = [
        (Operation::FileSetAttr, f, 0, set(SetAttr { mode: Some(0), ..SetAttr::default() })),
        (Operation::FileSetAttr, f, 0, set(SetAttr { size: Some(0), ..SetAttr::default() })),
        (Operation::FileLink, f, 0, name(b"l")),
        (Operation::FileUnlink, ROOT, 0, b"f".to_vec()),
        (Operation::FileUnlink, ROOT, 1, b"d".to_vec()),
        (Operation::FileRename, ROOT, 0, rename.encode()),
        (Operation::FileSetXattr, f, 0, xattr.encode()),
    ];
    for (operation, handle, argument, input) in calls {
        assert_eq!(bed.call(operation, handle, argument, &input), rofs, "{operation:?}");
    }
    let file = bed.open(f, libc_flags::RDONLY).expect("opened");
    assert_eq!(bed.put(file, 0, b"x"), Err(Errno::ROFS));
    let cut = set(SetAttr { size: Some(0), ..SetAttr::default() });
    assert_eq!(bed.call(Operation::FileSetAttr, file, 0, &cut), rofs);
    assert_eq!(fs::read(bed.volume().join("f")).expect("read"), b"same");
}

#[test]
fn locks_are_those_of_the_host() {
    let mut bed = Bed::new(false, None);
    let lock = fs::File::create(bed.volume().join("lock")).expect("made");
    let node = bed.find(&[b"lock"]).node;
    let (one, two) = (
        bed.open(node, libc_flags::RDWR).expect("opened"),
        bed.open(node, libc_flags::RDWR).expect("opened"),
    );
    let mut ask = |file: u32, whole: bool, kind: u32| {
        let lock = trine_abi::file::Lock { whole, kind, start: 5, bytes: 10, test: false };
        bed.call(Operation::FileLock, file, 0, &lock.encode()).map(|_| ())
    };
    let again = Err(Errno::AGAIN);
    lock.lock().expect("locked");
    assert_eq!((ask(one, true, 1), ask(one, true, 0)), (again, again));
    lock.unlock().expect("unlocked");
    assert_eq!((ask(one, true, 1), ask(two, true, 0)), (Ok(()), again));
    assert!(lock.try_lock().is_err());
    assert_eq!((ask(one, true, 2), ask(two, true, 0)), (Ok(()), Ok(())));
    assert_eq!((ask(one, false, 1), ask(two, false, 0)), (Ok(()), again));
    assert_eq!((ask(one, false, 2), ask(two, false, 0)), (Ok(()), Ok(())));
    assert_eq!(ask(one, true, 3), Err(Errno::INVAL));
}

#[test]
fn policy_decides_by_where_a_file_is_and_logs() {
    let policy = r#"
        version = 1
        [[rule]]
        id = "keys"
        calls = ["file-read", "file-write"]
        paths = ["/data/**/*.key"]
        action = "block"
        errno = "EACCES"
        [[rule]]
        id = "frozen"
        calls = ["openat"]
        paths = ["/data/live/**"]
        action = "intercept"
        rewrite = { prefix = "/data/live", path = "/data/frozen" }
        [[rule]]
        id = "hidden"
        calls = ["stat"]
        paths = ["/data/hidden"]
        action = "block"
        errno = "ENOENT"
    "#;
    let mut bed = Bed::new(false, Some(policy));
    let inside = bed.volume();
    for directory in ["sub", "live", "frozen"] {
        fs::create_dir(inside.join(directory)).expect("mkdir");
        fs::write(inside.join(directory).join("f"), directory).expect("written");
    }
    fs::write(inside.join("sub/a.key"), "secret").expect("written");
    fs::write(inside.join("hidden"), "").expect("written");
    let key = bed.find(&[b"sub", b"a.key"]).node;
    assert_eq!(bed.open(key, libc_flags::RDONLY), Err(Errno::ACCESS));
    let cut = SetAttr { size: Some(0), ..SetAttr::default() }.encode();
    assert_eq!(bed.call(Operation::FileSetAttr, key, 0, &cut), Err(Errno::ACCESS));
    let rename = Rename { old: b"a.key".to_vec(), directory: ROOT, new: b"a".to_vec(), flags: 0 };
    let sub = bed.find(&[b"sub"]).node;
    let rename = bed.call(Operation::FileRename, sub, 0, &rename.encode());
    assert_eq!(rename, Err(Errno::ACCESS), "or it could be read under the other name");
    let link = NewName { directory: ROOT, name: b"plain".to_vec() }.encode();
    assert_eq!(bed.call(Operation::FileLink, key, 0, &link), Err(Errno::ACCESS));
    // Where it is, not where it was found.
    fs::rename(inside.join("sub/a.key"), inside.join("sub/a")).expect("renamed");
    assert_eq!(bed.contents(key).expect("read"), b"secret");
    fs::rename(inside.join("sub/f"), inside.join("sub/f.key")).expect("renamed");

    let live = bed.find(&[b"live", b"f"]).node;
    assert_eq!(bed.contents(live).expect("read"), b"frozen");
    assert_eq!(bed.walk(ROOT, &[b"hidden"]).expect("walked").errno, 2);

    let log = fs::read_to_string(bed.tree.path().join("audit")).expect("the log");
    let lines: Vec<trine_policy::audit::Line> =
        log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let first = lines.first().expect("a line");
    assert_eq!(first.path.as_deref(), Some("/data/sub/a.key"));
    assert_eq!((first.rule.as_deref(), first.errno.as_deref()), (Some("keys"), Some("EACCES")));
    assert_eq!((&*first.container, &*first.call), ("c", "openat"));
    assert_eq!(lines.len(), 5, "{log}");
}
