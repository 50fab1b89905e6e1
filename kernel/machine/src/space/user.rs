// SPDX-License-Identifier: Apache-2.0
//! Copying into and out of application memory.

use trine_abi::layout::{PAGE_SIZE, USER_END};

use super::{ADDRESS, Access, AddressSpace};
use crate::raw;

impl AddressSpace {
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
}
