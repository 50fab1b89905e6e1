// SPDX-License-Identifier: Apache-2.0
//! Tests of files on a host: images made by `mkfs.erofs`, a model of a tree, and system calls on
//! the machine without a CPU of [`crate::testing`].

mod calls;
mod image;
mod model;
mod notify;
mod sharing;
mod terminal;
mod waiting;

use std::{
    path::{Path, PathBuf},
    process::Command,
    string::String,
    sync::atomic::{AtomicU32, Ordering},
    vec::Vec,
};

/// A directory that goes away with its owner.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = std::format!("trine-posix-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A test that fails leaves nothing either.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes an image of a directory; `None`, loudly, without the tool.
pub(crate) fn make_image(dir: &Path, options: &[&str]) -> Option<Vec<u8>> {
    let out = TempDir::new();
    let file = out.path().join("image");
    let run = Command::new("mkfs.erofs").args(options).arg(&file).arg(dir).output();
    match run {
        Err(error) => {
            std::eprintln!("SKIPPED: mkfs.erofs does not run ({error}): install erofs-utils");
            None
        }
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(std::fs::read(&file).expect("the image"))
        }
    }
}

/// Keeps an image for ever, at a page boundary, as the machine has it.
pub(crate) fn leak(image: &[u8]) -> &'static [u8] {
    let mut room = std::vec![0_u8; image.len() + 4096].leak();
    let skip = room.as_ptr().align_offset(4096);
    room = &mut room[skip..skip + image.len()];
    room.copy_from_slice(image);
    room
}
