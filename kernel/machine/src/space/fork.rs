// SPDX-License-Identifier: Apache-2.0
//! Copying mappings into a child.

use trine_abi::layout::PAGE_SIZE;

use super::{
    ADDRESS, AddressSpace, OutOfMemory, Run,
    access::{HELD, PRESENT, WRITE},
};
use crate::frame::Frame;

/// Which pages the copy of a range shares with the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Both map the same pages with the same rights (MAP_SHARED).
    Shared,
    /// Both map the same pages, and neither may write them from now on, except that the first
    /// writable pages are copied at once as long as the budget lasts: a copy costs far less than
    /// the two faults that it saves.
    Private,
}

impl AddressSpace {
    /// Copies the mappings of a range into a child (fork).  `budget` is how many writable private
    /// pages may still be copied at once.
    ///
    /// # Errors
    /// If no frame is left for a page table; the child then holds a part.
    pub fn fork_into(
        &mut self,
        child: &mut Self,
        start: u64,
        end: u64,
        sharing: Sharing,
        budget: &mut u64,
    ) -> Result<(), OutOfMemory> {
        let mut stale = false;
        let result = self.fork_runs(child, start, end, (sharing, budget), &mut stale);
        if stale {
            self.set_stale();
        }
        result
    }

    fn fork_runs(
        &mut self,
        child: &mut Self,
        start: u64,
        end: u64,
        (sharing, budget): (Sharing, &mut u64),
        stale: &mut bool,
    ) -> Result<(), OutOfMemory> {
        let mut address = start;
        while let Some(run) = self.next_run(address, end) {
            address = run.end();
            if !self.any(&run) {
                continue;
            }
            let child_table = child.leaf_or_new(run.address)?;
            for index in run.first..run.first + run.count {
                let entry = self.load(run.table, index);
                let Some(page) = self.take_page(entry) else { continue };
                let writable = entry & WRITE != 0;
                if sharing == Sharing::Private
                    && writable
                    && *budget > 0
                    && let Some(copy) = Frame::copy_of(self.arena, &page)
                {
                    *budget -= 1;
                    core::mem::forget(page);
                    let address = u64::from(copy.into_raw()) * PAGE_SIZE;
                    child.store(child_table, index, entry & !ADDRESS | address);
                    child.resident += 1;
                    continue;
                }
                let copy = page.clone();
                core::mem::forget((page, copy));
                let shared = match sharing {
                    Sharing::Shared => entry,
                    Sharing::Private => entry & !WRITE,
                };
                if sharing == Sharing::Private && writable {
                    self.store(run.table, index, shared);
                    *stale = true;
                }
                child.store(child_table, index, shared);
                child.resident += 1;
            }
        }
        Ok(())
    }

    fn any(&self, run: &Run) -> bool {
        (run.first..run.first + run.count)
            .any(|index| self.load(run.table, index) & (PRESENT | HELD) != 0)
    }
}
