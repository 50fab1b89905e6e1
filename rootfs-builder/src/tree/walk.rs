// SPDX-License-Identifier: Apache-2.0
//! Walks host directories, one or the layers of an overlay, into a [`Tree`].

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{FileType, Statx, StatxAttributes};
use rustix::io::Errno;

use super::host::{self, HostDir, HostRoot, Stamp};
use super::{Content, Inode, InodeId, Kind, Layering, Meta, Plan, ROOT, Source, Tree, TreeError};
use super::{is_overlay_private, xattrs};
use crate::progress::{Phase, Progress};

/// How many entries pass between two progress calls.
const PROGRESS_STEP: u64 = 256;

/// What to do at the mount point of another file system inside the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Boundary {
    /// Go on inside.
    #[default]
    Cross,
    /// Take the mount point as an empty directory.
    Stay,
}

/// How a directory tree is read.
#[derive(Clone, Debug)]
pub struct WalkOptions {
    /// What to do at mount points inside the tree.
    pub boundary: Boundary,
    /// The most entries a tree may have.
    pub max_entries: u64,
    /// The most names a path may have.
    pub max_depth: usize,
}

impl Default for WalkOptions {
    fn default() -> Self {
        Self { boundary: Boundary::Cross, max_entries: 2_000_000, max_depth: 1024 }
    }
}

/// Reads the tree that `plan` describes.
pub(super) fn walk(
    plan: &Plan,
    options: &WalkOptions,
    progress: &dyn Progress,
) -> Result<Tree, TreeError> {
    let roots = plan.layers().map(|path| HostRoot::open(path)).collect::<Result<Vec<_>, _>>()?;
    let dirs: Vec<_> = roots.iter().map(|r| Arc::new(HostDir::top(Arc::clone(r)))).collect();
    let top = dirs[0].open()?;
    let stat = host::stat_fd(top.as_fd())
        .map_err(|errno| host::io_error("read metadata of", dirs[0].path(), errno))?;
    let mut walker = Walker {
        tree: Tree::new(Meta::default()),
        links: HashMap::new(),
        layering: plan.layering,
        options,
        progress,
        entries: 0,
    };
    walker.tree.inodes[ROOT].meta = walker.meta(&dirs[0], top.as_fd(), OsStr::new("."), &stat)?;

    let mut todo = vec![(ROOT, dirs)];
    while let Some((id, dirs)) = todo.pop() {
        walker.fill(id, &dirs, &mut todo)?;
    }
    if walker.tree.entries(ROOT).is_some_and(BTreeMap::is_empty) {
        let path = roots[roots.len() - 1].path().into();
        return Err(TreeError::Empty { path });
    }
    progress.update(Phase::Scan, walker.entries, walker.entries);
    Ok(walker.tree)
}

/// A directory of the result, and the host directories that it merges, the top one first.
type Todo = (InodeId, Vec<Arc<HostDir>>);

/// What the layers seen so far say about a name.
enum Slot {
    /// The name is deleted in a layer above.
    Whiteout,
    /// A file that hides what is below it.
    File(InodeId),
    /// A directory; `open` while directories below may still be merged into it.
    Directory { id: InodeId, dirs: Vec<Arc<HostDir>>, open: bool },
}

struct Walker<'a> {
    tree: Tree,
    /// Files with several names, by device and inode.
    links: HashMap<(u64, u64), InodeId>,
    layering: Layering,
    options: &'a WalkOptions,
    progress: &'a dyn Progress,
    entries: u64,
}

/// What overlayfs's attributes say of a directory in a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opacity {
    Transparent,
    /// Hides the directories below it (`opaque=y`).
    Opaque,
    /// May hold whiteouts that are marked by an attribute (`opaque=x`).
    XattrWhiteouts,
}

impl Walker<'_> {
    /// Reads the merged children of `dirs` into directory `id`.
    fn fill(
        &mut self,
        id: InodeId,
        dirs: &[Arc<HostDir>],
        todo: &mut Vec<Todo>,
    ) -> Result<(), TreeError> {
        let mut slots = BTreeMap::<OsString, Slot>::new();
        for dir in dirs {
            let fd = dir.open()?;
            let opacity = self.opacity(dir, &fd)?;
            self.merge(dir, &fd, opacity, &mut slots)?;
            if opacity == Opacity::Opaque {
                break;
            }
        }

        let first = todo.len();
        for (name, slot) in slots {
            let child = match slot {
                Slot::Whiteout => continue,
                Slot::File(child) => child,
                Slot::Directory { id: child, dirs, .. } => {
                    if !dirs.is_empty() {
                        todo.push((child, dirs));
                    }
                    child
                }
            };
            let entries = self.tree.entries_mut(id).expect("only directories are filled");
            entries.insert(name.as_bytes().into(), child);
        }
        // The stack pops the last first: keep the order of names, so that inodes are numbered
        // (and later written) directory by directory.
        todo[first..].reverse();
        Ok(())
    }

    /// Adds one layer's directory below what `slots` has from the layers above.
    fn merge(
        &mut self,
        dir: &Arc<HostDir>,
        fd: &OwnedFd,
        opacity: Opacity,
        slots: &mut BTreeMap<OsString, Slot>,
    ) -> Result<(), TreeError> {
        let mut names = host::names_in(fd)
            .map_err(|errno| host::io_error("list directory", dir.path(), errno))?;
        // The host's order must not show in the image.
        names.sort_unstable();
        for name in names {
            if matches!(
                slots.get(&name),
                Some(Slot::Whiteout | Slot::File(_) | Slot::Directory { open: false, .. })
            ) {
                continue;
            }
            let stat = host::stat_at(fd.as_fd(), &name).map_err(|errno| match errno {
                Errno::NOENT => TreeError::Changed { path: dir.path_of(&name) },
                errno => host::io_error("read metadata of", dir.path_of(&name), errno),
            })?;
            let is_directory = kind_of(&stat) == FileType::Directory;
            match slots.get_mut(&name) {
                Some(Slot::Directory { dirs, .. }) if is_directory => {
                    dirs.push(Arc::new(dir.child(&name)));
                }
                Some(Slot::Directory { open, .. }) => *open = false,
                _ => {
                    let slot = self.slot(dir, fd.as_fd(), &name, &stat, opacity)?;
                    slots.insert(name, slot);
                }
            }
        }
        Ok(())
    }

    /// Makes the slot of a name that no layer above has.
    fn slot(
        &mut self,
        dir: &Arc<HostDir>,
        fd: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Statx,
        opacity: Opacity,
    ) -> Result<Slot, TreeError> {
        let overlay = self.layering == Layering::Overlay;
        if overlay && is_whiteout(fd, name, stat, opacity) {
            return Ok(Slot::Whiteout);
        }
        self.count(dir, name)?;
        if kind_of(stat) != FileType::Directory {
            return Ok(Slot::File(self.file(dir, fd, name, stat)?));
        }

        let meta = self.meta(dir, fd, name, stat)?;
        let id = self.tree.add(Inode { meta, kind: Kind::Directory(BTreeMap::new()) });
        let foreign = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        if foreign && self.options.boundary == Boundary::Stay {
            return Ok(Slot::Directory { id, dirs: Vec::new(), open: false });
        }
        Ok(Slot::Directory { id, dirs: vec![Arc::new(dir.child(name))], open: overlay })
    }

    /// Counts an entry against the limits.
    fn count(&mut self, dir: &HostDir, name: &OsStr) -> Result<(), TreeError> {
        self.entries += 1;
        if self.entries > self.options.max_entries {
            return Err(TreeError::TooManyEntries { limit: self.options.max_entries });
        }
        if dir.depth() >= self.options.max_depth {
            let path = dir.path_of(name);
            return Err(TreeError::PathTooLong { path, max_depth: self.options.max_depth });
        }
        if self.entries.is_multiple_of(PROGRESS_STEP) {
            self.progress.update(Phase::Scan, self.entries, 0);
        }
        Ok(())
    }

    /// Returns the inode of a file that is no directory: a new one, or one seen by another name.
    fn file(
        &mut self,
        dir: &Arc<HostDir>,
        fd: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Statx,
    ) -> Result<InodeId, TreeError> {
        let key = (host::dev_of(stat), stat.stx_ino);
        if stat.stx_nlink > 1
            && let Some(id) = self.links.get(&key)
        {
            return Ok(*id);
        }
        let meta = self.meta(dir, fd, name, stat)?;
        let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
        let kind = match kind_of(stat) {
            FileType::RegularFile => Kind::File(Content {
                size: stat.stx_size,
                source: Source::Host {
                    dir: Arc::clone(dir),
                    name: name.into(),
                    stamp: Stamp::of(stat),
                },
                may_have_holes: stat.stx_blocks.saturating_mul(512) < stat.stx_size,
            }),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(fd, name, Vec::new())
                    .map_err(|errno| host::io_error("read link", dir.path_of(name), errno))?;
                Kind::Symlink(target.into_bytes().into())
            }
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            _ => {
                return Err(host::io_error("recognise type of", dir.path_of(name), Errno::INVAL));
            }
        };
        let id = self.tree.add(Inode { meta, kind });
        if stat.stx_nlink > 1 {
            self.links.insert(key, id);
        }
        Ok(id)
    }

    /// Reads what every kind of file has; overlayfs's own attributes are dropped.
    fn meta(
        &self,
        dir: &HostDir,
        fd: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Statx,
    ) -> Result<Meta, TreeError> {
        let mut xattrs = xattrs::read_all(fd, name).map_err(|errno| {
            host::io_error("read extended attributes of", dir.path_of(name), errno)
        })?;
        if self.layering == Layering::Overlay {
            refuse_redirects(dir, name, &xattrs)?;
        }
        xattrs.retain(|key, _| !is_overlay_private(key));
        Ok(Meta {
            mode: stat.stx_mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            mtime_s: stat.stx_mtime.tv_sec,
            mtime_ns: stat.stx_mtime.tv_nsec,
            xattrs,
        })
    }

    fn opacity(&self, dir: &HostDir, fd: &OwnedFd) -> Result<Opacity, TreeError> {
        if self.layering == Layering::Plain {
            return Ok(Opacity::Transparent);
        }
        for key in [c"trusted.overlay.opaque", c"user.overlay.opaque"] {
            let mut value = [0; 2];
            match rustix::fs::fgetxattr(fd, key, &mut value) {
                Ok(1) if value[0] == b'y' => return Ok(Opacity::Opaque),
                Ok(1) if value[0] == b'x' => return Ok(Opacity::XattrWhiteouts),
                Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => {}
                Err(errno) => {
                    let action = "read extended attributes of";
                    return Err(host::io_error(action, dir.path(), errno));
                }
            }
        }
        Ok(Opacity::Transparent)
    }
}

fn kind_of(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// Says whether an entry of an overlay layer deletes the name below it.
fn is_whiteout(fd: BorrowedFd<'_>, name: &OsStr, stat: &Statx, opacity: Opacity) -> bool {
    match kind_of(stat) {
        FileType::CharacterDevice => stat.stx_rdev_major == 0 && stat.stx_rdev_minor == 0,
        FileType::RegularFile if opacity == Opacity::XattrWhiteouts && stat.stx_size == 0 => {
            xattrs::read_all(fd, name).is_ok_and(|xattrs| {
                xattrs.contains_key(&b"trusted.overlay.whiteout"[..])
                    || xattrs.contains_key(&b"user.overlay.whiteout"[..])
            })
        }
        _ => false,
    }
}

/// Refuses entries that stand for data or names elsewhere.
fn refuse_redirects(dir: &HostDir, name: &OsStr, xattrs: &super::Xattrs) -> Result<(), TreeError> {
    for key in xattrs.keys().filter(|key| is_overlay_private(key)) {
        let feature = match key.rsplit(|byte| *byte == b'.').next() {
            Some(b"redirect") => "redirect_dir (a renamed directory)",
            Some(b"metacopy") => "metacopy (metadata without data)",
            _ => continue,
        };
        return Err(TreeError::UnsupportedOverlay { path: dir.path_of(name), feature });
    }
    Ok(())
}
