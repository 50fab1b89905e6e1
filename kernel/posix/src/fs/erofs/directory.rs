// SPDX-License-Identifier: Apache-2.0
//! Directories on disk: blocks of sorted entries.
//!
//! A block begins with its entries (12 bytes each), then come their names; the first entry's name
//! offset tells how many entries there are.

use core::cmp::Ordering;

use crate::{
    Errno,
    fs::{
        erofs::{BLOCK, EInode, Erofs, data::Piece, u16_at, u64_at},
        types::FileType,
    },
};

const ENTRY: usize = 12;

/// One entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EDirEntry {
    /// Inode number.
    pub(crate) nid: u64,
    /// Type.
    pub(crate) kind: FileType,
    /// Name.
    pub(crate) name: &'static [u8],
}

/// One block of entries.
#[derive(Clone, Copy)]
struct Block {
    bytes: &'static [u8],
    entries: usize,
}

impl Block {
    fn entry(&self, index: usize) -> Result<EDirEntry, Errno> {
        let raw = self.bytes.get(index * ENTRY..(index + 1) * ENTRY).ok_or(Errno::UCLEAN)?;
        let start = usize::from(u16_at(raw, 8));
        let last = index + 1 == self.entries;
        let end = if last {
            self.bytes.len()
        } else {
            usize::from(u16_at(self.bytes, (index + 1) * ENTRY + 8))
        };
        let mut name = self.bytes.get(start..end).ok_or(Errno::UCLEAN)?;
        if last {
            // The rest of the block is padding.
            name = &name[..name.iter().position(|&byte| byte == 0).unwrap_or(name.len())];
        }
        if name.is_empty() || name.len() > 255 || name.contains(&0) || name.contains(&b'/') {
            return Err(Errno::UCLEAN);
        }
        let kind = match raw[10] {
            1 => FileType::Regular,
            2 => FileType::Directory,
            3 => FileType::CharDevice,
            4 => FileType::BlockDevice,
            5 => FileType::Fifo,
            6 => FileType::Socket,
            7 => FileType::Symlink,
            _ => return Err(Errno::UCLEAN),
        };
        Ok(EDirEntry { nid: u64_at(raw, 0), kind, name })
    }
}

impl Erofs {
    fn directory_block(&self, dir: &EInode, index: u64) -> Result<Block, Errno> {
        let Some(Piece::Bytes(bytes)) = self.piece(dir, index * BLOCK)? else {
            return Err(Errno::UCLEAN);
        };
        let bytes = &bytes[..bytes.len().min(BLOCK as usize)];
        let names = usize::from(u16_at(bytes, 8));
        if names < ENTRY || names % ENTRY != 0 || names > bytes.len() {
            return Err(Errno::UCLEAN);
        }
        Ok(Block { bytes, entries: names / ENTRY })
    }

    /// Looks a name up; binary search over blocks, then in the block.
    pub(crate) fn lookup(&self, dir: &EInode, name: &[u8]) -> Result<Option<EDirEntry>, Errno> {
        if !dir.is_directory() {
            return Err(Errno::NOTDIR);
        }
        let (mut low, mut high) = (0, dir.size.div_ceil(BLOCK));
        // The last block whose first name is not greater.
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.directory_block(dir, middle)?;
            if block.entry(0)?.name <= name {
                found = Some(block);
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some(block) = found else { return Ok(None) };
        let (mut low, mut high) = (0, block.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = block.entry(middle)?;
            match entry.name.cmp(name) {
                Ordering::Equal => return Ok(Some(entry)),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Reads the entry at a cursor (block number << 12 | index in the block); returns it and the
    /// next cursor, or `None` at the end.
    pub(crate) fn entry_at(
        &self,
        dir: &EInode,
        cursor: u64,
    ) -> Result<Option<(EDirEntry, u64)>, Errno> {
        let (mut number, mut index) = (cursor >> 12, (cursor & 0xfff) as usize);
        while number < dir.size.div_ceil(BLOCK) {
            let block = self.directory_block(dir, number)?;
            if index < block.entries {
                return Ok(Some((block.entry(index)?, number << 12 | (index as u64 + 1))));
            }
            (number, index) = (number + 1, 0);
        }
        Ok(None)
    }
}
