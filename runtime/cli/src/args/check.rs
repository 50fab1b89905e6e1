// SPDX-License-Identifier: Apache-2.0
//! Arguments of `check`.

use std::path::PathBuf;

use clap::Args;

/// `trine check`.
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// A program of this host, or an image: a name, a root file system directory, an OCI layout or
    /// an archive
    #[arg(value_name = "IMAGE|BINARY")]
    pub(crate) subject: PathBuf,
    /// Check only this program of the image; may be given several times
    #[arg(long = "program", value_name = "PATH")]
    pub(crate) programs: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
