// SPDX-License-Identifier: Apache-2.0
//! EROFS images, read in place: the format of mainline Linux without compression.
//!
//! The image is one immutable slice, so everything here is arithmetic on it: no cache, no copy.  An
//! image may be hostile or damaged: every offset is checked where it is used, every loop is bounded
//! by the image's own size, and what does not fit is [`Errno::UCLEAN`].
//!
//! | layout | where the data is |
//! | --- | --- |
//! | flat plain | consecutive blocks |
//! | flat inline | consecutive blocks, and the last part right behind the inode |
//! | chunk based | chunks of 2^n blocks with a map behind the inode; chunks may be holes |

mod data;
mod directory;
mod inode;
mod text;
mod xattr;

pub(crate) use data::{PageAt, Piece};
pub(crate) use inode::EInode;
pub(crate) use text::FileText;
use text::Tables;

use crate::Errno;

/// Bytes of a block; images with other blocks are refused.
pub(crate) const BLOCK: u64 = 4096;
const SUPERBLOCK: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 1;
const INCOMPAT_CHUNKED: u32 = 4;

/// An image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Erofs {
    image: Bytes,
    root: u64,
    meta: u64,
    xattrs: u64,
    epoch: u64,
    epoch_ns: u32,
    text: Tables,
}

/// Checked access to the image.
#[derive(Clone, Copy)]
struct Bytes(&'static [u8]);

impl core::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Bytes {
    fn get(self, offset: u64, bytes: u64) -> Result<&'static [u8], Errno> {
        let end = offset.checked_add(bytes).ok_or(Errno::UCLEAN)?;
        self.0.get(offset as usize..end as usize).ok_or(Errno::UCLEAN)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// CRC-32C without the final inversion, as EROFS has it.
fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    crc
}

impl Erofs {
    /// Reads the superblock.
    ///
    /// # Errors
    /// What is wrong with the image, one line.
    pub(crate) fn open(image: &'static [u8]) -> Result<Self, &'static str> {
        let block = image.get(..BLOCK as usize).ok_or("the image is smaller than one block")?;
        let sb = &block[SUPERBLOCK..];
        if u32_at(sb, 0) != MAGIC {
            return Err("the image is not an EROFS file system");
        }
        if sb[12] != 12 || sb[90] != 0 {
            return Err("the image does not have blocks of 4096 bytes");
        }
        if u32_at(sb, 80) & !INCOMPAT_CHUNKED != 0 {
            return Err("the image uses a feature of EROFS that is not supported (compression?)");
        }
        if u32_at(sb, 8) & COMPAT_CHECKSUM != 0 {
            let crc = crc32c(crc32c(crc32c(!0, &sb[..4]), &[0; 4]), &sb[8..]);
            if crc != u32_at(sb, 4) {
                return Err("the checksum of the image's superblock is wrong");
            }
        }
        let this = Self {
            image: Bytes(image),
            root: u64::from(u16_at(sb, 14)),
            meta: u64::from(u32_at(sb, 40)) * BLOCK,
            xattrs: u64::from(u32_at(sb, 44)) * BLOCK,
            epoch: u64_at(sb, 24),
            epoch_ns: u32_at(sb, 32),
            text: Tables::find(Bytes(image), u64::from(u32_at(sb, 36))),
        };
        match this.inode(this.root) {
            Ok(root) if root.is_directory() => Ok(this),
            _ => Err("the image's root is not a directory"),
        }
    }

    /// Number of the root directory.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    /// Bytes of the image.
    pub(crate) fn bytes(&self) -> u64 {
        self.image.0.len() as u64
    }
}
