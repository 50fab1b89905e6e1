// SPDX-License-Identifier: Apache-2.0
//! /proc/[pid]/mem: the memory of a process as a file, for debuggers.

use alloc::sync::Arc;
use core::any::Any;

use super::process::Subject;
use crate::{
    Errno,
    fs::{
        file::{File, FileOps},
        inode::Inode,
        types::{Attr, OpenFlags},
    },
    io::{Sink, Source},
    mm::MmRef,
};

/// Bytes that are copied at a time: within a page.
const PAGE: u64 = 4096;

/// The file.
#[derive(Debug)]
pub(super) struct MemInode {
    attr: Attr,
    subject: Subject,
}

impl MemInode {
    pub(super) fn new(attr: Attr, subject: Subject) -> Self {
        Self { attr, subject }
    }
}

impl Inode for MemInode {
    fn attr(&self) -> Attr {
        self.attr
    }

    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        Ok(())
    }

    fn open(&self, _flags: OpenFlags) -> Result<Option<Arc<dyn FileOps>>, Errno> {
        self.subject.check()?;
        let mm = self.subject.task()?.mm().ok_or(Errno::SRCH)?;
        mm.use_own_text();
        Ok(Some(Arc::new(Memory { mm })))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The memory that the process had when the file was opened.
#[derive(Debug)]
struct Memory {
    mm: MmRef,
}

impl FileOps for Memory {
    fn read(&self, _file: &File, offset: u64, sink: &mut dyn Sink) -> Result<usize, Errno> {
        let mut done = 0;
        let mut buffer = [0; PAGE as usize];
        while sink.room() > 0 {
            let at = offset + done as u64;
            let part = ((PAGE - at % PAGE) as usize).min(sink.room());
            if self.mm.read_bytes(at, &mut buffer[..part]).is_err() {
                return if done > 0 { Ok(done) } else { Err(Errno::IO) };
            }
            let put = sink.put(&buffer[..part]);
            done += put;
            if put < part {
                break;
            }
        }
        Ok(done)
    }

    fn write(&self, _file: &File, offset: u64, source: &mut dyn Source) -> Result<usize, Errno> {
        let mut done = 0;
        let mut buffer = [0; PAGE as usize];
        while source.left() > 0 {
            let at = offset + done as u64;
            let part = ((PAGE - at % PAGE) as usize).min(source.left());
            let taken = source.take(&mut buffer[..part]);
            if self.mm.force_write(at, &buffer[..taken]).is_err() {
                return if done > 0 { Ok(done) } else { Err(Errno::IO) };
            }
            done += taken;
            if taken < part {
                break;
            }
        }
        Ok(done)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
