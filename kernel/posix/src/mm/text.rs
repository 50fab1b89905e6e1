// SPDX-License-Identifier: Apache-2.0
//! Rewritten program text in a memory ([`trine_abi::text`]): which mappings use it, where its
//! trampolines are, and going back to the file's own text.
//!
//! A memory goes back, for good, as soon as anybody could see the difference: a program with a GS
//! base of its own, a debugger, single steps, a mapping that is written to, moved, or put where the
//! trampolines are.

use core::sync::atomic::Ordering;

use trine_abi::text::{TRAMPOLINE_BYTES, TRAMPOLINE_ORIGIN};
use trine_machine::Access;

use super::{Area, AreaKind, Areas, LOWEST, Mm, PAGE_SIZE, Protection};
use crate::{Errno, fs::Text};

/// What an area has to do with rewritten text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextUse {
    /// Nothing: its pages are the file's.
    #[default]
    None,
    /// Some of its pages are rewritten ones.
    Rewritten,
    /// Rewritten pages jump here.
    Trampolines,
}

/// `jmp rel32`, without the distance.
const JUMP: u8 = 0xe9;
const EXECUTABLE: Protection = Protection { read: true, write: false, execute: true };

impl Area {
    /// The rewritten text that this area could use, and where its trampolines would be.
    fn rewritable(&self) -> Option<(Text, u64, u64)> {
        let AreaKind::File { file, page, shared: false } = &self.kind else { return None };
        if self.protection != EXECUTABLE {
            return None;
        }
        let text = file.inode().text()?;
        let (start, bytes) = text.place(self.start, *page, (self.end - self.start) / PAGE_SIZE)?;
        Some((text, start, bytes))
    }
}

impl Mm {
    /// Whether rewritten text may be used.
    pub fn uses_rewritten_text(&self) -> bool {
        self.rewritten_text.load(Ordering::Relaxed)
    }

    /// Makes a new area of a file use rewritten text, if there is some and its trampolines have
    /// room.
    pub(super) fn rewrite(&self, areas: &mut Areas, area: &mut Area) -> Result<(), Errno> {
        if !self.uses_rewritten_text() {
            return Ok(());
        }
        let Some((text, start, bytes)) = area.rewritable() else { return Ok(()) };
        let end = start.checked_add(bytes).filter(|end| start >= LOWEST && *end <= super::HIGHEST);
        let Some((end, pages)) = end.zip(text.trampolines()) else { return Ok(()) };
        let overlaps_area = start < area.end && area.start < end;
        if !overlaps_area && areas.is_free(start, end) {
            let mut trampolines = Area::new(start, end, EXECUTABLE, AreaKind::Fixed);
            trampolines.text = TextUse::Trampolines;
            trampolines.name = "[syscalls]";
            areas.insert(trampolines)?;
            let mut space = self.space.lock();
            let access = Access { write: false, ..EXECUTABLE.access() };
            for (at, page) in (start..end).step_by(PAGE_SIZE as usize).zip(pages) {
                space.map(at, page, access).map_err(|_| Errno::NOMEM)?;
            }
        } else {
            // They may be there for another part of the file.
            let found = areas.find(start).filter(|found| {
                (found.start, found.end, found.text) == (start, end, TextUse::Trampolines)
            });
            let mapped = self.space.lock().lookup(start).map(|(page, _)| page.address());
            if found.is_none() || mapped != pages.first().map(trine_machine::Page::address) {
                return Ok(());
            }
        }
        area.text = TextUse::Rewritten;
        Ok(())
    }

    /// Uses the files' own text from now on.
    pub fn use_own_text(&self) {
        if self.rewritten_text.swap(false, Ordering::Relaxed) {
            self.restore_text(&mut self.areas.lock(), 0, u64::MAX);
        }
    }

    /// Gives the areas in a range the files' own text.  The trampolines stay: a thread may be in
    /// one, and it works as ever or faults ([`Mm::origin`]).
    pub(super) fn restore_text(&self, areas: &mut Areas, start: u64, end: u64) {
        let rewritten = areas.rewritten_mut(start, end);
        let mut space = self.space.lock();
        for area in rewritten {
            area.text = TextUse::None;
            space.unmap(area.start, area.end);
        }
    }

    /// Takes note of areas that were removed: trampolines without text go too, and where trampolines
    /// were removed, all text is the files' own again.
    pub(super) fn forget_text(&self, areas: &mut Areas, removed: &[Area]) {
        if removed.iter().any(|area| area.text == TextUse::Trampolines) {
            self.rewritten_text.store(false, Ordering::Relaxed);
            self.restore_text(areas, 0, u64::MAX);
        }
        for area in removed.iter().filter(|area| area.text == TextUse::Rewritten) {
            let Some((_, start, bytes)) = area.rewritable() else { continue };
            let is_used = areas.iter().any(|other| {
                other.text == TextUse::Rewritten
                    && other.rewritable().is_some_and(|(_, other, _)| other == start)
            });
            let is_there = areas.find(start).is_some_and(|it| it.text == TextUse::Trampolines);
            if is_there && !is_used && areas.remove(start, start + bytes).is_ok() {
                self.space.lock().unmap(start, start + bytes);
            }
        }
    }

    /// Where a thread came from that is in a trampoline, or about to jump to one: it has done nothing
    /// that is not done again from that place.
    pub(crate) fn origin(&self, rip: u64) -> Option<u64> {
        let areas = self.areas.lock();
        let target = match areas.find(rip)?.text {
            TextUse::None => return None,
            TextUse::Trampolines => rip,
            // In padding, which is nothing of the kind in the file's own text.
            TextUse::Rewritten => self.jump_target(rip)?,
        };
        let area = areas.find(target).filter(|area| area.text == TextUse::Trampolines)?;
        let trampoline = target - (target - area.start) % TRAMPOLINE_BYTES;
        let mut distance = [0; 4];
        self.peek(trampoline + TRAMPOLINE_ORIGIN, &mut distance)?;
        Some(trampoline.wrapping_add_signed(i32::from_le_bytes(distance).into()))
    }

    /// Where the instruction at an address jumps to, if it is `jmp rel32`.
    fn jump_target(&self, address: u64) -> Option<u64> {
        let (mut code, mut distance) = ([0], [0; 4]);
        self.peek(address, &mut code)?;
        self.peek(address + 1, &mut distance)?;
        let next = address.wrapping_add(5);
        let distance = i32::from_le_bytes(distance).into();
        (code == [JUMP]).then(|| next.wrapping_add_signed(distance))
    }

    /// Reads what is mapped now.
    fn peek(&self, address: u64, to: &mut [u8]) -> Option<()> {
        (self.space.lock().read(address, to) == to.len()).then_some(())
    }
}
