// SPDX-License-Identifier: Apache-2.0
//! Collects the rewritten text of files, and appends it to the image: see [`trine_abi::text`].

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use trine_abi::text::{FileEntry, Header, MAGIC, PageEntry};

use super::appender::{self, Appender};
use super::digest::DigestBuilder;
use super::{BLOCK_BYTES, WriteError};
use crate::text::{self, FILE_BYTES_MAX, Rewrite};
use crate::tree::InodeId;

/// Most pages of an image, of text and trampolines: they are in memory until the image ends.
const PAGES_MAX: usize = 1 << 15;

/// Rewritten text.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// Of different contents, in the order of the image.
    rewrites: Vec<Rewrite>,
    /// By size and hash: index of the rewrite, if there is any.
    known: HashMap<(u64, [u8; 32]), Option<usize>>,
    /// Inodes, and index of their rewrite.
    files: Vec<(InodeId, usize)>,
    pages: usize,
    found: u64,
}

impl Texts {
    /// Looks at a file of `size` bytes, which `read_fn` reads; `hash` names its content.
    pub(super) fn add<E>(
        &mut self,
        id: InodeId,
        size: u64,
        hash: Option<[u8; 32]>,
        read_fn: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let key = hash.map(|hash| (size, hash));
        let known = key.and_then(|key| self.known.get(&key).copied());
        let index = match known {
            Some(index) => index,
            None if size > FILE_BYTES_MAX => None,
            None => {
                let mut bytes = vec![0; size as usize];
                read_fn(&mut bytes)?;
                self.keep(text::rewrite(&bytes))
            }
        };
        if let Some(key) = key {
            self.known.insert(key, index);
        }
        self.files.extend(index.map(|index| (id, index)));
        Ok(())
    }

    /// Keeps what fits.
    fn keep(&mut self, rewrite: Rewrite) -> Option<usize> {
        self.found += rewrite.found;
        let pages = rewrite.pages.len() + rewrite.trampolines.len() / BLOCK_BYTES as usize;
        if rewrite.sites.is_empty() || self.pages + pages > PAGES_MAX {
            return None;
        }
        self.pages += pages;
        self.rewrites.push(rewrite);
        Some(self.rewrites.len() - 1)
    }

    /// System calls that were found; files of the same content count once.
    pub(super) fn found(&self) -> u64 {
        self.found
    }

    /// System calls that were rewritten.
    pub(super) fn rewritten(&self) -> u64 {
        self.rewrites.iter().map(|rewrite| rewrite.sites.len() as u64).sum()
    }

    /// The files with rewritten text.
    pub(super) fn inodes(&self) -> impl Iterator<Item = InodeId> {
        self.files.iter().map(|(id, _)| *id)
    }

    /// Appends everything, given the node ids of [`Self::inodes`], at the end of the file system.
    pub(super) fn append(
        &self,
        nids: &[u64],
        image: &mut Appender<'_>,
        digest: &mut DigestBuilder,
    ) -> Result<(), WriteError> {
        if self.files.is_empty() {
            return Ok(());
        }
        let (files, pages) = (self.files.len(), self.rewrites.iter().map(|r| r.pages.len()).sum());
        let table = Header::BYTES + files * FileEntry::BYTES + pages * PageEntry::BYTES;
        let start = u64::from(image.block()?);
        let mut next = start + (table as u64).div_ceil(BLOCK_BYTES);
        let mut take = |count: usize| {
            let block = appender::block_number(next * BLOCK_BYTES);
            next += count as u64;
            block
        };

        let mut page_entries = Vec::with_capacity(pages);
        // Files of the same content share their records.
        let mut entries = Vec::with_capacity(self.rewrites.len());
        for rewrite in &self.rewrites {
            let first_page = page_entries.len() as u32;
            for page in &rewrite.pages {
                page_entries.push(PageEntry { page: page.number, block: take(1)? });
            }
            let trampoline_pages = rewrite.trampolines.len() / BLOCK_BYTES as usize;
            entries.push(FileEntry {
                inode: 0,
                trampolines: rewrite.place,
                first_page,
                pages: rewrite.pages.len() as u32,
                trampoline_block: take(trampoline_pages)?,
                trampoline_pages: trampoline_pages as u32,
            });
        }
        let inodes = nids.iter().zip(&self.files);
        let mut file_entries: Vec<_> =
            inodes.map(|(nid, (_, index))| FileEntry { inode: *nid, ..entries[*index] }).collect();
        file_entries.sort_unstable_by_key(|entry| entry.inode);

        let header = Header { magic: MAGIC, files: files as u32, pages: page_entries.len() as u32 };
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hash.update(bytes);
            image.append(bytes)
        };
        put(&header.encode())?;
        for entry in &file_entries {
            put(&entry.encode())?;
        }
        for entry in &page_entries {
            put(&entry.encode())?;
        }
        put(&vec![0; table.next_multiple_of(BLOCK_BYTES as usize) - table])?;
        for rewrite in &self.rewrites {
            for page in &rewrite.pages {
                put(&page.bytes[..])?;
            }
            put(&rewrite.trampolines)?;
        }
        digest.update(&hash.finalize());
        Ok(())
    }
}
