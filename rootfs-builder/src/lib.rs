// SPDX-License-Identifier: Apache-2.0
//! Turns a container's root file system into a read-only EROFS image that the guest kernel maps
//! page by page, and keeps the node's images.
//!
//! A source becomes a [`Tree`]: all the metadata, with references to file contents.  Sources are a
//! directory, containerd's mounts (read without mounting them) and an image [`Archive`].
//! [`erofs::write`] streams a tree into an image; [`erofs`] says exactly which part of the format is
//! used.  [`Cache`] does both, once for each state of a source, and hands out images that are held
//! against eviction as long as their file is open.
//!
//! ```no_run
//! use std::path::Path;
//! use trine_rootfs_builder::{Cache, Mount, Quiet, cache};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let images = Cache::open(Path::new(cache::DEFAULT_DIR), 32 << 30)?;
//! let mount = Mount {
//!     kind: "overlay".into(),
//!     source: "overlay".into(),
//!     options: vec!["lowerdir=/snapshots/2/fs:/snapshots/1/fs".into()],
//! };
//! let image = images.image_for_mounts(&[mount], &Quiet)?;
//! // `image.file` goes to the VMM, whose copy of the descriptor keeps the image in the cache.
//! println!("{} has {} bytes", image.digest, image.size_bytes);
//! # Ok(())
//! # }
//! ```
//!
//! Trust: a source directory may hold any names, links and attributes, and is read by descriptor,
//! following nothing; an archive may hold anything at all.  Neither can make this crate touch a
//! host path of its choosing, nor use more memory or disk than the limits allow.
//!
//! | module | |
//! | --- | --- |
//! | [`tree`] | sources that are directories; overlayfs's whiteouts and opaque directories |
//! | [`archive`] | OCI layouts and `docker save`; digests, layers, limits |
//! | [`erofs`] | the image format |
//! | [`text`] | programs whose system calls need no trap |
//! | [`cache`] | images by content, sources by state, names, eviction |
#![forbid(unsafe_code)]

pub mod archive;
mod build;
pub mod cache;
pub mod erofs;
mod progress;
pub mod text;
pub mod tree;

pub use self::archive::{Archive, ArchiveError, Limits, Select};
pub use self::build::{BuildError, build_from_dir};
pub use self::cache::{Cache, CacheError, CachedImage, ImageInfo, NamedImage, Removed};
pub use self::erofs::{BuildReport, ImageDigest, WriteError};
pub use self::progress::{Phase, Progress, Quiet};
pub use self::tree::{Boundary, Mount, Tree, TreeError, WalkOptions};
