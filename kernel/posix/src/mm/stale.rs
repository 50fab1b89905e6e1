// SPDX-License-Identifier: Apache-2.0
//! Pages of files that are mapped but no longer the file's: it was cut, or a page was replaced.
//!
//! File code cannot reach the memories that map it, and holds its own locks; it leaves a note, and
//! the kernel takes the pages out before any application code runs on.  The next access faults, and
//! finds the new page or the new end (SIGBUS).

use alloc::vec::Vec;

use super::{AreaKind, Mm, MmRef, PAGE_SIZE};
use crate::Kernel;

/// What is no longer as it was mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stale {
    /// Device and inode number.
    pub(crate) file: (u64, u64),
    pub(crate) what: StalePages,
}

/// Which pages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StalePages {
    /// All from this one on, copies of them included.
    From(u64),
    /// This one, where it is mapped as what it was: at this physical address.
    Was(u64, u64),
}

impl Mm {
    fn drop_stale(&self, stale: &Stale) {
        let ranges: Vec<(u64, u64)> = self
            .areas
            .lock()
            .iter()
            .filter_map(|area| {
                let AreaKind::File { file, page, .. } = &area.kind else { return None };
                let pages = (area.end - area.start) / PAGE_SIZE;
                let (first, last) = match stale.what {
                    StalePages::From(first) => (first, u64::MAX),
                    StalePages::Was(index, _) => (index, index + 1),
                };
                let from = first.max(*page);
                let to = last.min(page + pages);
                if from >= to {
                    return None;
                }
                let attr = file.attr();
                let address = |index: u64| area.start + (index - page) * PAGE_SIZE;
                ((attr.device, attr.ino) == stale.file).then(|| (address(from), address(to)))
            })
            .collect();
        for (start, end) in ranges {
            let mut space = self.space.lock();
            let mapped = match stale.what {
                StalePages::From(_) => true,
                StalePages::Was(_, was) => {
                    space.lookup(start).is_some_and(|(page, _)| page.address() == was)
                }
            };
            if mapped {
                space.unmap(start, end);
            }
        }
    }
}

impl Kernel {
    /// Takes out of all memories what files gave notice of.
    pub(crate) fn drop_stale_pages(&mut self) {
        if self.services.stale.lock().is_empty() {
            return;
        }
        let list = core::mem::take(&mut *self.services.stale.lock());
        let mut memories: Vec<MmRef> =
            self.services.registry.tasks().iter().filter_map(|task| task.mm()).collect();
        memories.sort_unstable_by_key(|mm| mm.id);
        memories.dedup_by_key(|mm| mm.id);
        for stale in &list {
            for mm in &memories {
                mm.drop_stale(stale);
            }
        }
    }
}
