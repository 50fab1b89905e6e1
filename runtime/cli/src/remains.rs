// SPDX-License-Identifier: Apache-2.0
//! Removing what processes that died left behind, with nothing but what is on disk.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::store::{Directory, Record};

/// How long the host may take to empty the cgroups of processes that were killed.
const CGROUP_DEADLINE: Duration = Duration::from_secs(2);

/// Removes what a dead holder left: the VMM, should it live on, its cgroups, the directory.
///
/// # Errors
/// If something cannot be removed.
pub(crate) fn remove_remains(directory: &Directory, record: &Record) -> Result<()> {
    record.vmm.kill();
    remove_cgroups(&record.cgroups)?;
    directory.remove()
}

/// Removes cgroups; fine if they are gone already.
///
/// # Errors
/// If there are processes in them.
pub(crate) fn remove_cgroups(paths: &[PathBuf]) -> Result<()> {
    paths.iter().try_for_each(|path| remove_cgroup(path))
}

fn remove_cgroup(path: &Path) -> Result<()> {
    let deadline = Instant::now() + CGROUP_DEADLINE;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                if Instant::now() > deadline {
                    bail!("cgroup {} still has processes: end them first", path.display());
                }
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot remove cgroup {}", path.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn remove_cgroups_takes_what_is_there_and_no_more() {
        let scratch = TempDir::new().expect("scratch directory");
        let (there, gone) = (scratch.path().join("there"), scratch.path().join("gone"));
        fs::create_dir(&there).expect("mkdir");
        remove_cgroups(&[gone.clone(), there.clone()]).expect("removed");
        assert!(!there.exists());

        // A directory with files is no empty cgroup: only rmdir is ever used on it.
        fs::create_dir(&there).expect("mkdir");
        fs::write(there.join("file"), "").expect("write");
        let error =
            format!("{:#}", remove_cgroups(std::slice::from_ref(&there)).expect_err("not empty"));
        assert!(error.contains("there") && there.join("file").exists(), "{error}");
    }
}
