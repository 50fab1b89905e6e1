// SPDX-License-Identifier: Apache-2.0
//! Extended attributes of host files, for every kind of file.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::io::Errno;

use super::Xattrs;

/// The kernel's limit of one value (`XATTR_SIZE_MAX`), and of the list of names.
const XATTR_MAX_BYTES: usize = 65_536;
/// Most files have no attribute, or only a few short ones.
const FIRST_TRY_BYTES: usize = 256;

/// Says whether `name` is overlayfs's own bookkeeping, which no merged tree may show.
pub(crate) fn is_overlay_private(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Names `name` in `dir` by a path that works for every kind of file.
///
/// Devices, sockets and links cannot be opened for `fgetxattr`, and `O_PATH` descriptors are
/// refused by it.  Through `/proc/self/fd` the lookup starts at our descriptor, and the `l` calls do
/// not follow the last component: the same promise as `openat(O_NOFOLLOW)`.
fn proc_path(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(name);
    path
}

/// Reads all extended attributes of `name` in `dir` (`.` for the directory itself).
///
/// A file system without extended attributes has none.
pub(super) fn read_all(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Xattrs, Errno> {
    let path = proc_path(dir, name);
    let mut list = vec![0; FIRST_TRY_BYTES];
    let used = loop {
        match rustix::fs::llistxattr(&path, list.as_mut_slice()) {
            Ok(used) => break used,
            Err(Errno::RANGE) if list.len() < XATTR_MAX_BYTES => list.resize(XATTR_MAX_BYTES, 0),
            Err(Errno::NOTSUP) => return Ok(Xattrs::new()),
            Err(errno) => return Err(errno),
        }
    };

    let mut xattrs = Xattrs::new();
    for key in list[..used].split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
        if let Some(value) = read_path(&path, key)? {
            xattrs.insert(key.to_vec(), value);
        }
    }
    Ok(xattrs)
}

fn read_path(path: &PathBuf, key: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; FIRST_TRY_BYTES];
    loop {
        match rustix::fs::lgetxattr(path, OsStr::from_bytes(key), value.as_mut_slice()) {
            Ok(used) => {
                value.truncate(used);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) if value.len() < XATTR_MAX_BYTES => value.resize(XATTR_MAX_BYTES, 0),
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}
