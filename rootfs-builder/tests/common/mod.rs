// SPDX-License-Identifier: Apache-2.0
//! What the integration tests share: a tree with everything in it, mounts, and comparison.
#![expect(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod archives;
pub(crate) mod elf;
pub(crate) mod text;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use sha2::{Digest, Sha256};

/// Says on the terminal, past the test harness's capture, that something was not tested.
pub(crate) fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

/// Says whether images can be mounted here; skips loudly if not.
pub(crate) fn can_mount() -> bool {
    if !rustix::process::geteuid().is_root() {
        skip("mounting needs root");
        return false;
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.contains("erofs") || !Path::new("/dev/loop-control").exists() {
        skip("this kernel has no EROFS or no loop devices");
        return false;
    }
    true
}

/// A mount that ends with the test.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn new(at: &Path, args: &[&str]) -> Self {
        fs::create_dir_all(at).unwrap();
        let output = Command::new("mount").args(args).arg(at).output().unwrap();
        assert!(output.status.success(), "mount {args:?}: {output:?}");
        Self(at.into())
    }

    pub(crate) fn image(image: &Path, at: &Path) -> Self {
        Self::new(at, &["-t", "erofs", "-o", "loop,ro", image.to_str().unwrap()])
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.0).status().unwrap();
        assert!(status.success() || std::thread::panicking());
    }
}

/// Runs Debian's checker, if it is there.
pub(crate) fn fsck(image: &Path) {
    match Command::new("fsck.erofs").arg("--extract").arg(image).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !text.contains("<E>"), "fsck.erofs: {text}");
        }
        Err(error) => skip(&format!("fsck.erofs (Debian: erofs-utils) cannot run: {error}")),
    }
}

/// All that can be seen of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) links: u64,
    pub(crate) size: u64,
    pub(crate) rdev: u64,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The hash of a file's data, a link's target.
    pub(crate) data: Vec<u8>,
    /// The first name of the same inode.
    pub(crate) same_as: PathBuf,
}

/// Looks at everything below `root`.
pub(crate) fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(relative) = todo.pop() {
        // Not `join`, which would add a slash and follow a link.
        let path = if relative.as_os_str().is_empty() { root.into() } else { root.join(&relative) };
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                todo.push(relative.join(entry.unwrap().file_name()));
            }
        }
        let data = if kind.is_file() {
            hash(&path)
        } else if kind.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let entry = Seen {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            links: metadata.nlink(),
            size: if kind.is_dir() { 0 } else { metadata.size() },
            rdev: metadata.rdev(),
            xattrs: xattrs(&path),
            data,
            same_as: PathBuf::new(),
        };
        first_names
            .entry(metadata.ino())
            .and_modify(|first: &mut PathBuf| *first = relative.clone().min(first.clone()))
            .or_insert(relative.clone());
        seen.insert(relative, (metadata.ino(), entry));
    }
    let name = |(path, (ino, entry)): (PathBuf, (u64, Seen))| {
        (path, Seen { same_as: first_names[&ino].clone(), ..entry })
    };
    seen.into_iter().map(name).collect()
}

/// Asserts that two trees are the same, and says where they are not.
pub(crate) fn assert_same(found: &BTreeMap<PathBuf, Seen>, expected: &BTreeMap<PathBuf, Seen>) {
    let names = |tree: &BTreeMap<PathBuf, Seen>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "names differ");
    for (path, entry) in expected {
        assert_eq!(&found[path], entry, "{path:?} differs");
    }
}

fn hash(path: &Path) -> Vec<u8> {
    let mut file = File::open(path).unwrap();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hash.finalize().to_vec(),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0_u8; 65536];
    let used = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let names = list[..used].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let read = |name: &[u8]| {
        let mut value = vec![0_u8; 65536];
        let used = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        (name.to_vec(), value[..used].to_vec())
    };
    names.map(read).collect()
}

pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Bytes that do not compress and differ from seed to seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn mknod(path: &Path, kind: FileType, major: u32, minor: u32) {
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(CWD, path, kind, Mode::from(0o640), device).unwrap();
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|error| panic!("set {name} of {path:?}: {error}"));
}

pub(crate) fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Fills `root` with a file of every kind, and with sizes around every border.
///
/// Needs root, for device nodes and owners.
pub(crate) fn fill(root: &Path) {
    for size in [0, 1, 2047, 2048, 2049, 4031, 4032, 4095, 4096, 4097, 8192, 70_000] {
        write(&root.join(format!("sizes/plain-{size}")), noise(size as u64, size));
        let executable = root.join(format!("sizes/exec-{size}"));
        write(&executable, noise(size as u64 + 1, size));
        fs::set_permissions(&executable, fs::Permissions::from_mode(0o4755)).unwrap();
    }
    write(&root.join("big"), noise(7, 3 << 20));
    write(&root.join("again/big-copy"), noise(7, 3 << 20));
    write(&root.join("elf-without-x"), b"\x7fELF and no more");
    write(&root.join("lib/libx.so.1"), b"tiny");

    // A hole in the middle, one at the end, and nothing but a hole.
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(&noise(1, 5000), 0).unwrap();
    sparse.write_all_at(&noise(2, 100), 1 << 20).unwrap();
    sparse.set_len((3 << 20) + 17).unwrap();
    File::create(root.join("hole")).unwrap().set_len(5 << 20).unwrap();
    // Larger chunks than a page.
    let huge = File::create(root.join("huge")).unwrap();
    huge.set_len(200 << 20).unwrap();
    huge.write_all_at(&noise(3, 8192), (100 << 20) - 4096).unwrap();

    fs::create_dir_all(root.join("empty-dir")).unwrap();
    for count in 0..3000 {
        write(&root.join(format!("many/file-with-a-long-name-{count:05}")), format!("{count}"));
    }
    for name in ["!", "-dash", "..hidden", "...", "é", "with space", &"n".repeat(255)] {
        write(&root.join("names").join(name), name);
    }
    let bytes = OsStr::from_bytes(b"not-\xff-utf8\n");
    write(&root.join("names").join(bytes), "x");
    let deep = root.join(vec!["d"; 100].join("/"));
    write(&deep.join("file"), "deep");

    symlink("sizes/plain-1", root.join("link")).unwrap();
    symlink("/absolute/../nowhere", root.join("dangling")).unwrap();
    symlink("t".repeat(4095), root.join("long-link")).unwrap();
    fs::hard_link(root.join("big"), root.join("again/zz-hard")).unwrap();
    fs::hard_link(root.join("sizes/plain-1"), root.join("again/hard-1")).unwrap();
    fs::hard_link(root.join("link"), root.join("again/hard-link-of-link")).unwrap();

    mknod(&root.join("null"), FileType::CharacterDevice, 1, 3);
    mknod(&root.join("wide-minor"), FileType::CharacterDevice, 300, 70_000);
    mknod(&root.join("disk"), FileType::BlockDevice, 259, 1);
    mknod(&root.join("fifo"), FileType::Fifo, 0, 0);
    drop(UnixListener::bind(root.join("socket")).unwrap());

    for (name, uid) in [("sizes/plain-1", 1000), ("link", 70_000), ("empty-dir", 4_000_000_000)] {
        std::os::unix::fs::lchown(root.join(name), Some(uid), Some(uid + 1)).unwrap();
    }
    set_xattr(&root.join("sizes/plain-2048"), "user.short", b"value");
    set_xattr(&root.join("sizes/plain-2048"), "user.empty", b"");
    set_xattr(&root.join("sizes/plain-1"), "user.long", &noise(9, 2000));
    set_xattr(&root.join("sizes/plain-1"), "trusted.odd", b"\0\x01\xff");
    set_xattr(&root.join("link"), "trusted.on-a-link", b"1");
    set_xattr(&root.join("null"), "trusted.on-a-device", b"2");
    set_xattr(&root.join("empty-dir"), "user.on-a-directory", b"3");
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    set_xattr(&root.join("sizes/exec-4097"), "security.capability", capability);
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\
        \xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    set_xattr(&root.join("big"), "system.posix_acl_access", acl);
    set_xattr(&root.join("empty-dir"), "system.posix_acl_default", acl);

    fs::set_permissions(root.join("again"), fs::Permissions::from_mode(0o1777)).unwrap();
    set_mtime(&root.join("sizes/plain-1"), 1, 999_999_999);
    set_mtime(&root.join("sizes/plain-0"), -5, 123);
    set_mtime(&root.join("link"), 1 << 33, 1);
    set_mtime(&root.join("empty-dir"), 0, 0);
    set_mtime(root, 1_600_000_000, 5);
}

/// The names in a directory.
pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
