// SPDX-License-Identifier: Apache-2.0
//! The vDSO.

use alloc::vec::Vec;

use trine_machine::Page;

use super::{Mm, PAGE_SIZE, Protection};
use crate::{Errno, kernel::TscClock, services::Services};

/// The pages of the vDSO, which every memory maps: data, then code.
#[derive(Debug)]
pub struct Vdso {
    pages: Vec<Page>,
}

impl Vdso {
    /// Makes the pages; `None` if the TSC is no clock, or no frame is free.
    pub(crate) fn new(_services: &Services, _clock: &TscClock) -> Option<Self> {
        None
    }

    /// Maps the pages; returns where the code is.
    pub(crate) fn map(&self, mm: &Mm) -> Result<u64, Errno> {
        let bytes = self.pages.len() as u64 * PAGE_SIZE;
        let base = mm.layout.lock().mmap_base;
        let start = mm.areas.lock().find_free(bytes, base).ok_or(Errno::NOMEM)?;
        mm.map_fixed_pages(start, &self.pages[..1], Protection::from_bits(1), "[vvar]")?;
        let code = start + PAGE_SIZE;
        mm.map_fixed_pages(code, &self.pages[1..], Protection::from_bits(5), "[vdso]")?;
        Ok(code)
    }
}
