// SPDX-License-Identifier: Apache-2.0
//! The writable root over an image, and tmpfs, against a simple model: random operations on both,
//! then everything is compared.

use std::{collections::BTreeMap, format, fs, string::String, vec::Vec};

use super::{TempDir, leak, make_image};
use crate::{
    Errno,
    fs::{
        FsContext, Location, Vfs,
        dentry::Dentry,
        erofs::Erofs,
        memory::{MemFs, root_directory},
        mount::MountFlags,
        open::{How, Opener},
        types::{FileType, OpenFlags},
        walk::Walk,
    },
    io::{SliceSource, VecSink},
    process::Creds,
    services::Services,
};

/// What is at a path of the model: files are shared by hard links.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    File(usize),
    Directory,
    Link(String),
}

#[derive(Debug, Default)]
struct Model {
    names: BTreeMap<String, Entry>,
    files: Vec<Vec<u8>>,
}

impl Model {
    fn parent(path: &str) -> &str {
        path.rsplit_once('/').map_or("", |(parent, _)| parent)
    }

    fn is_dir(&self, path: &str) -> bool {
        path.is_empty() || self.names.get(path) == Some(&Entry::Directory)
    }

    fn children(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        let direct = |name: &&String| name.starts_with(&prefix) && Self::parent(name) == path;
        self.names.keys().filter(direct).cloned().collect()
    }
}

struct World {
    context: FsContext,
    creds: Creds,
}

fn now_ns() -> u64 {
    1
}

impl World {
    fn new(image: Option<&'static [u8]>) -> Self {
        let arena = trine_machine::arena::for_tests(64 << 20, image.unwrap_or(&[]));
        let services = Services::new(arena, now_ns, 0, None, [1; 32]);
        let vfs = Vfs::new(services.clone());
        let device = vfs.new_device();
        let (fs, root) = match image {
            Some(image) => {
                let image = Erofs::open(image).expect("an image");
                MemFs::overlay(services, device, image).expect("a root")
            }
            None => {
                let root = root_directory(0o755, 0, 0);
                MemFs::tmpfs(services, device, "tmpfs", 32 << 20, &root)
            }
        };
        let flags = MountFlags::default();
        let mount = vfs.mount(None, fs, Dentry::root(root, b""), b"x", &flags);
        let root = Location { dentry: mount.root().clone(), mount };
        Self { context: FsContext::new(vfs, root), creds: Creds::root() }
    }

    fn find(&self, path: &str) -> Result<Location, Errno> {
        let path = if path.is_empty() { "/" } else { path };
        self.context.find(&self.creds, &self.context.root, path.as_bytes(), Walk::empty())
    }

    fn open(&self, path: &str, flags: OpenFlags) -> Result<crate::fs::FileRef, Errno> {
        let how = How { flags, mode: 0o644, walk: Walk::empty() };
        let opener = Opener { ticket: None, task: 0 };
        self.context.open(&self.creds, &self.context.root, path.as_bytes(), how, &opener)
    }

    fn parent(&self, path: &str) -> Result<(Location, Vec<u8>), Errno> {
        let found =
            self.context
                .parent_of(&self.creds, &self.context.root, path.as_bytes(), |_| Errno::BUSY)?;
        Ok((found.0, found.1))
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let file = self.open(path, OpenFlags::NOFOLLOW).expect("a file");
        let mut all = Vec::new();
        loop {
            let mut sink = VecSink::new(3000);
            if file.read(&mut sink).expect("data") == 0 {
                return all;
            }
            all.extend(sink.bytes);
        }
    }

    /// Contents as a mapping sees them.
    fn read_by_pages(&self, path: &str) -> Vec<u8> {
        let file = self.open(path, OpenFlags::NOFOLLOW).expect("a file");
        let mut all = Vec::new();
        for index in 0..file.size().div_ceil(4096) {
            let mut page = [0; 4096];
            file.page(index, false).expect("a page").read(0, &mut page);
            all.extend(page);
        }
        let size = file.size() as usize;
        assert!(all[size..].iter().all(|&byte| byte == 0), "{path}: the tail is not zero");
        all.truncate(size);
        all
    }

    fn list(&self, path: &str) -> Vec<String> {
        let file = self.open(if path.is_empty() { "/" } else { path }, OpenFlags::DIRECTORY);
        let file = file.expect("a directory");
        let mut names = Vec::new();
        loop {
            // A few at a time, so that cursors are used.
            let mut left = 3;
            let before = names.len();
            file.read_dir(&mut |entry| {
                if left == 0 {
                    return false;
                }
                left -= 1;
                names.push(String::from_utf8(entry.name.to_vec()).expect("text"));
                true
            })
            .expect("entries");
            if names.len() == before {
                break;
            }
        }
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }
}

/// Makes one random change to both; both must agree on whether it works.
fn step(world: &World, model: &mut Model, random: &mut Random) {
    let mut paths: Vec<String> = model.names.keys().cloned().collect();
    paths.push(String::new());
    let any = paths[random.next(paths.len())].clone();
    let dirs: Vec<String> = paths.iter().filter(|path| model.is_dir(path)).cloned().collect();
    let dir = dirs[random.next(dirs.len())].clone();
    let fresh = format!("{dir}/n{}", random.next(12));
    match random.next(8) {
        0 => {
            let flags = OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::WRONLY;
            let made = world.open(&fresh, flags);
            assert_eq!(made.is_ok(), !model.names.contains_key(&fresh), "create {fresh}");
            if made.is_ok() {
                model.files.push(Vec::new());
                model.names.insert(fresh, Entry::File(model.files.len() - 1));
            }
        }
        1 => {
            let (parent, name) = world.parent(&fresh).expect("a parent");
            let new = world.context.new_inode(&world.creds, FileType::Directory, 0o755);
            let made = match world.context.vfs.child(&parent, &name) {
                Ok(_) => Err(Errno::EXIST),
                Err(_) => world.context.create(&world.creds, &parent, &name, &new),
            };
            assert_eq!(made.is_ok(), !model.names.contains_key(&fresh), "mkdir {fresh}");
            if made.is_ok() {
                model.names.insert(fresh, Entry::Directory);
            }
        }
        2 | 3 => {
            let Some(Entry::File(file)) = model.names.get(&any).cloned() else { return };
            let at = random.next(30_000);
            let bytes: Vec<u8> =
                (0..1 + random.next(9000)).map(|_| random.next(256) as u8).collect();
            let open = world.open(&any, OpenFlags::RDWR).expect("a file");
            assert_eq!(open.write_at(at as u64, &mut SliceSource(&bytes)), Ok(bytes.len()));
            let contents = &mut model.files[file];
            contents.resize(contents.len().max(at + bytes.len()), 0);
            contents[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        4 => {
            let Some(Entry::File(file)) = model.names.get(&any).cloned() else { return };
            let size = random.next(20_000);
            world.find(&any).expect("a file").inode().truncate(size as u64).expect("truncated");
            model.files[file].resize(size, 0);
        }
        5 => {
            if any.is_empty() {
                return;
            }
            let (parent, name) = world.parent(&any).expect("a parent");
            let is_dir = model.is_dir(&any);
            let removed =
                if is_dir { parent.inode().rmdir(&name) } else { parent.inode().unlink(&name) };
            let may = !is_dir || model.children(&any).is_empty();
            assert_eq!(removed, if may { Ok(()) } else { Err(Errno::NOTEMPTY) }, "remove {any}");
            if may {
                world.context.vfs.forget(&parent.dentry, &name);
                model.names.remove(&any);
            }
        }
        6 => {
            let Some(Entry::File(file)) = model.names.get(&any).cloned() else { return };
            let source = world.find(&any).expect("a file");
            let (parent, name) = world.parent(&fresh).expect("a parent");
            let linked = parent.inode().link(&name, source.inode());
            assert_eq!(linked.is_ok(), !model.names.contains_key(&fresh), "link {fresh}");
            if linked.is_ok() {
                model.names.insert(fresh, Entry::File(file));
            }
        }
        _ => rename(world, model, &any, &fresh),
    }
}

fn rename(world: &World, model: &mut Model, old: &str, new: &str) {
    // Into itself is for the system call to refuse.
    if old.is_empty() || new == old || new.starts_with(&format!("{old}/")) {
        return;
    }
    if old.starts_with(&format!("{new}/")) {
        return;
    }
    let source = model.names.get(old).cloned().expect("a name");
    let target = model.names.get(new).cloned();
    if target.as_ref() == Some(&source) && matches!(source, Entry::File(_)) {
        return;
    }
    let (from, from_name) = world.parent(old).expect("a parent");
    let (to, to_name) = world.parent(new).expect("a parent");
    let done = from.inode().rename(&from_name, to.inode(), &to_name, false);
    let dir = |entry: &Entry| *entry == Entry::Directory;
    let expected = match &target {
        Some(target) if dir(target) && !dir(&source) => Err(Errno::ISDIR),
        Some(target) if !dir(target) && dir(&source) => Err(Errno::NOTDIR),
        Some(target) if dir(target) && !model.children(new).is_empty() => Err(Errno::NOTEMPTY),
        _ => Ok(()),
    };
    assert_eq!(done, expected, "rename {old} to {new}");
    if done.is_err() {
        return;
    }
    if let Some(gone) = from.dentry.moved(&from_name, &to.dentry, &to_name, false) {
        world.context.vfs.let_go(&gone);
    }
    model.names.remove(new);
    let moved: Vec<String> = model
        .names
        .keys()
        .filter(|path| *path == old || path.starts_with(&format!("{old}/")))
        .cloned()
        .collect();
    for path in moved {
        let entry = model.names.remove(&path).expect("a name");
        model.names.insert(format!("{new}{}", &path[old.len()..]), entry);
    }
}

fn compare(world: &World, model: &Model) {
    let mut inos: BTreeMap<usize, u64> = BTreeMap::new();
    for path in model.names.keys().map(String::as_str).chain([""]) {
        let place = world.find(path).unwrap_or_else(|errno| panic!("{path}: {errno}"));
        match model.names.get(path) {
            Some(Entry::File(file)) => {
                assert!(world.read(path) == model.files[*file], "{path}: contents differ");
                assert!(world.read_by_pages(path) == model.files[*file], "{path}: pages differ");
                let attr = place.attr();
                assert_eq!(*inos.entry(*file).or_insert(attr.ino), attr.ino, "{path}");
                let names = model.names.values().filter(|e| **e == Entry::File(*file)).count();
                assert_eq!(attr.links as usize, names, "{path}: links");
            }
            Some(Entry::Link(target)) => {
                assert_eq!(place.inode().read_link().as_deref(), Ok(target.as_bytes()));
            }
            Some(Entry::Directory) | None => {
                let mut names: Vec<String> = model
                    .children(path)
                    .iter()
                    .map(|child| child[path.len() + 1..].into())
                    .collect();
                names.sort();
                assert_eq!(world.list(path), names, "{path}: entries");
            }
        }
    }
}

fn lower_tree(model: &mut Model) -> TempDir {
    let dir = TempDir::new();
    for name in ["a", "a/b", "a/b/c", "d"] {
        fs::create_dir(dir.path().join(name)).expect("a directory");
        model.names.insert(format!("/{name}"), Entry::Directory);
    }
    for (at, name) in ["a/x", "a/b/y", "d/z", "w", "a/b/c/v"].into_iter().enumerate() {
        let contents: Vec<u8> = (0..at * 5003).map(|byte| (byte % 253) as u8).collect();
        fs::write(dir.path().join(name), &contents).expect("a file");
        model.files.push(contents);
        model.names.insert(format!("/{name}"), Entry::File(model.files.len() - 1));
    }
    fs::hard_link(dir.path().join("a/b/y"), dir.path().join("d/n1")).expect("a link");
    let shared = model.names["/a/b/y"].clone();
    model.names.insert("/d/n1".into(), shared);
    std::os::unix::fs::symlink("../w", dir.path().join("a/l")).expect("a link");
    model.names.insert("/a/l".into(), Entry::Link("../w".into()));
    dir
}

fn run(world: &World, model: &mut Model, seed: u64, steps: usize) {
    compare(world, model);
    let mut random = Random(seed);
    for at in 0..steps {
        step(world, model, &mut random);
        if at % 50 == 0 {
            compare(world, model);
        }
    }
    compare(world, model);
}

#[test]
fn root_over_an_image_behaves_as_the_model() {
    let mut model = Model::default();
    let dir = lower_tree(&mut model);
    for options in [&["-Enoinline_data"][..], &[], &["--chunksize=4096"]] {
        let Some(image) = make_image(dir.path(), options) else { return };
        let image = leak(&image);
        for seed in [1, 77, 4242] {
            let mut model = Model::default();
            lower_tree(&mut model);
            run(&World::new(Some(image)), &mut model, seed, 400);
        }
    }
}

#[test]
fn tmpfs_behaves_as_the_model() {
    for seed in [3, 99, 12345] {
        run(&World::new(None), &mut Model::default(), seed, 600);
    }
}

#[test]
fn removed_files_give_their_frames_back() {
    let world = World::new(None);
    let arena = world.context.vfs.services.arena;
    let before = arena.free_bytes();
    for round in 0..20 {
        let path = format!("/f{round}");
        let file = world.open(&path, OpenFlags::CREAT | OpenFlags::RDWR).expect("a file");
        let bytes = std::vec![1; 1 << 20];
        assert_eq!(file.write(&mut SliceSource(&bytes)), Ok(bytes.len()));
        assert!(arena.free_bytes() <= before - (1 << 20));
        let (parent, name) = world.parent(&path).expect("a parent");
        parent.inode().unlink(&name).expect("removed");
        world.context.vfs.forget(&parent.dentry, &name);
        // Still there while it is open.
        let mut sink = VecSink::new(10);
        assert_eq!(file.read_at(5000, &mut sink), Ok(10));
        drop(file);
    }
    assert_eq!(arena.free_bytes(), before);
}

#[test]
fn a_full_tmpfs_says_so_and_keeps_what_it_has() {
    let world = World::new(None);
    let file = world.open("/big", OpenFlags::CREAT | OpenFlags::RDWR).expect("a file");
    let bytes = std::vec![1; 8 << 20];
    let mut total = 0;
    let error = loop {
        match file.write(&mut SliceSource(&bytes)) {
            Ok(done) => total += done,
            Err(errno) => break errno,
        }
    };
    assert_eq!((error, total, file.size()), (Errno::NOSPC, 32 << 20, 32 << 20));
}

#[test]
fn files_of_the_image_use_whole_blocks() {
    let dir = TempDir::new();
    for size in [0, 1, 4096, 4097] {
        fs::write(dir.path().join(format!("{size}")), std::vec![1; size]).expect("a file");
    }
    let Some(image) = make_image(dir.path(), &[]) else { return };
    let world = World::new(Some(leak(&image)));
    for (path, blocks) in [("/0", 0), ("/1", 8), ("/4096", 8), ("/4097", 16)] {
        assert_eq!(world.find(path).expect("a file").attr().blocks, blocks, "{path}");
    }
}
