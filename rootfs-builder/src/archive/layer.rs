// SPDX-License-Identifier: Apache-2.0
//! Applies the layers of an image to a [`Tree`], in memory.
//!
//! Nothing that an archive names is ever made on the host: names live in the tree, and file data
//! goes to one spool file without a name.  Symbolic links in the parents of a name are followed
//! inside the tree, as they would be when unpacking below a root directory.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::limits::Meter;
use super::tar::{Entry, EntryKind, Input, TarReader};
use super::{ArchiveError, Limits};
use crate::tree::is_overlay_private;
use crate::tree::{Content, Entries, Inode, InodeId, Kind, Meta, ROOT, Source, Tree};

/// How many symbolic links one name may lead through, as in Linux.
const MAX_LINKS: u32 = 40;
const NAME_MAX: usize = 255;
const PIECE_BYTES: usize = 1 << 20;
/// Marks a deletion (AUFS's convention, OCI image specification, layer.md).
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS_PRIVATE: &[u8] = b".wh..wh.";

/// The unpacked data of all layers.
pub(super) struct Spool {
    file: Arc<File>,
    dir: PathBuf,
    len: u64,
    buffer: Vec<u8>,
}

impl Spool {
    pub(super) fn new(dir: PathBuf) -> Result<Self, ArchiveError> {
        let file = tempfile::tempfile_in(&dir)
            .map_err(ArchiveError::io("create temporary file in", &dir))?;
        Ok(Self { file: Arc::new(file), dir, len: 0, buffer: vec![0; PIECE_BYTES] })
    }

    /// Appends the data of the present entry.
    fn append<R: Input>(
        &mut self,
        tar: &mut TarReader<'_, R>,
        size: u64,
    ) -> Result<Content, ArchiveError> {
        let offset = self.len;
        loop {
            let mut filled = 0;
            while filled < self.buffer.len() {
                match tar.read_data(&mut self.buffer[filled..])? {
                    0 => break,
                    count => filled += count,
                }
            }
            if filled == 0 {
                break;
            }
            let write = self.file.write_all_at(&self.buffer[..filled], self.len);
            write.map_err(ArchiveError::io("write temporary file in", &self.dir))?;
            self.len += filled as u64;
        }
        let source = Source::Spool { file: Arc::clone(&self.file), offset };
        Ok(Content { size, source, may_have_holes: false })
    }
}

/// The tree that layers are applied to.
pub(super) struct Builder<'a> {
    pub(super) tree: Tree,
    spool: Spool,
    limits: &'a Limits,
    entries: u64,
    /// Names that the present layer made: its whiteouts do not concern them.
    touched: HashSet<(InodeId, Box<[u8]>)>,
}

/// A metered, buffered layer.
pub(super) type LayerInput<'a> = BufReader<Meter<Box<dyn Read + 'a>>>;

impl Input for LayerInput<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.by_ref().take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl<'a> Builder<'a> {
    pub(super) fn new(spool: Spool, limits: &'a Limits) -> Self {
        let tree = Tree::new(Meta { mode: 0o755, ..Meta::default() });
        Self { tree, spool, limits, entries: 0, touched: HashSet::new() }
    }

    /// Applies one layer; `progress_fn` is called for each entry.
    pub(super) fn apply<R: Input>(
        &mut self,
        tar: &mut TarReader<'_, R>,
        mut progress_fn: impl FnMut(),
    ) -> Result<(), ArchiveError> {
        self.touched.clear();
        while let Some(entry) = tar.next()? {
            self.entries += 1;
            if self.entries > self.limits.max_entries {
                let limit = self.limits.max_entries;
                return Err(ArchiveError::TooLarge { limit, unit: "entries" });
            }
            self.apply_entry(tar, entry)?;
            progress_fn();
        }
        Ok(())
    }

    fn apply_entry<R: Input>(
        &mut self,
        tar: &mut TarReader<'_, R>,
        mut entry: Entry,
    ) -> Result<(), ArchiveError> {
        let path = std::mem::take(&mut entry.path);
        let names = self.split(&path)?;
        let Some((name, parents)) = names.split_last() else {
            return match entry.kind {
                EntryKind::Directory => {
                    self.tree.inodes[ROOT].meta = meta_of(entry);
                    Ok(())
                }
                _ => Err(bad_path(&path, "the root can only be a directory")),
            };
        };
        if parents.iter().any(|parent| parent.starts_with(AUFS_PRIVATE)) {
            return Ok(());
        }
        if parents.iter().any(|parent| parent.starts_with(WHITEOUT)) {
            return Err(bad_path(&path, "one of its parents is a whiteout"));
        }
        if *name == OPAQUE {
            let dir = self.resolve(&path, parents, Missing::Make)?;
            self.prune(dir);
            return Ok(());
        }
        if name.starts_with(AUFS_PRIVATE) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.hide(&path, parents, hidden);
        }
        let dir = self.resolve(&path, parents, Missing::Make)?;
        self.touched.insert((dir, (*name).into()));
        let present = self.tree.entries(dir).and_then(|entries| entries.get(*name)).copied();

        if entry.kind == EntryKind::HardLink {
            let target = self.link_target(&path, &entry.link)?;
            self.insert(dir, name, target);
            return Ok(());
        }
        let kind = self.kind(tar, &path, &entry)?;
        if let (Some(id), Kind::Directory(_)) = (present, &kind)
            && self.tree.entries(id).is_some()
        {
            // A directory that is there already keeps what it has.
            self.tree.inodes[id].meta = meta_of(entry);
            return Ok(());
        }
        let meta = meta_of(entry);
        let id = self.tree.add(Inode { meta, kind });
        self.insert(dir, name, id);
        Ok(())
    }

    fn kind<R: Input>(
        &mut self,
        tar: &mut TarReader<'_, R>,
        path: &[u8],
        entry: &Entry,
    ) -> Result<Kind, ArchiveError> {
        let (major, minor) = (entry.major, entry.minor);
        Ok(match entry.kind {
            EntryKind::File => Kind::File(self.spool.append(tar, entry.size)?),
            EntryKind::Directory => Kind::Directory(Entries::new()),
            EntryKind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > self.limits.max_path_bytes {
                    return Err(bad_path(path, "its target is empty or too long"));
                }
                Kind::Symlink(entry.link.as_slice().into())
            }
            EntryKind::CharDevice | EntryKind::BlockDevice if major > 0xfff || minor > 0xf_ffff => {
                return Err(bad_path(path, "its device number is out of range"));
            }
            EntryKind::CharDevice => Kind::CharDevice { major, minor },
            EntryKind::BlockDevice => Kind::BlockDevice { major, minor },
            EntryKind::Fifo => Kind::Fifo,
            EntryKind::HardLink => unreachable!("the caller made the link"),
        })
    }

    /// Finds what a hard link names.
    fn link_target(&mut self, path: &[u8], target: &[u8]) -> Result<InodeId, ArchiveError> {
        let error =
            |reason| ArchiveError::BadLink { path: lossy(path), target: lossy(target), reason };
        let names = self.split(target)?;
        let (name, parents) = names.split_last().ok_or_else(|| error("which is the root"))?;
        let dir = match self.resolve(target, parents, Missing::Refuse) {
            Err(ArchiveError::BadPath { .. }) => return Err(error("which is not in the image")),
            other => other?,
        };
        let id = self.tree.entries(dir).and_then(|entries| entries.get(*name)).copied();
        let id = id.ok_or_else(|| error("which is not in the image"))?;
        if self.tree.entries(id).is_some() {
            return Err(error("which is a directory"));
        }
        Ok(id)
    }

    /// Applies a whiteout of `name`.
    fn hide(&mut self, path: &[u8], parents: &[&[u8]], name: &[u8]) -> Result<(), ArchiveError> {
        if name.is_empty() || name == b"." || name == b".." {
            return Err(bad_path(path, "a whiteout names no file"));
        }
        let dir = match self.resolve(path, parents, Missing::Refuse) {
            // What is not there need not be hidden.
            Err(ArchiveError::BadPath { reason: MISSING_PARENT, .. }) => return Ok(()),
            other => other?,
        };
        let Some(id) = self.tree.entries(dir).and_then(|entries| entries.get(name)).copied() else {
            return Ok(());
        };
        let kept = self.tree.entries(id).is_some() && self.prune(id);
        if !kept && !self.touched.contains(&(dir, name.into())) {
            self.tree.entries_mut(dir).expect("resolved to a directory").remove(name);
        }
        Ok(())
    }

    /// Removes what earlier layers put below `dir`; says whether anything is left.
    ///
    /// The depth of the recursion is bounded by `max_depth`.
    fn prune(&mut self, dir: InodeId) -> bool {
        let Some(entries) = self.tree.entries_mut(dir) else { return false };
        let mut entries = std::mem::take(entries);
        entries.retain(|name, child| {
            let has_kept = self.tree.entries(*child).is_some() && self.prune(*child);
            // A set of boxed names cannot be asked with a borrowed pair.
            has_kept || self.touched.contains(&(dir, name.clone()))
        });
        let any = !entries.is_empty();
        *self.tree.entries_mut(dir).expect("it was a directory above") = entries;
        any
    }

    /// Splits a name of the archive, and refuses those that are not plainly below the root.
    fn split<'p>(&self, path: &'p [u8]) -> Result<Vec<&'p [u8]>, ArchiveError> {
        if path.starts_with(b"/") {
            return Err(bad_path(path, "absolute names could mean any file"));
        }
        if path.len() > self.limits.max_path_bytes {
            return Err(bad_path(path, "it is too long"));
        }
        let mut names = Vec::new();
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return Err(bad_path(path, "`..` could leave the root")),
                name if name.len() > NAME_MAX => {
                    return Err(bad_path(path, "a name in it is longer than 255 bytes"));
                }
                name if name.contains(&0) => return Err(bad_path(path, "it has a NUL byte")),
                name => names.push(name),
            }
        }
        if names.len() > self.limits.max_depth {
            return Err(bad_path(path, TOO_DEEP));
        }
        Ok(names)
    }

    /// Walks to the directory of `names`, through symbolic links of the tree.
    fn resolve(
        &mut self,
        path: &[u8],
        names: &[&[u8]],
        missing: Missing,
    ) -> Result<InodeId, ArchiveError> {
        // The way from the root, for `..` in the targets of links; and what is still to walk,
        // reversed.
        let mut way = vec![ROOT];
        let mut todo: Vec<Vec<u8>> = names.iter().rev().map(|name| name.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if way.len() > 1 {
                        way.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let dir = *way.last().expect("the root stays");
            let entries = self.tree.entries(dir).expect("only directories are on the way");
            let next = match (entries.get(name.as_slice()), missing) {
                (Some(id), _) => *id,
                (None, Missing::Make) => self.make_parent(dir, &name),
                (None, Missing::Refuse) => return Err(bad_path(path, MISSING_PARENT)),
            };
            match &self.tree.inodes[next].kind {
                Kind::Directory(_) => way.push(next),
                Kind::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(bad_path(path, "its parents are a cycle of symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    todo.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
                }
                _ => return Err(bad_path(path, "one of its parents is no directory")),
            }
            if way.len() > self.limits.max_depth {
                return Err(bad_path(path, TOO_DEEP));
            }
        }
        Ok(*way.last().expect("the root stays"))
    }

    /// Makes a directory that has no entry of its own, as tar would.
    fn make_parent(&mut self, dir: InodeId, name: &[u8]) -> InodeId {
        let meta = Meta { mode: 0o755, ..Meta::default() };
        let id = self.tree.add(Inode { meta, kind: Kind::Directory(Entries::new()) });
        self.touched.insert((dir, name.into()));
        self.insert(dir, name, id);
        id
    }

    fn insert(&mut self, dir: InodeId, name: &[u8], id: InodeId) {
        let entries = self.tree.entries_mut(dir).expect("resolved to a directory");
        entries.insert(name.into(), id);
    }
}

/// What to do where a parent of a name is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Refuse,
}

const MISSING_PARENT: &str = "one of its parents is missing";
const TOO_DEEP: &str = "it has too many names";

fn meta_of(entry: Entry) -> Meta {
    let mut xattrs = entry.xattrs;
    xattrs.retain(|name, _| !is_overlay_private(name));
    Meta {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime_s: entry.mtime_s,
        mtime_ns: entry.mtime_ns,
        xattrs,
    }
}

fn bad_path(path: &[u8], reason: &'static str) -> ArchiveError {
    ArchiveError::BadPath { path: lossy(path), reason }
}

/// Renders a name for a message, and no more of it than a message bears.
fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(NAME_MAX)]).into_owned()
}
