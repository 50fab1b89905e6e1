// SPDX-License-Identifier: Apache-2.0
//! Reads images that [`super::write`] made: their directories, links and file contents.
//!
//! An image may be damaged: every offset is checked by the read that it is for, and nothing is
//! larger than the image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;

use super::BLOCK_BYTES;
use super::superblock::{self, Superblock};

const INODE_BYTES: u64 = 64;
const SLOT_BYTES: u64 = 32;
const ENTRY_BYTES: usize = 12;
/// Largest directory that is read: more than a million names.
const DIRECTORY_MAX: u64 = 64 << 20;
/// Longest symbolic link.
const LINK_MAX: u64 = 4096;
const HOLE: u32 = u32::MAX;

/// Why an image cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file cannot be read, or ends too early.
    #[error("read image at byte {offset}")]
    Io {
        /// Position in the image.
        offset: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is no image, or not one that this crate writes.
    #[error("the file is not an image of trine's: {0}")]
    NotAnImage(&'static str),
    /// Something in the image makes no sense.
    #[error("the image is damaged: {what} of inode {nid}; build it again")]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// The node id.
        nid: u64,
    },
}

/// What a file of an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, FIFO or socket.
    Special,
}

#[derive(Clone, Copy, Debug)]
enum Layout {
    Plain { block: u64 },
    Inline,
    Chunks { bits: u32 },
}

/// A file of an image.
#[derive(Clone, Copy, Debug)]
pub struct FileNode {
    nid: u64,
    kind: FileKind,
    mode: u16,
    size: u64,
    layout: Layout,
    /// Where what follows the inode and its attributes begins.
    behind: u64,
}

impl FileNode {
    /// Names the file in its image; hard links have the same number.
    pub fn number(&self) -> u64 {
        self.nid
    }

    /// What it is.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Permission, set-id and sticky bits.
    pub fn mode(&self) -> u16 {
        self.mode & 0o7777
    }

    /// Bytes of its contents.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn damaged(&self, what: &'static str) -> ReadError {
        ReadError::Damaged { what, nid: self.nid }
    }
}

/// An image.
#[derive(Debug)]
pub struct Reader {
    file: File,
    root: u64,
    meta: u64,
}

impl Reader {
    /// Reads the superblock.
    ///
    /// # Errors
    /// The file cannot be read, or is not an image that this crate writes.
    pub fn open(file: File) -> Result<Self, ReadError> {
        let mut block = [0; BLOCK_BYTES as usize];
        read_exact(&file, &mut block, 0)?;
        let superblock = Superblock::decode(&block).map_err(ReadError::NotAnImage)?;
        let meta = u64::from(superblock.meta_block) * BLOCK_BYTES;
        Ok(Self { file, root: u64::from(superblock.root_nid), meta })
    }

    /// Returns the root directory.
    ///
    /// # Errors
    /// The image cannot be read or is damaged.
    pub fn root(&self) -> Result<FileNode, ReadError> {
        self.node(self.root)
    }

    /// Reads all of a directory but `.` and `..`, in the order of the names.
    ///
    /// # Errors
    /// The image cannot be read or is damaged, or this is no directory.
    pub fn entries(&self, directory: &FileNode) -> Result<Vec<(Vec<u8>, FileNode)>, ReadError> {
        if directory.kind != FileKind::Directory || directory.size > DIRECTORY_MAX {
            return Err(directory.damaged("directory"));
        }
        let bytes = self.contents(directory, DIRECTORY_MAX)?;
        let mut entries = Vec::new();
        for block in bytes.chunks(BLOCK_BYTES as usize) {
            for (name, nid) in names(block).ok_or_else(|| directory.damaged("a block"))? {
                if name != b"." && name != b".." {
                    entries.push((name.to_vec(), self.node(nid)?));
                }
            }
        }
        Ok(entries)
    }

    /// Reads a symbolic link.
    ///
    /// # Errors
    /// The image cannot be read or is damaged, or this is no link.
    pub fn target(&self, link: &FileNode) -> Result<Vec<u8>, ReadError> {
        if link.kind != FileKind::Symlink || link.size > LINK_MAX {
            return Err(link.damaged("link"));
        }
        self.contents(link, LINK_MAX)
    }

    /// Reads a file, or as much as `limit` bytes of it.
    ///
    /// # Errors
    /// The image cannot be read or is damaged.
    pub fn contents(&self, node: &FileNode, limit: u64) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; node.size.min(limit) as usize];
        self.read(node, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads from the start of a file.
    fn read(&self, node: &FileNode, to: &mut [u8]) -> Result<(), ReadError> {
        match node.layout {
            Layout::Plain { block } => self.read_at(to, block * BLOCK_BYTES),
            Layout::Inline => self.read_at(to, node.behind),
            Layout::Chunks { bits } => {
                let chunk_bytes = 1_usize << bits;
                let mut map = vec![0; to.len().div_ceil(chunk_bytes) * 4];
                self.read_at(&mut map, node.behind)?;
                for (part, block) in to.chunks_mut(chunk_bytes).zip(map.chunks_exact(4)) {
                    let block = u32_at(block, 0);
                    if block != HOLE {
                        self.read_at(part, u64::from(block) * BLOCK_BYTES)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn node(&self, nid: u64) -> Result<FileNode, ReadError> {
        let damaged = |what| ReadError::Damaged { what, nid };
        let at = nid.checked_mul(SLOT_BYTES).and_then(|at| at.checked_add(self.meta));
        let at = at.ok_or_else(|| damaged("place"))?;
        let mut raw = [0; INODE_BYTES as usize];
        self.read_at(&mut raw, at)?;
        let format = u16_at(&raw, 0);
        if format & 1 == 0 {
            return Err(damaged("format"));
        }
        let mode = u16_at(&raw, 4);
        let kind = match mode & 0o170_000 {
            0o100_000 => FileKind::Regular,
            0o040_000 => FileKind::Directory,
            0o120_000 => FileKind::Symlink,
            0o020_000 | 0o060_000 | 0o010_000 | 0o140_000 => FileKind::Special,
            _ => return Err(damaged("mode")),
        };
        let data = u32_at(&raw, 16);
        let layout = match format >> 1 & 7 {
            0 => Layout::Plain { block: data.into() },
            2 => Layout::Inline,
            4 if data <= 31 => Layout::Chunks { bits: BLOCK_BYTES.trailing_zeros() + data },
            _ => return Err(damaged("layout")),
        };
        let xattrs = match u16_at(&raw, 2) {
            0 => 0,
            count => 12 + 4 * (u64::from(count) - 1),
        };
        let size = if kind == FileKind::Special { 0 } else { u64_at(&raw, 8) };
        // Only a file with holes is larger than the image.
        let end = self.file.metadata().map(|attr| attr.len());
        let is_sparse = matches!(layout, Layout::Chunks { .. });
        if !is_sparse && end.is_ok_and(|end| size > end) {
            return Err(damaged("size"));
        }
        Ok(FileNode { nid, kind, mode, size, layout, behind: at + INODE_BYTES + xattrs })
    }

    fn read_at(&self, to: &mut [u8], offset: u64) -> Result<(), ReadError> {
        read_exact(&self.file, to, offset)
    }
}

fn read_exact(file: &File, to: &mut [u8], offset: u64) -> Result<(), ReadError> {
    file.read_exact_at(to, offset).map_err(|source| ReadError::Io { offset, source })
}

/// The names of a block of a directory, with their node ids.
fn names(block: &[u8]) -> Option<Vec<(&[u8], u64)>> {
    let raw = |index: usize| block.get(index * ENTRY_BYTES..(index + 1) * ENTRY_BYTES);
    let count = usize::from(u16_at(raw(0)?, 8)) / ENTRY_BYTES;
    let mut names = Vec::with_capacity(count);
    for index in 0..count {
        let entry = raw(index)?;
        let start = usize::from(u16_at(entry, 8));
        let name = if index + 1 < count {
            block.get(start..usize::from(u16_at(raw(index + 1)?, 8)))?
        } else {
            // The rest of the block is padding.
            let rest = block.get(start..)?;
            rest.split(|&byte| byte == 0).next()?
        };
        names.push((name, u64_at(entry, 0)));
    }
    Some(names)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    superblock::u32_at(bytes, at)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
