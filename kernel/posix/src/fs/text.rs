// SPDX-License-Identifier: Apache-2.0
//! Rewritten program text of a file: pages that executable mappings use in place of the file's.

use alloc::vec::Vec;

use trine_machine::{Arena, Page};

use super::erofs::FileText;

/// The rewritten text of a file of the root image (see [`trine_abi::text`]).
#[derive(Clone, Copy, Debug)]
pub struct Text {
    arena: &'static Arena,
    file: FileText,
}

impl Text {
    pub(super) fn new(arena: &'static Arena, file: FileText) -> Self {
        Self { arena, file }
    }

    fn image_page(&self, offset: u64) -> Option<Page> {
        self.arena.image_page(0, offset).map(Page::Image)
    }

    /// The page that takes the place of page `index`; `None` if that page is as in the file.
    pub(crate) fn page(&self, index: u64) -> Option<Page> {
        self.image_page(self.file.page(index)?)
    }

    /// The pages of trampolines, in their order; `None` if the image is damaged.
    pub(crate) fn trampolines(&self) -> Option<Vec<Page>> {
        self.file.trampolines().map(|offset| self.image_page(offset)).collect()
    }

    /// Where the trampolines belong, and how many bytes they have, if page `page` of the file is at
    /// `start`; `None` if none of the `pages` from there on is rewritten, or the place is nowhere.
    pub(crate) fn place(&self, start: u64, page: u64, pages: u64) -> Option<(u64, u64)> {
        let has_any = self.file.has_pages(page, page.checked_add(pages)?);
        let first = start.wrapping_sub(page.checked_mul(crate::mm::PAGE_SIZE)?);
        let bytes = self.file.trampolines().len() as u64 * crate::mm::PAGE_SIZE;
        has_any.then(|| (self.file.trampolines_at(first), bytes))
    }
}
