// SPDX-License-Identifier: Apache-2.0
//! Reads tar archives (ustar, GNU long names, PAX) from hostile hands.
//!
//! It does not touch the file system, holds no more than one entry's header and [`MAX_META_BYTES`]
//! of its extensions, and says what it does not understand instead of skipping it.

use std::io::{self, Read};

use super::ArchiveError;
use crate::tree::Xattrs;

const BLOCK: usize = 512;
/// The most bytes of a long name or of PAX records before an entry.
const MAX_META_BYTES: u64 = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// The header of an entry, its extensions applied.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) link: Vec<u8>,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_s: i64,
    pub(super) mtime_ns: u32,
    pub(super) major: u32,
    pub(super) minor: u32,
    /// Bytes of data, to be read with [`TarReader::read_data`].
    pub(super) size: u64,
    pub(super) xattrs: Xattrs,
}

/// A source of tar blocks that can skip data.
pub(super) trait Input: Read {
    /// Passes over `bytes`, all of which must be there.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

/// What PAX records and GNU long names say of the next entry.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Xattrs,
}

/// Reads entry after entry.
pub(super) struct TarReader<'a, R> {
    input: R,
    /// What is read, for messages.
    what: &'a str,
    /// Data of the present entry not yet read.
    left: u64,
    /// Bytes that fill up its last block.
    padding: u64,
    ended_by: End,
}

/// How the archive ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Not yet.
    None,
    /// By the block of zeros that says so.
    Marker,
    /// By the end of the input, where a header could be.
    Input,
}

impl<'a, R: Input> TarReader<'a, R> {
    pub(super) fn new(input: R, what: &'a str) -> Self {
        Self { input, what, left: 0, padding: 0, ended_by: End::None }
    }

    /// Returns the input, and how the archive ended.
    pub(super) fn into_parts(self) -> (R, End) {
        (self.input, self.ended_by)
    }

    pub(super) fn input(&self) -> &R {
        &self.input
    }

    /// Returns the next entry's header, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extensions = Extensions::default();
        loop {
            self.input.skip(self.left + self.padding).map_err(|e| self.read_error(e))?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.read_header()? else { return Ok(None) };
            let size = self.number(&header[124..136])?;
            match header[156] {
                b'x' => {
                    let records = self.read_meta(size)?;
                    self.parse_pax(&records, &mut extensions)?;
                }
                // Defaults for all later entries: a comment, in archives that have one.
                b'g' => drop(self.read_meta(size)?),
                b'L' => extensions.path = Some(until_nul(&self.read_meta(size)?).to_vec()),
                b'K' => extensions.link = Some(until_nul(&self.read_meta(size)?).to_vec()),
                _ => return self.entry(&header, size, extensions).map(Some),
            }
        }
    }

    /// Reads data of the present entry; 0 at its end.
    pub(super) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let len = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if len == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..len]).map_err(|e| self.read_error(e))?;
        if count == 0 {
            return Err(ArchiveError::Truncated { what: self.what.into() });
        }
        self.left -= count as u64;
        Ok(count)
    }

    fn read_header(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        if self.ended_by != End::None {
            return Ok(None);
        }
        let mut header = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut header[filled..]) {
                Ok(0) if filled == 0 => {
                    self.ended_by = End::Input;
                    return Ok(None);
                }
                Ok(0) => return Err(ArchiveError::Truncated { what: self.what.into() }),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.read_error(error)),
            }
        }
        if header.iter().all(|byte| *byte == 0) {
            self.ended_by = End::Marker;
            return Ok(None);
        }
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        let field: u64 = header[148..156].iter().map(|byte| u64::from(*byte)).sum();
        // The checksum's own field counts as spaces.
        if self.number(&header[148..156])? != sum - field + 8 * u64::from(b' ') {
            return Err(self.malformed("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Reads the data of an extension.
    fn read_meta(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > MAX_META_BYTES {
            return Err(self.malformed("a name or PAX header is longer than 1 MiB"));
        }
        let mut bytes = vec![0; size as usize];
        self.input.read_exact(&mut bytes).map_err(|e| self.read_error(e))?;
        self.padding = padding_of(size);
        Ok(bytes)
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, ArchiveError> {
        let path = match extensions.path {
            Some(path) => path,
            None => short_path(header),
        };
        let kind = match header[156] {
            // Before ustar, a directory was a file whose name ends in a slash.
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let name = if other == b'S' { "sparse file" } else { "entry" };
                return Err(ArchiveError::Unsupported {
                    what: format!("{name} {:?}", String::from_utf8_lossy(&path)),
                    reason: format!("tar type {:?} in {}", char::from(other), self.what),
                });
            }
        };
        let size = match kind {
            EntryKind::File => extensions.size.unwrap_or(size),
            // Some writers give links the size of their target, without data.
            _ => 0,
        };
        if size > i64::MAX as u64 - BLOCK as u64 {
            return Err(self.malformed("an entry's size is beyond any file's"));
        }
        (self.left, self.padding) = (size, padding_of(size));
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            None => (self.signed(&header[136..148])?, 0),
        };
        Ok(Entry {
            path,
            kind,
            link: extensions.link.unwrap_or_else(|| until_nul(&header[157..257]).to_vec()),
            mode: (self.number(&header[100..108])? & 0o7777) as u16,
            uid: self.id(extensions.uid, &header[108..116])?,
            gid: self.id(extensions.gid, &header[116..124])?,
            mtime_s: mtime.0,
            mtime_ns: mtime.1,
            major: self.id(None, &header[329..337])?,
            minor: self.id(None, &header[337..345])?,
            size,
            xattrs: extensions.xattrs,
        })
    }

    fn id(&self, extended: Option<u32>, field: &[u8]) -> Result<u32, ArchiveError> {
        match extended {
            Some(id) => Ok(id),
            None => u32::try_from(self.number(field)?)
                .map_err(|_| self.malformed("an owner or device number has more than 32 bits")),
        }
    }

    fn number(&self, field: &[u8]) -> Result<u64, ArchiveError> {
        u64::try_from(self.signed(field)?)
            .map_err(|_| self.malformed("a number that must not be negative is"))
    }

    /// Reads a numeric field: octal digits, or base 256 when the top bit is set.
    fn signed(&self, field: &[u8]) -> Result<i64, ArchiveError> {
        let malformed = || self.malformed("a numeric field is no number");
        if field[0] & 0x80 != 0 {
            // Two's complement of 8·len − 1 bits.
            let negative = field[0] & 0x40 != 0;
            let first =
                if negative { i128::from(field[0]) - 256 } else { i128::from(field[0] & 0x7f) };
            let value = field[1..].iter().try_fold(first, |value, byte| {
                value.checked_mul(256).map(|value| value + i128::from(*byte))
            });
            return value.and_then(|value| i64::try_from(value).ok()).ok_or_else(malformed);
        }
        let digits = field.trim_ascii_start();
        let end = digits.iter().position(|byte| *byte == 0 || *byte == b' ');
        let digits = &digits[..end.unwrap_or(digits.len())];
        digits
            .iter()
            .try_fold(0_i64, |value, digit| match digit {
                b'0'..=b'7' => value.checked_mul(8).map(|value| value + i64::from(digit - b'0')),
                _ => None,
            })
            .ok_or_else(malformed)
    }

    /// Reads PAX records: `length key=value\n`.
    fn parse_pax(&self, mut records: &[u8], into: &mut Extensions) -> Result<(), ArchiveError> {
        let malformed = || self.malformed("a PAX record is malformed");
        while !records.is_empty() && records[0] != 0 {
            let space = records.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length: usize = parse(&records[..space]).ok_or_else(malformed)?;
            if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(malformed());
            }
            let record = &records[space + 1..length - 1];
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            self.apply_pax(key, value, into)?;
            records = &records[length..];
        }
        Ok(())
    }

    fn apply_pax(
        &self,
        key: &[u8],
        value: &[u8],
        into: &mut Extensions,
    ) -> Result<(), ArchiveError> {
        let malformed = || {
            let key = String::from_utf8_lossy(key);
            self.malformed(&format!("the PAX record {key:?} has a malformed value"))
        };
        match key {
            b"path" => into.path = Some(value.to_vec()),
            b"linkpath" => into.link = Some(value.to_vec()),
            b"size" => into.size = Some(parse(value).ok_or_else(malformed)?),
            b"uid" => into.uid = Some(parse(value).ok_or_else(malformed)?),
            b"gid" => into.gid = Some(parse(value).ok_or_else(malformed)?),
            b"mtime" => into.mtime = Some(parse_time(value).ok_or_else(malformed)?),
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(ArchiveError::Unsupported {
                    what: "sparse file".into(),
                    reason: format!("PAX sparse format in {}", self.what),
                });
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.len() > 255 || name.contains(&0) {
                        return Err(malformed());
                    }
                    into.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Ok(())
    }

    fn malformed(&self, reason: &str) -> ArchiveError {
        ArchiveError::malformed(self.what, reason)
    }

    fn read_error(&self, error: io::Error) -> ArchiveError {
        ArchiveError::read(self.what, error)
    }
}

fn padding_of(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Returns the name in the header, with its prefix if the header has one.
fn short_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    // GNU's own format ("ustar  ") has times in the place of the prefix.
    let prefix = if &header[257..263] == b"ustar\0" { until_nul(&header[345..500]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn parse<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads seconds with a fraction; the fraction of a negative time counts down, too.
fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = format!("{:0<9}", &fraction[..fraction.len().min(9)]);
    let (whole, nanoseconds) = (seconds.parse::<i64>().ok()?, digits.parse::<u32>().ok()?);
    if seconds.starts_with('-') && nanoseconds > 0 {
        return Some((whole.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((whole, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_time_keeps_nanoseconds_on_both_sides_of_the_epoch() {
        assert_eq!(parse_time(b"12"), Some((12, 0)));
        assert_eq!(parse_time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(parse_time(b"1.1234567899"), Some((1, 123_456_789)));
        assert_eq!(parse_time(b"-0.25"), Some((-1, 750_000_000)));
        for bad in [&b""[..], b"x", b"1.x", b"1.-5", b"9223372036854775808"] {
            assert_eq!(parse_time(bad), None, "{bad:?}");
        }
    }
}
