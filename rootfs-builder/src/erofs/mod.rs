// SPDX-License-Identifier: Apache-2.0
//! Writes a [`Tree`] as an EROFS image that mainline Linux mounts.
//!
//! # Format
//! Blocks of 4096 bytes, no compression, one device, no shared extended attributes.
//!
//! ```text
//! block 0            superblock at byte 1024, rest zero
//! block 1 ..         file data: FLAT_PLAIN extents and the chunks of sparse files
//! then               directories (and links) that are too long to sit behind their inode
//! meta_blkaddr ..    inodes of 64 bytes (always the extended form), each followed by its
//!                    extended attributes, then its tail (FLAT_INLINE) or its chunk map
//! ```
//!
//! The node id of an inode is its byte offset from `meta_blkaddr`, divided by 32; the root's is
//! 2, because readers take inode number 0 for a deleted entry.  No inode crosses a block, nor does
//! an inline tail.
//!
//! * `feature_compat` is `SB_CHKSUM | MTIME` (0x3).
//! * `feature_incompat` is 0, or `CHUNKED_FILE` (0x4) when the tree has a sparse file.  Chunk maps
//!   have 4-byte block addresses (no `INDEXES`), with `0xffff_ffff` for a hole; a chunk is at
//!   least a page, so that its pages map as those of a plain file do.
//!
//! Regular files are FLAT_PLAIN, so that a page of the file is a page of the image and the guest
//! maps it without copying, except for those of at most [`INLINE_MAX`] bytes that are neither
//! executable, nor ELF, nor named like a shared object: these sit behind their inode.  Files of
//! the same content share their blocks.
//!
//! The file system may be followed by rewritten program text ([`trine_abi::text`]), which the
//! superblock does not count: mainline Linux and its tools do not see it.
//!
//! # Determinism
//! The bytes depend on the tree alone: inodes are numbered in depth-first order of sorted names,
//! no time of build is stored, and the UUID is derived from [`ImageDigest`].  One caveat: which
//! files are sparse is a property of the source's file system, so copying a tree to a file system
//! that stores zeros as data may change the image.

mod appender;
mod chunks;
mod content;
mod data;
mod digest;
mod dirent;
mod error;
mod inode;
mod order;
mod reader;
mod superblock;
mod texts;
mod xattr;

use std::fs::File;

pub use self::data::INLINE_MAX;
pub use self::digest::ImageDigest;
pub(crate) use self::digest::{hex, parse_hex};
pub use self::error::WriteError;
pub use self::reader::{FileKind, FileNode, ReadError, Reader};

use self::appender::Appender;
use self::data::DataWriter;
use self::digest::DigestBuilder;
use self::inode::MetaWriter;
use self::order::Order;
use self::superblock::Superblock;
use crate::progress::Progress;
use crate::tree::Tree;

/// Size of a block, in bytes: a page, so that blocks map.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildReport {
    /// Names the content: equal trees have equal digests.
    pub digest: ImageDigest,
    /// The image's size, a multiple of 4096.
    pub size_bytes: u64,
    /// How many files it has, hard links counted once.
    pub inodes: u64,
    /// File data that was read.
    pub data_bytes: u64,
    /// File data that was left out, because another file has the same.
    pub shared_bytes: u64,
    /// Holes that take no room in the image.
    pub hole_bytes: u64,
    /// Extended attributes of name spaces that EROFS has no place for; they were left out.
    pub skipped_xattrs: u64,
    /// System calls in the code of programs that have some; files of the same content count once.
    pub calls_found: u64,
    /// Those that are rewritten to enter the guest kernel by a jump.
    pub calls_rewritten: u64,
}

/// Writes `tree` into the empty file `out`.
///
/// On an error the contents of the file are undefined.
///
/// # Errors
/// A source file changed or cannot be read, `out` cannot be written, or something does not fit
/// the format (more than 16 TiB, extended attributes of more than 256 KiB on one file).
pub fn write(tree: &Tree, out: &File, progress: &dyn Progress) -> Result<BuildReport, WriteError> {
    let order = Order::of(tree);
    let (xattrs, skipped_xattrs) = xattr::encode_all(tree, &order)?;
    let mut digest = DigestBuilder::new();
    let mut image = Appender::new(out, BLOCK_BYTES);

    let mut data = DataWriter::new(tree, &mut image, &mut digest, progress);
    let placements = data.write_all(&order, &xattrs)?;
    let (counts, texts) = data.finish();

    let mut meta = MetaWriter::new(tree, &order, &xattrs, placements, &mut image, &mut digest);
    let meta_block = meta.write_all()?;
    let nids = texts.inodes().map(|id| meta.nid(id)).collect::<Vec<_>>();
    image.pad()?;
    let blocks = image.block()?;
    texts.append(&nids, &mut image, &mut digest)?;
    let size_bytes = image.finish()?;

    let mut superblock = Superblock {
        root_nid: inode::ROOT_NID,
        inodes: order.ids.len() as u64,
        blocks,
        meta_block,
        chunked: counts.chunked_files > 0,
        uuid: [0; 16],
    };
    digest.update(&superblock.encode());
    let digest = digest.finish();
    superblock.uuid = digest.uuid();
    appender::write_at(out, &superblock.encode(), 0)?;
    Ok(BuildReport {
        digest,
        size_bytes,
        inodes: superblock.inodes,
        data_bytes: counts.data_bytes,
        shared_bytes: counts.shared_bytes,
        hole_bytes: counts.hole_bytes,
        skipped_xattrs,
        calls_found: texts.found(),
        calls_rewritten: texts.rewritten(),
    })
}
