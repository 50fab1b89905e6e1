// SPDX-License-Identifier: Apache-2.0
//! `trine image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build an image from a directory, an OCI layout or a `docker save` archive
    Build(ImageBuildArgs),
    /// List the images
    #[command(visible_alias = "list")]
    Ls(ImageListArgs),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(ImageRemoveArgs),
    /// Remove images that have no name and are not in use
    Prune(ImagePruneArgs),
}

/// `trine image build`.
#[derive(Args, Debug)]
pub(crate) struct ImageBuildArgs {
    /// Name to give the image
    #[arg(short, long, value_name = "NAME")]
    pub(crate) tag: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// A root file system directory, an OCI layout (directory or tar), or a `docker save` archive
    #[arg(value_name = "DIR|ARCHIVE")]
    pub(crate) source: PathBuf,
}

/// `trine image ls`.
#[derive(Args, Debug)]
pub(crate) struct ImageListArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `trine image rm`.
#[derive(Args, Debug)]
pub(crate) struct ImageRemoveArgs {
    /// Names or digests
    #[arg(value_name = "NAME|DIGEST", required = true)]
    pub(crate) images: Vec<String>,
}

/// `trine image prune`.
#[derive(Args, Debug)]
pub(crate) struct ImagePruneArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
