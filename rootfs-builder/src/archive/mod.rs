// SPDX-License-Identifier: Apache-2.0
//! Image archives: an OCI layout (a directory, or a tar of one) and `docker save`, old and new.
//!
//! An archive is hostile until proven otherwise.  Digests are verified before a blob is parsed (for
//! old `docker save` archives, which have none for packed layers: while it is), each size, count
//! and depth has a bound ([`Limits`]), and no name from an archive is ever used on the host.

mod blobs;
mod compression;
mod error;
mod layer;
mod limits;
mod manifest;
mod tar;

use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;

pub use self::error::ArchiveError;
pub use self::limits::Limits;
pub use self::manifest::Select;

use self::blobs::Blobs;
use self::layer::{Builder, LayerInput, Spool};
use self::limits::Meter;
use self::manifest::Found;
use self::tar::TarReader;
use crate::progress::{Phase, Progress};
use crate::tree::Tree;

const BUFFER_BYTES: usize = 256 << 10;

/// An image in an archive: its configuration is read, its layers are not.
#[derive(Debug)]
pub struct Archive {
    blobs: Blobs,
    found: Found,
    spool_dir: PathBuf,
    limits: Limits,
}

impl Archive {
    /// Opens the image that `select` means of the archive at `path`.
    ///
    /// Unpacked data goes to files without a name in `spool_dir`, which must have room for it.
    ///
    /// # Errors
    /// The archive is no image archive, is damaged, has no image for linux/amd64 or none or
    /// several that `select` means.
    pub fn open(
        path: &Path,
        select: &Select,
        spool_dir: &Path,
        limits: &Limits,
    ) -> Result<Self, ArchiveError> {
        let blobs = Blobs::open(path, spool_dir, limits)?;
        let found = manifest::find(&blobs, select, limits)?;
        Ok(Self { blobs, found, spool_dir: spool_dir.into(), limits: limits.clone() })
    }

    /// Returns what names this image's content: the digest of its manifest or configuration.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.found.id
    }

    /// Returns how the image wants to be run.
    #[must_use]
    pub fn config(&self) -> &ImageConfiguration {
        &self.found.config
    }

    /// Returns how the image wants to be run.
    #[must_use]
    pub fn into_config(self) -> ImageConfiguration {
        self.found.config
    }

    /// Unpacks the layers, the lowest first, into a tree.
    ///
    /// # Errors
    /// A layer is damaged or hostile, exceeds a limit, or the spool cannot be written.
    pub fn unpack(&self, progress: &dyn Progress) -> Result<Tree, ArchiveError> {
        let mut blobs = Vec::new();
        let mut total = 0;
        for layer in &self.found.layers {
            // Also verifies; a second reading of the same bytes comes from the page cache.
            let blob = layer.blob.open(&self.blobs)?;
            total += blob.len();
            blobs.push(blob);
            progress.update(Phase::Verify, total, 0);
        }
        let mut done = 0;
        let mut left_bytes = self.limits.max_unpacked_bytes;
        let mut builder = Builder::new(Spool::new(self.spool_dir.clone())?, &self.limits);
        for (layer, blob) in self.found.layers.iter().zip(&blobs) {
            let what = layer.blob.name();
            let read_error = |error| ArchiveError::read(&what, error);
            let compression = blob.compression(self.blobs.path())?;
            let reader = blob.reader();
            let position = reader.shared_position();
            let input = compression::decoder(compression, reader).map_err(read_error)?;
            let meter = Meter::new(input, &self.limits, blob.len(), left_bytes);
            let mut tar = TarReader::new(BufReader::with_capacity(BUFFER_BYTES, meter), &what);
            builder.apply(&mut tar, || {
                progress.update(Phase::Unpack, done + position.get(), total);
            })?;

            // The rest (zeros, as a rule) belongs to the digest, too.
            let (mut input, _): (LayerInput<'_>, _) = tar.into_parts();
            io::copy(&mut input, &mut io::sink()).map_err(read_error)?;
            let meter = input.into_inner();
            left_bytes -= meter.bytes();
            let found = meter.digest();
            if found != layer.diff_id {
                let expected = layer.diff_id.clone();
                return Err(ArchiveError::WrongDigest { what, expected, found });
            }
            done += blob.len();
            progress.update(Phase::Unpack, done, total);
        }
        Ok(builder.tree)
    }
}
