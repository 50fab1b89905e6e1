// SPDX-License-Identifier: Apache-2.0
//! Checks of images that are built here.
#![forbid(unsafe_code)]

mod common;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use common::{Bed, HELLO, names};
use trine_check::{Checker, Files, ImageFiles, Report};
use trine_rootfs_builder::{Quiet, WalkOptions, build_from_dir, erofs::Reader};

/// Builds the image of a folder.
fn image(root: &Path) -> File {
    let path = root.with_extension("image");
    let file = File::create(&path).expect("created");
    build_from_dir(root, &file, &WalkOptions::default(), &Quiet).expect("built");
    File::open(path).expect("opened")
}

fn checked(root: &Path) -> Report {
    let mut checker = Checker::new(ImageFiles::open(image(root)).expect("an image"));
    checker.image().expect("checked");
    checker.finish()
}

/// A root file system with the C library of this host.
fn root(bed: &Bed) -> PathBuf {
    let root = bed.folder().join("root");
    for folder in ["usr/bin", "usr/lib64", "usr/lib/x86_64-linux-gnu", "etc"] {
        fs::create_dir_all(root.join(folder)).expect("made");
    }
    for (name, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        symlink(target, root.join(name)).expect("linked");
    }
    let libc = "usr/lib/x86_64-linux-gnu/libc.so.6";
    fs::copy(Path::new("/").join(libc), root.join(libc)).expect("copied");
    let linker = "usr/lib64/ld-linux-x86-64.so.2";
    fs::copy("/lib64/ld-linux-x86-64.so.2", root.join(linker)).expect("copied");
    root
}

#[test]
fn programs_of_an_image_use_its_own_libraries() {
    let Some(bed) = Bed::new() else { return };
    let root = root(&bed);
    let swap = "#include <sys/swap.h>\nint main(void) { return swapon(\"/x\", 0); }\n";
    fs::copy(bed.compile("hello", HELLO, &[]), root.join("usr/bin/hello")).expect("copied");
    let good = checked(&root);
    assert!(good.is_good(), "{good:#?}");
    assert!(good.full.contains(&"write"));

    fs::copy(bed.compile("swap", swap, &[]), root.join("usr/bin/swap")).expect("copied");
    fs::copy(bed.compile("swap", swap, &["-static"]), root.join("usr/bin/again")).expect("copied");
    // The same file under another name, and one that nobody can execute.
    fs::hard_link(root.join("usr/bin/swap"), root.join("usr/bin/swapoff")).expect("linked");
    fs::copy(bed.write("script", b"#!/bin/perl\n"), root.join("usr/bin/x.pl")).expect("copied");
    let report = checked(&root);
    assert_eq!(names(&report.lacking), ["swapon"]);
    let users: Vec<_> = report.lacking[0].needed_by.iter().collect();
    assert_eq!(users, [Path::new("/usr/bin/again"), Path::new("/usr/bin/swap")]);
    assert!(report.refused.is_empty(), "{:?}", report.refused);
    assert!(report.notes.iter().any(|note| note.contains("1 script wants /bin/perl")));

    let mut checker = Checker::new(ImageFiles::open(image(&root)).expect("an image"));
    checker.program(Path::new("/bin/hello")).expect("found");
    assert!(checker.finish().is_good());

    fs::remove_file(root.join("usr/lib64/ld-linux-x86-64.so.2")).expect("removed");
    let report = checked(&root);
    let refused: Vec<_> = report.refused.iter().map(|refusal| refusal.path.clone()).collect();
    assert_eq!(refused, [Path::new("/usr/bin/hello"), Path::new("/usr/bin/swap")]);
}

#[test]
fn libraries_that_nobody_names_are_checked_as_plug_ins() {
    let Some(bed) = Bed::new() else { return };
    let root = root(&bed);
    let source = "#include <sys/swap.h>\nint plug(void) { return swapon(\"/x\", 0); }\n";
    let library = bed.compile("plug.so", source, &["-shared", "-fPIC"]);
    fs::copy(library, root.join("usr/lib/plug.so")).expect("copied");
    let report = checked(&root);
    assert_eq!(names(&report.lacking), ["swapon"], "{report:#?}");
}

#[test]
fn files_of_an_image_are_what_they_were() {
    let bed = tempfile::tempdir().expect("a folder");
    let root = bed.path().join("root");
    fs::create_dir_all(root.join("many")).expect("made");
    let mut expected = BTreeMap::new();
    let mut put = |path: PathBuf, bytes: Vec<u8>| {
        fs::write(root.join(&path), &bytes).expect("written");
        expected.insert(Path::new("/").join(path), bytes);
    };
    for (index, size) in [0, 1, 100, 2048, 2049, 4095, 4096, 4097, 100_000].into_iter().enumerate()
    {
        put(format!("f{index}").into(), (0..size).map(|byte| (byte * 7 % 251) as u8).collect());
    }
    for index in 0..1000 {
        put(format!("many/{index:0>80}").into(), vec![b'x'; index % 3]);
    }
    // A file with holes.
    let mut sparse = vec![0; 3 << 20];
    sparse[1 << 20] = 1;
    let file = File::create(root.join("sparse")).expect("made");
    file.set_len(sparse.len() as u64).expect("sized");
    std::os::unix::fs::FileExt::write_at(&file, &[1], 1 << 20).expect("written");
    expected.insert("/sparse".into(), sparse);
    symlink("../many/../f2", root.join("many/link")).expect("linked");
    symlink("loop", root.join("loop")).expect("linked");

    let files = ImageFiles::open(image(&root)).expect("an image");
    let found = files.all();
    assert_eq!(found.len(), expected.len());
    for found in found {
        let bytes = files.read(&found, u64::MAX).expect("read");
        assert!(bytes == expected[&found.path], "{}", found.path.display());
    }
    let link = files.find(Path::new("/many/./link")).expect("read").expect("found");
    assert_eq!(link.path, Path::new("/f2"));
    assert_eq!(files.find(Path::new("/loop")).expect("read"), None);
    assert_eq!(files.names(Path::new("/many")).len(), 1001);
}

#[test]
fn damaged_images_are_errors() {
    let bed = tempfile::tempdir().expect("a folder");
    let root = bed.path().join("root");
    fs::create_dir_all(root.join("d/e")).expect("made");
    for index in 0..40 {
        fs::write(root.join(format!("d/e/{index}")), vec![index; 3000]).expect("written");
    }
    drop(image(&root));
    let good = fs::read(root.with_extension("image")).expect("read");
    let mut seed = 99_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let path = bed.path().join("damaged");
    let mut opened = 0;
    for round in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..1 + round % 8 {
            // The superblock has a checksum: behind it.
            let at = 4096 + random() % (bytes.len() - 4096);
            bytes[at] = random() as u8;
        }
        if round % 10 == 0 {
            bytes.truncate(random() % bytes.len());
        }
        fs::write(&path, &bytes).expect("written");
        let Ok(files) = ImageFiles::open(File::open(&path).expect("opened")) else { continue };
        opened += 1;
        for found in files.all() {
            // A size that is wrong is an error or cut; it never takes all memory.
            let _ = files.read(&found, 1 << 20);
        }
    }
    assert!(opened > 20, "some damage must be harmless, or this tests nothing");
    let mut bytes = good;
    bytes[1024 + 40] ^= 1;
    fs::write(&path, &bytes).expect("written");
    let error = Reader::open(File::open(&path).expect("opened")).expect_err("a checksum");
    assert!(error.to_string().contains("checksum"), "{error}");
}
