// SPDX-License-Identifier: Apache-2.0
//! What a page-table entry says of access.  SDM volume 3, section 4.5.

pub(super) const PRESENT: u64 = 1;
pub(super) const WRITE: u64 = 1 << 1;
pub(super) const USER: u64 = 1 << 2;
pub(super) const ACCESSED_DIRTY: u64 = 1 << 5 | 1 << 6;
pub(super) const NO_EXECUTE: u64 = 1 << 63;
/// The entry owns a page but is not present (a mapping without access).
pub(super) const HELD: u64 = 1 << 9;

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

    pub(super) fn bits(self) -> u64 {
        let present = if self.read || self.write || self.execute { PRESENT } else { HELD };
        let write = if self.write { WRITE } else { 0 };
        let execute = if self.execute { 0 } else { NO_EXECUTE };
        present | write | execute | USER | ACCESSED_DIRTY
    }

    pub(super) fn of(entry: u64) -> Self {
        let read = entry & PRESENT != 0;
        Self { read, write: read && entry & WRITE != 0, execute: read && entry & NO_EXECUTE == 0 }
    }
}
