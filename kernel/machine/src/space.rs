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
//! Stale translations: a change that takes rights away or moves a page marks the space as stale,
//! and it is reloaded before application code runs in it again.  A change that only adds rights
//! needs nothing: at worst the application faults once more.

extern crate alloc;

use alloc::vec::Vec;
use core::{fmt, sync::atomic::Ordering};

use trine_abi::layout::{HUGE_PAGE_SIZE, PAGE_SIZE, USER_END};

use crate::{
    Arena,
    frame::{Frame, HugeFrame, ImagePage, Page},
    raw,
};

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED_DIRTY: u64 = 1 << 5 | 1 << 6;
const NO_EXECUTE: u64 = 1 << 63;
/// A second-level entry maps 2 MiB itself.
const LARGE: u64 = 1 << 7;
/// The entry owns a page but is not present (a mapping without access).
const HELD: u64 = 1 << 9;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const TABLE: u64 = PRESENT | WRITE | USER | ACCESSED_DIRTY;
/// First entry of the top table that belongs to the system half.
const SYSTEM_ENTRY: usize = (USER_END >> 39) as usize;

/// No frame is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// What an application may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Any access at all; x86 pages that can be written or executed can be read.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl Access {
    /// Loads only.
    pub const READ: Self = Self { read: true, write: false, execute: false };
    /// Loads and stores.
    pub const READ_WRITE: Self = Self { read: true, write: true, execute: false };
    /// Loads and fetches.
    pub const READ_EXECUTE: Self = Self { read: true, write: false, execute: true };

    fn bits(self) -> u64 {
        let present = if self.read || self.write || self.execute { PRESENT } else { HELD };
        let write = if self.write { WRITE } else { 0 };
        let execute = if self.execute { 0 } else { NO_EXECUTE };
        present | write | execute | USER | ACCESSED_DIRTY
    }

    fn of(entry: u64) -> Self {
        let read = entry & PRESENT != 0;
        Self { read, write: read && entry & WRITE != 0, execute: read && entry & NO_EXECUTE == 0 }
    }
}

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

/// An address space.
pub struct AddressSpace {
    arena: &'static Arena,
    root: u32,
    stale: bool,
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
        let space = Self { arena, root, stale: false, resident: 0, spare: Vec::new() };
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

    /// Whether translations may be stale; clears the mark, so the caller must reload.
    pub fn take_stale(&mut self) -> bool {
        core::mem::take(&mut self.stale)
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

    /// Replaces a large entry by a table of small ones with the same rights.
    fn split(&mut self, table: u64, index: usize, entry: u64) -> u64 {
        let spare = self.spare.pop().expect("a table is put by for each large page");
        let new = u64::from(spare) * PAGE_SIZE;
        let base = entry & ADDRESS;
        for i in 0..512 {
            let small = (base + i as u64 * PAGE_SIZE) | entry & !(ADDRESS | LARGE);
            self.store(new, i, small);
        }
        self.store(table, index, new | TABLE);
        // The translation is the same, but the host's shadow of it must not outlive the entry.
        self.stale = true;
        new
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

    /// The large page at `address`, if it lies wholly in `address .. end`.
    fn whole_large(&self, address: u64, end: u64) -> Option<(u64, usize, u64)> {
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
        } else if old & LARGE == 0 && self.is_empty_table(old & ADDRESS) {
            self.stale = true;
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
    fn drop_large(&mut self, entry: u64) {
        let first = ((entry & ADDRESS) / PAGE_SIZE) as u32;
        for number in first..first + 512 {
            drop(Frame::from_raw(self.arena, number));
        }
        let spare = self.spare.pop().expect("a table is put by for each large page");
        self.arena.give_table(spare);
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
        self.stale |= old & PRESENT != 0;
        match self.take_page(old) {
            Some(page) => drop(page),
            None => self.resident += 1,
        }
        Ok(())
    }

    /// Removes every page in a range.
    pub fn unmap(&mut self, start: u64, end: u64) {
        let mut address = start;
        while let Some(next) = self.next_mapped(address, end) {
            if let Some((table, index, entry)) = self.whole_large(next, end) {
                self.store(table, index, 0);
                self.drop_large(entry);
                self.resident -= 512;
                self.stale = true;
                address = next + HUGE_PAGE_SIZE;
                continue;
            }
            let Some(run) = self.next_run(next, end) else { break };
            for index in run.first..run.first + run.count {
                let entry = self.load(run.table, index);
                if let Some(page) = self.take_page(entry) {
                    self.store(run.table, index, 0);
                    self.stale |= entry & PRESENT != 0;
                    self.resident -= 1;
                    drop(page);
                }
            }
            address = run.end();
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
        while let Some(next) = self.next_mapped(address, end) {
            if let Some((table, index, entry)) = self.whole_large(next, end)
                && (access.read || access.write || access.execute)
            {
                let new = entry & (ADDRESS | LARGE) | self.narrowed(entry, access);
                self.store(table, index, new);
                self.stale = true;
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
                    self.stale |= Access::of(entry).bits() & !new & (PRESENT | WRITE) != 0
                        || new & !entry & NO_EXECUTE != 0;
                }
            }
            address = run.end();
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
                    drop(page);
                }
                self.store(new_table, new_index, entry);
                self.store(table, index, 0);
                self.stale = true;
            }
            address += PAGE_SIZE;
        }
        Ok(())
    }

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
                    self.stale = true;
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

    /// Copies out of application memory as far as it is mapped readable; returns how many bytes.
    pub fn read(&self, address: u64, to: &mut [u8]) -> usize {
        let mut done = 0;
        while done < to.len() {
            let at = address.wrapping_add(done as u64);
            let Some(pointer) = self.translate(at, false) else { break };
            let part = (to.len() - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            // SAFETY: within one mapped page; `to` is private memory.
            unsafe { raw::copy(pointer, to.as_mut_ptr().wrapping_add(done), part) };
            done += part;
        }
        done
    }

    /// Copies into application memory as far as it is mapped writable; returns how many bytes.
    pub fn write(&self, address: u64, from: &[u8]) -> usize {
        let mut done = 0;
        while done < from.len() {
            let at = address.wrapping_add(done as u64);
            let Some(pointer) = self.translate(at, true) else { break };
            let part = (from.len() - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            // SAFETY: within one mapped, writable page; `from` is private memory.
            unsafe { raw::copy(from.as_ptr().wrapping_add(done), pointer, part) };
            done += part;
        }
        done
    }

    fn translate(&self, address: u64, write: bool) -> Option<*mut u8> {
        if address >= USER_END {
            return None;
        }
        let entry = self.entry(address)?;
        let access = Access::of(entry);
        if !access.read || write && !access.write {
            return None;
        }
        let page = self.arena.pointer(entry & ADDRESS);
        Some(page.wrapping_add((address % PAGE_SIZE) as usize))
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
mod tests {
    use super::*;
    use crate::arena::for_tests;

    fn page(arena: &'static Arena) -> Page {
        Page::Frame(Frame::zeroed(arena).expect("a frame"))
    }

    #[test]
    fn map_write_read_unmap_frees_all() {
        let arena = for_tests(8 << 20, &[]);
        let before = arena.free_bytes();
        let mut space = AddressSpace::new(arena).expect("a space");
        for i in 0..3 {
            space.map(0x40_0000 + i * 4096, page(arena), Access::READ_WRITE).expect("map");
        }
        let data: Vec<u8> = (0..9000u32).map(|i| i as u8).collect();
        assert_eq!(space.write(0x40_0010, &data), 9000);
        assert_eq!(space.write(0x40_2ff0, &data), 16);
        let mut back = vec![0; 9000];
        assert_eq!(space.read(0x40_0010, &mut back), 9000);
        assert_eq!(back[..8000], data[..8000]);
        assert!(!space.take_stale());
        space.unmap(0, USER_END);
        assert!(space.take_stale());
        assert_eq!(space.resident_pages(), 0);
        assert_eq!(space.read(0x40_0000, &mut back), 0);
        drop(space);
        let tables = 4 * 4096;
        assert_eq!(arena.free_bytes(), before - tables, "only pooled page tables are out");
    }

    #[test]
    fn write_to_kernel_or_read_only_copies_nothing() {
        let arena = for_tests(8 << 20, &[]);
        let mut space = AddressSpace::new(arena).expect("a space");
        space.map(0x1000, page(arena), Access::READ).expect("map");
        assert_eq!(space.write(0x1000, b"x"), 0);
        assert_eq!(space.write(USER_END, b"x"), 0);
        assert_eq!(space.read(u64::MAX - 4, &mut [0; 16]), 0);
    }

    #[test]
    fn fork_private_over_budget_shares_read_only() {
        let arena = for_tests(8 << 20, &[]);
        let mut parent = AddressSpace::new(arena).expect("a space");
        for i in 0..4 {
            parent.map(0x10_0000 + i * 4096, page(arena), Access::READ_WRITE).expect("map");
            parent.write(0x10_0000 + i * 4096, &[i as u8 + 1]);
        }
        let mut child = AddressSpace::new(arena).expect("a space");
        let mut budget = 1;
        parent.fork_into(&mut child, 0, USER_END, Sharing::Private, &mut budget).expect("room");
        assert_eq!(budget, 0);
        assert!(parent.take_stale());
        assert_eq!(parent.write(0x10_0000, &[9]), 1, "copied at once: still writable");
        assert_eq!(parent.write(0x10_1000, &[9]), 0, "shared: must fault first");
        let mut byte = [0];
        assert_eq!(child.read(0x10_0000, &mut byte), 1);
        assert_eq!(byte, [1]);
        assert_eq!(child.read(0x10_3000, &mut byte), 1);
        assert_eq!(byte, [4]);
        let (Page::Frame(frame), access) = child.lookup(0x10_3000).expect("mapped") else {
            panic!("a frame")
        };
        assert!(!access.write && !frame.is_unique());
    }

    #[test]
    fn huge_page_partial_unmap_splits_and_frees_all() {
        let arena = for_tests(16 << 20, &[]);
        let before = arena.free_bytes();
        let mut space = AddressSpace::new(arena).expect("a space");
        let block = HugeFrame::zeroed(arena).expect("a block");
        space.map_huge(0x4000_0000, block, Access::READ_WRITE).expect("room");
        assert_eq!(space.resident_pages(), 512);
        assert_eq!(space.write(0x4000_0ffe, b"abcd"), 4);
        space.unmap(0x4000_1000, 0x4000_2000);
        assert_eq!(space.resident_pages(), 511);
        let mut bytes = [0; 4];
        assert_eq!(space.read(0x4000_0ffe, &mut bytes), 2, "the second page is gone");
        assert_eq!(&bytes[..2], b"ab");
        let mut child = AddressSpace::new(arena).expect("a space");
        space.fork_into(&mut child, 0, USER_END, Sharing::Private, &mut 0).expect("room");
        assert_eq!(child.resident_pages(), 511);
        drop((space, child));
        let pooled = 10 * 4096;
        assert!(arena.free_bytes() >= before - pooled, "only pooled page tables are out");
    }

    #[test]
    fn huge_page_whole_protect_and_unmap_does_not_split() {
        let arena = for_tests(16 << 20, &[]);
        let mut space = AddressSpace::new(arena).expect("a space");
        let block = HugeFrame::zeroed(arena).expect("a block");
        space.map_huge(0x4000_0000, block, Access::READ_WRITE).expect("room");
        let again = HugeFrame::zeroed(arena).expect("a block");
        assert!(space.map_huge(0x4000_0000, again, Access::READ_WRITE).is_err());
        space.protect(0x4000_0000, 0x4020_0000, Access::READ);
        assert_eq!(space.write(0x4010_0000, b"x"), 0);
        assert_eq!(space.read(0x4010_0000, &mut [0]), 1);
        assert_eq!(space.spare.len(), 1, "still one large page");
        space.unmap(0x3ff0_0000, 0x4020_0000);
        assert_eq!((space.resident_pages(), space.spare.len()), (0, 0));
    }

    #[test]
    fn protect_none_holds_the_page() {
        let arena = for_tests(8 << 20, &[]);
        let mut space = AddressSpace::new(arena).expect("a space");
        space.map(0x1000, page(arena), Access::READ_WRITE).expect("map");
        space.write(0x1000, b"k");
        let none = Access { read: false, write: false, execute: false };
        space.protect(0x1000, 0x2000, none);
        assert!(space.take_stale());
        assert_eq!(space.read(0x1000, &mut [0]), 0);
        space.protect(0x1000, 0x2000, Access::READ_WRITE);
        let mut byte = [0];
        assert_eq!(space.read(0x1000, &mut byte), 1);
        assert_eq!(&byte, b"k");
        assert_eq!(space.write(0x1000, b"x"), 0, "write comes back through a fault");
    }
}
