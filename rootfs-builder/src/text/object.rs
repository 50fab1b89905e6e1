// SPDX-License-Identifier: Apache-2.0
//! The segments of an ELF file, and what lies where.

use std::ops::Range;

use elf::{
    ElfBytes,
    abi::{EM_X86_64, ET_DYN, ET_EXEC, PF_W, PF_X, PT_GNU_EH_FRAME, PT_LOAD},
    endian::LittleEndian,
    file::Class,
};

use super::PAGE_BYTES;

/// Most segments that a file may have: linkers make up to ten.
const SEGMENTS_MAX: usize = 64;
/// Addresses of applications are lower.
pub(super) const ADDRESS_MAX: u64 = 1 << 47;

/// A part of the file that is mapped.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// In the file.
    pub(super) bytes: Range<u64>,
    /// Address of the first byte.
    pub(super) address: u64,
    memory_bytes: u64,
    is_writable: bool,
    is_executable: bool,
}

impl Segment {
    /// Address of the first byte of the file, if all of it were mapped as this segment is.
    pub(super) fn base(&self) -> i64 {
        self.address.wrapping_sub(self.bytes.start).cast_signed()
    }

    /// Whether it has code, and nothing that the program changes.
    fn is_text(&self) -> bool {
        let size = self.bytes.end - self.bytes.start;
        self.is_executable && !self.is_writable && self.memory_bytes == size
    }

    /// The pages of the file that a range of its addresses is on.
    pub(super) fn pages(&self, range: &Range<u64>) -> Range<u64> {
        let offset = |address: u64| address - self.address + self.bytes.start;
        offset(range.start) / PAGE_BYTES..offset(range.end).div_ceil(PAGE_BYTES)
    }

    fn addresses(&self) -> Range<u64> {
        self.address..self.address + (self.bytes.end - self.bytes.start)
    }
}

/// An ELF file for x86-64.
#[derive(Debug)]
pub(super) struct Object<'a> {
    pub(super) file: &'a [u8],
    pub(super) elf: ElfBytes<'a, LittleEndian>,
    /// It is mapped where it says.
    pub(super) is_fixed: bool,
    segments: Vec<Segment>,
}

impl<'a> Object<'a> {
    /// Reads the headers; `None` if they are not those of a program or library for x86-64.
    pub(super) fn parse(file: &'a [u8]) -> Option<Self> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).ok()?;
        let header = &elf.ehdr;
        if header.class != Class::ELF64 || header.e_machine != EM_X86_64 {
            return None;
        }
        let is_fixed = match header.e_type {
            ET_EXEC => true,
            ET_DYN => false,
            _ => return None,
        };
        let mut segments = Vec::new();
        for header in elf.segments()?.iter().filter(|header| header.p_type == PT_LOAD) {
            let end = header.p_offset.checked_add(header.p_filesz)?;
            let address_end = header.p_vaddr.checked_add(header.p_memsz.max(header.p_filesz))?;
            let in_page = header.p_vaddr.wrapping_sub(header.p_offset) % PAGE_BYTES;
            let fits = end <= file.len() as u64 && address_end <= ADDRESS_MAX && in_page == 0;
            if !fits || segments.len() == SEGMENTS_MAX {
                return None;
            }
            segments.push(Segment {
                bytes: header.p_offset..end,
                address: header.p_vaddr,
                memory_bytes: header.p_memsz,
                is_writable: header.p_flags & PF_W != 0,
                is_executable: header.p_flags & PF_X != 0,
            });
        }
        Some(Self { file, elf, is_fixed, segments })
    }

    /// The segments with code.
    pub(super) fn text(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.is_text())
    }

    /// The segment whose code has all of a range of addresses.
    pub(super) fn text_with(&self, range: &Range<u64>) -> Option<&Segment> {
        self.text().find(|segment| {
            let addresses = segment.addresses();
            addresses.start <= range.start && range.start < range.end && range.end <= addresses.end
        })
    }

    /// The code in a range of addresses, if all of it is code.
    pub(super) fn code(&self, range: &Range<u64>) -> Option<&'a [u8]> {
        let segment = self.text_with(range)?;
        let start = segment.bytes.start + (range.start - segment.address);
        self.bytes(start..start + (range.end - range.start))
    }

    /// The lowest address, rounded down to a page.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.segments.iter().map(|segment| segment.address & !(PAGE_BYTES - 1)).min()
    }

    /// Whether a page of the file may have a copy for `text`: nobody else writes or executes it.
    pub(super) fn is_own_page(&self, page: u64, text: &Segment) -> bool {
        !self.segments.iter().any(|other| {
            let shares = other.bytes.start / PAGE_BYTES <= page
                && page < other.bytes.end.div_ceil(PAGE_BYTES)
                && !other.bytes.is_empty();
            shares && (other.is_writable || other.is_executable && other.base() != text.base())
        })
    }

    /// The bytes of a section.
    pub(super) fn section(&self, name: &str) -> Option<&'a [u8]> {
        let section = self.elf.section_header_by_name(name).ok()??;
        self.bytes(section.sh_offset..section.sh_offset.checked_add(section.sh_size)?)
    }

    /// The table for unwinding: its address, and its bytes or more.
    pub(super) fn frames(&self) -> Option<(u64, &'a [u8])> {
        if let Ok(Some(section)) = self.elf.section_header_by_name(".eh_frame") {
            let end = section.sh_offset.checked_add(section.sh_size)?;
            return Some((section.sh_addr, self.bytes(section.sh_offset..end)?));
        }
        let headers = self.elf.segments()?;
        let header = headers.iter().find(|header| header.p_type == PT_GNU_EH_FRAME)?;
        let end = header.p_offset.checked_add(header.p_filesz)?;
        let bases = gimli::BaseAddresses::default().set_eh_frame_hdr(header.p_vaddr);
        let bytes = self.bytes(header.p_offset..end)?;
        let header = gimli::EhFrameHdr::new(bytes, gimli::LittleEndian).parse(&bases, 8).ok()?;
        let address = header.eh_frame_ptr().direct().ok()?;
        let segment =
            self.segments.iter().find(|segment| segment.addresses().contains(&address))?;
        // How long it is is not said; it ends with a zero.
        let start = segment.bytes.start + (address - segment.address);
        Some((address, self.bytes(start..segment.bytes.end)?))
    }

    fn bytes(&self, range: Range<u64>) -> Option<&'a [u8]> {
        let start = usize::try_from(range.start).ok()?;
        self.file.get(start..usize::try_from(range.end).ok()?)
    }
}
