// SPDX-License-Identifier: Apache-2.0
//! Pages of mapped files.
//!
//! A page is read when it is first touched, with its neighbours, and kept while the file is open or
//! mapped.  What changes on the host is seen by mappings that are made after the change, as the
//! pages are then found to be older than the file.
//!
//! A shared mapping that can be written to has the pages stay for good ([`Pages::pinned`]), so that
//! all processes of the container share them.  What they write is found by comparison with what was
//! read, and written to the host by msync, fsync, munmap, close, and before anybody of this
//! container reads or writes that part of the file with system calls; so within the container such
//! mappings are as coherent as on Linux.  On the host, and in other containers, the writes appear
//! at these points.

use alloc::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    vec,
    vec::Vec,
};

use trine_abi::window::Operation;
use trine_machine::{Frame, Page, window::BUFFER_BYTES};

use super::file::{Handle, VolumeFile};
use crate::{
    Errno,
    forward::{Answer, Call},
    fs::inode::Inode,
    services::Timestamp,
};

const PAGE: u64 = 4096;
/// Pages that are read together, an aligned block of them.
const AROUND: u64 = 16;
/// Bytes that are compared, and written, together.
const GRAIN: usize = 64;

/// The pages of one file.
#[derive(Debug, Default)]
pub(super) struct Pages {
    frames: BTreeMap<u64, Frame>,
    /// Of what state of the file they are.
    version: (u64, Timestamp),
    /// Pages that can be written to through a mapping, as the host has them.
    written: BTreeMap<u64, Vec<u8>>,
    /// There was a mapping that can be written to: pages are kept.
    pinned: bool,
}

impl Pages {
    /// Forgets the pages of a range that was written.
    fn forget(&mut self, start: u64, end: u64) {
        if !self.frames.is_empty() && !self.pinned {
            let range = start / PAGE..end.div_ceil(PAGE);
            self.frames.retain(|index, _| !range.contains(index));
        }
    }

    /// The end of the file was moved here.
    pub(super) fn cut(&mut self, size: u64) {
        let keep = size.div_ceil(PAGE);
        self.frames.retain(|index, _| *index < keep);
        self.written.retain(|index, _| *index < keep);
        if let Some(frame) = self.frames.get(&(size / PAGE))
            && !size.is_multiple_of(PAGE)
        {
            let from = (size % PAGE) as usize;
            frame.write(from, &vec![0; PAGE as usize - from]);
            if let Some(old) = self.written.get_mut(&(size / PAGE)) {
                old[from..].fill(0);
            }
        }
    }

    /// A page for a mapping.
    fn hand_out(&mut self, index: u64, frame: Frame, write: bool) -> Page {
        let page = Page::Frame(frame);
        if write && !self.written.contains_key(&index) {
            let mut now = vec![0; PAGE as usize];
            page.read(0, &mut now);
            self.written.insert(index, now);
        }
        page
    }

    /// What differs from what the host has, in a range of pages: offset in the file, bytes.
    fn changes(&self, start: u64, end: u64) -> Vec<(u64, Vec<u8>)> {
        let mut changes: Vec<(u64, Vec<u8>)> = Vec::new();
        for (&index, old) in self.written.range(start / PAGE..end.div_ceil(PAGE)) {
            let Some(frame) = self.frames.get(&index) else { continue };
            let mut now = vec![0; PAGE as usize];
            Page::Frame(frame.clone()).read(0, &mut now);
            for (grain, (new, old)) in now.chunks(GRAIN).zip(old.chunks(GRAIN)).enumerate() {
                if new == old {
                    continue;
                }
                let at = index * PAGE + (grain * GRAIN) as u64;
                match changes.last_mut() {
                    Some((from, bytes))
                        if *from + bytes.len() as u64 == at
                            && bytes.len() + GRAIN <= BUFFER_BYTES =>
                    {
                        bytes.extend_from_slice(new);
                    }
                    _ => changes.push((at, new.to_vec())),
                }
            }
        }
        changes
    }

    /// Bytes are on the host as a mapping has them.
    fn settled(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let from = (at % PAGE) as usize;
            let part = bytes.len().min(PAGE as usize - from);
            if let Some(old) = self.written.get_mut(&(at / PAGE)) {
                old[from..from + part].copy_from_slice(&bytes[..part]);
            }
            at += part as u64;
            bytes = &bytes[part..];
        }
    }

    /// Takes over what the host has, where a mapping has not changed it.
    fn take_over(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let from = (at % PAGE) as usize;
            let part = bytes.len().min(PAGE as usize - from);
            if let Some(frame) = self.frames.get(&(at / PAGE)) {
                frame.write(from, &bytes[..part]);
            }
            at += part as u64;
            let (head, rest) = bytes.split_at(part);
            self.settled(at - part as u64, head);
            bytes = rest;
        }
    }
}

/// The end of a file that bytes of a mapping must not move.
fn within(at: u64, bytes: &[u8], size: u64) -> &[u8] {
    let left = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
    &bytes[..bytes.len().min(left)]
}

impl Handle {
    /// Writes to the host what mappings changed in a range.
    pub(super) fn write_back(&self, start: u64, end: u64) -> Result<(), Errno> {
        let changes = self.node.pages.lock().changes(start, end);
        if changes.is_empty() {
            return Ok(());
        }
        // Nothing is written behind the end, wherever the host moved it to.
        self.node.refresh()?;
        let size = self.node.attr().size;
        for (at, bytes) in changes {
            let bytes = within(at, &bytes, size);
            if !bytes.is_empty() {
                self.write_at(at, bytes)?;
            }
            self.node.pages.lock().settled(at, bytes);
        }
        Ok(())
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        let services = &self.node.fs.services;
        let call = Call {
            operation: Operation::FileWrite,
            handle: self.number,
            argument: at,
            input: bytes,
            room: bytes.len(),
        };
        services.with_patience(|| services.call(&call, Answer::result)).map(drop)
    }
}

impl VolumeFile {
    /// What mappings changed is written before it is read, or before others write there.
    pub(super) fn settle(&self, start: u64, end: u64) -> Result<(), Errno> {
        if self.node().pages.lock().written.is_empty() {
            return Ok(());
        }
        self.node().write_back(start, end)
    }

    /// A range was written by a system call: mappings have it, too.
    pub(super) fn was_written(&self, start: u64, end: u64) -> Result<(), Errno> {
        let pinned = {
            let mut pages = self.node().pages.lock();
            pages.forget(start, end);
            pages.pinned && !pages.frames.is_empty()
        };
        if !pinned {
            return Ok(());
        }
        let services = &self.node().fs.services;
        for index in start / PAGE..end.div_ceil(PAGE) {
            if !self.node().pages.lock().frames.contains_key(&index) {
                continue;
            }
            let bytes = services.with_patience(|| self.read_pages(index, 1))?;
            self.node().pages.lock().take_over(index * PAGE, &bytes);
        }
        Ok(())
    }

    /// There is a shared mapping, which may be written to.
    pub(super) fn pin(&self) {
        if self.handle.writes {
            self.node().pages.lock().pinned = true;
            self.node().set_writer(&self.handle);
        }
    }

    fn read_pages(&self, first: u64, count: u64) -> Result<Arc<Vec<u8>>, Errno> {
        let call = Call {
            operation: Operation::FileRead,
            handle: self.handle.number,
            argument: first * PAGE,
            input: &[],
            room: (count * PAGE) as usize,
        };
        self.node().fs.services.call(&call, Answer::bytes)
    }

    /// The page at an index.
    pub(super) fn map_page(&self, index: u64, write: bool) -> Result<Page, Errno> {
        let node = self.node();
        let attr = node.attr();
        {
            let mut pages = node.pages.lock();
            let version = (attr.size, attr.mtime);
            if pages.version != version && !pages.pinned {
                pages.frames.clear();
                pages.version = version;
            }
            if let Some(frame) = pages.frames.get(&index).cloned() {
                return Ok(pages.hand_out(index, frame, write));
            }
        }
        let first = index / AROUND * AROUND;
        let arena = node.fs.services.arena;
        let together = BUFFER_BYTES as u64 / PAGE;
        for start in (first..first + AROUND).step_by(together as usize) {
            let bytes = self.read_pages(start, together)?;
            let mut pages = node.pages.lock();
            for (at, chunk) in (start..).zip(bytes.chunks(PAGE as usize)) {
                if let Entry::Vacant(entry) = pages.frames.entry(at) {
                    let frame = Frame::zeroed(arena).ok_or(Errno::NOMEM)?;
                    frame.write(0, chunk);
                    entry.insert(frame);
                }
            }
            if bytes.len() < BUFFER_BYTES {
                break;
            }
        }
        let mut pages = node.pages.lock();
        let frame = pages.frames.get(&index).cloned().ok_or(Errno::NXIO)?;
        Ok(pages.hand_out(index, frame, write))
    }
}
