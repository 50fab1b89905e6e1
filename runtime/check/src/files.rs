// SPDX-License-Identifier: Apache-2.0
//! Where programs and libraries are found.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Component, Path, PathBuf},
};

use trine_rootfs_builder::erofs::{FileKind, FileNode, ReadError, Reader};

use crate::checker::CheckError;

/// Symbolic links that one path may lead over, as on Linux.
const LINKS_MAX: usize = 40;

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its path, without symbolic links.
    pub path: PathBuf,
    /// Somebody may execute it.
    pub executable: bool,
    /// Its size in bytes.
    pub size: u64,
}

/// Files below a root.
pub trait Files {
    /// Finds a regular file; `None` if there is none.
    ///
    /// # Errors
    /// The file system or image cannot be read.
    fn find(&self, path: &Path) -> Result<Option<Found>, CheckError>;

    /// Reads a file that was found, or its first `limit` bytes.
    ///
    /// # Errors
    /// The file system or image cannot be read.
    fn read(&self, found: &Found, limit: u64) -> Result<Vec<u8>, CheckError>;

    /// The names in a directory; empty if there is none.
    fn names(&self, directory: &Path) -> Vec<PathBuf>;
}

/// The files of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostFiles;

impl Files for HostFiles {
    fn find(&self, path: &Path) -> Result<Option<Found>, CheckError> {
        let error = |source| CheckError::Host { action: "find", path: path.to_owned(), source };
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(missing) if is_missing(&missing) => return Ok(None),
            Err(other) => return Err(error(other)),
        };
        let attr = fs::metadata(&path).map_err(error)?;
        let executable = attr.permissions().mode() & 0o111 != 0;
        Ok(attr.is_file().then_some(Found { path, executable, size: attr.len() }))
    }

    fn read(&self, found: &Found, limit: u64) -> Result<Vec<u8>, CheckError> {
        let error = |source| CheckError::Host { action: "read", path: found.path.clone(), source };
        let mut bytes = Vec::new();
        let file = File::open(&found.path).map_err(error)?;
        file.take(limit).read_to_end(&mut bytes).map_err(error)?;
        Ok(bytes)
    }

    fn names(&self, directory: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.path()).collect();
        names.sort();
        names
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// What a name of an image stands for.
#[derive(Clone, Debug)]
enum Item {
    File(FileNode),
    Link(PathBuf),
    Directory,
    Special,
}

/// The files of an image.
#[derive(Debug)]
pub struct ImageFiles {
    reader: Reader,
    items: BTreeMap<PathBuf, Item>,
}

impl ImageFiles {
    /// Reads the directories of an image that trine made.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or is not one.
    pub fn open(image: File) -> Result<Self, ReadError> {
        let reader = Reader::open(image)?;
        let mut items = BTreeMap::from([(PathBuf::from("/"), Item::Directory)]);
        let root = reader.root()?;
        // A damaged image may have a directory below itself.
        let mut seen = BTreeSet::from([root.number()]);
        let mut todo = vec![(PathBuf::from("/"), root)];
        while let Some((path, directory)) = todo.pop() {
            for (name, node) in reader.entries(&directory)? {
                let path = path.join(OsStr::from_bytes(&name));
                let item = match node.kind() {
                    FileKind::Regular => Item::File(node),
                    FileKind::Symlink => {
                        Item::Link(OsStr::from_bytes(&reader.target(&node)?).into())
                    }
                    FileKind::Special => Item::Special,
                    FileKind::Directory if !seen.insert(node.number()) => continue,
                    FileKind::Directory => {
                        todo.push((path.clone(), node));
                        Item::Directory
                    }
                };
                items.insert(path, item);
            }
        }
        Ok(Self { reader, items })
    }

    /// All regular files, each under one of its names.
    pub fn all(&self) -> Vec<Found> {
        let mut seen = BTreeSet::new();
        let files = self.items.iter().filter_map(|(path, item)| match item {
            Item::File(node) if seen.insert(node.number()) => Some(found(path.clone(), node)),
            _ => None,
        });
        files.collect()
    }

    /// Follows symbolic links, as a process whose root is the image's.
    fn resolve(&self, path: &Path) -> Option<(PathBuf, &Item)> {
        let mut links = 0;
        let mut rest: Vec<PathBuf> = parts(path);
        let mut at = PathBuf::from("/");
        while let Some(part) = rest.pop() {
            if part.as_os_str() == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            match self.items.get(&next)? {
                Item::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return None;
                    }
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    rest.extend(parts(target));
                }
                _ => at = next,
            }
        }
        let item = self.items.get(&at)?;
        Some((at, item))
    }
}

/// The names of a path, the last one first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    parts.collect()
}

fn found(path: PathBuf, node: &FileNode) -> Found {
    Found { path, executable: node.mode() & 0o111 != 0, size: node.size() }
}

impl Files for ImageFiles {
    fn find(&self, path: &Path) -> Result<Option<Found>, CheckError> {
        Ok(match self.resolve(path) {
            Some((path, Item::File(node))) => Some(found(path, node)),
            _ => None,
        })
    }

    fn read(&self, found: &Found, limit: u64) -> Result<Vec<u8>, CheckError> {
        match self.items.get(&found.path) {
            Some(Item::File(node)) => Ok(self.reader.contents(node, limit)?),
            _ => Ok(Vec::new()),
        }
    }

    fn names(&self, directory: &Path) -> Vec<PathBuf> {
        let Some((directory, Item::Directory)) = self.resolve(directory) else {
            return Vec::new();
        };
        let below = self.items.range(directory.clone()..).map(|(path, _)| path);
        let below = below.take_while(|path| path.starts_with(&directory));
        below.filter(|path| path.parent() == Some(&directory)).cloned().collect()
    }
}
