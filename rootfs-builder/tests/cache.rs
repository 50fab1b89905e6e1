// SPDX-License-Identifier: Apache-2.0
//! The node's cache: what is found again, built once, evicted and left behind.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::write;
use trine_rootfs_builder::{
    Cache, CacheError, CachedImage, Mount, Phase, Progress, Quiet, TreeError,
};

/// Names the process that `processes_build_one_image_once` starts from this same binary.
const CHILD: &str = "TRINE_TEST_CACHE_CHILD";

/// Counts how often a source was read to its end.
#[derive(Default)]
struct Builds(AtomicU64);

impl Progress for Builds {
    fn update(&self, phase: Phase, done: u64, total: u64) {
        if phase == Phase::Scan && done == total {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Builds {
    fn any(&self) -> bool {
        self.0.swap(0, Ordering::Relaxed) > 0
    }
}

fn open(dir: &Path) -> Cache {
    Cache::open(&dir.join("cache"), 1 << 40).unwrap()
}

/// Makes a tree whose state is worth remembering: older than a tick of the kernel's clock.
fn tree(dir: &Path, name: &str, seed: u64, bytes: usize) -> PathBuf {
    let root = dir.join(name);
    write(&root.join("etc/name"), name);
    write(&root.join("data"), common::noise(seed, bytes));
    thread::sleep(Duration::from_millis(100));
    root
}

fn overlay(upper: &Path, lowers: &[&Path]) -> Mount {
    let lowers: Vec<_> = lowers.iter().map(|path| path.to_str().unwrap()).collect();
    Mount {
        kind: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            "workdir=/nonexistent".into(),
            format!("upperdir={}", upper.display()),
            format!("lowerdir={}", lowers.join(":")),
        ],
    }
}

/// What the directory of images has, besides the parts that are always there.
fn left_in(dir: &Path) -> Vec<String> {
    let mut names = common::names_in(&dir.join("cache"));
    names.retain(|name| !["boot", "keys", "names"].contains(&name.as_str()));
    names
}

#[test]
fn directory_is_built_once_until_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let root = tree(dir.path(), "root", 1, 10_000);
    let builds = Builds::default();
    let first = cache.image_for_dir(&root, &builds).unwrap();
    assert!(builds.any());
    let second = cache.image_for_dir(&root, &builds).unwrap();
    assert!(!builds.any(), "found again");
    assert_eq!(first.digest, second.digest);
    assert_eq!(first.file.metadata().unwrap().ino(), second.file.metadata().unwrap().ino());
    assert_eq!(second.size_bytes, second.file.metadata().unwrap().len());
    assert!(std::io::Write::write(&mut &second.file, b"x").is_err(), "it is read-only");

    // Same size, and the modification time set back: the change time tells.
    let before = fs::metadata(root.join("data")).unwrap();
    fs::write(root.join("data"), common::noise(2, 10_000)).unwrap();
    common::set_mtime(&root.join("data"), before.mtime(), before.mtime_nsec());
    let third = cache.image_for_dir(&root, &builds).unwrap();
    assert!(builds.any());
    assert_ne!(third.digest, first.digest);
}

#[test]
fn directory_that_just_changed_is_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let builds = Builds::default();
    let mut digests = Vec::new();
    for seed in 0..20 {
        // Within one tick of the clock, times and sizes are the same each time.
        write(&dir.path().join("root/file"), common::noise(seed, 5000));
        let image = cache.image_for_dir(&dir.path().join("root"), &builds).unwrap();
        assert!(builds.any());
        digests.push(image.digest);
    }
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 20);
}

#[test]
fn overlay_with_an_empty_upper_is_found_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let low = tree(dir.path(), "low", 1, 10_000);
    let high = tree(dir.path(), "high", 2, 10_000);
    let builds = Builds::default();
    let uppers: Vec<_> = (0..3).map(|n| dir.path().join(format!("upper{n}"))).collect();
    let mut digests = Vec::new();
    for upper in &uppers {
        fs::create_dir(upper).unwrap();
        // As containerd does: the root's mode and owner.
        fs::set_permissions(upper, fs::metadata(&high).unwrap().permissions()).unwrap();
        let mount = overlay(upper, &[&high, &low]);
        digests.push(cache.image_for_mounts(&[mount], &builds).unwrap().digest);
        assert_eq!(builds.any(), upper == &uppers[0], "only the first is built");
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]));

    let mount = [overlay(&uppers[0], &[&high, &low])];
    let start = Instant::now();
    for _ in 0..100 {
        cache.image_for_mounts(&mount, &Quiet).unwrap();
    }
    let each = start.elapsed() / 100;
    println!("lookup: {each:?}");
    assert!(each < Duration::from_millis(2), "{each:?}");

    // The other order, or something in the upper directory, is another image.
    let swapped = cache.image_for_mounts(&[overlay(&uppers[0], &[&low, &high])], &Quiet).unwrap();
    write(&uppers[0].join("new"), "x");
    let changed = cache.image_for_mounts(&mount, &Quiet).unwrap();
    assert!(swapped.digest != digests[0] && changed.digest != digests[0]);
    assert_ne!(swapped.digest, changed.digest);
}

#[test]
fn missing_source_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let nowhere = dir.path().join("nowhere");
    let by_dir = cache.image_for_dir(&nowhere, &Quiet).unwrap_err();
    let by_mount = cache.image_for_mounts(&[overlay(&nowhere, &[&nowhere])], &Quiet).unwrap_err();
    for error in [by_dir, by_mount] {
        assert!(matches!(error, CacheError::Tree(TreeError::Missing { .. })), "{error}");
    }
    assert_eq!(left_in(dir.path()), [""; 0]);
    assert_eq!(common::names_in(&dir.path().join("cache/keys")), [""; 0]);
}

#[test]
fn threads_build_one_image_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = tree(dir.path(), "root", 1, 8 << 20);
    let builds = Builds::default();
    let start = Barrier::new(8);
    let build_fn = || {
        let cache = open(dir.path());
        start.wait();
        cache.image_for_dir(&root, &builds).unwrap()
    };
    let images: Vec<CachedImage> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(build_fn)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(builds.0.load(Ordering::Relaxed), 1);
    assert!(images.iter().all(|image| image.digest == images[0].digest));
    assert_eq!(left_in(dir.path()).len(), 1);
    assert_eq!(common::names_in(&dir.path().join("cache/keys")).len(), 1, "no lock file is left");
}

/// Is the other process of the test below; does nothing by itself.
#[test]
fn child_process() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let builds = Builds::default();
    let image = open(&dir).image_for_dir(&dir.join("root"), &builds).unwrap();
    write(
        &dir.join(format!("out/{}", std::process::id())),
        format!("{} {}", image.digest, u8::from(builds.any())),
    );
}

fn start_child(dir: &Path) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_process"]).env(CHILD, dir);
    command.stdout(std::process::Stdio::null()).spawn().unwrap()
}

#[test]
fn processes_build_one_image_once() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path(), "root", 1, 30 << 20);
    let mut children: Vec<_> = (0..5).map(|_| start_child(dir.path())).collect();
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    let outputs = common::names_in(&dir.path().join("out"));
    let outputs: Vec<_> = outputs
        .iter()
        .map(|name| fs::read_to_string(dir.path().join("out").join(name)).unwrap())
        .collect();
    assert_eq!(outputs.len(), 5);
    assert_eq!(outputs.iter().filter(|output| output.ends_with(" 1")).count(), 1, "{outputs:?}");
    assert!(outputs.iter().all(|output| output.split(' ').next() == outputs[0].split(' ').next()));
}

#[test]
fn killed_build_leaves_nothing_and_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path(), "root", 1, 64 << 20);
    for millis in [5, 20, 40, 80] {
        let mut child = start_child(dir.path());
        thread::sleep(Duration::from_millis(millis));
        // It may have ended already, on a fast machine: then nothing was interrupted.
        let _ = child.kill();
        child.wait().unwrap();
        let cache = open(dir.path());
        let whole = left_in(dir.path());
        assert!(whole.iter().all(|name| name.ends_with(".erofs")), "{whole:?}");
        let locks = common::names_in(&dir.path().join("cache/keys"));
        assert!(locks.iter().all(|name| !name.ends_with(".lock")), "{locks:?}");
        cache.prune().unwrap();
        assert_eq!(left_in(dir.path()), [""; 0]);
    }
    let image = open(dir.path()).image_for_dir(&dir.path().join("root"), &Quiet).unwrap();
    assert!(image.size_bytes > 64 << 20);
}

#[test]
fn least_recently_used_image_goes_first_and_used_or_named_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    // Room for three of four.
    let cache = Cache::open(&dir.path().join("cache"), 3_500_000).unwrap();
    let roots: Vec<_> = (0..4).map(|n| tree(dir.path(), &format!("r{n}"), n, 1_000_000)).collect();
    let build = |n: usize| cache.image_for_dir(&roots[n], &Quiet).unwrap();

    let held = build(0);
    let named = build(1).digest;
    cache.tag("keep:1", &named, None).unwrap();
    let victim = build(2).digest;
    let newest = build(3).digest;
    let digests = || cache.list().unwrap().iter().map(|image| image.digest).collect::<Vec<_>>();
    assert!(!digests().contains(&victim), "the only one that is neither held, named nor new");
    for kept in [held.digest, named, newest] {
        assert!(digests().contains(&kept));
    }
    let line = |digest| cache.list().unwrap().into_iter().find(|i| i.digest == digest).unwrap();
    assert!(line(held.digest).in_use && !line(named).in_use);
    assert_eq!(line(named).names, ["keep:1"]);

    // The evicted one comes back when it is asked for; a duplicate of the descriptor holds it.
    let duplicate = build(2).file.try_clone().unwrap();
    cache.prune().unwrap();
    assert!(digests().contains(&victim) && digests().contains(&held.digest));
    drop((duplicate, held));
    cache.prune().unwrap();
    assert_eq!(digests(), [named]);
}

#[test]
fn names_resolve_move_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let one = cache.image_for_dir(&tree(dir.path(), "one", 1, 5000), &Quiet).unwrap();
    let two = cache.image_for_dir(&tree(dir.path(), "two", 2, 5000), &Quiet).unwrap();
    cache.tag("registry/app:1", &one.digest, None).unwrap();
    cache.tag("app", &one.digest, None).unwrap();
    assert_eq!(cache.resolve("app").unwrap().image.digest, one.digest);
    assert_eq!(cache.resolve(&two.digest.to_string()).unwrap().image.digest, two.digest);
    assert_eq!(cache.resolve(&two.digest.hex()[..12]).unwrap().image.digest, two.digest);
    cache.tag("app", &two.digest, None).unwrap();
    assert_eq!(cache.resolve("app").unwrap().image.digest, two.digest);

    for bad in ["", "a b", "a\n", "é", &"n".repeat(256)] {
        assert!(matches!(cache.tag(bad, &one.digest, None), Err(CacheError::BadName { .. })));
    }
    for missing in ["nothing", "", "sha256:", "../boot", &"0".repeat(64)] {
        assert!(matches!(cache.resolve(missing), Err(CacheError::NotFound { .. })), "{missing}");
        assert!(matches!(cache.remove(missing), Err(CacheError::NotFound { .. })), "{missing}");
    }

    // In use: nothing is removed, the name stays.
    assert!(matches!(cache.remove("app"), Err(CacheError::InUse { .. })));
    assert!(cache.resolve("app").is_ok());
    let two_digest = two.digest;
    drop(two);
    let removed = cache.remove("app").unwrap();
    assert_eq!((removed.names, removed.image), (vec!["app".to_owned()], Some(two_digest)));
    assert!(cache.get(&two_digest).unwrap().is_none());

    // By digest, all names go along; with another name left, the image stays.
    let digest = one.digest;
    drop(one);
    cache.tag("other", &digest, None).unwrap();
    assert_eq!(cache.remove("other").unwrap().image, None);
    assert_eq!(cache.remove(&digest.to_string()).unwrap().names, ["registry/app:1"]);
    assert!(cache.list().unwrap().is_empty());
}

#[test]
fn image_not_known_to_be_on_disk_is_forgotten_after_a_reboot() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let root = tree(dir.path(), "root", 1, 5000);
    drop(cache.image_for_dir(&root, &Quiet).unwrap());
    assert_eq!(open(dir.path()).list().unwrap().len(), 1);
    let named = cache.image_for_dir(&tree(dir.path(), "named", 2, 5000), &Quiet).unwrap().digest;
    cache.tag("named", &named, None).unwrap();
    fs::write(dir.path().join("cache/boot"), "another boot").unwrap();
    let cache = open(dir.path());
    let left: Vec<_> = cache.list().unwrap().iter().map(|image| image.digest).collect();
    assert_eq!(left, [named], "naming an image makes it durable");
    let builds = Builds::default();
    cache.image_for_dir(&root, &builds).unwrap();
    assert!(builds.any());
}

#[test]
fn torn_index_entry_is_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path());
    let root = tree(dir.path(), "root", 1, 5000);
    let digest = cache.image_for_dir(&root, &Quiet).unwrap().digest;
    let keys = dir.path().join("cache/keys");
    let key = keys.join(&common::names_in(&keys)[0]);
    for torn in ["", "0123", "zz"] {
        fs::write(&key, torn).unwrap();
        assert_eq!(cache.image_for_dir(&root, &Quiet).unwrap().digest, digest);
        assert_eq!(fs::read_to_string(&key).unwrap(), digest.hex());
    }
}
