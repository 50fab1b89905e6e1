// SPDX-License-Identifier: Apache-2.0
//! Images of real trees, compared with the trees; and damaged images.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, chown, symlink},
    path::Path,
    string::String,
    vec::Vec,
};

use super::{TempDir, leak, make_image};
use crate::{
    Errno,
    fs::{
        erofs::{EInode, Erofs, PageAt, Piece},
        types::FileType,
    },
};

fn build_tree(dir: &Path) {
    for size in [0, 1, 100, 4095, 4096, 4097, 10_000, 100_000] {
        let contents: Vec<u8> = (0..size).map(|at: u32| (at * 7 % 251) as u8).collect();
        fs::write(dir.join(std::format!("file-{size}")), contents).expect("a file");
    }
    let many = dir.join("many");
    fs::create_dir(&many).expect("a directory");
    for number in 0..700 {
        fs::write(
            many.join(std::format!("entry-{:04}-{}", number * 37 % 700, "x".repeat(number % 60))),
            [],
        )
        .expect("a file");
    }
    fs::create_dir_all(dir.join("deep/er/and/deeper")).expect("directories");
    fs::create_dir(dir.join("empty")).expect("a directory");
    symlink("file-100", dir.join("short")).expect("a link");
    symlink("x/".repeat(500), dir.join("long")).expect("a link");
    fs::hard_link(dir.join("file-4097"), dir.join("deep/hard")).expect("a link");
    let sparse = fs::File::create(dir.join("sparse")).expect("a file");
    sparse.set_len(300_000).expect("a hole");
    std::os::unix::fs::FileExt::write_at(&sparse, b"middle", 150_000).expect("data");
    // As root only; as anybody else the tree is the poorer for it.
    let _ = chown(dir.join("file-1"), Some(70_000), Some(5));
}

fn kind_of(meta: &fs::Metadata) -> FileType {
    let kind = meta.file_type();
    if kind.is_dir() {
        FileType::Directory
    } else if kind.is_symlink() {
        FileType::Symlink
    } else if kind.is_char_device() {
        FileType::CharDevice
    } else if kind.is_fifo() {
        FileType::Fifo
    } else {
        FileType::Regular
    }
}

/// Reads a file page by page, as a mapping does.
fn read_by_pages(image: &Erofs, bytes: &[u8], inode: &EInode) -> Vec<u8> {
    let mut all = Vec::new();
    for index in 0..inode.size.div_ceil(4096) {
        let mut page = [0; 4096];
        match image.page(inode, index).expect("a page") {
            PageAt::Image(at) => page.copy_from_slice(&bytes[at as usize..at as usize + 4096]),
            PageAt::Hole => {}
            PageAt::Scattered => {
                image.read(inode, index * 4096, &mut page).expect("data");
            }
        }
        all.extend_from_slice(&page);
    }
    all.truncate(inode.size as usize);
    all
}

fn compare(image: &Erofs, bytes: &[u8], nid: u64, path: &Path) -> usize {
    let inode = image.inode(nid).expect("an inode");
    let meta = fs::symlink_metadata(path).expect("metadata");
    let what = path.display();
    assert_eq!(inode.kind, kind_of(&meta), "{what}");
    assert_eq!(inode.mode, meta.mode() & 0o7777, "{what}");
    assert_eq!((inode.uid, inode.gid), (meta.uid(), meta.gid()), "{what}");
    if inode.kind == FileType::Symlink {
        let target = fs::read_link(path).expect("a link");
        assert_eq!(image.link_target(&inode).as_deref(), Ok(target.as_os_str().as_encoded_bytes()));
    }
    if inode.kind == FileType::Regular {
        let expected = fs::read(path).expect("contents");
        assert_eq!(inode.size, expected.len() as u64, "{what}");
        let mut read = std::vec![0; expected.len() + 10];
        assert_eq!(image.read(&inode, 0, &mut read), Ok(expected.len()));
        assert!(read[..expected.len()] == expected, "{what}");
        assert!(read_by_pages(image, bytes, &inode) == expected, "{what} by pages");
        assert_eq!(u64::from(inode.links), meta.nlink(), "{what}");
    }
    let mut count = 1;
    if inode.kind == FileType::Directory {
        let mut listed = Vec::new();
        let mut cursor = 0;
        while let Some((entry, next)) = image.entry_at(&inode, cursor).expect("an entry") {
            assert!(next > cursor);
            cursor = next;
            let found = image.lookup(&inode, entry.name).expect("a lookup").expect("found");
            assert_eq!((found.nid, found.kind), (entry.nid, entry.kind));
            if entry.name != b"." && entry.name != b".." {
                let name = String::from_utf8(entry.name.to_vec()).expect("text");
                count += compare(image, bytes, entry.nid, &path.join(&name));
                listed.push(name);
            }
        }
        let mut expected: Vec<String> = fs::read_dir(path)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        expected.sort();
        assert_eq!(listed, expected, "{what}");
        for missing in ["", "a", "entry-0350", "zzzz", "file-4098", "\u{10ffff}"] {
            if !expected.iter().any(|name| name == missing) && !missing.is_empty() {
                assert!(image.lookup(&inode, missing.as_bytes()).expect("a lookup").is_none());
            }
        }
    }
    count
}

const LAYOUTS: [&[&str]; 4] =
    [&["-Enoinline_data"], &[], &["-Eforce-inode-extended"], &["--chunksize=8192"]];

#[test]
fn every_layout_reads_as_the_tree_it_was_made_of() {
    let dir = TempDir::new();
    build_tree(dir.path());
    for options in LAYOUTS {
        let Some(image) = make_image(dir.path(), options) else { return };
        let image = leak(&image);
        let opened = Erofs::open(image).expect("an image");
        let count = compare(&opened, image, opened.root(), dir.path());
        assert!(count > 715, "{options:?}: only {count} inodes");
    }
}

#[test]
fn a_compressed_image_is_refused_with_a_reason() {
    let dir = TempDir::new();
    fs::write(dir.path().join("zeroes"), std::vec![7_u8; 1 << 20]).expect("a file");
    let Some(image) = make_image(dir.path(), &["-zlz4"]) else { return };
    let opened = Erofs::open(leak(&image));
    assert!(opened.is_err_and(|why| why.contains("not supported")));
}

/// Visits everything that can be reached, within bounds; errors are fine.
fn visit(image: &Erofs, nid: u64, depth: u32, budget: &mut u32) -> Result<(), Errno> {
    *budget = budget.saturating_sub(1);
    if *budget == 0 || depth > 6 {
        return Ok(());
    }
    let inode = image.inode(nid)?;
    let _ = image.xattrs(&inode);
    let mut buffer = [0; 9000];
    let _ = image.read(&inode, inode.size / 2, &mut buffer);
    for index in [0, 1, inode.size / 4096, u64::MAX / 4096, u64::MAX] {
        let _ = image.page(&inode, index);
    }
    if let Ok(Some(Piece::Bytes(bytes))) = image.piece(&inode, 0) {
        assert!(bytes.len() as u64 <= inode.size);
    }
    match inode.kind {
        FileType::Symlink => {
            let _ = image.link_target(&inode);
        }
        FileType::Directory => {
            let _ = image.lookup(&inode, b"file-100");
            let _ = image.lookup(&inode, b"entry-0350-xx");
            let mut cursor = 0;
            for _ in 0..50 {
                let Some((entry, next)) = image.entry_at(&inode, cursor)? else { break };
                cursor = next;
                if entry.name != b"." && entry.name != b".." {
                    let _ = visit(image, entry.nid, depth + 1, budget);
                }
            }
        }
        _ => {}
    }
    Ok(())
}

#[test]
fn damaged_metadata_never_panics_and_never_loops() {
    let dir = TempDir::new();
    build_tree(dir.path());
    fs::remove_dir_all(dir.path().join("many")).expect("removed");
    for large in ["file-100000", "file-10000", "sparse"] {
        fs::remove_file(dir.path().join(large)).expect("removed");
    }
    for options in LAYOUTS {
        let Some(mut image) = make_image(dir.path(), options) else { return };
        // No checksum: or every change of the superblock would end right there.
        image[1024 + 8] &= !1;
        let clean = Erofs::open(leak(&image)).expect("an image");
        assert_eq!(visit(&clean, clean.root(), 0, &mut 300), Ok(()));
        let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let end = image.len() as u64;
        // Each is leaked, as images live for ever: so they are small.
        assert!(image.len() < 100_000, "{} bytes", image.len());
        for _ in 0..1500 {
            let mut bytes = image.clone();
            for _ in 0..1 + random() % 4 {
                // Mostly where metadata is: the superblock and the inodes behind it.
                let at = if random() % 4 == 0 { random() % end } else { 1024 + random() % 11_000 };
                let at = (at % end) as usize;
                bytes[at] = match random() % 3 {
                    0 => bytes[at] ^ (1 << (random() % 8)),
                    1 => 0xff,
                    _ => random() as u8,
                };
            }
            let leaked: &'static [u8] = bytes.leak();
            if let Ok(opened) = Erofs::open(leaked) {
                let _ = visit(&opened, opened.root(), 0, &mut 60);
            }
        }
    }
}
