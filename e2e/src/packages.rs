// SPDX-License-Identifier: Apache-2.0
//! Debian packages, downloaded and unpacked but not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{command, paths};

const PATIENCE: Duration = Duration::from_secs(600);

/// Downloads packages, unless they are in the cache, and returns their files.
pub(crate) fn download(packages: &[&str]) -> Result<Vec<PathBuf>> {
    let folder = paths::cache().join("packages");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut missing = Vec::new();
    for package in packages {
        if find(&folder, package)?.is_none() {
            missing.push(*package);
        }
    }
    if !missing.is_empty() {
        get(&folder, &missing)?;
    }
    packages
        .iter()
        .map(|package| {
            find(&folder, package)?.with_context(|| format!("apt-get download {package}: no file"))
        })
        .collect()
}

fn get(folder: &Path, packages: &[&str]) -> Result<()> {
    let mut get = Command::new("apt-get");
    get.args(["download", "-qq"]).args(packages).current_dir(folder);
    if let Err(first) = command::must(&mut get, PATIENCE) {
        // The lists may be missing, or older than the archive.
        command::must(Command::new("apt-get").args(["update", "-qq"]), PATIENCE)
            .context("update the package lists")?;
        command::must(&mut get, PATIENCE).with_context(|| format!("after {first}"))?;
    }
    Ok(())
}

fn find(folder: &Path, package: &str) -> Result<Option<PathBuf>> {
    let prefix = format!("{package}_");
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(&prefix) && name.ends_with(".deb") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Unpacks a package into a directory.  Symlinks to directories that are there stay (`/bin` of a
/// merged `/usr`).
pub(crate) fn unpack(package: &Path, into: &Path) -> Result<()> {
    let script = r#"dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2""#;
    let mut unpack = Command::new("bash");
    unpack.args(["-o", "pipefail", "-c", script, "unpack"]).arg(package).arg(into);
    command::must(&mut unpack, PATIENCE)?;
    Ok(())
}

/// Returns the name of the package that a meta package such as `linux-image-amd64` stands for.
pub(crate) fn dependency(meta: &str, prefix: &str) -> Result<String> {
    let mut depends = Command::new("apt-cache");
    let mut text = command::must(depends.args(["depends", meta]), PATIENCE)?;
    if text.trim().is_empty() {
        command::must(Command::new("apt-get").args(["update", "-qq"]), PATIENCE)?;
        text = command::must(&mut depends, PATIENCE)?;
    }
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    match names.into_iter().find(|name| name.starts_with(prefix)) {
        Some(name) => Ok(name.to_owned()),
        None => bail!("apt-cache depends {meta} names no {prefix}"),
    }
}
