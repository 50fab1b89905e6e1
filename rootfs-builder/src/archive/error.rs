// SPDX-License-Identifier: Apache-2.0
//! Errors of reading an image archive.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why an image archive was refused.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The archive, or the spool file beside the cache, cannot be used.
    #[error("{action} {path:?}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// On which host file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file or directory is no image.
    #[error(
        "{path:?} is no image archive: it has neither index.json (an OCI layout) nor manifest.json \
         (docker save)"
    )]
    NotAnImage {
        /// What was asked for.
        path: PathBuf,
    },
    /// Data ends too early.
    #[error("{what} is truncated; fetch the archive again")]
    Truncated {
        /// Which part.
        what: String,
    },
    /// Data is not what its digest says.
    #[error("{what} has digest {found}, not {expected}; fetch the archive again")]
    WrongDigest {
        /// Which part.
        what: String,
        /// The digest that it should have.
        expected: String,
        /// The digest that it has.
        found: String,
    },
    /// A part that the manifest names is not there.
    #[error("{what} is missing from the archive; fetch it again")]
    Missing {
        /// Which part.
        what: String,
    },
    /// A JSON document is malformed.
    #[error("{what} is not valid JSON of its kind")]
    Json {
        /// Which document.
        what: String,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A document or an archive breaks its format.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// Which part.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// Something that images may have and this reader does not support.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// What.
        what: String,
        /// The details, and what to do instead.
        reason: String,
    },
    /// A name in a layer that must not be used.
    #[error("layer entry {path:?} is refused: {reason}")]
    BadPath {
        /// The name.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A hard link to something that cannot be linked to.
    #[error("layer entry {path:?} is a hard link to {target:?}, {reason}")]
    BadLink {
        /// The name.
        path: String,
        /// The target.
        target: String,
        /// Why it cannot be.
        reason: &'static str,
    },
    /// The archive unpacks to more than is allowed.
    #[error("archive exceeds the limit of {limit} {unit}; raise the limit if the image is trusted")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// The image has no layers.
    #[error("image has no layers: there is no root file system in it")]
    NoLayers,
    /// No image for this machine.
    #[error("archive has no image for linux/amd64, only for: {found}")]
    NoPlatform {
        /// What it has.
        found: String,
    },
    /// No image has the name asked for.
    #[error("archive has no image {reference:?}, only: {available}")]
    NotFound {
        /// The name asked for.
        reference: String,
        /// What it has.
        available: String,
    },
    /// The archive has several images, and none was chosen.
    #[error("archive has several images, choose one: {available}")]
    Several {
        /// What it has.
        available: String,
    },
}

impl ArchiveError {
    /// Returns a function that makes an [`ArchiveError::Io`].
    pub(super) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source: source.into() }
    }

    pub(super) fn malformed(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Malformed { what: what.into(), reason: reason.into() }
    }

    /// Makes the error of a read from `what`; a limit that was hit travels inside `error`.
    pub(super) fn read(what: &str, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Truncated { what: what.into() };
        }
        match error.downcast::<Self>() {
            Ok(limit) => limit,
            Err(error) => Self::malformed(what, error.to_string()),
        }
    }
}
