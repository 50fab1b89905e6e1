// SPDX-License-Identifier: Apache-2.0
//! Reading the contents of a tree's files.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::WriteError;
use crate::tree::{self, Content, HostDir, Source, TreeError};

/// Opens contents; keeps the last directory open, since neighbours are read together.
#[derive(Default)]
pub(super) struct ContentReader {
    dir: Option<(Arc<HostDir>, OwnedFd)>,
}

/// A file's contents, ready to be read.
pub(super) struct OpenContent {
    file: Arc<File>,
    base: u64,
    size: u64,
    /// Host path for messages; `None` for a spool.
    path: Option<PathBuf>,
}

impl ContentReader {
    pub(super) fn open(&mut self, content: &Content) -> Result<OpenContent, WriteError> {
        let size = content.size;
        match &content.source {
            Source::Spool { file, offset } => {
                Ok(OpenContent { file: Arc::clone(file), base: *offset, size, path: None })
            }
            Source::Host { dir, name, stamp } => {
                if !self.dir.as_ref().is_some_and(|(open, _)| Arc::ptr_eq(open, dir)) {
                    self.dir = Some((Arc::clone(dir), dir.open()?));
                }
                let (_, dir_fd) = self.dir.as_ref().expect("opened above");
                let file = tree::open_file(dir, dir_fd.as_fd(), name, *stamp)?;
                let path = Some(dir.path_of(name));
                Ok(OpenContent { file: Arc::new(file), base: 0, size, path })
            }
        }
    }
}

impl OpenContent {
    /// Reads `bytes.len()` bytes at `offset`, all of which must be there.
    pub(super) fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), WriteError> {
        let offset = self.base + offset;
        self.file.read_exact_at(bytes, offset).map_err(|source| match &self.path {
            None => WriteError::Spool { offset, source },
            Some(path) if source.kind() == io::ErrorKind::UnexpectedEof => {
                TreeError::Changed { path: path.clone() }.into()
            }
            Some(path) => TreeError::Io { action: "read file", path: path.clone(), source }.into(),
        })
    }

    /// Returns the ranges that hold data, in order; the rest are holes.
    pub(super) fn data_ranges(&self) -> Result<Vec<Range<u64>>, WriteError> {
        let whole = 0..self.size;
        let mut ranges = Vec::new();
        let mut position = 0;
        while position < self.size {
            let start = match rustix::fs::seek(&*self.file, SeekFrom::Data(position)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                // The file system does not know holes.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(vec![whole]),
                Err(errno) => return Err(self.seek_error(errno)),
            };
            let end = rustix::fs::seek(&*self.file, SeekFrom::Hole(start))
                .map_err(|errno| self.seek_error(errno))?;
            if start >= self.size || end <= start {
                break;
            }
            ranges.push(start..end.min(self.size));
            position = end;
        }
        Ok(ranges)
    }

    fn seek_error(&self, errno: Errno) -> WriteError {
        let path = self.path.clone().unwrap_or_default();
        TreeError::Io { action: "find holes of", path, source: errno.into() }.into()
    }
}
