// SPDX-License-Identifier: Apache-2.0
//! Where the contents of files go to and come from: application memory in general, kernel memory
//! for exec, tests and forwarded files.
//!
//! A sink or source may take less than it is given: application memory that is not mapped yet.  A
//! file then stops there, accounts only for what was taken, and returns that count; the system
//! call resolves the fault *outside* of every lock and goes on.  So no file ever faults while it
//! holds its own locks.

use alloc::vec::Vec;

use trine_machine::Page;

/// Takes bytes.
pub trait Sink {
    /// Bytes that are still wanted.
    fn room(&self) -> usize;

    /// Takes bytes from the front of `bytes`; returns how many.
    fn put(&mut self, bytes: &[u8]) -> usize;

    /// Takes bytes of a page.
    fn put_page(&mut self, page: &Page, offset: usize, bytes: usize) -> usize {
        let mut buffer = [0; 1024];
        let mut done = 0;
        while done < bytes {
            let part = (bytes - done).min(buffer.len());
            page.read(offset + done, &mut buffer[..part]);
            let taken = self.put(&buffer[..part]);
            done += taken;
            if taken < part {
                break;
            }
        }
        done
    }

    /// Takes zeroes.
    fn put_zeroes(&mut self, bytes: usize) -> usize {
        let zeroes = [0; 1024];
        let mut done = 0;
        while done < bytes {
            let part = (bytes - done).min(zeroes.len());
            let taken = self.put(&zeroes[..part]);
            done += taken;
            if taken < part {
                break;
            }
        }
        done
    }
}

/// Gives bytes.
pub trait Source {
    /// Bytes that are left.
    fn left(&self) -> usize;

    /// Copies bytes to the front of `to`, and passes over them; returns how many.
    fn take(&mut self, to: &mut [u8]) -> usize;
}

/// Kernel memory as a sink, up to a limit.
#[derive(Debug)]
pub struct VecSink {
    /// What was put.
    pub bytes: Vec<u8>,
    limit: usize,
}

impl VecSink {
    /// Makes a sink that takes at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit }
    }
}

impl Sink for VecSink {
    fn room(&self) -> usize {
        self.limit - self.bytes.len()
    }

    fn put(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.bytes.extend_from_slice(&bytes[..taken]);
        taken
    }
}

/// Kernel memory as a source.
#[derive(Debug)]
pub struct SliceSource<'a>(pub &'a [u8]);

impl Source for SliceSource<'_> {
    fn left(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, to: &mut [u8]) -> usize {
        let taken = to.len().min(self.0.len());
        let (head, rest) = self.0.split_at(taken);
        to[..taken].copy_from_slice(head);
        self.0 = rest;
        taken
    }
}
