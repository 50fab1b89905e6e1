// SPDX-License-Identifier: Apache-2.0
//! Large pages: mapping 2 MiB with one entry, and splitting it into small ones.

use trine_abi::layout::{HUGE_PAGE_SIZE, PAGE_SIZE, USER_END};

use super::{ADDRESS, Access, AddressSpace, LARGE, Leaf, OutOfMemory, TABLE, access::PRESENT};
use crate::{
    frame::{Frame, HugeFrame, Page},
    shootdown,
};

impl AddressSpace {
    /// Replaces a large entry by a table of small ones with the same rights.
    pub(super) fn split(&mut self, table: u64, index: usize, entry: u64) -> u64 {
        let spare = self.spare.pop().expect("a table is put by for each large page");
        let new = u64::from(spare) * PAGE_SIZE;
        let base = entry & ADDRESS;
        for i in 0..512 {
            let small = (base + i as u64 * PAGE_SIZE) | entry & !(ADDRESS | LARGE);
            self.store(new, i, small);
        }
        self.store(table, index, new | TABLE);
        // The translation is the same, but the host's shadow of it must not outlive the entry.
        self.set_stale();
        new
    }

    /// The large page at `address`, if it lies wholly in `address .. end`.
    pub(super) fn whole_large(&self, address: u64, end: u64) -> Option<(u64, usize, u64)> {
        let fits = address.is_multiple_of(HUGE_PAGE_SIZE) && end - address >= HUGE_PAGE_SIZE;
        match self.leaf(address) {
            Leaf::Large { table, index, entry } if fits => Some((table, index, entry)),
            _ => None,
        }
    }

    /// Maps 2 MiB at an address (a multiple of 2 MiB), where nothing is mapped.
    ///
    /// # Errors
    /// If no frame is left for a page table, or small pages are there: the block is given back.
    pub fn map_huge(
        &mut self,
        address: u64,
        block: HugeFrame,
        access: Access,
    ) -> Result<(), OutOfMemory> {
        assert!(address.is_multiple_of(HUGE_PAGE_SIZE) && address < USER_END);
        let mut table = self.root();
        for shift in [39, 30] {
            let index = (address >> shift & 511) as usize;
            let entry = self.load(table, index);
            table = if entry & PRESENT == 0 {
                let new = u64::from(self.arena.take_table().ok_or(OutOfMemory)?) * PAGE_SIZE;
                self.store(table, index, new | TABLE);
                new
            } else {
                entry & ADDRESS
            };
        }
        let index = (address >> 21 & 511) as usize;
        let old = self.load(table, index);
        let spare = if old & PRESENT == 0 {
            self.arena.take_table().ok_or(OutOfMemory)?
        } else if old & LARGE == 0
            && self.is_empty_table(old & ADDRESS)
            && !shootdown::is_running(self.root())
        {
            // Nobody else walks the table that is put by here.
            self.set_stale();
            ((old & ADDRESS) / PAGE_SIZE) as u32
        } else {
            return Err(OutOfMemory);
        };
        self.spare.push(spare);
        self.store(table, index, block.into_address() | access.bits() | PRESENT | LARGE);
        self.resident += 512;
        Ok(())
    }

    fn is_empty_table(&self, table: u64) -> bool {
        (0..512).all(|index| self.load(table, index) == 0)
    }

    /// Takes the frames of a large entry back.
    pub(super) fn drop_large(&mut self, entry: u64) {
        let first = ((entry & ADDRESS) / PAGE_SIZE) as u32;
        for number in first..first + 512 {
            self.retire(Page::Frame(Frame::from_raw(self.arena, number)));
        }
        let spare = self.spare.pop().expect("a table is put by for each large page");
        self.arena.give_table(spare);
    }
}
