// SPDX-License-Identifier: Apache-2.0
//! The images that tests run, made of Debian's packages and of our own programs.
//!
//! | image | what |
//! | --- | --- |
//! | `busybox` | busybox-static, its applets as links, and the programs of `e2e/guest` |
//! | `debian` | bash, coreutils and the rest of a small Debian, dynamically linked |

mod archive;
mod rootfs;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

pub(crate) use self::archive::{Layer, hex as write_hex, write_archive};
use crate::{paths, programs};

/// One image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    /// Its short name.
    pub(crate) name: &'static str,
    /// Its name for containerd.
    pub(crate) reference: &'static str,
}

/// Static programs only.
pub(crate) const BUSYBOX: Image = Image { name: "busybox", reference: "trine.test/busybox:e2e" };
/// Dynamic programs.
pub(crate) const DEBIAN: Image = Image { name: "debian", reference: "trine.test/debian:e2e" };
/// All of them.
pub(crate) const ALL: &[Image] = &[BUSYBOX, DEBIAN];

impl Image {
    /// Its root file system, as a directory.
    pub(crate) fn rootfs(self) -> PathBuf {
        paths::cache().join("rootfs").join(self.name)
    }

    /// Its OCI archive.
    pub(crate) fn archive(self) -> PathBuf {
        paths::cache().join(format!("{}.tar", self.name))
    }
}

/// Makes the images, unless they are there and up to date.
pub(crate) fn prepare() -> Result<()> {
    let recipe = recipe()?;
    let stamp = paths::cache().join("images.stamp");
    let is_current = fs::read_to_string(&stamp).is_ok_and(|text| text == recipe)
        && ALL.iter().all(|image| image.archive().exists() && image.rootfs().exists());
    if is_current {
        return Ok(());
    }
    println!("making the images that tests run");
    fs::create_dir_all(paths::cache()).context("create the cache of the tests")?;
    fs::remove_file(&stamp).ok();
    let programs = programs::build()?;
    for image in ALL {
        let rootfs = image.rootfs();
        if rootfs.exists() {
            fs::remove_dir_all(&rootfs).with_context(|| format!("remove {}", rootfs.display()))?;
        }
        match image.name {
            "busybox" => rootfs::busybox(&rootfs, &programs)?,
            _ => rootfs::debian(&rootfs)?,
        }
        pack(&rootfs, image.reference, &image.archive())?;
    }
    fs::write(&stamp, recipe).context("write the stamp of the images")
}

/// Makes a root file system with Python, unless it is there; returns its directory.
pub(crate) fn python() -> Result<PathBuf> {
    let root = paths::cache().join("rootfs").join("python");
    if !root.exists() {
        // Made aside, so that what is there is whole.
        let half = paths::cache().join("rootfs").join("python.new");
        if half.exists() {
            fs::remove_dir_all(&half).with_context(|| format!("remove {}", half.display()))?;
        }
        rootfs::python(&half)?;
        fs::rename(&half, &root).with_context(|| format!("name {}", root.display()))?;
    }
    Ok(root)
}

/// Packs a directory as the only layer of an image.
fn pack(rootfs: &Path, reference: &str, archive: &Path) -> Result<()> {
    let layer = Layer::of_directory(rootfs)
        .with_context(|| format!("pack {} as a layer", rootfs.display()))?;
    write_archive(archive, reference, &[layer], &["/bin/sh"])
        .with_context(|| format!("write {}", archive.display()))
}

/// Changes whenever the images have to be made anew.
fn recipe() -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(programs::sources()?);
    hash.update(rootfs::RECIPE);
    hash.update(rootfs::DEBIAN_PACKAGES.join(" "));
    Ok(archive::hex(&hash.finalize()))
}
