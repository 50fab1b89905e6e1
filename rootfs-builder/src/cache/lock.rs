// SPDX-License-Identifier: Apache-2.0
//! Locks by file: they end with their holder, however it ends.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::CacheError;

/// The right to build one image; held by one thread of one process on the node.
#[derive(Debug)]
pub(super) struct BuildLock {
    path: PathBuf,
    _file: File,
}

impl BuildLock {
    /// Waits for the lock file at `path`.
    pub(super) fn acquire(path: &Path) -> Result<Self, CacheError> {
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
                .map(File::from)
                .map_err(CacheError::io("open lock file", path))?;
            wait(&file, FlockOperation::LockExclusive, path)?;
            // Its last holder removed it while we waited: that lock excludes nobody any more.
            if is_linked(&file, path)? {
                return Ok(Self { path: path.into(), _file: file });
            }
        }
    }
}

/// How old an unfinished replacement must be for its writer to be gone.
const STALE: std::time::Duration = std::time::Duration::from_secs(60);

/// Removes what killed processes left in `dir`: lock files that nobody holds, and replacements of
/// small files (`names::replace`) that were not finished.
pub(super) fn remove_abandoned(dir: &Path) -> Result<(), CacheError> {
    for entry in std::fs::read_dir(dir).map_err(CacheError::io("list", dir))? {
        let path = entry.map_err(CacheError::io("list", dir))?.path();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        if extension.starts_with("new-") {
            let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
            if modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > STALE)) {
                let _ = std::fs::remove_file(&path);
            }
        }
        if extension != "lock" {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        if try_exclusive(&file, &path)? && is_linked(&file, &path)? {
            // Held while it is removed, as in `drop`.
            let _ = rustix::fs::unlink(&path);
        }
    }
    Ok(())
}

impl Drop for BuildLock {
    fn drop(&mut self) {
        // Still held here, so nobody can be between opening and checking a newer file.
        // A failure leaves an empty file that the next builder uses.
        let _ = rustix::fs::unlink(&self.path);
    }
}

/// Locks `file`, and waits for it.
pub(super) fn wait(file: &File, operation: FlockOperation, path: &Path) -> Result<(), CacheError> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::INTR) => {}
            other => return other.map_err(CacheError::io("lock", path)),
        }
    }
}

/// Locks `file` exclusively if nobody holds it.
pub(super) fn try_exclusive(file: &File, path: &Path) -> Result<bool, CacheError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(CacheError::io("lock", path)(errno)),
    }
}

/// Says whether `file` still has a name.
pub(super) fn is_linked(file: &File, path: &Path) -> Result<bool, CacheError> {
    let stat = rustix::fs::fstat(file).map_err(CacheError::io("read metadata of", path))?;
    Ok(stat.st_nlink > 0)
}
