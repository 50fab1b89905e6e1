// SPDX-License-Identifier: Apache-2.0
//! Errors of the image cache.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::archive::ArchiveError;
use crate::erofs::WriteError;
use crate::tree::TreeError;

/// Why the cache could not do what was asked.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The source of an image cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The image cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A system call on the cache's own files failed.
    #[error("{action} {path:?}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// On which file of the cache.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No image has that name or digest.
    #[error("no image {name:?} in the cache; `trine image ls` lists what is there")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// The image runs somewhere.
    #[error("image {name:?} is in use by a container; remove the container first")]
    InUse {
        /// What was asked for.
        name: String,
    },
    /// Several images begin with these digits.
    #[error("digest {name:?} is ambiguous; give more digits")]
    Ambiguous {
        /// What was asked for.
        name: String,
    },
    /// A name that cannot be given to an image.
    #[error("image name {name:?} is not valid: 1 to 255 printable ASCII characters, no spaces")]
    BadName {
        /// The name.
        name: String,
    },
}

impl CacheError {
    /// Returns a function that makes a [`CacheError::Io`].
    pub(super) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source: source.into() }
    }
}
