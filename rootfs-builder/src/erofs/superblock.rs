// SPDX-License-Identifier: Apache-2.0
//! The superblock: `struct erofs_super_block` of Linux's `fs/erofs/erofs_fs.h`.

use super::BLOCK_BYTES;

const MAGIC: u32 = 0xe0f5_e1e2;
/// Where the superblock starts; what is before is for boot loaders.
const OFFSET: usize = 1024;
const BLOCK_BITS: u8 = 12;

const COMPAT_SB_CHKSUM: u32 = 0x1;
/// Times in inodes are modification times (old images had change times).
const COMPAT_MTIME: u32 = 0x2;
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;

/// What differs from image to image.
pub(super) struct Superblock {
    pub(super) root_nid: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) meta_block: u32,
    pub(super) chunked: bool,
    pub(super) uuid: [u8; 16],
}

impl Superblock {
    /// Returns the first block of the image, with its checksum.
    pub(super) fn encode(&self) -> [u8; BLOCK_BYTES as usize] {
        let mut block = [0; BLOCK_BYTES as usize];
        let sb = &mut block[OFFSET..];
        let incompat = if self.chunked { INCOMPAT_CHUNKED_FILE } else { 0 };
        put(sb, 0, &MAGIC.to_le_bytes());
        put(sb, 8, &(COMPAT_SB_CHKSUM | COMPAT_MTIME).to_le_bytes());
        put(sb, 12, &[BLOCK_BITS]);
        put(sb, 14, &self.root_nid.to_le_bytes());
        put(sb, 16, &self.inodes.to_le_bytes());
        // 24: build time and its nanoseconds stay 0 (only compact inodes would use them).
        put(sb, 36, &self.blocks.to_le_bytes());
        put(sb, 40, &self.meta_block.to_le_bytes());
        put(sb, 48, &self.uuid);
        put(sb, 80, &incompat.to_le_bytes());
        // The kernel's crc32c has no final inversion, and covers the rest of the block.
        let checksum = !crc32c::crc32c(sb);
        put(sb, 4, &checksum.to_le_bytes());
        block
    }

    /// Reads the first block of an image.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn decode(block: &[u8; BLOCK_BYTES as usize]) -> Result<Self, &'static str> {
        let sb = &block[OFFSET..];
        if u32_at(sb, 0) != MAGIC {
            return Err("it is no EROFS file system");
        }
        let incompat = u32_at(sb, 80);
        if sb[12] != BLOCK_BITS || incompat & !INCOMPAT_CHUNKED_FILE != 0 {
            return Err("it uses features of EROFS that trine does not");
        }
        let mut summed = sb.to_vec();
        put(&mut summed, 4, &[0; 4]);
        if !crc32c::crc32c(&summed) != u32_at(sb, 4) {
            return Err("the checksum of its superblock is wrong");
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&sb[48..64]);
        Ok(Self {
            root_nid: u16::from_le_bytes([sb[14], sb[15]]),
            inodes: u64::from(u32_at(sb, 16)) | u64::from(u32_at(sb, 20)) << 32,
            blocks: u32_at(sb, 36),
            meta_block: u32_at(sb, 40),
            chunked: incompat != 0,
            uuid,
        })
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]))
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}
