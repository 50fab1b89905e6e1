// SPDX-License-Identifier: Apache-2.0
//! From a source to an image in one call.

use std::fs::File;
use std::path::Path;

use thiserror::Error;

use crate::erofs::{self, BuildReport, WriteError};
use crate::progress::Progress;
use crate::tree::{Tree, TreeError, WalkOptions};

/// Why an image could not be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The source cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The image cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Writes the tree below the directory `root` into the empty file `out`.
///
/// # Errors
/// See [`Tree::from_dir`] and [`erofs::write`].
pub fn build_from_dir(
    root: &Path,
    out: &File,
    options: &WalkOptions,
    progress: &dyn Progress,
) -> Result<BuildReport, BuildError> {
    let tree = Tree::from_dir(root, options, progress)?;
    Ok(erofs::write(&tree, out, progress)?)
}
