// SPDX-License-Identifier: Apache-2.0
//! Where everything lives that must be gone at the end: a private mount namespace, and a directory.

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// Set in the process that has its own mount namespace.
const MARK: &str = "TRINE_BENCH_NAMESPACE";

/// Runs this program anew in a mount namespace of its own, so that no mount can outlive it, not even
/// if it is killed.  Returns if it is in one.
///
/// # Errors
/// If that fails.
pub(crate) fn enter_namespace() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("containers, mounts and memory accounting need root: run it with sudo");
    }
    let own = fs::read_link("/proc/self/ns/mnt").context("cannot tell the mount namespace")?;
    match env::var_os(MARK) {
        // Compared, as the variable alone may have been inherited from another bench.
        Some(outer) if outer != own.as_os_str() => return Ok(()),
        _ => {}
    }
    let program = env::current_exe().context("cannot tell which program this is")?;
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(program)
        .args(env::args_os().skip(1))
        .env(MARK, own)
        .exec();
    Err(error).context("cannot run unshare (package util-linux)")
}

/// A directory of this run's own.
#[derive(Debug)]
pub(crate) struct Scratch {
    directory: TempDir,
    is_mounted: bool,
    name: String,
}

impl Scratch {
    /// Makes the directory: a tmpfs, or on the file system of `parent`.
    ///
    /// # Errors
    /// If the host refuses.
    pub(crate) fn make(parent: Option<&Path>) -> Result<Self> {
        let name = format!("trine-bench-{}", std::process::id());
        let place = parent.map_or_else(env::temp_dir, Path::to_owned);
        let directory = tempfile::Builder::new()
            .prefix("trine-bench-")
            .tempdir_in(&place)
            .with_context(|| format!("cannot make a directory in {}", place.display()))?;
        let mut scratch = Self { directory, is_mounted: false, name };
        if parent.is_none() {
            mount("trine-bench", scratch.path(), "tmpfs", MountFlags::empty(), Some(c"mode=0755"))
                .context("cannot mount a tmpfs")?;
            scratch.is_mounted = true;
        }
        Ok(scratch)
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A name that no other run has: the containerd namespace, and the parent of all cgroups.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes a directory inside.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir_all(&path)
            .with_context(|| format!("cannot make directory {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Containerd and the runtimes mount things inside.
        for point in mount_points().into_iter().rev() {
            if point.starts_with(self.path()) && point != self.path() {
                let _ = unmount(&point, UnmountFlags::DETACH);
            }
        }
        if self.is_mounted
            && let Err(error) = unmount(self.path(), UnmountFlags::DETACH)
        {
            eprintln!("bench: cannot unmount {}: {error}", self.path().display());
        }
    }
}

/// Mount points, in the order in which they were mounted.
fn mount_points() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(mount_point).collect()
}

/// Mount point of a line of `/proc/self/mountinfo`.  Our own paths need no unescaping.
fn mount_point(line: &str) -> Option<PathBuf> {
    line.split(' ').nth(4).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_line_gives_its_point() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";

        assert_eq!(mount_point(line), Some(PathBuf::from("/mnt2")));
        assert_eq!(mount_point("nonsense"), None);
    }

    #[test]
    fn scratch_on_a_file_system_leaves_nothing() {
        let parent = tempfile::tempdir().expect("a directory can be made");
        let scratch = Scratch::make(Some(parent.path())).expect("a scratch can be made");
        let inside = scratch.directory("a/b").expect("a directory can be made in it");
        fs::write(inside.join("file"), "x").expect("a file can be written");

        drop(scratch);

        assert_eq!(fs::read_dir(parent.path()).expect("it is there").count(), 0);
    }
}
