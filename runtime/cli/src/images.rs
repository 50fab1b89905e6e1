// SPDX-License-Identifier: Apache-2.0
//! The image cache, as the command line uses it: the one module that knows the builder's interface.

use std::{
    fs::{self, File},
    io::{IsTerminal as _, stderr},
    path::Path,
    sync::Mutex,
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use oci_spec::image::ImageConfiguration;
use trine_rootfs_builder::{
    BuildReport, Cache, CacheError, CachedImage, ImageInfo, NamedImage, Phase, Progress, Removed,
    Select,
};

use crate::failure::WithRemedy as _;

/// How much disk the cache may take before unnamed images go.
const MAX_BYTES: u64 = 32 << 30;

/// A root file system that is ready to run.
#[derive(Debug)]
pub(crate) struct Image {
    /// The EROFS file; open, it is held against eviction.
    pub(crate) file: File,
    /// Name of its content.
    pub(crate) digest: String,
    /// Size in bytes.
    pub(crate) size_bytes: u64,
    /// What the build said, if it was not there already.
    pub(crate) report: Option<BuildReport>,
    /// How to run it, if the image says so.
    pub(crate) config: Option<ImageConfiguration>,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct Images {
    cache: Cache,
}

impl Images {
    /// Opens the cache in a directory.
    ///
    /// # Errors
    /// If it cannot be made or used.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let cache = Cache::open(directory, MAX_BYTES)
            .with_context(|| format!("cannot use image cache {}", directory.display()))
            .remedy("give --images a directory you may write")?;
        Ok(Self { cache })
    }

    /// Finds an image by name or digest; `None` if there is none.
    ///
    /// # Errors
    /// If the cache cannot be read, or the digest is ambiguous.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Image>> {
        match self.cache.resolve(name) {
            Ok(named) => Ok(Some(named.into())),
            Err(CacheError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the image of a root file system directory; builds it if it has changed.
    ///
    /// # Errors
    /// If the directory is missing, empty or unreadable, or the cache cannot be written.
    pub(crate) fn of_directory(&self, directory: &Path) -> Result<Image> {
        let shown = directory.display();
        let mut entries = fs::read_dir(directory)
            .with_context(|| format!("cannot use root file system {shown}"))
            .remedy("give a directory that you may read")?;
        if entries.next().is_none() {
            bail!("root file system {shown} is empty: unpack an image into it first");
        }
        let bar = Bar::new();
        let image = self.cache.image_for_dir(directory, &bar);
        let image = image.with_context(|| format!("cannot build an image of {shown}"))?;
        Ok(Image::new(image, None))
    }

    /// Imports an OCI layout or an archive, and names it.
    ///
    /// # Errors
    /// If it is damaged or hostile, or the cache cannot be written.
    pub(crate) fn import(&self, archive: &Path, name: Option<&str>) -> Result<Image> {
        let bar = Bar::new();
        let named = self.cache.import_archive(archive, &Select::default(), name, &bar);
        let named = named.with_context(|| format!("cannot import {}", archive.display()))?;
        Ok(named.into())
    }

    /// Names an image.
    ///
    /// # Errors
    /// If the name is not valid, or the cache cannot be written.
    pub(crate) fn tag(&self, name: &str, image: &Image) -> Result<()> {
        let digest = image.digest.parse().ok().context("image digest is not one")?;
        Ok(self.cache.tag(name, &digest, image.config.clone())?)
    }

    /// Lists the images.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub(crate) fn list(&self) -> Result<Vec<ImageInfo>> {
        Ok(self.cache.list()?)
    }

    /// Removes an image or a name.
    ///
    /// # Errors
    /// If there is none, or it is in use.
    pub(crate) fn remove(&self, name: &str) -> Result<Removed> {
        Ok(self.cache.remove(name)?)
    }

    /// Removes what has no name and is not in use; returns the bytes freed.
    ///
    /// # Errors
    /// If the cache cannot be changed.
    pub(crate) fn prune(&self) -> Result<u64> {
        Ok(self.cache.prune()?)
    }
}

/// Tells whether a directory is an OCI layout rather than a root file system.
pub(crate) fn is_layout(directory: &Path) -> bool {
    directory.join("oci-layout").is_file() && directory.join("index.json").is_file()
}

impl Image {
    fn new(image: CachedImage, config: Option<ImageConfiguration>) -> Self {
        Self {
            digest: image.digest.to_string(),
            size_bytes: image.size_bytes,
            file: image.file,
            report: image.report,
            config,
        }
    }
}

impl From<NamedImage> for Image {
    fn from(named: NamedImage) -> Self {
        Self::new(named.image, named.config)
    }
}

/// A progress bar on stderr, which appears when a phase takes long enough to be seen, and only on a
/// terminal.
struct Bar {
    bar: ProgressBar,
    phase: Mutex<Option<Phase>>,
}

impl Bar {
    fn new() -> Self {
        let target = if stderr().is_terminal() {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self { bar: ProgressBar::with_draw_target(None, target), phase: Mutex::new(None) }
    }

    fn begin(&self, phase: Phase, has_total: bool) {
        let (name, template) = match (phase, has_total) {
            (Phase::Scan, _) => ("scanning", "{msg} {human_pos} files {spinner}"),
            (Phase::Verify, true) => ("verifying", BYTES_OF_TOTAL),
            (Phase::Unpack, true) => ("unpacking", BYTES_OF_TOTAL),
            (Phase::Write, true) => ("writing", BYTES_OF_TOTAL),
            (Phase::Verify, false) => ("verifying", BYTES),
            (Phase::Unpack, false) => ("unpacking", BYTES),
            (Phase::Write, false) => ("writing", BYTES),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_message(name);
        self.bar.reset();
    }
}

const BYTES_OF_TOTAL: &str = "{msg:>9} {wide_bar} {bytes}/{total_bytes} {eta}";
const BYTES: &str = "{msg:>9} {bytes} {spinner}";

impl Progress for Bar {
    fn update(&self, phase: Phase, done: u64, total: u64) {
        if self.bar.is_hidden() {
            return;
        }
        if let Ok(mut current) = self.phase.lock()
            && current.replace(phase) != Some(phase)
        {
            self.begin(phase, total > 0);
        }
        if total > 0 {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
