// SPDX-License-Identifier: Apache-2.0
//! An address space: four-level page tables that own the pages they map.
//!
//! Every entry has its A and D bits set from the start (a host that shadows page tables charges
//! dearly for setting them later).  A page without any access stays in its entry, not present, with
//! the kernel's own bit [`HELD`].  SDM volume 3, section 4.5.
//!
//! Large pages: a 2 MiB entry is mapped whole, and changed whole where a change covers it; anything
//! else splits it into 512 small ones first.  The table for that is put by when the large page is
//! mapped, so splitting never fails.
//!
//! Stale translations: a change that takes rights away or moves a page gives the space a new
//! generation, and a vCPU reloads the space before application code runs in it again.  vCPUs that
//! run application code in it meanwhile must be stopped first, and the pages that they may still
//! reach are freed only then ([`crate::shootdown`]).  A change that only adds rights needs nothing:
//! at worst the application faults once more.

mod access;
mod fork;
mod large;
mod user;

extern crate alloc;

use alloc::vec::Vec;
use core::{fmt, sync::atomic::Ordering};

use trine_abi::layout::{HUGE_PAGE_SIZE, PAGE_SIZE, USER_END};

use self::access::{ACCESSED_DIRTY, HELD, NO_EXECUTE, PRESENT, USER, WRITE};
pub use self::{access::Access, fork::Sharing};
use crate::{
    Arena,
    frame::{Frame, ImagePage, Page},
    shootdown,
};

/// A second-level entry maps 2 MiB itself.
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const TABLE: u64 = PRESENT | WRITE | USER | ACCESSED_DIRTY;
/// First entry of the top table that belongs to the system half.
const SYSTEM_ENTRY: usize = (USER_END >> 39) as usize;

/// No frame is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// The page tables of a space at one time: equal values mean that no translation is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translations {
    /// Physical address of the top table, for CR3.
    pub root: u64,
    /// Changes with every change that leaves stale translations; no two spaces share one.
    pub generation: u64,
}

/// An address space.
pub struct AddressSpace {
    arena: &'static Arena,
    root: u32,
    generation: u64,
    resident: u64,
    /// Tables put by, one for each large page.
    spare: Vec<u32>,
}

/// What a walk ends at.
enum Leaf {
    /// Nothing, up to this address.
    Gap(u64),
    /// A last-level table.
    Table(u64),
    /// A large page: the entry and where it is.
    Large { table: u64, index: usize, entry: u64 },
}

/// A run of entries of one last-level table.
struct Run {
    table: u64,
    first: usize,
    count: usize,
    address: u64,
}

impl Run {
    /// The address after the last page.
    fn end(&self) -> u64 {
        self.address / PAGE_SIZE * PAGE_SIZE + self.count as u64 * PAGE_SIZE
    }
}

impl AddressSpace {
    /// Makes an empty address space with the kernel's system half.
    pub fn new(arena: &'static Arena) -> Option<Self> {
        let root = arena.take_table()?;
        let generation = shootdown::new_generation();
        let space = Self { arena, root, generation, resident: 0, spare: Vec::new() };
        let kernel = arena.kernel_root();
        if kernel != 0 {
            for index in SYSTEM_ENTRY..256 {
                space.store(space.root(), index, space.load(kernel, index));
            }
        }
        Some(space)
    }

    /// Physical address of the top table, for CR3.
    pub fn root(&self) -> u64 {
        u64::from(self.root) * PAGE_SIZE
    }

    /// Pages that are mapped or held.
    pub fn resident_pages(&self) -> u64 {
        self.resident
    }

    /// What a vCPU must have loaded to run application code in this space.
    pub fn translations(&self) -> Translations {
        Translations { root: self.root(), generation: self.generation }
    }

    /// Translations that a vCPU has seen may be stale from now on.
    fn set_stale(&mut self) {
        self.generation = shootdown::new_generation();
        shootdown::request(self.root());
    }

    /// Lets go of a page that was mapped: at once, or when no vCPU can reach it any more.
    fn retire(&self, page: Page) {
        shootdown::retire(self.root(), page);
    }

    /// The arena that frames come from.
    pub fn arena(&self) -> &'static Arena {
        self.arena
    }

    fn load(&self, table: u64, index: usize) -> u64 {
        assert!(index < 512);
        // SAFETY: a table is a whole frame, which this space (or the kernel) owns.
        unsafe { self.arena.pointer(table).cast::<u64>().wrapping_add(index).read_volatile() }
    }

    fn store(&self, table: u64, index: usize, entry: u64) {
        assert!(index < 512);
        // SAFETY: a table is a whole frame, which this space owns.
        unsafe {
            self.arena.pointer(table).cast::<u64>().wrapping_add(index).write_volatile(entry);
        };
    }

    /// The last-level table for an address, or the first address after the gap without one.
    fn leaf(&self, address: u64) -> Leaf {
        let mut table = self.root();
        for shift in [39, 30, 21] {
            let index = (address >> shift & 511) as usize;
            let entry = self.load(table, index);
            if entry & PRESENT == 0 {
                return Leaf::Gap(((address >> shift) + 1) << shift);
            }
            if shift == 21 && entry & LARGE != 0 {
                return Leaf::Large { table, index, entry };
            }
            table = entry & ADDRESS;
        }
        Leaf::Table(table)
    }

    /// The last-level table for an address, after splitting a large page there.
    fn small_leaf(&mut self, address: u64) -> Result<u64, u64> {
        match self.leaf(address) {
            Leaf::Gap(next) => Err(next),
            Leaf::Table(table) => Ok(table),
            Leaf::Large { table, index, entry } => Ok(self.split(table, index, entry)),
        }
    }

    fn leaf_or_new(&mut self, address: u64) -> Result<u64, OutOfMemory> {
        assert!(address < USER_END, "address {address:#x} is not the application's");
        let mut table = self.root();
        for shift in [39, 30, 21] {
            let index = (address >> shift & 511) as usize;
            let entry = self.load(table, index);
            table = if shift == 21 && entry & LARGE != 0 {
                self.split(table, index, entry)
            } else if entry & PRESENT == 0 {
                let new = u64::from(self.arena.take_table().ok_or(OutOfMemory)?) * PAGE_SIZE;
                self.store(table, index, new | TABLE);
                new
            } else {
                entry & ADDRESS
            };
        }
        Ok(table)
    }

    /// The next run of entries in `start .. end` that has a table; splits large pages.
    fn next_run(&mut self, start: u64, end: u64) -> Option<Run> {
        let end = end.min(USER_END);
        let mut address = start;
        while address < end {
            match self.small_leaf(address) {
                Err(next) => address = next,
                Ok(table) => {
                    let first = (address / PAGE_SIZE % 512) as usize;
                    let left = (end - address).div_ceil(PAGE_SIZE) as usize;
                    return Some(Run { table, first, count: left.min(512 - first), address });
                }
            }
        }
        None
    }

    fn take_page(&self, entry: u64) -> Option<Page> {
        if entry & (PRESENT | HELD) == 0 {
            return None;
        }
        let address = entry & ADDRESS;
        Some(if self.arena.is_ram(address) {
            Page::Frame(Frame::from_raw(self.arena, (address / PAGE_SIZE) as u32))
        } else {
            Page::Image(ImagePage::new(self.arena, address))
        })
    }

    /// Maps a page at an address (a multiple of 4096, below `USER_END`), in place of what was there.
    ///
    /// # Errors
    /// If no frame is left for a page table.
    pub fn map(&mut self, address: u64, page: Page, access: Access) -> Result<(), OutOfMemory> {
        let access = match page {
            Page::Image(_) => Access { write: false, ..access },
            Page::Frame(_) => access,
        };
        let table = self.leaf_or_new(address)?;
        let index = (address / PAGE_SIZE % 512) as usize;
        let old = self.load(table, index);
        let physical = match page {
            Page::Frame(frame) => u64::from(frame.into_raw()) * PAGE_SIZE,
            Page::Image(page) => page.address(),
        };
        self.store(table, index, physical | access.bits());
        match self.take_page(old) {
            Some(page) => self.retire(page),
            None => self.resident += 1,
        }
        if old & PRESENT != 0 {
            self.set_stale();
        }
        Ok(())
    }

    /// Removes every page in a range.
    pub fn unmap(&mut self, start: u64, end: u64) {
        let mut address = start;
        let mut stale = false;
        while let Some(next) = self.next_mapped(address, end) {
            if let Some((table, index, entry)) = self.whole_large(next, end) {
                self.store(table, index, 0);
                self.drop_large(entry);
                self.resident -= 512;
                stale = true;
                address = next + HUGE_PAGE_SIZE;
                continue;
            }
            let Some(run) = self.next_run(next, end) else { break };
            for index in run.first..run.first + run.count {
                let entry = self.load(run.table, index);
                if let Some(page) = self.take_page(entry) {
                    self.store(run.table, index, 0);
                    stale |= entry & PRESENT != 0;
                    self.resident -= 1;
                    self.retire(page);
                }
            }
            address = run.end();
        }
        if stale {
            self.set_stale();
        }
    }

    /// The first address in a range at which there is a table or a large page.
    fn next_mapped(&self, start: u64, end: u64) -> Option<u64> {
        let end = end.min(USER_END);
        let mut address = start;
        while address < end {
            match self.leaf(address) {
                Leaf::Gap(next) => address = next,
                _ => return Some(address),
            }
        }
        None
    }

    /// Changes the rights of the pages in a range.  Write access is only ever taken away here: a
    /// page that may be written again faults first, which gives copy-on-write its say.
    pub fn protect(&mut self, start: u64, end: u64, access: Access) {
        let mut address = start;
        let mut stale = false;
        while let Some(next) = self.next_mapped(address, end) {
            if let Some((table, index, entry)) = self.whole_large(next, end)
                && (access.read || access.write || access.execute)
            {
                let new = entry & (ADDRESS | LARGE) | self.narrowed(entry, access);
                self.store(table, index, new);
                stale = true;
                address = next + HUGE_PAGE_SIZE;
                continue;
            }
            let Some(run) = self.next_run(next, end) else { break };
            for index in run.first..run.first + run.count {
                let entry = self.load(run.table, index);
                if entry & (PRESENT | HELD) == 0 {
                    continue;
                }
                let new = entry & ADDRESS | self.narrowed(entry, access);
                if new != entry {
                    self.store(run.table, index, new);
                    stale |= Access::of(entry).bits() & !new & (PRESENT | WRITE) != 0
                        || new & !entry & NO_EXECUTE != 0;
                }
            }
            address = run.end();
        }
        if stale {
            self.set_stale();
        }
    }

    /// The bits of `access` without write access that the entry does not have.
    fn narrowed(&self, entry: u64, access: Access) -> u64 {
        Access { write: access.write && Access::of(entry).write, ..access }.bits()
    }

    /// The page at an address, with the rights that it is mapped with.
    pub fn lookup(&self, address: u64) -> Option<(Page, Access)> {
        if address >= USER_END {
            return None;
        }
        let entry = self.entry(address)?;
        let page = self.take_page(entry)?;
        let copy = page.clone();
        core::mem::forget(page);
        Some((copy, Access::of(entry)))
    }

    /// Allows stores to the frame at an address if this mapping is its only owner (the end of a
    /// copy on write whose other owners are gone); returns whether they are allowed now.
    pub fn make_writable(&mut self, address: u64) -> bool {
        if address >= USER_END {
            return false;
        }
        let Ok(table) = self.small_leaf(address) else { return false };
        let index = (address / PAGE_SIZE % 512) as usize;
        let entry = self.load(table, index);
        if entry & PRESENT == 0 || !self.arena.is_ram(entry & ADDRESS) {
            return false;
        }
        let number = ((entry & ADDRESS) / PAGE_SIZE) as u32;
        let unique = self.arena.count(number).load(Ordering::Acquire) == 1;
        if unique {
            self.store(table, index, entry | WRITE);
        }
        unique
    }

    /// Whether a page is mapped or held at an address.
    pub fn is_mapped(&self, address: u64) -> bool {
        address < USER_END && self.entry(address).is_some_and(|entry| entry & (PRESENT | HELD) != 0)
    }

    /// The entry for an address, as if its page were a small one.
    fn entry(&self, address: u64) -> Option<u64> {
        match self.leaf(address) {
            Leaf::Gap(_) => None,
            Leaf::Table(table) => Some(self.load(table, (address / PAGE_SIZE % 512) as usize)),
            Leaf::Large { entry, .. } => {
                Some((entry & !LARGE) + (address % HUGE_PAGE_SIZE / PAGE_SIZE * PAGE_SIZE))
            }
        }
    }

    /// Moves the pages of a range to another place in the same space (mremap).
    ///
    /// # Errors
    /// If no frame is left for a page table; what was moved stays moved.
    pub fn move_pages(&mut self, start: u64, end: u64, to: u64) -> Result<(), OutOfMemory> {
        let mut address = start;
        while address < end {
            let table = match self.small_leaf(address) {
                Err(next) => {
                    address = next;
                    continue;
                }
                Ok(table) => table,
            };
            let index = (address / PAGE_SIZE % 512) as usize;
            let entry = self.load(table, index);
            if entry & (PRESENT | HELD) != 0 {
                let target = to + (address - start);
                let new_table = self.leaf_or_new(target)?;
                let new_index = (target / PAGE_SIZE % 512) as usize;
                let old = self.load(new_table, new_index);
                if let Some(page) = self.take_page(old) {
                    self.resident -= 1;
                    self.retire(page);
                }
                self.store(new_table, new_index, entry);
                self.store(table, index, 0);
                self.set_stale();
            }
            address += PAGE_SIZE;
        }
        Ok(())
    }

    fn free_tables(&self, table: u64, level: u32) {
        let end = if level == 4 { SYSTEM_ENTRY } else { 512 };
        for index in 0..end {
            let entry = self.load(table, index);
            if level == 1 {
                drop(self.take_page(entry));
            } else if level == 2 && entry & LARGE != 0 {
                let first = ((entry & ADDRESS) / PAGE_SIZE) as u32;
                for number in first..first + 512 {
                    drop(Frame::from_raw(self.arena, number));
                }
            } else if entry & PRESENT != 0 {
                self.free_tables(entry & ADDRESS, level - 1);
            }
        }
        self.arena.give_table((table / PAGE_SIZE) as u32);
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        self.free_tables(self.root(), 4);
        for &spare in &self.spare {
            self.arena.give_table(spare);
        }
    }
}

impl fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace")
            .field("root", &format_args!("{:#x}", self.root()))
            .field("resident", &self.resident)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
