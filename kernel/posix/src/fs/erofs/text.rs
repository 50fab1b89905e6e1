// SPDX-License-Identifier: Apache-2.0
//! Rewritten program text behind the file system ([`trine_abi::text`]).
//!
//! As hostile as the rest of the image: a table that does not fit is no table.

use trine_abi::text::{FileEntry, Header, MAGIC, PageEntry, TRAMPOLINE_PAGES_MAX};

use super::{BLOCK, Bytes, Erofs};

/// The tables of an image.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tables {
    files: Records,
    pages: Records,
}

/// Records of one size.
#[derive(Clone, Copy, Default)]
struct Records(&'static [u8]);

impl core::fmt::Debug for Records {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The rewritten text of one file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileText {
    entry: FileEntry,
    pages: Records,
}

impl Records {
    /// Finds a record by its key, by which they are sorted.
    fn find<const BYTES: usize>(self, is_below: impl Fn(&[u8; BYTES]) -> bool) -> usize {
        self.0.as_chunks().0.partition_point(is_below)
    }

    fn get<const BYTES: usize>(self, index: usize) -> Option<&'static [u8; BYTES]> {
        self.0.as_chunks().0.get(index)
    }
}

impl Tables {
    /// Finds the tables in an image whose file system is so long.
    pub(super) fn find(image: Bytes, blocks: u64) -> Self {
        let tables = || {
            let at = blocks.checked_mul(BLOCK)?;
            let head = image.get(at, Header::BYTES as u64).ok()?;
            let header = Header::decode(head.first_chunk()?);
            if header.magic != MAGIC {
                return None;
            }
            let files_at = at + Header::BYTES as u64;
            let files_bytes = u64::from(header.files) * FileEntry::BYTES as u64;
            let pages_bytes = u64::from(header.pages) * PageEntry::BYTES as u64;
            Some(Self {
                files: Records(image.get(files_at, files_bytes).ok()?),
                pages: Records(image.get(files_at + files_bytes, pages_bytes).ok()?),
            })
        };
        tables().unwrap_or_default()
    }
}

impl Erofs {
    /// The rewritten text of a file, if it has some.
    pub(crate) fn text(&self, nid: u64) -> Option<FileText> {
        let files = self.text.files;
        let index = files.find(|record| FileEntry::decode(record).inode < nid);
        let entry = FileEntry::decode(files.get(index)?);
        let bytes = PageEntry::BYTES;
        let start = (entry.first_page as usize).checked_mul(bytes)?;
        let end = start.checked_add((entry.pages as usize).checked_mul(bytes)?)?;
        let pages = Records(self.text.pages.0.get(start..end)?);
        let fits = entry.inode == nid
            && (1..=TRAMPOLINE_PAGES_MAX).contains(&entry.trampoline_pages)
            && entry.trampolines.rem_euclid(BLOCK as i64) == 0;
        fits.then_some(FileText { entry, pages })
    }
}

impl FileText {
    /// Where the image has the rewritten page `index` of the file, in bytes; `None` if that page is
    /// as in the file.
    pub(crate) fn page(&self, index: u64) -> Option<u64> {
        let at = self.pages.find(|record| u64::from(PageEntry::decode(record).page) < index);
        let entry = PageEntry::decode(self.pages.get(at)?);
        (u64::from(entry.page) == index).then_some(u64::from(entry.block) * BLOCK)
    }

    /// Whether any of the pages from `first` up to `end` is rewritten.
    pub(crate) fn has_pages(&self, first: u64, end: u64) -> bool {
        let at = self.pages.find(|record| u64::from(PageEntry::decode(record).page) < first);
        let next = self.pages.get(at).map(PageEntry::decode);
        next.is_some_and(|next| u64::from(next.page) < end)
    }

    /// Address of the trampolines if page 0 of the file would lie at `start`, which may be below
    /// any address (wrapping).
    pub(crate) fn trampolines_at(&self, start: u64) -> u64 {
        start.wrapping_add_signed(self.entry.trampolines)
    }

    /// Where the image has the pages of trampolines, in bytes, in their order.
    pub(crate) fn trampolines(&self) -> impl ExactSizeIterator<Item = u64> + use<> {
        let first = u64::from(self.entry.trampoline_block);
        (0..self.entry.trampoline_pages).map(move |index| (first + u64::from(index)) * BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const BLOCKS: u64 = 3;

    fn tables(files: &[FileEntry], pages: &[PageEntry]) -> Vec<u8> {
        let mut image = std::vec![0; (BLOCKS * BLOCK) as usize];
        let (count, page_count) = (files.len() as u32, pages.len() as u32);
        image.extend(Header { magic: MAGIC, files: count, pages: page_count }.encode());
        image.extend(files.iter().flat_map(FileEntry::encode));
        image.extend(pages.iter().flat_map(PageEntry::encode));
        image
    }

    fn open(image: Vec<u8>) -> Erofs {
        let image = Bytes(image.leak());
        let text = Tables::find(image, BLOCKS);
        Erofs { image, root: 0, meta: 0, xattrs: 0, epoch: 0, epoch_ns: 0, text }
    }

    fn file(inode: u64, first_page: u32, pages: u32) -> FileEntry {
        FileEntry {
            inode,
            trampolines: -0x2000,
            first_page,
            pages,
            trampoline_block: 9,
            trampoline_pages: 2,
        }
    }

    fn good() -> Vec<u8> {
        let pages = [(1, 20), (4, 21), (0, 22)].map(|(page, block)| PageEntry { page, block });
        tables(&[file(40, 0, 2), file(50, 2, 1)], &pages)
    }

    #[test]
    fn pages_of_a_file_are_found_and_no_others() {
        let image = open(good());
        let text = image.text(40).expect("it has text");
        assert_eq!(
            [0, 1, 2, 4, 5].map(|page| text.page(page)),
            [None, Some(20 * BLOCK), None, Some(21 * BLOCK), None]
        );
        assert!(text.has_pages(2, 5) && !text.has_pages(2, 4) && !text.has_pages(5, 100));
        assert_eq!(text.trampolines_at(0x10_0000), 0xf_e000);
        assert_eq!(text.trampolines().collect::<Vec<_>>(), [9 * BLOCK, 10 * BLOCK]);
        assert_eq!(image.text(50).expect("it has text").page(0), Some(22 * BLOCK));
        for nid in [0, 39, 41, 51, u64::MAX] {
            assert!(image.text(nid).is_none());
        }
    }

    #[test]
    fn tables_that_do_not_fit_are_none() {
        let image = good();
        for end in 0..image.len() {
            assert!(open(image[..end].to_vec()).text(40).is_none(), "cut at {end}");
        }
        let wrong = [file(40, 0, 4), file(40, u32::MAX, u32::MAX)];
        let none = FileEntry { trampoline_pages: 0, ..file(40, 0, 1) };
        let many = FileEntry { trampoline_pages: u32::MAX, ..file(40, 0, 1) };
        let crooked = FileEntry { trampolines: -0x2001, ..file(40, 0, 1) };
        for entry in wrong.into_iter().chain([none, many, crooked]) {
            let image = tables(&[entry], &[PageEntry { page: 1, block: 1 }]);
            assert!(open(image).text(40).is_none(), "{entry:?}");
        }
    }
}
