// SPDX-License-Identifier: Apache-2.0
//! Walking paths (path_resolution(7)).

use alloc::{sync::Arc, vec::Vec};

use bitflags::bitflags;

use crate::{
    Errno,
    fs::{
        context::FsContext,
        dentry::Location,
        permission::{self, EXECUTE},
        types::{FileType, NAME_MAX, OpenFlags},
    },
    process::Creds,
};

/// Symbolic links that one walk follows.
const LINKS_MAX: u32 = 40;

bitflags! {
    /// How to walk.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Walk: u32 {
        /// Follow a symbolic link at the end.
        const FOLLOW = 1;
        /// Stop at the directory that the last name is in.
        const PARENT = 2;
        /// The last name need not be there.
        const MAY_MISS = 4;
        /// RESOLVE_NO_XDEV: stay on the mount.
        const NO_XDEV = 8;
        /// RESOLVE_NO_MAGICLINKS.
        const NO_MAGIC = 0x10;
        /// RESOLVE_NO_SYMLINKS.
        const NO_LINKS = 0x20;
        /// RESOLVE_BENEATH: never above the start.
        const BENEATH = 0x40;
        /// RESOLVE_IN_ROOT: the start is the root.
        const IN_ROOT = 0x80;
    }
}

/// Where a walk ended.
#[derive(Debug)]
pub(crate) enum Walked {
    /// At something.
    Found(Location),
    /// At a directory and a name: the name is not there, or the walk was to stop here.
    Name {
        parent: Location,
        name: Vec<u8>,
        /// A slash follows: only a directory will do.
        slash: bool,
    },
    /// `Walk::PARENT`, and there is no name: `.`, `..` or `/`.
    Special(Special),
}

/// A last component that is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Root,
    Dot,
    DotDot,
}

/// What is left of the path: the rest of each link's target on top of what came before.
struct Rest {
    bytes: Vec<u8>,
    at: usize,
}

impl Rest {
    /// Takes the next component: where it is, whether it is the last, whether a slash follows.
    fn next(&mut self) -> Option<(core::ops::Range<usize>, bool, bool)> {
        let skip = |from: usize, bytes: &[u8]| {
            from + bytes[from..].iter().take_while(|&&byte| byte == b'/').count()
        };
        let start = skip(self.at, &self.bytes);
        if start == self.bytes.len() {
            return None;
        }
        let length = self.bytes[start..].iter().position(|&byte| byte == b'/');
        let end = length.map_or(self.bytes.len(), |length| start + length);
        self.at = skip(end, &self.bytes);
        Some((start..end, self.at == self.bytes.len(), self.at > end))
    }
}

impl FsContext {
    /// Walks a path from `start` (an absolute path starts at the root).
    pub(crate) fn walk(
        &self,
        creds: &Creds,
        start: &Location,
        path: &[u8],
        how: Walk,
    ) -> Result<Walked, Errno> {
        self.walk_to_open(creds, start, path, how, None)
    }

    /// The same for something that is going to be opened with these flags.
    pub(crate) fn walk_to_open(
        &self,
        creds: &Creds,
        start: &Location,
        path: &[u8],
        how: Walk,
        open: Option<OpenFlags>,
    ) -> Result<Walked, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let root = if how.contains(Walk::IN_ROOT) { start } else { &self.root };
        let absolute = |path: &[u8]| match path.first() {
            Some(b'/') if how.contains(Walk::BENEATH) => Err(Errno::XDEV),
            first => Ok(first == Some(&b'/')),
        };
        let mut at = if absolute(path)? { root.clone() } else { start.clone() };
        let mut rest = Rest { bytes: path.to_vec(), at: 0 };
        let mut links = 0;
        let mut must_be_dir = false;
        let mut special = Special::Root;
        // Whether the attributes of `at` are from this walk.
        let mut is_fresh = false;
        while let Some((range, last, slash)) = rest.next() {
            must_be_dir = last && slash;
            if !at.inode().is_stable() {
                at.inode().expect_walk(&rest.bytes[range.start..], open)?;
            }
            let attr = at.attr();
            if attr.kind != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            permission::check(&attr, creds, EXECUTE)?;
            let name = &rest.bytes[range];
            match name {
                b"." => {
                    special = Special::Dot;
                    must_be_dir = true;
                    continue;
                }
                b".." => {
                    special = Special::DotDot;
                    must_be_dir = true;
                    if how.contains(Walk::BENEATH) && at.is(start) {
                        return Err(Errno::XDEV);
                    }
                    let above = if at.is(root) { None } else { at.above() };
                    at = above.unwrap_or(at);
                    is_fresh = false;
                    continue;
                }
                _ if name.len() > NAME_MAX => return Err(Errno::NAMETOOLONG),
                _ => {}
            }
            if last && how.contains(Walk::PARENT) {
                return Ok(Walked::Name { name: name.to_vec(), parent: at, slash });
            }
            let child = match self.vfs.child(&at, name) {
                Ok(child) => child,
                Err(Errno::NOENT) if last && how.contains(Walk::MAY_MISS) => {
                    return Ok(Walked::Name { name: name.to_vec(), parent: at, slash });
                }
                Err(errno) => return Err(errno),
            };
            if how.contains(Walk::NO_XDEV) && !Arc::ptr_eq(&child.mount, &at.mount) {
                return Err(Errno::XDEV);
            }
            is_fresh = Arc::ptr_eq(&child.mount, &at.mount);
            let follow = !last || slash || how.contains(Walk::FOLLOW);
            if !follow || child.kind() != FileType::Symlink {
                at = child;
                continue;
            }
            links += 1;
            if links > LINKS_MAX || how.contains(Walk::NO_LINKS) {
                return Err(Errno::LOOP);
            }
            if let Some(target) = child.inode().jump() {
                if how.contains(Walk::NO_MAGIC) {
                    return Err(Errno::LOOP);
                }
                if how.intersects(Walk::BENEATH | Walk::IN_ROOT) {
                    return Err(Errno::XDEV);
                }
                at = target?;
                is_fresh = false;
                continue;
            }
            let mut target = child.inode().read_link()?;
            if target.is_empty() {
                return Err(Errno::NOENT);
            }
            is_fresh = false;
            if absolute(&target)? {
                at = root.clone();
            }
            if !last || slash {
                target.push(b'/');
                target.extend_from_slice(&rest.bytes[rest.at..]);
            }
            rest = Rest { bytes: target, at: 0 };
            special = Special::Root;
        }
        if how.contains(Walk::PARENT) {
            return Ok(Walked::Special(special));
        }
        if !is_fresh {
            at.inode().refresh()?;
        }
        if must_be_dir && at.kind() != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        Ok(Walked::Found(at))
    }

    /// Walks to something that must be there.
    pub(crate) fn find(
        &self,
        creds: &Creds,
        start: &Location,
        path: &[u8],
        how: Walk,
    ) -> Result<Location, Errno> {
        match self.walk(creds, start, path, how)? {
            Walked::Found(place) => Ok(place),
            Walked::Name { .. } | Walked::Special(_) => Err(Errno::NOENT),
        }
    }

    /// Walks from the current directory, following links.
    ///
    /// # Errors
    /// As path_resolution(7).
    pub fn lookup(&self, creds: &Creds, path: &[u8]) -> Result<Location, Errno> {
        self.find(creds, &self.cwd, path, Walk::FOLLOW)
    }
}
