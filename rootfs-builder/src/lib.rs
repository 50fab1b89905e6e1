// SPDX-License-Identifier: Apache-2.0
//! Turns a container's root file system into a read-only EROFS image.
#![forbid(unsafe_code)]

pub mod archive;
mod build;
pub mod cache;
pub mod erofs;
mod progress;
pub mod tree;

pub use self::archive::{Archive, ArchiveError, Limits, Select};
pub use self::build::{BuildError, build_from_dir};
pub use self::cache::{Cache, CacheError, CachedImage, ImageInfo, NamedImage, Removed};
pub use self::erofs::{BuildReport, ImageDigest, WriteError};
pub use self::progress::{Phase, Progress, Quiet};
pub use self::tree::{Boundary, Mount, Tree, TreeError, WalkOptions};
