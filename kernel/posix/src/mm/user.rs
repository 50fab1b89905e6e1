// SPDX-License-Identifier: Apache-2.0
//! Copies between the kernel and application memory.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use trine_machine::{Frame, Page};

use super::{AreaKind, Fault, FaultKind, Mm, MmRef, PAGE_SIZE};
use crate::{
    Errno,
    io::{Sink, Source},
};

impl Mm {
    /// Copies from application memory, faulting pages in.
    ///
    /// # Errors
    /// EFAULT; ENOMEM when no frame is free.
    pub fn read_bytes(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        let mut done = self.space.lock().read(address, to);
        while done < to.len() {
            self.fault_in(address, done, FaultKind::Read)?;
            let more = self.space.lock().read(address + done as u64, &mut to[done..]);
            if more == 0 {
                return Err(Errno::FAULT);
            }
            done += more;
        }
        Ok(())
    }

    /// Copies to application memory, faulting pages in.
    ///
    /// # Errors
    /// EFAULT; ENOMEM when no frame is free.
    pub fn write_bytes(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let mut done = self.space.lock().write(address, from);
        while done < from.len() {
            self.fault_in(address, done, FaultKind::Write)?;
            let more = self.space.lock().write(address + done as u64, &from[done..]);
            if more == 0 {
                return Err(Errno::FAULT);
            }
            done += more;
        }
        Ok(())
    }

    /// Writes to application memory whatever its rights are (debuggers): a page that may not be
    /// written is replaced by a copy.
    ///
    /// # Errors
    /// EFAULT if nothing is mapped there, or what is there is shared.
    pub fn force_write(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        while done < from.len() {
            let at = address.checked_add(done as u64).ok_or(Errno::FAULT)?;
            let within = (at % PAGE_SIZE) as usize;
            let part = (PAGE_SIZE as usize - within).min(from.len() - done);
            let bytes = &from[done..done + part];
            let area = self.areas.lock().find(at).cloned().ok_or(Errno::FAULT)?;
            if area.protection.write {
                self.write_bytes(at, bytes)?;
            } else {
                let changeable = !area.is_shared() && !matches!(area.kind, AreaKind::Fixed);
                if !changeable || !area.protection.any() {
                    return Err(Errno::FAULT);
                }
                self.use_own_text();
                self.fault_in(at, 0, FaultKind::Read)?;
                let mut space = self.space.lock();
                let page_at = at - within as u64;
                let (page, access) = space.lookup(page_at).ok_or(Errno::FAULT)?;
                let copy = Frame::copy_of(space.arena(), &page).ok_or(Errno::NOMEM)?;
                copy.write(within, bytes);
                space.map(page_at, Page::Frame(copy), access).map_err(|_| Errno::NOMEM)?;
            }
            done += part;
        }
        Ok(())
    }

    fn fault_in(&self, address: u64, done: usize, kind: FaultKind) -> Result<(), Errno> {
        let at = address.checked_add(done as u64).ok_or(Errno::FAULT)?;
        // A system call that has begun to change things cannot be made again for a page's sake.
        let faulted = self.services.with_patience(|| self.fault(at, kind));
        faulted.map_err(|fault| match fault {
            Fault::OutOfMemory => {
                self.services.out_of_memory.store(true, Ordering::Relaxed);
                Errno::NOMEM
            }
            Fault::NotMapped | Fault::NotAllowed | Fault::BeyondEnd | Fault::Pending => {
                Errno::FAULT
            }
        })
    }

    /// Reads a string that ends in NUL, without the NUL; `None` if there is none in `max` bytes.
    ///
    /// # Errors
    /// EFAULT; ENOMEM when no frame is free.
    pub fn read_string(&self, address: u64, max: usize) -> Result<Option<Vec<u8>>, Errno> {
        let mut string = Vec::new();
        let mut chunk = [0; 256];
        while string.len() < max {
            let at = address.checked_add(string.len() as u64).ok_or(Errno::FAULT)?;
            let to_page_end = (PAGE_SIZE - at % PAGE_SIZE) as usize;
            let part = chunk.len().min(to_page_end).min(max - string.len());
            self.read_bytes(at, &mut chunk[..part])?;
            if let Some(end) = chunk[..part].iter().position(|&byte| byte == 0) {
                string.extend_from_slice(&chunk[..end]);
                return Ok(Some(string));
            }
            string.extend_from_slice(&chunk[..part]);
        }
        Ok(None)
    }
}

/// A position in a list of ranges of application memory.
#[derive(Debug)]
struct Cursor {
    mm: MmRef,
    address: u64,
    left: usize,
    rest: Vec<(u64, usize)>,
    next: usize,
}

impl Cursor {
    fn new(mm: MmRef, address: u64, bytes: usize, rest: Vec<(u64, usize)>) -> Self {
        let mut cursor = Self { mm, address, left: bytes, rest, next: 0 };
        cursor.advance(0);
        cursor
    }

    fn total(&self) -> usize {
        self.left + self.rest[self.next..].iter().map(|range| range.1).sum::<usize>()
    }

    fn advance(&mut self, bytes: usize) {
        self.address = self.address.wrapping_add(bytes as u64);
        self.left -= bytes;
        while self.left == 0 {
            let Some(&(address, bytes)) = self.rest.get(self.next) else { break };
            (self.address, self.left) = (address, bytes);
            self.next += 1;
        }
    }

    fn fault(&mut self, kind: FaultKind) -> Result<(), Errno> {
        if self.left == 0 {
            return Ok(());
        }
        self.mm.fault_in(self.address, 0, kind)
    }
}

/// Application memory that takes bytes.
#[derive(Debug)]
pub struct UserSink(Cursor);

impl UserSink {
    /// A sink over one range.
    pub fn new(mm: MmRef, address: u64, bytes: usize) -> Self {
        Self(Cursor::new(mm, address, bytes, Vec::new()))
    }

    /// A sink over a list of ranges.
    pub fn vector(mm: MmRef, ranges: Vec<(u64, usize)>) -> Self {
        Self(Cursor::new(mm, 0, 0, ranges))
    }

    /// Resolves the fault at the current position.
    ///
    /// # Errors
    /// EFAULT if it cannot; ENOMEM when no frame is free.
    pub fn fault(&mut self) -> Result<(), Errno> {
        self.0.fault(FaultKind::Write)
    }

    /// Passes over bytes that were put there before.
    pub fn skip(&mut self, mut bytes: usize) {
        while bytes > 0 && self.0.left > 0 {
            let part = bytes.min(self.0.left);
            self.0.advance(part);
            bytes -= part;
        }
    }
}

impl Sink for UserSink {
    fn room(&self) -> usize {
        self.0.total()
    }

    fn put(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() && self.0.left > 0 {
            let part = (bytes.len() - done).min(self.0.left);
            let put = self.0.mm.space.lock().write(self.0.address, &bytes[done..done + part]);
            self.0.advance(put);
            done += put;
            if put < part {
                break;
            }
        }
        done
    }
}

/// Application memory that gives bytes.
#[derive(Debug)]
pub struct UserSource(Cursor);

impl UserSource {
    /// A source over one range.
    pub fn new(mm: MmRef, address: u64, bytes: usize) -> Self {
        Self(Cursor::new(mm, address, bytes, Vec::new()))
    }

    /// A source over a list of ranges.
    pub fn vector(mm: MmRef, ranges: Vec<(u64, usize)>) -> Self {
        Self(Cursor::new(mm, 0, 0, ranges))
    }

    /// Resolves the fault at the current position.
    ///
    /// # Errors
    /// EFAULT if it cannot; ENOMEM when no frame is free.
    pub fn fault(&mut self) -> Result<(), Errno> {
        self.0.fault(FaultKind::Read)
    }
}

impl Source for UserSource {
    fn left(&self) -> usize {
        self.0.total()
    }

    fn take(&mut self, to: &mut [u8]) -> usize {
        let mut done = 0;
        while done < to.len() && self.0.left > 0 {
            let part = (to.len() - done).min(self.0.left);
            let got = self.0.mm.space.lock().read(self.0.address, &mut to[done..done + part]);
            self.0.advance(got);
            done += got;
            if got < part {
                break;
            }
        }
        done
    }
}
