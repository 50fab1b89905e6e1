// SPDX-License-Identifier: Apache-2.0
//! What a hostile kernel asks of a volume reaches nothing outside of it.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::io::Errno;
use trine_abi::{
    file::{Link as NewName, Rename, SetAttr, Wire},
    window::Operation,
};

use crate::volume::{Bed, DIRECTORY, REGULAR, ROOT, libc_flags};

/// What a name can look like that leads, or might lead, out of a directory.
fn shapes(outside: &Path) -> Vec<Vec<u8>> {
    let canary = outside.join("canary").into_os_string().into_encoded_bytes();
    let mut shapes: Vec<Vec<u8>> = [
        "",
        ".",
        "..",
        "...",
        "/",
        "//",
        "./",
        "../",
        "/..",
        "../..",
        "../canary",
        "./../canary",
        "../outside/canary",
        "d/../../outside/canary",
        "d/..",
        "d/../..",
        "d/../../outside",
        "//etc/passwd",
        "/etc/passwd",
        "etc/../../../etc/passwd",
        "/proc/self/root/etc/passwd",
        "/proc/1/root",
        "proc/self/fd",
        "/dev/null",
        "/dev/kvm",
        "\0",
        "..\0",
        "..\0x",
        "\0..",
        "/proc/self/fd/0",
        "0",
        "1",
        "2",
        "3",
        "self",
        ".. ",
        " ..",
        "..\n",
        "..;",
        "%2e%2e",
        "\u{ff0e}\u{ff0e}",
        "\u{2024}\u{2024}",
        "..\\outside",
        "C:\\",
        "~",
        "$HOME",
        "d/",
        "d//",
        "f/..",
        "f/.",
        "f/",
        "absolute/canary",
        "relative/canary",
        "up/canary",
        "magic/canary",
        "absolute/..",
        "loop",
        "loop/x",
    ]
    .into_iter()
    .map(|shape| shape.as_bytes().to_vec())
    .collect();
    shapes.push(canary);
    shapes.push(outside.as_os_str().as_encoded_bytes().to_vec());
    shapes.push(b"../".repeat(80));
    shapes.push([b"../".repeat(40), b"etc/passwd".to_vec()].concat());
    shapes.push(vec![b'a'; 256]);
    shapes.push(vec![b'a'; 4096]);
    shapes.push(vec![0xff, b'.', b'.', 0xfe]);
    shapes.push([b"..".to_vec(), vec![0; 300]].concat());
    shapes
}

/// Everything that is to stay as it is.
fn census(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut entries: Vec<_> =
        fs::read_dir(directory).expect("listed").map(|entry| entry.expect("an entry")).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let attr = entry.metadata().expect("attributes");
        lines.push(format!(
            "{:?} {:o} {} {} {} {} {:?} {:?}",
            entry.path(),
            attr.mode(),
            attr.uid(),
            attr.nlink(),
            attr.size(),
            attr.ctime_nsec(),
            attr.atime_nsec(),
            fs::read_link(entry.path()).ok(),
        ));
        if attr.is_dir() {
            lines.extend(census(&entry.path()));
        }
    }
    lines
}

#[test]
fn no_name_of_any_shape_leads_out_of_a_volume() {
    let mut bed = Bed::new(false, None);
    let outside = bed.tree.path().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    fs::write(outside.join("canary"), "secret").expect("written");
    fs::write(outside.join("victim"), "whole").expect("written");
    let inside = bed.volume();
    fs::create_dir(inside.join("d")).expect("mkdir");
    fs::write(inside.join("f"), "inside").expect("written");
    symlink(&outside, inside.join("absolute")).expect("link");
    symlink("../outside", inside.join("relative")).expect("link");
    symlink("..", inside.join("up")).expect("link");
    symlink("/proc/self/root", inside.join("magic")).expect("link");
    symlink(outside.join("canary"), inside.join("leaf")).expect("link");
    symlink("loop", inside.join("loop")).expect("link");
    let before = census(&outside);
    let canary = fs::metadata(outside.join("canary")).expect("attributes").ino();
    let own = |ino: u64| ino != canary && ino != fs::metadata(&outside).map_or(0, |m| m.ino());

    let mut shapes = shapes(&outside);
    for link in ["absolute", "relative", "up", "magic", "leaf", "loop"] {
        shapes.push(link.as_bytes().to_vec());
    }
    assert!(shapes.len() >= 60, "{} shapes", shapes.len());
    for shape in &shapes {
        let shown = shape.escape_ascii().to_string();
        // Looked up alone, and as a step on a way to the canary.
        for names in [vec![&shape[..]], vec![&shape[..], b"canary"], vec![b"d", &shape[..]]] {
            if let Ok(walked) = bed.walk(ROOT, &names) {
                for found in &walked.found {
                    assert!(own(found.attr.ino), "{shown}");
                    let is_link = found.attr.mode & 0o170_000 == 0o120_000;
                    if is_link {
                        assert_eq!(bed.contents(found.node), Err(Errno::NXIO), "{shown}");
                    }
                }
            }
        }
        for (mode, target) in
            [(REGULAR, &b""[..]), (DIRECTORY, b""), (0o120_777, b"t"), (0o010_644, b"")]
        {
            if let Ok(made) = bed.create(ROOT, shape, mode, target) {
                assert!(own(made.attr.ino), "{shown}");
                let is_directory = u64::from(mode == DIRECTORY);
                bed.call(Operation::FileUnlink, ROOT, is_directory, shape).expect("removed");
            }
        }
        let f = bed.find(&[b"f"]).node;
        let link = NewName { directory: ROOT, name: shape.clone() }.encode();
        if bed.call(Operation::FileLink, f, 0, &link).is_ok() {
            bed.call(Operation::FileUnlink, ROOT, 0, shape).expect("removed");
        }
        for flags in [0, 1, 2] {
            for (old, new) in [(&shape[..], &b"x"[..]), (b"f", &shape[..])] {
                let rename =
                    Rename { old: old.to_vec(), directory: ROOT, new: new.to_vec(), flags };
                if bed.call(Operation::FileRename, ROOT, 0, &rename.encode()).is_ok() {
                    let back =
                        Rename { old: new.to_vec(), directory: ROOT, new: old.to_vec(), flags };
                    bed.call(Operation::FileRename, ROOT, 0, &back.encode()).expect("undone");
                }
            }
        }
        for is_directory in [0, 1] {
            let target = [b"absolute".as_slice(), b"relative", b"up", b"magic", b"leaf", b"loop"];
            if !target.contains(&&shape[..]) {
                let _ = bed.call(Operation::FileUnlink, ROOT, is_directory, shape);
            }
        }
        for operation in [Operation::FileGetXattr, Operation::FileSetXattr] {
            let _ = bed.call(operation, ROOT, 0, shape);
        }
        if !inside.join("d").exists() {
            fs::create_dir(inside.join("d")).expect("mkdir");
        }
        if !inside.join("f").exists() {
            fs::write(inside.join("f"), "inside").expect("written");
        }
    }
    assert_eq!(census(&outside), before);
    assert_eq!(fs::read(outside.join("canary")).expect("read"), b"secret");
    assert_eq!(bed.process.try_wait().expect("status"), None, "it lives");
}

#[test]
fn special_files_are_never_opened_and_devices_never_made() {
    let mut bed = Bed::new(false, None);
    let inside = bed.volume();
    for (name, mode, device) in [
        ("null", 0o020_666, rustix::fs::makedev(1, 3)),
        ("disk", 0o060_666, rustix::fs::makedev(8, 0)),
    ] {
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        let mode = rustix::fs::Mode::from_raw_mode(mode);
        rustix::fs::mknodat(rustix::fs::CWD, inside.join(name), kind, mode, device).expect("made");
    }
    bed.create(ROOT, b"fifo", 0o010_644, b"").expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(inside.join("socket")).expect("bound");
    for name in ["null", "disk", "fifo", "socket"] {
        let node = bed.find(&[name.as_bytes()]).node;
        for flags in [libc_flags::RDONLY, libc_flags::RDWR] {
            assert_eq!(bed.open(node, flags), Err(Errno::NXIO), "{name}");
        }
        let cut = SetAttr { size: Some(0), ..SetAttr::default() }.encode();
        let cut = bed.call(Operation::FileSetAttr, node, 0, &cut);
        assert_eq!(cut, Err(Errno::INVAL), "{name}");
    }
    for mode in [0o020_666, 0o060_666, 0o140_666, 0, 0o170_000] {
        let made = bed.create(ROOT, b"device", mode, b"");
        assert_eq!(made.map(|_| ()), Err(Errno::PERM), "{mode:o}");
    }
    assert!(!inside.join("device").exists());
}

/// A directory on a way is exchanged with a link to the outside, as fast as can be.
#[test]
fn names_that_are_swapped_meanwhile_lead_nowhere_else() {
    let mut bed = Bed::new(false, None);
    let outside = bed.tree.path().join("outside");
    fs::create_dir(&outside).expect("mkdir");
    fs::write(outside.join("canary"), "secret").expect("written");
    let canary = fs::metadata(outside.join("canary")).expect("attributes").ino();
    let inside = bed.volume();
    fs::create_dir(inside.join("a")).expect("mkdir");
    fs::write(inside.join("a/canary"), "inside").expect("written");
    symlink(&outside, inside.join("b")).expect("link");
    let before = census(&outside);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swap = || {
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            let here = rustix::fs::CWD;
            while !stop.load(Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(
                    here,
                    inside.join("a"),
                    here,
                    inside.join("b"),
                    exchange,
                );
            }
        };
        scope.spawn(swap);
        for round in 0..3000 {
            let walked = bed.walk(ROOT, &[b"a", b"canary"]).expect("walked");
            for found in &walked.found {
                assert_ne!(found.attr.ino, canary, "round {round}");
            }
            if let [directory, file] = &walked.found[..] {
                assert_eq!(bed.contents(file.node).expect("read"), b"inside");
                let made = bed.create(directory.node, b"new", REGULAR, b"");
                if made.is_ok() {
                    let gone = bed.call(Operation::FileUnlink, directory.node, 0, b"new");
                    gone.expect("removed");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(census(&outside), before);
}
