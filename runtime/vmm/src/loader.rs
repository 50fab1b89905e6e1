// SPDX-License-Identifier: Apache-2.0
//! The kernel image: an ELF file linked at its address in the guest's direct map.

use elf::{ElfBytes, abi::PT_LOAD, endian::LittleEndian};
use trine_abi::{
    layout::{DIRECT_MAP, KERNEL_BASE, PAGE_SIZE},
    nucleus::{Header, MAGIC, PAGES},
};

use crate::{Error, memory::Memory};

/// What the loader found in the kernel image.
#[derive(Debug)]
pub struct Kernel {
    /// Guest-virtual entry point.
    pub entry: u64,
    /// Guest-physical end of what was loaded, page aligned.
    pub end: u64,
    /// The nucleus pages.
    pub nucleus: Vec<u8>,
    /// The nucleus' header.
    pub header: Header,
}

/// Loads the kernel into RAM.
///
/// # Errors
/// If the file is not a kernel of this version, or does not fit.
pub fn load(file: &[u8], memory: &Memory) -> Result<Kernel, Error> {
    let bad = |what: &str| Error::Kernel(what.to_owned());
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file)
        .map_err(|error| Error::Kernel(error.to_string()))?;
    let mut end = KERNEL_BASE;
    for segment in elf.segments().ok_or_else(|| bad("no segments"))? {
        if segment.p_type != PT_LOAD || segment.p_memsz == 0 {
            continue;
        }
        let address = segment
            .p_vaddr
            .checked_sub(DIRECT_MAP)
            .filter(|&address| address >= KERNEL_BASE)
            .ok_or_else(|| bad("linked at another address"))?;
        let bytes = elf.segment_data(&segment).map_err(|error| Error::Kernel(error.to_string()))?;
        memory.write(address, bytes)?;
        let top = address
            .checked_add(segment.p_memsz)
            .filter(|&top| top < memory.ram_bytes)
            .ok_or_else(|| bad("larger than the vm's memory"))?;
        end = end.max(top.next_multiple_of(PAGE_SIZE));
    }
    let section = elf
        .section_header_by_name(".nucleus")
        .map_err(|error| Error::Kernel(error.to_string()))?
        .ok_or_else(|| bad("no nucleus"))?;
    let (nucleus, _) =
        elf.section_data(&section).map_err(|error| Error::Kernel(error.to_string()))?;
    if nucleus.len() as u64 != PAGES * PAGE_SIZE {
        return Err(bad("nucleus of another version"));
    }
    let header = header(nucleus).ok_or_else(|| bad("nucleus of another version"))?;
    Ok(Kernel { entry: elf.ehdr.e_entry, end, nucleus: nucleus.to_vec(), header })
}

fn header(nucleus: &[u8]) -> Option<Header> {
    let word = |at: usize| Some(u32::from_le_bytes(nucleus.get(at..at + 4)?.try_into().ok()?));
    let magic = u64::from_le_bytes(nucleus.get(..8)?.try_into().ok()?);
    let header = Header {
        magic,
        syscall: word(8)?,
        kick: word(12)?,
        privileged: word(16)?,
        exceptions: word(20)?,
        exception_stride: word(24)?,
        run: word(28)?,
    };
    (header.magic == MAGIC).then_some(header)
}
