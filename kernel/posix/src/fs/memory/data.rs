// SPDX-License-Identifier: Apache-2.0
//! Contents of regular files: the image's bytes, covered page by page by frames.

use alloc::collections::BTreeMap;

use trine_machine::{Frame, Page};

use super::node::Node;
use crate::{
    Errno,
    fs::{
        erofs::{EInode, PageAt, Piece},
        inode::Allocate,
        text::Text,
    },
    io::{Sink, Source},
    mm::StalePages,
};

const PAGE: u64 = 4096;
/// The largest file.
const SIZE_MAX: u64 = 1 << 46;

const F_SEAL_SEAL: u32 = 1;
const F_SEAL_SHRINK: u32 = 2;
const F_SEAL_GROW: u32 = 4;
const F_SEAL_WRITE: u32 = 8;
const F_SEAL_FUTURE_WRITE: u32 = 0x10;
const F_SEAL_EXEC: u32 = 0x20;

/// A file's contents.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) size: u64,
    /// Bytes that are still the image's where no frame covers them.
    lower_end: u64,
    frames: BTreeMap<u64, Frame>,
    /// Pages were given to mappings, which have to be told when they are replaced.
    mapped: bool,
    seals: u32,
}

impl Data {
    /// Contents that are the image's up to `size`.
    pub(super) fn new(size: u64) -> Self {
        Self { size, lower_end: size, frames: BTreeMap::new(), mapped: false, seals: F_SEAL_SEAL }
    }

    /// Units of 512 bytes in use.
    pub(super) fn blocks(&self, lower: Option<&EInode>) -> u64 {
        let own = self.frames.len() as u64 * 8;
        if lower.is_some() { own.max(self.lower_end.div_ceil(PAGE) * 8) } else { own }
    }

    /// Adds seals (0: none), returns all.
    pub(super) fn seal(&mut self, add: u32) -> Result<u32, Errno> {
        if add & !0x3f != 0 {
            return Err(Errno::INVAL);
        }
        if add != 0 && self.seals & F_SEAL_SEAL != 0 {
            return Err(Errno::PERM);
        }
        self.seals |= add;
        Ok(self.seals)
    }

    /// Lets seals be added: a memfd that was made so.
    pub(super) fn unseal(&mut self) {
        self.seals &= !(F_SEAL_SEAL | F_SEAL_EXEC);
    }

    pub(super) fn read(
        &self,
        node: &Node,
        offset: u64,
        sink: &mut dyn Sink,
    ) -> Result<usize, Errno> {
        let mut at = offset;
        while at < self.size && sink.room() > 0 {
            let want = (self.size - at).min(sink.room() as u64);
            let within = at % PAGE;
            let (given, taken) = if let Some(frame) = self.frames.get(&(at / PAGE)) {
                let bytes = want.min(PAGE - within) as usize;
                let page = Page::Frame(frame.clone());
                (bytes, sink.put_page(&page, within as usize, bytes))
            } else {
                // As far as no frame covers it.
                let covered = self.frames.range(at / PAGE..).next();
                let want = covered.map_or(want, |(index, _)| want.min(index * PAGE - at));
                match self.lower_piece(node, at)? {
                    Some(Piece::Bytes(bytes)) => {
                        let bytes = &bytes[..(bytes.len() as u64).min(want) as usize];
                        (bytes.len(), sink.put(bytes))
                    }
                    Some(Piece::Zeroes(bytes)) => {
                        let bytes = bytes.min(want).min(1 << 30) as usize;
                        (bytes, sink.put_zeroes(bytes))
                    }
                    None => {
                        let bytes = want.min(1 << 30) as usize;
                        (bytes, sink.put_zeroes(bytes))
                    }
                }
            };
            at += taken as u64;
            if taken < given {
                break;
            }
        }
        Ok((at - offset) as usize)
    }

    /// What the image has at an offset, up to `lower_end`.
    fn lower_piece(&self, node: &Node, at: u64) -> Result<Option<Piece>, Errno> {
        let Some((image, inode)) = node.image() else { return Ok(None) };
        if at >= self.lower_end {
            return Ok(None);
        }
        let left = self.lower_end - at;
        Ok(image.piece(&inode, at)?.map(|piece| match piece {
            Piece::Bytes(bytes) => Piece::Bytes(&bytes[..(bytes.len() as u64).min(left) as usize]),
            Piece::Zeroes(bytes) => Piece::Zeroes(bytes.min(left)),
        }))
    }

    /// Gives notice that a page is about to be another one.
    fn replaces(&mut self, node: &Node, index: u64) {
        if !self.mapped || index * PAGE >= self.size {
            return;
        }
        let page = match self.frames.get(&index) {
            Some(frame) => Some(Page::Frame(frame.clone())),
            None => self.lower_page(node, index).ok().flatten(),
        };
        let rewritten = image_text(node).and_then(|text| text.page(index));
        for page in page.into_iter().chain(rewritten) {
            node.stale(StalePages::Was(index, page.address()));
        }
    }

    /// The rewritten text of a file that is still as in the image.
    pub(super) fn text(&mut self, node: &Node) -> Option<Text> {
        let (_, inode) = node.image()?;
        let is_whole = self.frames.is_empty() && [self.size, self.lower_end] == [inode.size; 2];
        let text = image_text(node).filter(|_| is_whole)?;
        self.mapped = true;
        Some(text)
    }

    /// What is mapped of a page that has no frame; `None` if it must get one.
    fn lower_page(&self, node: &Node, index: u64) -> Result<Option<Page>, Errno> {
        let covered = index * PAGE < self.lower_end;
        let Some((image, inode)) = node.image().filter(|_| covered) else {
            return Ok(Some(Page::Frame(node.fs.zero_frame()?)));
        };
        Ok(match image.page(&inode, index)? {
            PageAt::Image(at) => {
                let page = node.fs.services.arena.image_page(0, at).ok_or(Errno::UCLEAN)?;
                Some(Page::Image(page))
            }
            PageAt::Hole => Some(Page::Frame(node.fs.zero_frame()?)),
            PageAt::Scattered => None,
        })
    }

    /// The frame of a page; a copy of what is there if it has none yet.
    fn frame(&mut self, node: &Node, index: u64) -> Result<&Frame, Errno> {
        if !self.frames.contains_key(&index) {
            self.replaces(node, index);
            let frame = node.fs.take_frame()?;
            let start = index * PAGE;
            if let Some((image, inode)) = node.image()
                && start < self.lower_end
            {
                let mut bytes = [0; PAGE as usize];
                let want = (self.lower_end - start).min(PAGE) as usize;
                let read = image.read(&inode, start, &mut bytes[..want]);
                match read {
                    Ok(done) => frame.write(0, &bytes[..done]),
                    Err(errno) => {
                        node.fs.gave_frames(1);
                        return Err(errno);
                    }
                }
            }
            self.frames.insert(index, frame);
        }
        self.frames.get(&index).ok_or(Errno::NOMEM)
    }

    pub(super) fn write(
        &mut self,
        node: &Node,
        offset: u64,
        source: &mut dyn Source,
    ) -> Result<usize, Errno> {
        if self.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) != 0 {
            return Err(Errno::PERM);
        }
        let mut at = offset;
        let mut buffer = [0; PAGE as usize];
        while source.left() > 0 {
            let within = at % PAGE;
            let room = (PAGE - within).min(SIZE_MAX.saturating_sub(at));
            let want = room.min(source.left() as u64) as usize;
            if want == 0 {
                return if at > offset { Ok((at - offset) as usize) } else { Err(Errno::FBIG) };
            }
            let grows = at + want as u64 > self.size;
            if grows && self.seals & F_SEAL_GROW != 0 {
                return if at > offset { Ok((at - offset) as usize) } else { Err(Errno::PERM) };
            }
            // The frame first: what a source has given cannot be put back.
            let frame = match self.frame(node, at / PAGE) {
                Ok(frame) => frame,
                Err(_) if at > offset => break,
                Err(errno) => return Err(errno),
            };
            let taken = source.take(&mut buffer[..want]);
            frame.write(within as usize, &buffer[..taken]);
            at += taken as u64;
            self.size = self.size.max(at);
            if taken < want {
                break;
            }
        }
        Ok((at - offset) as usize)
    }

    pub(super) fn truncate(&mut self, node: &Node, size: u64) -> Result<(), Errno> {
        if size > SIZE_MAX {
            return Err(Errno::FBIG);
        }
        let seal = if size < self.size { F_SEAL_SHRINK } else { F_SEAL_GROW };
        if size != self.size && self.seals & seal != 0 {
            return Err(Errno::PERM);
        }
        if size < self.size {
            let within = (size % PAGE) as usize;
            let kept = size.div_ceil(PAGE);
            if within > 0 && (self.frames.contains_key(&(size / PAGE)) || size < self.lower_end) {
                self.frame(node, size / PAGE)?.zero(within, PAGE as usize - within);
            }
            if self.mapped {
                node.stale(StalePages::From(kept));
            }
            let gone = self.frames.split_off(&kept);
            node.fs.gave_frames(gone.len() as u64);
            self.lower_end = self.lower_end.min(size);
        }
        self.size = size;
        Ok(())
    }

    pub(super) fn allocate(
        &mut self,
        node: &Node,
        range: Allocate,
        offset: u64,
        bytes: u64,
    ) -> Result<(), Errno> {
        let end = offset.checked_add(bytes).filter(|end| *end <= SIZE_MAX).ok_or(Errno::FBIG)?;
        match range {
            Allocate::Punch | Allocate::Zero => {
                if self.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) != 0 {
                    return Err(Errno::PERM);
                }
                let mut at = offset;
                let last = end.min(self.size);
                while at < last {
                    let index = at / PAGE;
                    let within = (at % PAGE) as usize;
                    let part = (last - at).min(PAGE - within as u64);
                    let is_lower = index * PAGE < self.lower_end;
                    if is_lower || (part < PAGE && self.frames.contains_key(&index)) {
                        self.frame(node, index)?.zero(within, part as usize);
                        at += part;
                    } else if part == PAGE && self.frames.contains_key(&index) {
                        self.replaces(node, index);
                        self.frames.remove(&index);
                        node.fs.gave_frames(1);
                        at += part;
                    } else {
                        // Nothing here: on to the next frame.
                        let next = self.frames.range(index + 1..).next();
                        at = next.map_or(last, |(index, _)| (index * PAGE).min(last));
                    }
                }
                if range == Allocate::Zero && end > self.size {
                    self.truncate(node, end)?;
                }
            }
            Allocate::Grow | Allocate::KeepSize => {
                if range == Allocate::Grow && end > self.size && self.seals & F_SEAL_GROW != 0 {
                    return Err(Errno::PERM);
                }
                let free = node.fs.services.arena.free_bytes();
                let free = free.saturating_sub(node.fs.kept_bytes());
                let limit = node.fs.frames_max.saturating_mul(PAGE);
                if bytes > free || end > limit {
                    return Err(Errno::NOSPC);
                }
                if range == Allocate::Grow {
                    self.size = self.size.max(end);
                }
            }
        }
        Ok(())
    }

    pub(super) fn seek(&self, node: &Node, offset: u64, hole: bool) -> Result<u64, Errno> {
        if offset >= self.size {
            return Err(Errno::NXIO);
        }
        let mut at = offset;
        while at < self.size {
            let covered = self.frames.contains_key(&(at / PAGE));
            let next_frame = self.frames.range(at / PAGE..).next().map(|(index, _)| index * PAGE);
            let (is_hole, end) = if covered {
                (false, (at / PAGE + 1) * PAGE)
            } else {
                match self.lower_piece(node, at)? {
                    Some(Piece::Bytes(bytes)) => (false, at + bytes.len() as u64),
                    Some(Piece::Zeroes(bytes)) => (true, at + bytes),
                    None => (true, self.size),
                }
            };
            if is_hole == hole {
                return Ok(at);
            }
            let end = if covered { end } else { next_frame.map_or(end, |next| end.min(next)) };
            at = end.max(at + 1);
        }
        if hole { Ok(self.size) } else { Err(Errno::NXIO) }
    }

    pub(super) fn page(&mut self, node: &Node, index: u64, write: bool) -> Result<Page, Errno> {
        let start = index.checked_mul(PAGE).ok_or(Errno::NXIO)?;
        if start >= self.size {
            return Err(Errno::NXIO);
        }
        if write && self.seals & F_SEAL_WRITE != 0 {
            return Err(Errno::PERM);
        }
        if write || self.frames.contains_key(&index) {
            let frame = self.frame(node, index)?.clone();
            self.mapped = true;
            return Ok(Page::Frame(frame));
        }
        self.mapped = true;
        match self.lower_page(node, index)? {
            Some(page) => Ok(page),
            None => Ok(Page::Frame(self.frame(node, index)?.clone())),
        }
    }

    /// How many frames it has.
    pub(super) fn frames(&self) -> u64 {
        self.frames.len() as u64
    }
}

/// The rewritten text of the image's file.
fn image_text(node: &Node) -> Option<Text> {
    let text = node.image()?.0.text(node.ino)?;
    Some(Text::new(node.fs.services.arena, text))
}

impl Drop for Node {
    fn drop(&mut self) {
        if let super::node::Body::File(data) = &self.body {
            self.fs.gave_frames(data.lock().frames());
        }
    }
}
