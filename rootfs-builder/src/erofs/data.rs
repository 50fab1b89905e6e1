// SPDX-License-Identifier: Apache-2.0
//! Writes file data, and decides where each file's data goes.

use std::collections::HashMap;
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::appender::{Appender, PIECE_BYTES};
use super::chunks::Chunks;
use super::content::{ContentReader, OpenContent};
use super::digest::DigestBuilder;
use super::order::Order;
use super::texts::Texts;
use super::{WriteError, inode};
use crate::progress::{Phase, Progress};
use crate::text::Scan;
use crate::tree::{Content, InodeId, Kind, Tree};

/// The most bytes of a file that is kept behind its inode rather than in blocks of its own.
///
/// Half a block: a longer tail wastes, on average, as much by not fitting into the current
/// metadata block as it saves.
pub const INLINE_MAX: u64 = 2048;

/// How much inline data is remembered until the inodes are written; beyond it is read again.
const INLINE_CACHE_BYTES: usize = 32 << 20;
/// A file with fewer bytes in holes is written whole: it can then be a plain file.
const MIN_HOLE_BYTES: u64 = 64 << 10;

/// Where the data of an inode is.
#[derive(Clone, Debug)]
pub(super) enum Placement {
    /// There is none.
    Nothing,
    /// Behind the inode; the bytes, when they are remembered.
    Inline(Option<Box<[u8]>>),
    /// In consecutive blocks.
    Plain { block: u32 },
    /// In chunks; `blocks` has the first block of each run of them.
    Chunks { chunks: Chunks, blocks: Vec<u32> },
}

/// What [`DataWriter`] met.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) data_bytes: u64,
    pub(super) shared_bytes: u64,
    pub(super) hole_bytes: u64,
    pub(super) chunked_files: u64,
}

/// Appends the data of all files to the image.
pub(super) struct DataWriter<'a, 'i> {
    tree: &'a Tree,
    image: &'a mut Appender<'i>,
    digest: &'a mut DigestBuilder,
    progress: &'a dyn Progress,
    reader: ContentReader,
    /// Plain extents by size and hash.
    extents: HashMap<(u64, [u8; 32]), u32>,
    inline_bytes: usize,
    texts: Texts,
    counts: Counts,
    total_bytes: u64,
}

/// What is found out about data while it is copied.
struct Pass {
    hash: Sha256,
    scan: Scan,
}

impl<'a, 'i> DataWriter<'a, 'i> {
    pub(super) fn new(
        tree: &'a Tree,
        image: &'a mut Appender<'i>,
        digest: &'a mut DigestBuilder,
        progress: &'a dyn Progress,
    ) -> Self {
        let sizes = tree.inodes.iter().map(|inode| match &inode.kind {
            Kind::File(content) => content.size,
            _ => 0,
        });
        Self {
            tree,
            image,
            digest,
            progress,
            reader: ContentReader::default(),
            extents: HashMap::new(),
            inline_bytes: 0,
            texts: Texts::default(),
            counts: Counts::default(),
            // Sizes are the source's to choose: a sparse file may claim exabytes.
            total_bytes: sizes.fold(0, u64::saturating_add),
        }
    }

    /// Ends it: what it met, and the rewritten text of the files.
    pub(super) fn finish(self) -> (Counts, Texts) {
        (self.counts, self.texts)
    }

    /// Writes all files; returns the placements by inode.
    pub(super) fn write_all(
        &mut self,
        order: &Order<'_>,
        xattrs: &[Vec<u8>],
    ) -> Result<Vec<Placement>, WriteError> {
        let mut placements = vec![Placement::Nothing; self.tree.inodes.len()];
        for &id in &order.ids {
            let inode = &self.tree.inodes[id];
            if let Kind::File(content) = &inode.kind {
                placements[id] = self.place(id, content, order.names[id], &xattrs[id])?;
            }
        }
        self.progress.update(Phase::Write, self.total_bytes, self.total_bytes);
        Ok(placements)
    }

    fn place(
        &mut self,
        id: InodeId,
        content: &Content,
        name: &[u8],
        xattrs: &[u8],
    ) -> Result<Placement, WriteError> {
        if content.size == 0 {
            return Ok(Placement::Nothing);
        }
        let open = self.reader.open(content)?;
        if content.may_have_holes {
            let ranges = open.data_ranges()?;
            let holes = content.size - ranges.iter().map(|r| r.end - r.start).sum::<u64>();
            if holes >= MIN_HOLE_BYTES {
                let chunks = Chunks::of(content.size, &ranges).ok_or_else(|| {
                    let path = String::from_utf8_lossy(name).into_owned();
                    WriteError::TooSparse { path, bytes: content.size }
                })?;
                // Many small holes may fill no chunk: then it is a plain file.
                if chunks.hole_bytes() > 0 {
                    return self.write_chunks(id, content.size, &open, chunks);
                }
            }
        }
        let fits = inode::fits_behind(xattrs.len(), content.size);
        let mode = self.tree.inodes[id].meta.mode;
        if content.size <= INLINE_MAX && fits && !is_mapped(mode, name) {
            let mut bytes = vec![0; content.size as usize];
            open.read(&mut bytes, 0)?;
            if !bytes.starts_with(b"\x7fELF") {
                self.counted(content.size);
                return Ok(Placement::Inline(self.remember(bytes)));
            }
        }
        self.write_plain(id, content.size, &open)
    }

    /// Keeps `bytes` until the inode is written, within the budget.
    fn remember(&mut self, bytes: Vec<u8>) -> Option<Box<[u8]>> {
        if self.inline_bytes + bytes.len() > INLINE_CACHE_BYTES {
            return None;
        }
        self.inline_bytes += bytes.len();
        Some(bytes.into())
    }

    fn write_plain(
        &mut self,
        id: InodeId,
        size: u64,
        open: &OpenContent,
    ) -> Result<Placement, WriteError> {
        let start = self.image.position();
        let block = self.image.block()?;
        let mut pass = Pass::new();
        self.copy(open, 0..size, &mut pass)?;
        let hash: [u8; 32] = pass.hash.finalize().into();
        if pass.scan.is_suspect() {
            self.texts.add(id, size, Some(hash), |bytes| open.read(bytes, 0))?;
        }

        // Only now is it known whether the image has the same content already.
        let block = match self.extents.get(&(size, hash)) {
            Some(earlier) => {
                self.image.rewind(start);
                self.counts.shared_bytes += size;
                *earlier
            }
            None => {
                self.image.pad()?;
                self.extents.insert((size, hash), block);
                block
            }
        };
        self.record(size, &hash);
        Ok(Placement::Plain { block })
    }

    fn write_chunks(
        &mut self,
        id: InodeId,
        size: u64,
        open: &OpenContent,
        chunks: Chunks,
    ) -> Result<Placement, WriteError> {
        let mut pass = Pass::new();
        let mut blocks = Vec::new();
        for range in chunks.stored() {
            blocks.push(self.image.block()?);
            self.copy(open, range, &mut pass)?;
            self.image.pad()?;
        }
        if pass.scan.is_suspect() {
            // The hash does not say where the holes are.
            self.texts.add(id, size, None, |bytes| open.read(bytes, 0))?;
        }
        self.counts.hole_bytes += chunks.hole_bytes();
        self.counts.chunked_files += 1;
        self.record(size, &pass.hash.finalize().into());
        Ok(Placement::Chunks { chunks, blocks })
    }

    /// Appends a range of a file, and looks at it.
    fn copy(
        &mut self,
        open: &OpenContent,
        range: Range<u64>,
        pass: &mut Pass,
    ) -> Result<(), WriteError> {
        let mut offset = range.start;
        while offset < range.end {
            let len = (range.end - offset).min(PIECE_BYTES as u64) as usize;
            let piece = self.image.append_with(len, |space| open.read(space, offset))?;
            pass.hash.update(piece);
            pass.scan.piece(piece);
            offset += len as u64;
            self.counted(len as u64);
        }
        Ok(())
    }

    fn counted(&mut self, bytes: u64) {
        self.counts.data_bytes += bytes;
        self.progress.update(Phase::Write, self.counts.data_bytes, self.total_bytes);
    }

    fn record(&mut self, size: u64, hash: &[u8; 32]) {
        self.digest.update(&size.to_le_bytes());
        self.digest.update(hash);
    }
}

impl Pass {
    fn new() -> Self {
        Self { hash: Sha256::new(), scan: Scan::new() }
    }
}

/// Says whether the file is one that programs map, whatever its size.
fn is_mapped(mode: u16, name: &[u8]) -> bool {
    mode & 0o111 != 0 || name.windows(3).any(|part| part == b".so")
}
