// SPDX-License-Identifier: Apache-2.0
//! The files of the source tree.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

/// Returns the files under version control, and those that will be (not ignored), relative to the
/// current directory.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .output()
        .context("run git ls-files")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let names = String::from_utf8(output.stdout).context("file names that are not UTF-8")?;
    let files = names.split_terminator('\0').map(PathBuf::from);
    Ok(files.filter(|file| file.is_file()).collect())
}
