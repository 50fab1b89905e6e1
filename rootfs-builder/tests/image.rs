// SPDX-License-Identifier: Apache-2.0
//! Images of directories and overlays, checked by Linux and by Debian's fsck.erofs.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use common::{Mounted, can_mount, write};
use rustix::fs::FileType;
use trine_rootfs_builder::{
    Boundary, BuildReport, Mount, Quiet, Tree, TreeError, WalkOptions, build_from_dir, erofs,
};

fn build(root: &Path, image: &Path) -> BuildReport {
    let file = File::create(image).unwrap();
    build_from_dir(root, &file, &WalkOptions::default(), &Quiet).unwrap()
}

#[test]
fn image_of_a_directory_shows_the_same_tree() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, image) = (dir.path().join("root"), dir.path().join("image"));
    fs::create_dir(&root).unwrap();
    common::fill(&root);
    let report = build(&root, &image);

    common::fsck(&image);
    let mounted = Mounted::image(&image, &dir.path().join("mnt"));
    common::assert_same(&common::look(&mounted.0), &common::look(&root));

    assert_eq!(report.size_bytes, fs::metadata(&image).unwrap().len());
    assert_eq!(report.size_bytes % 4096, 0);
    assert_eq!(report.skipped_xattrs, 0);
    // The copy of `big` is shared; holes take no room; 200 MiB of hole are not in the image.
    assert!(report.shared_bytes >= 3 << 20, "{report:?}");
    assert!(report.hole_bytes > 190 << 20, "{report:?}");
    assert!(report.size_bytes < 16 << 20, "{report:?}");
}

#[test]
fn image_of_the_same_tree_has_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for count in 0..300 {
        write(
            &root.join(format!("d{}/f{count}", count % 7)),
            common::noise(count, 100 * count as usize),
        );
    }
    let mut images = Vec::new();
    let mut reports = Vec::new();
    for number in 0..2 {
        let path = dir.path().join(number.to_string());
        reports.push(build(&root, &path));
        images.push(fs::read(path).unwrap());
    }
    assert_eq!(reports[0], reports[1]);
    assert!(images[0] == images[1], "bytes differ");
    // The incompatible features are none: there is no sparse file.
    assert_eq!(images[0][1024 + 80..1024 + 84], [0; 4]);

    // One more bit of content is another image.
    write(&root.join("d0/f0"), "x");
    let other = build(&root, &dir.path().join("other"));
    assert_ne!(other.digest, reports[0].digest);
    assert_ne!(fs::read(dir.path().join("other")).unwrap()[1072..1088], images[0][1072..1088]);
}

#[test]
fn executables_are_page_aligned_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let program = [b"\x7fELF".to_vec(), common::noise(1, 700)].concat();
    write(&root.join("program"), &program);
    write(&root.join("note"), "a few words that are inline");
    build(&root, &dir.path().join("image"));
    let image = fs::read(dir.path().join("image")).unwrap();
    let pages_with =
        |bytes: &[u8]| image.chunks(4096).filter(|page| page.starts_with(bytes)).count();
    assert_eq!(pages_with(&program), 1, "the program starts a page");
    assert_eq!(pages_with(b"a few words"), 0, "the note does not");
}

#[test]
fn missing_empty_and_wrong_roots_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("file"), "");
    fs::create_dir(dir.path().join("empty")).unwrap();
    let error = |name: &str| {
        Tree::from_dir(&dir.path().join(name), &WalkOptions::default(), &Quiet).unwrap_err()
    };
    assert!(matches!(error("nowhere"), TreeError::Missing { .. }));
    assert!(matches!(error("empty"), TreeError::Empty { .. }));
    assert!(matches!(error("file"), TreeError::NotDirectory { .. }));
}

#[test]
fn limits_of_entries_and_depth_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a/b/c/d"), "");
    let walk = |max_entries, max_depth| {
        let options = WalkOptions { max_entries, max_depth, ..WalkOptions::default() };
        Tree::from_dir(dir.path(), &options, &Quiet)
    };
    assert!(walk(4, 4).is_ok());
    assert!(matches!(walk(3, 4), Err(TreeError::TooManyEntries { limit: 3 })));
    assert!(matches!(walk(4, 3), Err(TreeError::PathTooLong { .. })));
}

#[test]
fn file_that_changes_during_the_build_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("root/file"), common::noise(1, 9000));
    let root = dir.path().join("root");
    let out = File::create(dir.path().join("image")).unwrap();
    for change in ["shorter", "gone", "link"] {
        let tree = Tree::from_dir(&root, &WalkOptions::default(), &Quiet).unwrap();
        match change {
            "shorter" => write(&root.join("file"), "now shorter"),
            "gone" => fs::remove_file(root.join("file")).unwrap(),
            _ => {
                fs::remove_file(root.join("file")).unwrap();
                std::os::unix::fs::symlink("/etc/passwd", root.join("file")).unwrap();
            }
        }
        let error = erofs::write(&tree, &out, &Quiet).unwrap_err();
        assert!(error.to_string().contains("changed while"), "{change}: {error}");
        let _ = fs::remove_file(root.join("file"));
        write(&root.join("file"), common::noise(1, 9000));
    }
}

#[test]
fn boundary_stay_leaves_other_file_systems_out() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    write(&root.join("file"), "");
    let _mounted = Mounted::new(&root.join("mnt"), &["-t", "tmpfs", "none"]);
    write(&root.join("mnt/secret"), "");
    let count = |boundary| {
        let options = WalkOptions { boundary, ..WalkOptions::default() };
        let out = tempfile::tempfile().unwrap();
        build_from_dir(&root, &out, &options, &Quiet).unwrap().inodes
    };
    assert_eq!(count(Boundary::Cross), 4);
    assert_eq!(count(Boundary::Stay), 3);
}

/// Makes two lower layers and an upper one that were changed through a mounted overlay, so that
/// whiteouts and opaque directories are as the kernel makes them; returns the options.
fn overlay_layers(dir: &Path) -> Vec<String> {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    for name in ["base", "work1", "middle", "work2", "upper"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let base = dir.join("base");
    common::fill(&base);
    for name in [
        "gone/a",
        "gone/b",
        "replaced/a",
        "replaced/sub/b",
        "merged/low",
        "merged/both",
        "file-to-dir",
        "dir-to-file/x",
        "twice/a",
    ] {
        write(&base.join(name), name);
    }

    let change = |lower: &str, upper: &str, work: &str, change_fn: &dyn Fn(&Path)| {
        let options = format!("lowerdir={},upperdir={},workdir={}", lower, path(upper), path(work));
        let merged =
            Mounted::new(&dir.join("merged"), &["-t", "overlay", "overlay", "-o", &options]);
        change_fn(&merged.0);
        options
    };
    change(&path("base"), "middle", "work1", &|root| {
        fs::remove_dir_all(root.join("gone")).unwrap();
        fs::remove_dir_all(root.join("replaced")).unwrap();
        write(&root.join("replaced/c"), "new");
        write(&root.join("merged/both"), "from the middle");
        write(&root.join("merged/mid"), "mid");
        fs::remove_file(root.join("file-to-dir")).unwrap();
        write(&root.join("file-to-dir/inside"), "in");
        fs::remove_dir_all(root.join("dir-to-file")).unwrap();
        write(&root.join("dir-to-file"), "now a file");
        fs::remove_dir_all(root.join("twice")).unwrap();
        std::os::unix::fs::lchown(root.join("sizes"), Some(5), Some(6)).unwrap();
    });
    let lower = format!("{}:{}", path("middle"), path("base"));
    let options = change(&lower, "upper", "work2", &|root| {
        write(&root.join("gone/back"), "again");
        write(&root.join("twice/b"), "b");
        fs::remove_file(root.join("merged/low")).unwrap();
        fs::remove_file(root.join("big")).unwrap();
        common::set_mtime(&root.join("merged"), 77, 8);
    });
    options.split(',').map(Into::into).collect()
}

#[test]
fn image_of_overlay_layers_shows_what_the_mount_shows() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = overlay_layers(dir.path());
    let mount =
        Mount { kind: "overlay".into(), source: "overlay".into(), options: options.clone() };
    let tree = Tree::from_mounts(&[mount], &WalkOptions::default(), &Quiet).unwrap();
    let image = dir.path().join("image");
    erofs::write(&tree, &File::create(&image).unwrap(), &Quiet).unwrap();
    common::fsck(&image);

    let options = options.join(",");
    let merged =
        Mounted::new(&dir.path().join("merged"), &["-t", "overlay", "overlay", "-o", &options]);
    let mounted = Mounted::image(&image, &dir.path().join("mnt"));
    let mut expected = common::look(&merged.0);
    let mut found = common::look(&mounted.0);
    for seen in expected.values_mut().chain(found.values_mut()) {
        // Overlayfs does not count the links of merged directories, nor keep those of copied files.
        seen.links = 0;
    }
    common::assert_same(&found, &expected);
    assert!(found.contains_key(Path::new("gone/back")) && !found.contains_key(Path::new("big")));
}

#[test]
fn overlay_conventions_without_privileges_of_the_kernel_are_applied() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
    for name in ["a/1", "b/1", "c/1", "d"] {
        write(&lower.join(name), "");
    }
    write(&upper.join("a/2"), "");
    common::set_xattr(&upper.join("a"), "user.overlay.opaque", b"y");
    write(&upper.join("b/1"), "");
    common::set_xattr(&upper.join("b"), "trusted.overlay.opaque", b"x");
    common::set_xattr(&upper.join("b/1"), "trusted.overlay.whiteout", b"");
    common::mknod(&upper.join("d"), FileType::CharacterDevice, 0, 0);
    let options = vec![format!("lowerdir={}:{}", upper.display(), lower.display())];
    let mount = Mount { kind: "overlay".into(), source: String::new(), options };
    let tree =
        Tree::from_mounts(std::slice::from_ref(&mount), &WalkOptions::default(), &Quiet).unwrap();
    let image = dir.path().join("image");
    erofs::write(&tree, &File::create(&image).unwrap(), &Quiet).unwrap();
    let mounted = Mounted::image(&image, &dir.path().join("mnt"));
    let found = common::look(&mounted.0);
    let names: Vec<_> = found.keys().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(names, ["", "a", "a/2", "b", "c", "c/1"]);
    assert!(found.values().all(|seen| seen.xattrs.is_empty()), "no trace of the overlay is left");

    // What only the kernel can resolve is refused by name.
    common::set_xattr(&upper.join("a"), "trusted.overlay.redirect", b"/c");
    let error = Tree::from_mounts(&[mount], &WalkOptions::default(), &Quiet).unwrap_err();
    assert!(matches!(error, TreeError::UnsupportedOverlay { .. }), "{error}");
}

#[test]
fn build_of_5000_files_is_fast() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for count in 0..5000 {
        write(&root.join(format!("d{}/f{count}", count % 50)), common::noise(count, 20_000));
    }
    build(&root, &dir.path().join("warm"));
    let start = Instant::now();
    let report = build(&root, &dir.path().join("image"));
    let elapsed = start.elapsed();
    println!("5000 files, {} bytes: {elapsed:?}", report.data_bytes);
    // Generous: this is a debug build on a machine that others use.
    assert!(elapsed.as_secs() < 5, "{elapsed:?}");
    assert_eq!(report.data_bytes, 100_000_000);
}

#[test]
fn superblock_says_how_long_the_image_is() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("root/file"), common::noise(1, 10_000));
    let report = build(&dir.path().join("root"), &dir.path().join("image"));
    let image = File::open(dir.path().join("image")).unwrap();
    let mut blocks = [0; 4];
    image.read_exact_at(&mut blocks, 1024 + 36).unwrap();
    assert_eq!(u64::from(u32::from_le_bytes(blocks)) * 4096, report.size_bytes);
    assert_eq!(image.metadata().unwrap().size(), report.size_bytes);
}
