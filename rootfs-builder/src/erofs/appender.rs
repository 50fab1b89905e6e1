// SPDX-License-Identifier: Apache-2.0
//! Buffered, sequential writing of the image, with taking back what turned out to be a duplicate.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{BLOCK_BYTES, WriteError};

/// Size of the buffer, and the largest piece that can be appended at once.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Appends to a file through one buffer.
pub(super) struct Appender<'a> {
    file: &'a File,
    /// Position in the file of the buffer's first byte.
    base: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl<'a> Appender<'a> {
    /// Starts at byte `start` of `file`.
    pub(super) fn new(file: &'a File, start: u64) -> Self {
        Self { file, base: start, buffer: vec![0; PIECE_BYTES], used: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.base + self.used as u64
    }

    /// Returns the number of the block that begins here; the position must be aligned.
    pub(super) fn block(&self) -> Result<u32, WriteError> {
        debug_assert!(self.position().is_multiple_of(BLOCK_BYTES), "blocks are appended whole");
        block_number(self.position())
    }

    /// Appends `len` bytes (at most [`PIECE_BYTES`]) that `fill_fn` writes into place, and returns
    /// them.
    pub(super) fn append_with<E: From<WriteError>>(
        &mut self,
        len: usize,
        fill_fn: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<&[u8], E> {
        if self.used + len > self.buffer.len() {
            self.flush()?;
        }
        let piece = &mut self.buffer[self.used..self.used + len];
        fill_fn(piece)?;
        self.used += len;
        Ok(&self.buffer[self.used - len..self.used])
    }

    pub(super) fn append(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES));
            self.append_with(piece.len(), |space| {
                space.copy_from_slice(piece);
                Ok::<(), WriteError>(())
            })?;
            bytes = rest;
        }
        Ok(())
    }

    /// Appends zeros up to the next block.
    pub(super) fn pad(&mut self) -> Result<(), WriteError> {
        let beyond = (self.position() % BLOCK_BYTES) as usize;
        if beyond > 0 {
            self.append(&[0; BLOCK_BYTES as usize][beyond..])?;
        }
        Ok(())
    }

    /// Takes back everything from `position` on; it will be overwritten or cut off.
    pub(super) fn rewind(&mut self, position: u64) {
        if position >= self.base {
            self.used = (position - self.base) as usize;
        } else {
            self.base = position;
            self.used = 0;
        }
    }

    /// Ends the image on a block, cuts off what was taken back, and returns the size in bytes.
    pub(super) fn finish(mut self) -> Result<u64, WriteError> {
        self.pad()?;
        self.flush()?;
        let offset = self.base;
        self.file.set_len(offset).map_err(|source| WriteError::Io { offset, source })?;
        Ok(offset)
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        write_at(self.file, &self.buffer[..self.used], self.base)?;
        self.base += self.used as u64;
        self.used = 0;
        Ok(())
    }
}

/// Writes `bytes` at byte `offset` of the image.
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> Result<(), WriteError> {
    let result: io::Result<()> = file.write_all_at(bytes, offset);
    result.map_err(|source| WriteError::Io { offset, source })
}

/// Returns the number of the block at byte `position`.
pub(super) fn block_number(position: u64) -> Result<u32, WriteError> {
    // The last number stands for a hole.
    u32::try_from(position / BLOCK_BYTES)
        .ok()
        .filter(|block| *block != u32::MAX)
        .ok_or(WriteError::TooLarge { bytes: position })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewind_across_a_flush_overwrites_what_was_written() {
        let file = tempfile::tempfile().unwrap();
        let mut image = Appender::new(&file, BLOCK_BYTES);
        let start = image.position();
        image.append(&vec![1; PIECE_BYTES + 5]).unwrap();
        image.rewind(start);
        image.append(&[2; 3]).unwrap();
        assert_eq!(image.finish().unwrap(), 2 * BLOCK_BYTES);

        let mut bytes = vec![9; 2 * BLOCK_BYTES as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes[4096..4100], [2, 2, 2, 0]);
        assert!(bytes[4100..].iter().all(|byte| *byte == 0));
        assert_eq!(file.metadata().unwrap().len(), 2 * BLOCK_BYTES);
    }
}
