// SPDX-License-Identifier: Apache-2.0
//! Forwarded file calls, in front of the real and confined process: what a kernel asks for works,
//! and what a hostile one asks for reaches nothing outside of the volume.

use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{MetadataExt, symlink},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::io::Errno;
use tempfile::TempDir;
use trine_abi::{
    file::{
        Attr, Create, Created, Entry, FIRST_VOLUME, Found, Link as NewName, Opened, Rename,
        SetAttr, SetXattr, Walk, Walked, Wire,
    },
    window::{DATA, Operation, SMALL_BYTES, Submission},
    wire::Reader,
};
use trine_io::protocol::{Narrowing, Notice, Request, VolumeSpec};
use trine_link::Link;

use crate::common::{Kernel, Sandbox};

pub(crate) const ROOT: u32 = FIRST_VOLUME;

/// A confined process that serves one volume to one kernel.
pub(crate) struct Bed {
    pub(crate) kernel: Kernel,
    pub(crate) sandbox: Option<Sandbox>,
    process: Child,
    pub(crate) tree: TempDir,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.sandbox = None;
        let _ = self.process.wait();
    }
}

impl Bed {
    /// `tree/volume` is the volume; what else is in `tree` is the host's.
    pub(crate) fn new(readonly: bool, policy: Option<&str>) -> Self {
        Self::narrowed(readonly, policy, None)
    }

    /// With a policy that something narrows for the container.
    pub(crate) fn narrowed(
        readonly: bool,
        policy: Option<&str>,
        narrowing: Option<Narrowing>,
    ) -> Self {
        let tree = tempfile::tempdir().expect("a directory");
        fs::create_dir(tree.path().join("volume")).expect("mkdir");
        let (link, theirs) = Link::pair().expect("socket pair");
        let process = Command::new(env!("CARGO_BIN_EXE_trine-io"))
            .stdin(Stdio::from(theirs))
            .spawn()
            .expect("trine-io");
        let log = fs::File::create(tree.path().join("audit")).expect("a log");
        let files: Vec<_> = policy.iter().map(|_| log.as_fd()).collect();
        let sandbox = Sandbox::with_policy(link, policy, &files);
        let root: OwnedFd =
            trine_jail::mount::detached(&tree.path().join("volume"), true, readonly)
                .expect("a mount of its own (needs root)");
        let kernel = Kernel::new();
        let spec = VolumeSpec { handle: ROOT, readonly, destination: "/data".into() };
        let mut files = kernel.files();
        files.push(root.as_fd());
        let attach = Request::Attach {
            vm: 1,
            container: "c".into(),
            streams: vec![],
            volumes: vec![spec],
            narrowing,
        };
        sandbox.send(&attach, &files);
        assert_eq!(sandbox.notice(), Notice::Attached { vm: 1 });
        Self { kernel, sandbox: Some(sandbox), process, tree }
    }

    pub(crate) fn volume(&self) -> std::path::PathBuf {
        self.tree.path().join("volume")
    }

    /// Makes a call; `Err` is an errno.
    pub(crate) fn call(
        &mut self,
        operation: Operation,
        handle: u32,
        argument: u64,
        input: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        self.kernel.memory.write(DATA, input).expect("in the window");
        let (bytes, input) = (SMALL_BYTES, input.len() as u32);
        let id = 0;
        self.kernel.submit(Submission { operation, id, handle, bytes, data: 0, input, argument });
        let completion = self.kernel.completion();
        if completion.errno != 0 {
            return Err(Errno::from_raw_os_error(completion.errno as i32));
        }
        let mut answer = vec![0; (completion.result as usize).min(SMALL_BYTES as usize)];
        self.kernel.memory.read(DATA, &mut answer).expect("in the window");
        Ok(answer)
    }

    pub(crate) fn walk(&mut self, from: u32, names: &[&[u8]]) -> Result<Walked, Errno> {
        let names = names.iter().map(|name| name.to_vec()).collect();
        let walk = Walk { names, open: None };
        let answer = self.call(Operation::FileWalk, from, 0, &walk.encode())?;
        Ok(Walked::decode(&answer).expect("an answer"))
    }

    pub(crate) fn find(&mut self, names: &[&[u8]]) -> Found {
        let walked = self.walk(ROOT, names).expect("walked");
        assert_eq!(walked.found.len(), names.len(), "errno {}", walked.errno);
        walked.found.into_iter().next_back().expect("a node")
    }

    pub(crate) fn open(&mut self, node: u32, flags: i32) -> Result<u32, Errno> {
        let answer = self.call(Operation::FileOpen, node, flags as u64, &[])?;
        Ok(Opened::decode(&answer).expect("an answer").file)
    }

    pub(crate) fn create(
        &mut self,
        directory: u32,
        name: &[u8],
        mode: u32,
        target: &[u8],
    ) -> Result<Found, Errno> {
        let new = Create {
            name: name.to_vec(),
            mode,
            uid: 0,
            gid: 0,
            target: target.to_vec(),
            open: None,
        };
        let answer = self.call(Operation::FileCreate, directory, 0, &new.encode())?;
        Ok(Created::decode(&answer).expect("an answer").found)
    }

    /// Reads a file of the volume, whole.
    pub(crate) fn contents(&mut self, node: u32) -> Result<Vec<u8>, Errno> {
        let file = self.open(node, libc_flags::RDONLY)?;
        let read = self.call(Operation::FileRead, file, 0, &[]);
        self.call(Operation::FileForget, file, 1, &[])?;
        read
    }

    pub(crate) fn put(&mut self, file: u32, offset: u64, bytes: &[u8]) -> Result<u64, Errno> {
        self.kernel.memory.write(DATA, bytes).expect("in the window");
        self.kernel.submit(Submission {
            operation: Operation::FileWrite,
            id: 0,
            handle: file,
            bytes: bytes.len() as u32,
            data: 0,
            input: 0,
            argument: offset,
        });
        let completion = self.kernel.completion();
        match completion.errno {
            0 => Ok(completion.result),
            errno => Err(Errno::from_raw_os_error(errno as i32)),
        }
    }
}

/// Flags of open(2), which rustix has under another type.
pub(crate) mod libc_flags {
    pub(crate) const RDONLY: i32 = 0;
    pub(crate) const RDWR: i32 = 2;
}

const REGULAR: u32 = 0o100_644;
const DIRECTORY: u32 = 0o040_755;

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
