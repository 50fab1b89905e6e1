// SPDX-License-Identifier: Apache-2.0
//! Pages of mapped files.
//!
//! A page is read when it is first touched, with its neighbours, and kept while the file is open or
//! mapped.  What this container writes or cuts elsewhere is forgotten at once; what changes on the
//! host is seen by mappings that are made after the change, as the pages are then found to be older
//! than the file.

use alloc::collections::BTreeMap;

use trine_machine::{Frame, Page};

use super::{Node, file::VolumeFile};
use crate::{
    Errno,
    forward::{Answer, Call},
    fs::{inode::Inode, types::FileType},
    services::Timestamp,
};

const PAGE: u64 = 4096;
/// Pages that are read together, an aligned block of them.
const AROUND: u64 = 16;

/// The pages of one file.
#[derive(Debug, Default)]
pub(super) struct Pages {
    frames: BTreeMap<u64, Frame>,
    /// Of what state of the file they are.
    version: (u64, Timestamp),
}

impl Pages {
    /// Forgets the pages of a range that was written.
    pub(super) fn forget(&mut self, start: u64, end: u64) {
        if !self.frames.is_empty() {
            let range = start / PAGE..end.div_ceil(PAGE);
            self.frames.retain(|index, _| !range.contains(index));
        }
    }

    /// Forgets the pages behind the end.
    pub(super) fn cut(&mut self, size: u64) {
        self.forget(size, u64::MAX);
    }
}

impl Node {
    pub(super) fn attr_kind(&self) -> FileType {
        self.kind()
    }
}

impl VolumeFile {
    /// Nothing is written to a mapping that is not written to the file.
    pub(super) fn flush_before_read(&self, _offset: u64, _bytes: usize) -> Result<(), Errno> {
        Ok(())
    }

    /// Writes pages back; there are none that could have been written to.
    pub(super) fn write_back(&self, _start: u64, _end: u64) -> Result<(), Errno> {
        Ok(())
    }

    /// The page at an index.
    pub(super) fn map_page(&self, index: u64, write: bool) -> Result<Page, Errno> {
        if write {
            return Err(Errno::NODEV);
        }
        let node = &self.handle.node;
        let attr = node.attr();
        {
            let mut pages = node.pages.lock();
            let version = (attr.size, attr.mtime);
            if pages.version != version {
                pages.frames.clear();
                pages.version = version;
            }
            if let Some(frame) = pages.frames.get(&index) {
                return Ok(Page::Frame(frame.clone()));
            }
        }
        let first = index / AROUND * AROUND;
        let arena = node.fs.services.arena;
        for start in (first..first + AROUND).step_by(4) {
            let call = Call {
                operation: trine_abi::window::Operation::FileRead,
                handle: self.handle.number,
                argument: start * PAGE,
                input: &[],
                room: trine_machine::window::BUFFER_BYTES,
            };
            let bytes = node.fs.services.call(&call, Answer::bytes)?;
            let mut pages = node.pages.lock();
            for (at, chunk) in (start..).zip(bytes.chunks(PAGE as usize)) {
                if !pages.frames.contains_key(&at) {
                    let frame = Frame::zeroed(arena).ok_or(Errno::NOMEM)?;
                    frame.write(0, chunk);
                    pages.frames.insert(at, frame);
                }
            }
            if bytes.len() < trine_machine::window::BUFFER_BYTES {
                break;
            }
        }
        let pages = node.pages.lock();
        pages.frames.get(&index).map(|frame| Page::Frame(frame.clone())).ok_or(Errno::NXIO)
    }
}
