// SPDX-License-Identifier: Apache-2.0
//! Errors of reading a source tree.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a source tree could not be read.
#[derive(Debug, Error)]
pub enum TreeError {
    /// The root directory does not exist.
    #[error("root file system {path:?} does not exist; create it or mount it first")]
    Missing {
        /// The directory asked for.
        path: PathBuf,
    },
    /// The root is not a directory.
    #[error("root file system {path:?} is not a directory")]
    NotDirectory {
        /// The path asked for.
        path: PathBuf,
    },
    /// The root directory has no entries.
    #[error("root file system {path:?} is empty; unpack an image into it first")]
    Empty {
        /// The directory asked for.
        path: PathBuf,
    },
    /// A system call on the source failed.
    #[error("{action} {path:?}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// On which file, relative to nothing: as the caller named its root.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file became shorter, or another file, between the walk and the copy.
    #[error(
        "file {path:?} changed while the image was being built; build again when it is at rest"
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The mounts are not of a kind that can be read without mounting.
    #[error("mount of type {kind:?} from {origin:?} cannot be read: {reason}")]
    UnsupportedMount {
        /// The mount's type.
        kind: String,
        /// The mount's source.
        origin: String,
        /// What is not supported, and what to do instead.
        reason: String,
    },
    /// An overlay layer uses a feature whose result cannot be seen without mounting it.
    #[error(
        "overlay layer entry {path:?} uses {feature}, which only a mounted overlay can resolve; \
         mount it and build from the mounted directory"
    )]
    UnsupportedOverlay {
        /// The entry.
        path: PathBuf,
        /// The overlay feature.
        feature: &'static str,
    },
    /// The tree has more entries than allowed.
    #[error("tree has more than {limit} entries; raise the limit if that is intended")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// A path is longer or deeper than allowed.
    #[error("path {path:?} is too deep or too long (limits: {max_depth} names, 4095 bytes)")]
    PathTooLong {
        /// The path, shortened.
        path: PathBuf,
        /// The limit of names in a path.
        max_depth: usize,
    },
}
