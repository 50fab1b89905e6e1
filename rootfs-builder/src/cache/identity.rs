// SPDX-License-Identifier: Apache-2.0
//! Recognises a source that was built before, without reading its data.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::tree::{Boundary, HostDir, HostRoot, Layering, Plan, TreeError, WalkOptions};
use crate::tree::{io_error, names_in, stat_at, stat_fd};

/// Version of what is hashed and of what images have; a change forgets all keys.
const DOMAIN: &[u8] = b"trine image source v2\0";
/// Magic number of overlayfs (`OVERLAYFS_SUPER_MAGIC`).
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
/// A file changed twice within one tick of the kernel's clock has the same change time both times;
/// this is more than the longest tick (10 ms).
const TICK: Duration = Duration::from_millis(50);

/// Names a state of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(pub(super) [u8; 32]);

/// A source, and the name of its state.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) key: Key,
    /// What to read: as asked for, without an upper directory that changes nothing.
    pub(super) plan: Plan,
    /// False when the source changed so recently that its next change might not show.
    pub(super) settled: bool,
}

impl Identity {
    /// Looks at the source.
    ///
    /// The lower directories of an overlay are taken by the identity of their top (path, device,
    /// inode, change and modification time): containerd's contract says that a committed snapshot
    /// never changes.  All other directories are walked, and the metadata of every file counts.
    pub(super) fn of(mut plan: Plan, options: &WalkOptions) -> Result<Self, TreeError> {
        let mut hash = Hasher { sha: Sha256::new_with_prefix(DOMAIN), newest: (0, 0) };
        hash.bytes(if options.boundary == Boundary::Stay { b"stay" } else { b"cross" });
        if plan.layering == Layering::Plain {
            hash.bytes(b"directory");
            for path in &plan.lowers {
                hash.walk(path)?;
            }
            return Ok(Self { key: hash.key(), settled: hash.is_settled(), plan });
        }

        hash.bytes(b"overlay");
        let tops = plan.lowers.iter().map(|path| stat(path)).collect::<Result<Vec<_>, _>>()?;
        for (path, top) in plan.lowers.iter().zip(&tops) {
            hash.bytes(path.as_os_str().as_bytes());
            hash.device(top);
            hash.stat(top);
        }
        let Some(upper) = plan.upper.take() else {
            return Ok(Self { key: hash.key(), settled: true, plan });
        };
        if adds_nothing(&upper, &tops[0])? {
            return Ok(Self { key: hash.key(), settled: true, plan });
        }
        hash.bytes(b"upper");
        hash.newest = (0, 0);
        hash.walk(&upper)?;
        plan.upper = Some(upper);
        Ok(Self { key: hash.key(), settled: hash.is_settled(), plan })
    }
}

impl Key {
    /// Names an archive's image by the digest of its manifest.
    pub(super) fn of_archive(manifest: &str) -> Self {
        let mut hash = Hasher { sha: Sha256::new_with_prefix(DOMAIN), newest: (0, 0) };
        hash.bytes(b"archive");
        hash.bytes(manifest.as_bytes());
        hash.key()
    }
}

/// Says whether an upper directory leaves the merged tree as the lower ones make it, but for the
/// root's modification time: containerd makes a new, empty one for each container, and that must not
/// make a new image.
fn adds_nothing(upper: &Path, top: &Statx) -> Result<bool, TreeError> {
    let root = HostRoot::open(upper)?;
    let dir = HostDir::top(root).open()?;
    let error = |action| move |errno| io_error(action, upper.into(), errno);
    let stat = stat_fd(dir.as_fd()).map_err(error("read metadata of"))?;
    let same =
        (stat.stx_mode, stat.stx_uid, stat.stx_gid) == (top.stx_mode, top.stx_uid, top.stx_gid);
    if !same || !names_in(&dir).map_err(error("list directory"))?.is_empty() {
        return Ok(false);
    }
    match rustix::fs::flistxattr(&dir, &mut [0_u8; 0][..]) {
        Ok(bytes) => Ok(bytes == 0),
        Err(Errno::NOTSUP) => Ok(true),
        Err(errno) => Err(error("read extended attributes of")(errno)),
    }
}

fn stat(path: &Path) -> Result<Statx, TreeError> {
    match rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS) {
        Ok(stat) if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory => {
            Ok(stat)
        }
        Ok(_) | Err(Errno::NOTDIR) => Err(TreeError::NotDirectory { path: path.into() }),
        Err(Errno::NOENT) => Err(TreeError::Missing { path: path.into() }),
        Err(errno) => Err(io_error("read metadata of", path.into(), errno)),
    }
}

struct Hasher {
    sha: Sha256,
    /// The latest change time seen.
    newest: (i64, u32),
}

impl Hasher {
    /// Adds `bytes`, so that no two sequences look the same.
    fn bytes(&mut self, bytes: &[u8]) {
        self.sha.update((bytes.len() as u64).to_le_bytes());
        self.sha.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.sha.update(number.to_le_bytes());
    }

    fn device(&mut self, stat: &Statx) {
        self.number(u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor));
    }

    /// Adds what a file's data and metadata cannot change without.
    ///
    /// The change time stands for all that has no place here (extended attributes).
    fn stat(&mut self, stat: &Statx) {
        let changed = (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec);
        self.newest = self.newest.max(changed);
        for number in [
            u64::from(stat.stx_mode),
            u64::from(stat.stx_uid) << 32 | u64::from(stat.stx_gid),
            u64::from(stat.stx_rdev_major) << 32 | u64::from(stat.stx_rdev_minor),
            stat.stx_ino,
            stat.stx_size,
            stat.stx_mtime.tv_sec as u64,
            u64::from(stat.stx_mtime.tv_nsec),
            changed.0 as u64,
            u64::from(changed.1),
        ] {
            self.number(number);
        }
    }

    /// Adds the metadata of everything below `path`.
    fn walk(&mut self, path: &Path) -> Result<(), TreeError> {
        let root = HostDir::top(HostRoot::open(path)?);
        let fd = root.open()?;
        let error = |errno| io_error("read metadata of", path.into(), errno);
        let on_overlay = rustix::fs::fstatfs(&fd).map_err(error)?.f_type as u64 == OVERLAYFS_MAGIC;
        self.bytes(path.as_os_str().as_bytes());
        let top = stat_fd(fd.as_fd()).map_err(error)?;
        if !on_overlay {
            self.device(&top);
        }
        self.entry(OsStr::new("."), top, on_overlay);

        let mut todo = vec![Arc::new(root)];
        while let Some(dir) = todo.pop() {
            let fd = dir.open()?;
            let error = |action| {
                let dir = &dir;
                move |errno| io_error(action, dir.path(), errno)
            };
            let mut names = names_in(&fd).map_err(error("list directory"))?;
            names.sort_unstable();
            self.number(names.len() as u64);
            for name in names {
                let stat = stat_at(fd.as_fd(), &name).map_err(error("read metadata in"))?;
                self.entry(&name, stat, on_overlay);
                if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
                    todo.push(Arc::new(dir.child(&name)));
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &OsStr, mut stat: Statx, on_overlay: bool) {
        self.bytes(name.as_bytes());
        if on_overlay && FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
            // Overlayfs numbers merged directories anew at each mount.
            stat.stx_ino = 0;
        }
        self.stat(&stat);
    }

    fn key(&self) -> Key {
        Key(self.sha.clone().finalize().into())
    }

    fn is_settled(&self) -> bool {
        let (seconds, nanoseconds) = self.newest;
        let newest = UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds);
        SystemTime::now().duration_since(newest).is_ok_and(|age| age > TICK)
    }
}
