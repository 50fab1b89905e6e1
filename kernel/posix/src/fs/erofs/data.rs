// SPDX-License-Identifier: Apache-2.0
//! Where the bytes of a file are.

use alloc::vec::Vec;

use crate::{
    Errno,
    fs::{
        erofs::{BLOCK, EInode, Erofs, inode::Layout, u32_at},
        types::{FileType, PATH_MAX},
    },
};

const HOLE: u32 = u32::MAX;

/// A part of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece {
    /// These bytes.
    Bytes(&'static [u8]),
    /// So many zeroes.
    Zeroes(u64),
}

/// Where a page of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageAt {
    /// At this offset of the image, whole and aligned.
    Image(u64),
    /// Nowhere: it reads as zeroes.
    Hole,
    /// In pieces: it must be copied.
    Scattered,
}

impl Erofs {
    /// Finds what lies at `offset` of a file, as far as it is in one piece; `None` at the end.
    pub(crate) fn piece(&self, inode: &EInode, offset: u64) -> Result<Option<Piece>, Errno> {
        if offset >= inode.size {
            return Ok(None);
        }
        let left = inode.size - offset;
        let block_at = |block: u64| block.checked_mul(BLOCK).ok_or(Errno::UCLEAN);
        let at = |start: u64| start.checked_add(offset).ok_or(Errno::UCLEAN);
        Ok(Some(match inode.layout {
            Layout::Plain(block) => Piece::Bytes(self.image.get(at(block_at(block)?)?, left)?),
            Layout::Inline(block) => {
                let tail_at = (inode.size - 1) / BLOCK * BLOCK;
                if offset < tail_at {
                    let start = at(block_at(block)?)?;
                    Piece::Bytes(self.image.get(start, tail_at - offset)?)
                } else {
                    let behind = inode.behind();
                    let tail = inode.size - tail_at;
                    if behind % BLOCK + tail > BLOCK {
                        return Err(Errno::UCLEAN);
                    }
                    Piece::Bytes(self.image.get(behind + (offset - tail_at), left)?)
                }
            }
            Layout::Chunks { bits, .. } => {
                let within = offset & ((1 << bits) - 1);
                let bytes = ((1 << bits) - within).min(left);
                match self.chunk(inode, offset >> bits)? {
                    None => Piece::Zeroes(bytes),
                    Some(block) => Piece::Bytes(self.image.get(block * BLOCK + within, bytes)?),
                }
            }
        }))
    }

    /// The block at which a chunk begins; `None` for a hole.
    fn chunk(&self, inode: &EInode, index: u64) -> Result<Option<u64>, Errno> {
        let Layout::Chunks { indexes, .. } = inode.layout else { return Err(Errno::UCLEAN) };
        let unit: u64 = if indexes { 8 } else { 4 };
        let map = inode.behind().next_multiple_of(unit);
        let at = index.checked_mul(unit).and_then(|at| at.checked_add(map)).ok_or(Errno::UCLEAN)?;
        let entry = self.image.get(at, unit)?;
        let block = u32_at(entry, if indexes { 4 } else { 0 });
        // Another device, or a block beyond 32 bits: features that were refused at open.
        if block != HOLE && indexes && u32_at(entry, 0) != 0 {
            return Err(Errno::UCLEAN);
        }
        Ok((block != HOLE).then_some(u64::from(block)))
    }

    /// Finds page `index` of a file.
    pub(crate) fn page(&self, inode: &EInode, index: u64) -> Result<PageAt, Errno> {
        let offset = index.checked_mul(BLOCK).ok_or(Errno::UCLEAN)?;
        if offset >= inode.size {
            return Ok(PageAt::Hole);
        }
        let start = match inode.layout {
            Layout::Plain(block) => (block + index) * BLOCK,
            Layout::Inline(block) if index < (inode.size - 1) / BLOCK => (block + index) * BLOCK,
            Layout::Inline(_) => return Ok(PageAt::Scattered),
            Layout::Chunks { bits, .. } => match self.chunk(inode, offset >> bits)? {
                None => return Ok(PageAt::Hole),
                Some(block) => block * BLOCK + (offset & ((1 << bits) - 1)),
            },
        };
        self.image.get(start, BLOCK)?;
        Ok(PageAt::Image(start))
    }

    /// Copies from a file; returns how many bytes there were.
    pub(crate) fn read(&self, inode: &EInode, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < to.len() {
            let Some(piece) = self.piece(inode, offset + done as u64)? else { break };
            let room = to.len() - done;
            let bytes = match piece {
                Piece::Bytes(bytes) => {
                    let bytes = &bytes[..bytes.len().min(room)];
                    to[done..done + bytes.len()].copy_from_slice(bytes);
                    bytes.len()
                }
                Piece::Zeroes(bytes) => {
                    let bytes = bytes.min(room as u64) as usize;
                    to[done..done + bytes].fill(0);
                    bytes
                }
            };
            done += bytes;
        }
        Ok(done)
    }

    /// Reads a symbolic link.
    pub(crate) fn link_target(&self, inode: &EInode) -> Result<Vec<u8>, Errno> {
        if inode.kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        if inode.size >= PATH_MAX as u64 {
            return Err(Errno::UCLEAN);
        }
        let mut target = alloc::vec![0; inode.size as usize];
        self.read(inode, 0, &mut target)?;
        Ok(target)
    }
}
