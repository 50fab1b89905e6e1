// SPDX-License-Identifier: Apache-2.0
//! Page faults: zero fill, pages of files, copy on write, stacks that grow.
//!
//! One fault costs as much as zeroing a hundred pages, so each brings in a neighbourhood: up to 16
//! pages of a file around the address, or a window of anonymous pages that doubles while faults
//! come in sequence.

use core::sync::atomic::Ordering;

use trine_abi::layout::HUGE_PAGE_SIZE;
use trine_machine::{Access, AddressSpace, Frame, HugeFrame, Page};

use super::{Area, AreaKind, Areas, Mm, PAGE_SIZE, SharedMemory, TextUse, areas::STACK_GUARD};
use crate::{Errno, fs::FileRef};

/// Pages of a file that one fault maps, an aligned block of them.
const FILE_AROUND: u64 = 16;
/// Anonymous pages that a fault brings in at first.
const WINDOW_MIN: u64 = 4;
/// Anonymous pages that a fault of a long sequence brings in.
const WINDOW_MAX: u64 = 64;

/// What the application, or the kernel for it, tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// Why a fault cannot be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is mapped there (SEGV_MAPERR).
    NotMapped,
    /// The rights do not allow it (SEGV_ACCERR).
    NotAllowed,
    /// The file is shorter, or could not be read (SIGBUS).
    BeyondEnd,
    /// No frame is free.
    OutOfMemory,
    /// The file is a volume's, and its contents are on their way: the task is woken when they are
    /// there.
    Pending,
}

impl From<trine_machine::OutOfMemory> for Fault {
    fn from(_: trine_machine::OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl Mm {
    /// Makes an address accessible.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn fault(&self, address: u64, kind: FaultKind) -> Result<(), Fault> {
        let page_address = address & !(PAGE_SIZE - 1);
        let mut areas = self.areas.lock();
        if areas.find(address).is_none() {
            self.grow_stack(&mut areas, page_address)?;
        }
        let area = areas.find_mut(address).ok_or(Fault::NotMapped)?;
        let allowed = match kind {
            FaultKind::Read => area.protection.any(),
            FaultKind::Write => area.protection.write,
            FaultKind::Execute => area.protection.execute,
        };
        if !allowed {
            return Err(Fault::NotAllowed);
        }
        let write = kind == FaultKind::Write;
        let mut space = self.space.lock();
        match space.lookup(page_address) {
            Some((page, access)) => {
                self.present(&mut space, area, page_address, page, access, write)
            }
            None => self.absent(&mut space, area, page_address, write),
        }
    }

    fn grow_stack(&self, areas: &mut Areas, address: u64) -> Result<(), Fault> {
        let stack = areas.next_above(address).ok_or(Fault::NotMapped)?;
        let (start, end) = (stack.start, stack.end);
        let limit = self.stack_limit.load(Ordering::Relaxed);
        if !stack.grows_down || end - address > limit {
            return Err(Fault::NotMapped);
        }
        let floor = areas.last_below(start).map_or(0, |below| below.end);
        if address < floor.saturating_add(STACK_GUARD) {
            return Err(Fault::NotMapped);
        }
        areas.grow_down(start, address);
        Ok(())
    }

    /// A page is there, but not with the rights that are needed.
    fn present(
        &self,
        space: &mut AddressSpace,
        area: &Area,
        address: u64,
        page: Page,
        access: Access,
        write: bool,
    ) -> Result<(), Fault> {
        let rights = area.protection.access();
        let enough =
            access.read && (!write || access.write) && (!area.protection.execute || access.execute);
        if enough {
            // Another thread was faster, or the translation was stale.
            return Ok(());
        }
        if !write {
            return Ok(space.map(address, page, Access { write: access.write, ..rights })?);
        }
        match &area.kind {
            AreaKind::SharedAnonymous(..) => Ok(space.map(address, page, rights)?),
            AreaKind::File { file, shared: true, .. } => {
                let page = file_page(file, area.object_page(address), true)?;
                Ok(space.map(address, page, rights)?)
            }
            AreaKind::Fixed => Err(Fault::NotAllowed),
            AreaKind::Anonymous | AreaKind::File { shared: false, .. } => {
                drop(page);
                if access.read && space.make_writable(address) {
                    return Ok(());
                }
                let (page, _) = space.lookup(address).ok_or(Fault::NotMapped)?;
                let copy = Frame::copy_of(space.arena(), &page).ok_or(Fault::OutOfMemory)?;
                Ok(space.map(address, Page::Frame(copy), rights)?)
            }
        }
    }

    fn absent(
        &self,
        space: &mut AddressSpace,
        area: &mut Area,
        address: u64,
        write: bool,
    ) -> Result<(), Fault> {
        match area.kind.clone() {
            AreaKind::Anonymous => fill_zeroes(space, area, address),
            AreaKind::SharedAnonymous(memory, _) => fill_shared(space, area, &memory, address),
            AreaKind::File { file, shared, .. } => {
                self.fill_file(space, area, &file, shared, address, write)
            }
            AreaKind::Fixed => Err(Fault::BeyondEnd),
        }
    }

    fn fill_file(
        &self,
        space: &mut AddressSpace,
        area: &Area,
        file: &FileRef,
        shared: bool,
        address: u64,
        write: bool,
    ) -> Result<(), Fault> {
        let index = area.object_page(address);
        // What may be written through the mapping is the file's own frame from the start: another
        // page would have to be replaced everywhere with the first write.
        let own = shared && area.protection.write && file.is_writable();
        let text = (area.text == TextUse::Rewritten).then(|| file.inode().text()).flatten();
        let text_page = |index| text.and_then(|text| text.page(index));
        let page = match text_page(index) {
            Some(page) => page,
            None => file_page(file, index, own)?,
        };
        let rights = area.protection.access();
        let read_only = Access { write: false, ..rights };
        if write && !shared {
            let copy = Frame::copy_of(space.arena(), &page).ok_or(Fault::OutOfMemory)?;
            space.map(address, Page::Frame(copy), rights)?;
        } else {
            space.map(address, page, if own { rights } else { read_only })?;
        }
        // The neighbours are a favour: nothing is an error.
        let from = (address
            - (index % FILE_AROUND).min((address - area.start) / PAGE_SIZE) * PAGE_SIZE)
            .max(area.start);
        let (from, to) = if own {
            // Each costs a frame: a few in the direction of a sequence.
            (address, (address + WINDOW_MIN * PAGE_SIZE).min(area.end))
        } else {
            (from, (from + FILE_AROUND * PAGE_SIZE).min(area.end))
        };
        let pages = file.size().div_ceil(PAGE_SIZE);
        let mut at = from;
        while at < to {
            let index = area.object_page(at);
            if index >= pages {
                break;
            }
            if at != address && !space.is_mapped(at) {
                let page = text_page(index).map_or_else(|| file.page(index, own), Ok);
                let Ok(page) = page else { break };
                if space.map(at, page, if own { rights } else { read_only }).is_err() {
                    break;
                }
            }
            at += PAGE_SIZE;
        }
        Ok(())
    }
}

fn file_page(file: &FileRef, index: u64, write: bool) -> Result<Page, Fault> {
    let fault = |errno| match errno {
        Errno::PENDING => Fault::Pending,
        Errno::NOMEM | Errno::NOSPC => Fault::OutOfMemory,
        _ => Fault::BeyondEnd,
    };
    if index >= file.size().div_ceil(PAGE_SIZE) {
        // Somebody else may have made it longer.
        file.inode().refresh().map_err(fault)?;
        if index >= file.size().div_ceil(PAGE_SIZE) {
            return Err(Fault::BeyondEnd);
        }
    }
    file.page(index, write).map_err(fault)
}

/// Maps zeroed pages at an address and in the direction that faults go.
fn fill_zeroes(space: &mut AddressSpace, area: &mut Area, address: u64) -> Result<(), Fault> {
    let sequential = area.next_fault == address && area.window != 0;
    if sequential && area.window == WINDOW_MAX && fill_huge(space, area, address) {
        return Ok(());
    }
    area.window = if sequential { (area.window * 2).min(WINDOW_MAX) } else { WINDOW_MIN };
    let bytes = area.window * PAGE_SIZE;
    let rights = area.protection.access();
    let frame = Frame::zeroed(space.arena()).ok_or(Fault::OutOfMemory)?;
    space.map(address, Page::Frame(frame), rights)?;
    let (from, to) = if area.grows_down {
        let from = (address + PAGE_SIZE).saturating_sub(bytes).max(area.start);
        area.next_fault = from.wrapping_sub(PAGE_SIZE);
        (from, address)
    } else {
        let to = (address + bytes).min(area.end);
        area.next_fault = to;
        (address + PAGE_SIZE, to)
    };
    let mut at = from;
    while at < to {
        if !space.is_mapped(at) {
            let Some(frame) = Frame::zeroed(space.arena()) else { break };
            if space.map(at, Page::Frame(frame), rights).is_err() {
                break;
            }
        }
        at += PAGE_SIZE;
    }
    Ok(())
}

/// Maps 2 MiB at once if a long sequence of faults has come to where they begin, and they are free
/// without taking the last of the memory.
fn fill_huge(space: &mut AddressSpace, area: &mut Area, address: u64) -> bool {
    let arena = space.arena();
    let fits = address.is_multiple_of(HUGE_PAGE_SIZE)
        && area.end - address >= HUGE_PAGE_SIZE
        && !area.grows_down
        && area.protection.any()
        && arena.free_bytes() > arena.ram_bytes() / 4;
    if !fits {
        return false;
    }
    let Some(block) = HugeFrame::zeroed(arena) else { return false };
    if space.map_huge(address, block, area.protection.access()).is_err() {
        return false;
    }
    area.next_fault = address + HUGE_PAGE_SIZE;
    true
}

fn fill_shared(
    space: &mut AddressSpace,
    area: &mut Area,
    memory: &SharedMemory,
    address: u64,
) -> Result<(), Fault> {
    let arena = space.arena();
    let rights = area.protection.access();
    let to = (address + WINDOW_MIN * PAGE_SIZE).min(area.end);
    let mut at = address;
    while at < to {
        if at == address || !space.is_mapped(at) {
            let frame = memory.page(area.object_page(at), arena);
            let mapped = match frame {
                Some(frame) => space.map(at, Page::Frame(frame), rights).is_ok(),
                None => false,
            };
            if !mapped && at == address {
                return Err(Fault::OutOfMemory);
            }
        }
        at += PAGE_SIZE;
    }
    Ok(())
}
