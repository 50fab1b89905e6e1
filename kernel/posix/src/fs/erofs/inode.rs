// SPDX-License-Identifier: Apache-2.0
//! Inodes on disk.

use crate::{
    Errno,
    fs::{
        erofs::{Erofs, u16_at, u32_at, u64_at},
        types::{FileType, PERMISSIONS},
    },
    services::Timestamp,
};

/// How an inode's data is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Consecutive blocks from this one on.
    Plain(u64),
    /// The same, and the last part behind the inode.
    Inline(u64),
    /// Chunks of 2^`bits` bytes; whether the map has 8-byte entries.
    Chunks { bits: u32, indexes: bool },
}

/// An inode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EInode {
    /// Type.
    pub(crate) kind: FileType,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Names.
    pub(crate) links: u32,
    /// Bytes.
    pub(crate) size: u64,
    /// Device number.
    pub(crate) rdev: u64,
    /// Last change.
    pub(crate) mtime: Timestamp,
    pub(super) layout: Layout,
    /// Where the extended attributes begin, and how long they are.
    pub(super) xattrs: (u64, u64),
}

impl EInode {
    /// Whether it is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Where what follows the inode and its attributes begins.
    pub(super) fn behind(&self) -> u64 {
        self.xattrs.0 + self.xattrs.1
    }
}

impl Erofs {
    /// Reads an inode.
    pub(crate) fn inode(&self, nid: u64) -> Result<EInode, Errno> {
        let offset =
            nid.checked_mul(32).and_then(|at| at.checked_add(self.meta)).ok_or(Errno::UCLEAN)?;
        let head = self.image.get(offset, 32)?;
        let format = u16_at(head, 0);
        let extended = format & 1 == 1;
        let raw = self.image.get(offset, if extended { 64 } else { 32 })?;
        let mode = u32::from(u16_at(raw, 4));
        let kind = FileType::from_mode(mode).ok_or(Errno::UCLEAN)?;
        let (size, uid, gid, links, mtime) = if extended {
            let mtime = (u64_at(raw, 32), u32_at(raw, 40));
            (u64_at(raw, 8), u32_at(raw, 24), u32_at(raw, 28), u32_at(raw, 44), mtime)
        } else {
            let ids = (u32::from(u16_at(raw, 24)), u32::from(u16_at(raw, 26)));
            let size = u64::from(u32_at(raw, 8));
            (size, ids.0, ids.1, u32::from(u16_at(raw, 6)), (self.epoch, self.epoch_ns))
        };
        if size > i64::MAX as u64 {
            return Err(Errno::UCLEAN);
        }
        let union = u32_at(raw, 16);
        let special = !matches!(kind, FileType::Regular | FileType::Directory | FileType::Symlink);
        let layout = match format >> 1 & 7 {
            _ if special => Layout::Plain(0),
            0 => Layout::Plain(u64::from(union)),
            2 => Layout::Inline(u64::from(union)),
            4 if union & !0x3f == 0 => {
                Layout::Chunks { bits: 12 + (union & 0x1f), indexes: union & 0x20 != 0 }
            }
            _ => return Err(Errno::UCLEAN),
        };
        let count = u64::from(u16_at(raw, 2));
        let xattr_bytes = if count == 0 { 0 } else { 12 + 4 * (count - 1) };
        Ok(EInode {
            kind,
            mode: mode & PERMISSIONS,
            uid,
            gid,
            links: links.max(1),
            size: if special { 0 } else { size },
            rdev: if special { u64::from(union) } else { 0 },
            mtime: Timestamp {
                seconds: mtime.0.cast_signed(),
                nanoseconds: mtime.1 % 1_000_000_000,
            },
            layout,
            xattrs: (offset + raw.len() as u64, xattr_bytes),
        })
    }
}
