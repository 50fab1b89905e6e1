// SPDX-License-Identifier: Apache-2.0
//! ELF files: what the headers say, checked (gABI chapter 4 and 5, psABI x86-64).
//!
//! The file is hostile: every number is bounded before it is used, and nothing is read that the
//! checks did not ask for.

use alloc::{vec, vec::Vec};

use super::{
    AreaKind, HIGHEST, LOWEST, MapRequest, Mm, PAGE_SIZE, Placement, Protection, map::page_up,
};
use crate::{Errno, fs::FileRef};

/// Bytes of the file header.
pub const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: u64 = 56;
/// Furthest offset in a file that is looked at.
const FILE_MAX: u64 = 1 << 62;
/// Most bytes of program headers (as Linux).
const TABLE_MAX: u64 = 65536;

const TYPE_EXEC: u16 = 2;
const TYPE_DYN: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;

/// A part of the file that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Address, before the bias.
    pub address: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub file_bytes: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Rights.
    pub protection: Protection,
    /// Alignment, a power of two.
    pub align: u64,
}

/// What the headers of a program say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Position-independent.
    pub is_dynamic: bool,
    /// Entry point, before the bias.
    pub entry: u64,
    /// What to map, by address.
    pub segments: Vec<Segment>,
    /// Where the interpreter's path lies in the file: offset and bytes.
    pub interpreter: Option<(u64, u64)>,
    /// Address of the program headers in memory, before the bias.
    pub headers: u64,
    /// Number of program headers.
    pub header_count: u16,
    /// The stack must be executable.
    pub executable_stack: bool,
}

/// Where and how long the program headers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderTable {
    /// Offset in the file.
    pub offset: u64,
    /// Number of entries.
    pub count: u16,
    is_dynamic: bool,
    entry: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Reads the file header.
///
/// # Errors
/// ENOEXEC if it is not a program for this machine.
pub fn parse_header(header: &[u8]) -> Result<HeaderTable, Errno> {
    let magic = header.len() >= HEADER_BYTES && header.starts_with(b"\x7fELF\x02\x01");
    let kind = u16_at(header, 16);
    let count = u16_at(header, 56);
    let offset = u64_at(header, 32);
    let good = magic
        && offset <= FILE_MAX
        && matches!(kind, TYPE_EXEC | TYPE_DYN)
        && u16_at(header, 18) == MACHINE_X86_64
        && u64::from(u16_at(header, 54)) == ENTRY_BYTES
        && count > 0
        && u64::from(count) * ENTRY_BYTES <= TABLE_MAX;
    if !good {
        return Err(Errno::NOEXEC);
    }
    Ok(HeaderTable { offset, count, is_dynamic: kind == TYPE_DYN, entry: u64_at(header, 24) })
}

/// Reads the program headers, `table` being all their bytes.
///
/// # Errors
/// ENOEXEC or EINVAL, if they make no sense.
pub fn parse_program(header: &HeaderTable, table: &[u8]) -> Result<Program, Errno> {
    let mut program = Program {
        is_dynamic: header.is_dynamic,
        entry: header.entry,
        segments: Vec::new(),
        interpreter: None,
        headers: 0,
        header_count: header.count,
        executable_stack: false,
    };
    let mut headers = None;
    for entry in table.chunks_exact(ENTRY_BYTES as usize).take(usize::from(header.count)) {
        let (kind, flags) = (u32_at(entry, 0), u32_at(entry, 4));
        let (offset, address) = (u64_at(entry, 8), u64_at(entry, 16));
        let (file_bytes, memory_bytes) = (u64_at(entry, 32), u64_at(entry, 40));
        match kind {
            PT_LOAD => {
                let segment = Segment {
                    address,
                    offset,
                    file_bytes,
                    memory_bytes,
                    protection: Protection {
                        read: flags & 4 != 0,
                        write: flags & 2 != 0,
                        execute: flags & 1 != 0,
                    },
                    align: u64_at(entry, 48),
                };
                check_segment(&segment)?;
                let end = program.segments.last().map_or(0, |last: &Segment| last.address);
                if address < end {
                    return Err(Errno::NOEXEC);
                }
                if memory_bytes > 0 {
                    program.segments.push(segment);
                }
            }
            PT_INTERP if program.interpreter.is_none() => {
                if !(2..=4096).contains(&file_bytes) || offset > FILE_MAX {
                    return Err(Errno::NOEXEC);
                }
                program.interpreter = Some((offset, file_bytes));
            }
            PT_PHDR => headers = Some(address),
            PT_GNU_STACK => program.executable_stack = flags & 1 != 0,
            _ => {}
        }
    }
    if program.segments.is_empty() {
        return Err(Errno::NOEXEC);
    }
    let holds_table = |segment: &&Segment| {
        header.offset >= segment.offset && header.offset - segment.offset < segment.file_bytes
    };
    let found = program.segments.iter().find(holds_table);
    program.headers = found
        .map(|segment| segment.address.wrapping_add(header.offset - segment.offset))
        .or(headers)
        .unwrap_or(0);
    Ok(program)
}

fn check_segment(segment: &Segment) -> Result<(), Errno> {
    let congruent = segment.address % PAGE_SIZE == segment.offset % PAGE_SIZE;
    if segment.file_bytes > segment.memory_bytes || !congruent && segment.file_bytes > 0 {
        return Err(Errno::NOEXEC);
    }
    let end = segment.address.checked_add(segment.memory_bytes).ok_or(Errno::INVAL)?;
    let file_end = segment.offset.checked_add(segment.file_bytes).ok_or(Errno::INVAL)?;
    if end > HIGHEST || file_end > i64::MAX.cast_unsigned() {
        return Err(Errno::INVAL);
    }
    if segment.align > 1 && !segment.align.is_power_of_two() {
        return Err(Errno::NOEXEC);
    }
    Ok(())
}

impl Program {
    /// Reads the headers of a file.
    ///
    /// # Errors
    /// ENOEXEC, EINVAL, or what reading says.
    pub fn read(file: &FileRef) -> Result<Self, Errno> {
        let mut header = [0; HEADER_BYTES];
        let got = crate::fs::read_at(file, 0, &mut header)?;
        let header = parse_header(&header[..got])?;
        let mut table = vec![0; usize::from(header.count) * ENTRY_BYTES as usize];
        if crate::fs::read_at(file, header.offset, &mut table)? != table.len() {
            return Err(Errno::NOEXEC);
        }
        parse_program(&header, &table)
    }

    /// Reads the interpreter's path, without its NUL.
    ///
    /// # Errors
    /// ENOEXEC if it is not a string.
    pub fn read_interpreter(&self, file: &FileRef) -> Result<Option<Vec<u8>>, Errno> {
        let Some((offset, bytes)) = self.interpreter else { return Ok(None) };
        let mut path = vec![0; bytes as usize];
        if crate::fs::read_at(file, offset, &mut path)? != path.len() {
            return Err(Errno::NOEXEC);
        }
        if path.pop() != Some(0) {
            return Err(Errno::NOEXEC);
        }
        let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
        path.truncate(end);
        Ok(Some(path))
    }

    /// First and last address, page aligned, before the bias.
    pub fn span(&self) -> (u64, u64) {
        let start = self.segments.first().map_or(0, |first| first.address & !(PAGE_SIZE - 1));
        let ends = self.segments.iter().map(|s| s.address.saturating_add(s.memory_bytes));
        (start, page_up(ends.max().unwrap_or(0)).unwrap_or(HIGHEST))
    }

    /// Largest alignment that a segment asks for, at most 2 MiB.
    pub fn align(&self) -> u64 {
        let aligns = self.segments.iter().map(|segment| segment.align);
        aligns.max().unwrap_or(PAGE_SIZE).clamp(PAGE_SIZE, 2 << 20)
    }

    /// Maps the program into an empty part of a memory with a bias; returns the end of its data.
    ///
    /// # Errors
    /// ENOMEM, or EINVAL if it reaches where nothing can be mapped.
    pub fn map(&self, mm: &Mm, file: &FileRef, bias: u64) -> Result<u64, Errno> {
        let mut break_at = 0;
        for segment in &self.segments {
            // A program that was linked high may be moved down: the sum wraps then.
            let address = segment.address.wrapping_add(bias);
            if address > HIGHEST {
                return Err(Errno::INVAL);
            }
            map_segment(mm, file, segment, address)?;
            break_at = break_at.max(address + segment.memory_bytes);
        }
        Ok(break_at)
    }
}

fn map_segment(mm: &Mm, file: &FileRef, segment: &Segment, address: u64) -> Result<(), Errno> {
    let start = address & !(PAGE_SIZE - 1);
    if start < LOWEST {
        return Err(Errno::PERM);
    }
    let end = address.checked_add(segment.memory_bytes).and_then(page_up).ok_or(Errno::INVAL)?;
    let file_end = address + segment.file_bytes;
    let file_pages_end =
        if segment.file_bytes == 0 { start } else { page_up(file_end).ok_or(Errno::INVAL)? };
    if segment.file_bytes > 0 {
        let kind = AreaKind::File {
            file: file.clone(),
            page: (segment.offset - (address - start)) / PAGE_SIZE,
            shared: false,
        };
        mm.map(MapRequest::new(
            Placement::Fixed(start),
            file_pages_end - start,
            segment.protection,
            kind,
        ))?;
        let tail = file_pages_end - file_end;
        if segment.memory_bytes > segment.file_bytes && tail > 0 && segment.protection.write {
            let zeroes = [0; PAGE_SIZE as usize];
            mm.write_bytes(file_end, &zeroes[..tail as usize])?;
        }
    }
    if end > file_pages_end {
        let request = MapRequest::new(
            Placement::Fixed(file_pages_end),
            end - file_pages_end,
            segment.protection,
            AreaKind::Anonymous,
        );
        mm.map(request)?;
    }
    Ok(())
}
