// SPDX-License-Identifier: Apache-2.0
//! The files of an archive by name: in a directory, or in a tar file read where it lies.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::compression::{self, Compression};
use super::limits::Meter;
use super::tar::{End, EntryKind, Input, TarReader};
use super::{ArchiveError, Limits};
use crate::erofs::{hex, parse_hex};

/// How many links in a tar are followed to find a file (`docker save` once linked equal layers).
const MAX_LINKS: u32 = 8;
/// How much is read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Where the archive's files are.
#[derive(Debug)]
pub(super) enum Blobs {
    Directory { fd: OwnedFd, path: PathBuf },
    Tar { file: Arc<File>, path: PathBuf, index: HashMap<String, Place> },
}

/// A file in a tar.
#[derive(Debug)]
pub(super) enum Place {
    At { offset: u64, len: u64 },
    Link(String),
}

/// One file of the archive.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    file: Arc<File>,
    offset: u64,
    len: u64,
}

impl Blobs {
    /// Opens the directory or (possibly compressed) tar at `path`.
    pub(super) fn open(
        path: &Path,
        spool_dir: &Path,
        limits: &Limits,
    ) -> Result<Self, ArchiveError> {
        let error = || ArchiveError::io("open archive", path);
        let file = File::open(path).map_err(error())?;
        let metadata = file.metadata().map_err(error())?;
        if metadata.is_dir() {
            return Ok(Self::Directory { fd: file.into(), path: path.into() });
        }
        if !metadata.is_file() {
            return Err(ArchiveError::NotAnImage { path: path.into() });
        }
        let whole = Blob { file: Arc::new(file), offset: 0, len: metadata.len() };
        let whole = match whole.compression(path)? {
            Compression::None => whole,
            _ => whole.unpack(path, spool_dir, limits)?,
        };
        let index = index_tar(&whole, path, limits)?;
        Ok(Self::Tar { file: whole.file, path: path.into(), index })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Directory { path, .. } | Self::Tar { path, .. } => path,
        }
    }

    /// Returns the file `name` (relative, with slashes); `None` if there is none.
    pub(super) fn get(&self, name: &str) -> Result<Option<Blob>, ArchiveError> {
        match self {
            Self::Directory { fd, path } => open_beneath(fd, path, name),
            Self::Tar { file, index, .. } => {
                let mut name = name.to_owned();
                for _ in 0..MAX_LINKS {
                    match index.get(&name) {
                        Some(Place::At { offset, len }) => {
                            let file = Arc::clone(file);
                            return Ok(Some(Blob { file, offset: *offset, len: *len }));
                        }
                        Some(Place::Link(target)) => name.clone_from(target),
                        None => return Ok(None),
                    }
                }
                Err(ArchiveError::malformed(name, "it is a link to itself"))
            }
        }
    }

    /// Returns the file `name`, which must be there.
    pub(super) fn require(&self, name: &str) -> Result<Blob, ArchiveError> {
        self.get(name)?.ok_or_else(|| ArchiveError::Missing { what: name.into() })
    }

    /// Reads the document `name`, which must be there.
    pub(super) fn document(&self, name: &str, limits: &Limits) -> Result<Vec<u8>, ArchiveError> {
        self.require(name)?.read_all(name, limits)
    }

    /// Returns the blob with `digest`, whose content is checked to have it.
    pub(super) fn verified(&self, digest: &str, len: u64) -> Result<Blob, ArchiveError> {
        let what = format!("blob {digest}");
        let digits = digest.strip_prefix("sha256:").filter(|digits| parse_hex(digits).is_some());
        let Some(digits) = digits else {
            let reason = "only sha256 digests are".into();
            return Err(ArchiveError::Unsupported { what: format!("digest {digest:?}"), reason });
        };
        let blob = self.get(&format!("blobs/sha256/{digits}"))?;
        let blob = blob.ok_or_else(|| ArchiveError::Missing { what: what.clone() })?;
        if blob.len < len {
            return Err(ArchiveError::Truncated { what });
        }
        if blob.len != len {
            let reason = format!("it has {} bytes, its manifest says {len}", blob.len);
            return Err(ArchiveError::malformed(what, reason));
        }
        blob.verify(digest, &what)?;
        Ok(blob)
    }
}

impl Blob {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn reader(&self) -> BlobReader {
        BlobReader { blob: self.clone(), position: Rc::default() }
    }

    pub(super) fn compression(&self, path: &Path) -> Result<Compression, ArchiveError> {
        let mut magic = [0; 4];
        let len = self.len.min(4) as usize;
        self.file
            .read_exact_at(&mut magic[..len], self.offset)
            .map_err(ArchiveError::io("read", path))?;
        Ok(Compression::of(&magic))
    }

    /// Reads it whole, if it is of a document's size.
    pub(super) fn read_all(&self, what: &str, limits: &Limits) -> Result<Vec<u8>, ArchiveError> {
        if self.len > limits.max_document_bytes {
            let limit = limits.max_document_bytes;
            return Err(ArchiveError::TooLarge { limit, unit: "bytes in a document" });
        }
        let mut bytes = vec![0; self.len as usize];
        let read = self.file.read_exact_at(&mut bytes, self.offset);
        read.map_err(|error| ArchiveError::read(what, error))?;
        Ok(bytes)
    }

    /// Checks that it has `digest`.
    pub(super) fn verify(&self, digest: &str, what: &str) -> Result<(), ArchiveError> {
        let mut hash = Sha256::new();
        let mut reader = self.reader();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match reader.read(&mut buffer).map_err(|error| ArchiveError::read(what, error))? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
        let found = format!("sha256:{}", hex(&hash.finalize()));
        if found == digest {
            return Ok(());
        }
        Err(ArchiveError::WrongDigest { what: what.into(), expected: digest.into(), found })
    }

    /// Unpacks a compressed archive into a file without a name.
    fn unpack(&self, path: &Path, dir: &Path, limits: &Limits) -> Result<Self, ArchiveError> {
        let what = path.display().to_string();
        let read_error = |error| ArchiveError::read(&what, error);
        let input = compression::decoder(self.compression(path)?, self.reader());
        let input = input.map_err(read_error)?;
        let mut input = Meter::new(input, limits, self.len, limits.max_unpacked_bytes);
        let error = || ArchiveError::io("unpack archive in", dir);
        let mut file = tempfile::tempfile_in(dir).map_err(error())?;
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match input.read(&mut buffer).map_err(read_error)? {
                0 => break,
                count => file.write_all(&buffer[..count]).map_err(error())?,
            }
        }
        let len = file.stream_position().map_err(error())?;
        Ok(Self { file: Arc::new(file), offset: 0, len })
    }
}

/// Reads a [`Blob`] from its start.
pub(super) struct BlobReader {
    blob: Blob,
    /// Shared with who reports progress, from behind a decoder.
    position: Rc<Cell<u64>>,
}

impl BlobReader {
    pub(super) fn position(&self) -> u64 {
        self.position.get()
    }

    pub(super) fn shared_position(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.position)
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.blob.len - self.position()).unwrap_or(usize::MAX);
        let len = buffer.len().min(left);
        if len == 0 {
            return Ok(0);
        }
        let count =
            self.blob.file.read_at(&mut buffer[..len], self.blob.offset + self.position())?;
        if count == 0 {
            // The file became shorter while it was read.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position.set(self.position() + count as u64);
        Ok(count)
    }
}

impl Input for BlobReader {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.blob.len - self.position() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position.set(self.position() + bytes);
        Ok(())
    }
}

fn open_beneath(fd: &OwnedFd, path: &Path, name: &str) -> Result<Option<Blob>, ArchiveError> {
    let error = || ArchiveError::io("open", path.join(name));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(fd, name, flags, Mode::empty(), resolve) {
        Ok(fd) => {
            let stat = rustix::fs::fstat(&fd).map_err(error())?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(ArchiveError::malformed(name, "it is no regular file"));
            }
            let len = u64::try_from(stat.st_size).unwrap_or(0);
            Ok(Some(Blob { file: Arc::new(fd.into()), offset: 0, len }))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(Errno::LOOP | Errno::XDEV) => {
            Err(ArchiveError::malformed(name, "it is a link out of the layout"))
        }
        Err(errno) => Err(error()(errno)),
    }
}

/// Finds the files of a tar, without reading their data.
fn index_tar(
    whole: &Blob,
    path: &Path,
    limits: &Limits,
) -> Result<HashMap<String, Place>, ArchiveError> {
    let what = path.display().to_string();
    let mut tar = TarReader::new(whole.reader(), &what);
    let mut index = HashMap::new();
    let mut entries = 0;
    while let Some(entry) = tar.next()? {
        entries += 1;
        if entries > limits.max_entries {
            return Err(ArchiveError::TooLarge { limit: limits.max_entries, unit: "entries" });
        }
        // Names are keys here and nothing else; those that are no text cannot be asked for.
        let (Ok(name), Ok(link)) = (String::from_utf8(entry.path), String::from_utf8(entry.link))
        else {
            continue;
        };
        let name = normal(&name);
        let place = match entry.kind {
            EntryKind::File => Place::At { offset: tar.input().position(), len: entry.size },
            EntryKind::HardLink => Place::Link(normal(&link)),
            EntryKind::Symlink => Place::Link(relative_to(&name, &link)),
            _ => continue,
        };
        index.insert(name, place);
    }
    match tar.into_parts() {
        (_, End::Marker) if entries > 0 => Ok(index),
        (_, End::Marker) => Err(ArchiveError::NotAnImage { path: path.into() }),
        _ => Err(ArchiveError::Truncated { what }),
    }
}

fn normal(name: &str) -> String {
    name.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

/// Resolves a link's target against the directory of `name`; it ends as a key of the index.
fn relative_to(name: &str, target: &str) -> String {
    let mut parts: Vec<_> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
