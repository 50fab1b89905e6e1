// SPDX-License-Identifier: Apache-2.0
//! Extended attributes on disk: references to shared ones, then the inode's own.

use alloc::vec::Vec;

use crate::{
    Errno,
    fs::erofs::{EInode, Erofs, u16_at, u32_at},
};

const HEADER: u64 = 12;
const ENTRY: u64 = 4;

/// A name and a value.
pub(crate) type XattrEntry = (Vec<u8>, &'static [u8]);

fn prefix(index: u8) -> Option<&'static [u8]> {
    Some(match index {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        _ => return None,
    })
}

impl Erofs {
    /// Reads the entry at `offset`; returns it and where the next one would be.
    fn xattr(&self, offset: u64) -> Result<(Option<XattrEntry>, u64), Errno> {
        let head = self.image.get(offset, ENTRY)?;
        let (name_bytes, value_bytes) = (u64::from(head[0]), u64::from(u16_at(head, 2)));
        let name = self.image.get(offset + ENTRY, name_bytes)?;
        let value = self.image.get(offset + ENTRY + name_bytes, value_bytes)?;
        let next = (offset + ENTRY + name_bytes + value_bytes).next_multiple_of(4);
        let entry = prefix(head[1]).map(|prefix| ([prefix, name].concat(), value));
        Ok((entry, next))
    }

    /// Reads all extended attributes of an inode.
    pub(crate) fn xattrs(&self, inode: &EInode) -> Result<Vec<XattrEntry>, Errno> {
        let (start, bytes) = inode.xattrs;
        let mut list = Vec::new();
        if bytes == 0 {
            return Ok(list);
        }
        let end = start + bytes;
        let shared = u64::from(self.image.get(start, HEADER)?[4]);
        let mut at = start + HEADER;
        for _ in 0..shared {
            if at + 4 > end {
                return Err(Errno::UCLEAN);
            }
            let id = u64::from(u32_at(self.image.get(at, 4)?, 0));
            list.extend(self.xattr(self.xattrs + id * 4)?.0);
            at += 4;
        }
        // Each round moves on by at least one entry's header.
        while at + ENTRY <= end {
            let (entry, next) = self.xattr(at)?;
            if next > end {
                return Err(Errno::UCLEAN);
            }
            list.extend(entry);
            at = next;
        }
        Ok(list)
    }
}
