// SPDX-License-Identifier: Apache-2.0
//! Page tables, descriptor tables and boot information, as the guest finds them at its first
//! instruction.  SDM volume 3, chapters 3 (descriptors), 4 (paging) and 6 (gates).

use trine_abi::{
    layout::{
        DIRECT_MAP, HUGE_PAGE_SIZE, MMIO_DOORBELL, NUCLEUS_BASE, NUCLEUS_STRIDE, PAGE_SIZE,
        SELECTOR_CODE0, SELECTOR_CODE3, SELECTOR_DATA3, SELECTOR_TSS, VECTOR_KICK,
    },
    nucleus::{DATA_PAGE, EXCEPTION_STACK, Header, KICK_STACK, PAGES, RELOCATIONS},
    window::WINDOW_BYTES,
};

use crate::{Error, memory::Memory};

/// Present, writable, user, accessed, dirty.
const TABLE: u64 = 0x67;
const LARGE: u64 = 1 << 7;
const WRITABLE: u64 = 1 << 1;
const NO_EXECUTE: u64 = 1 << 63;
/// Offset of the IDT in a CPU area; the GDT is at 0 and the TSS at 0x100.
const IDT: u64 = 0x1000;
const TSS: u64 = 0x100;
/// Offset of the nucleus pages in a CPU area.
const NUCLEUS: u64 = 0x2000;

/// Descriptor tables, nucleus pages and exception stacks of one vCPU.
#[derive(Clone, Copy, Debug)]
pub struct CpuArea {
    /// Its number.
    pub index: u64,
    /// Guest-physical address.
    base: u64,
}

impl CpuArea {
    /// Bytes of an area.
    pub const BYTES: u64 = NUCLEUS + PAGES * PAGE_SIZE;

    /// The areas of a VM's vCPUs, from a guest-physical address (page aligned) on.
    pub fn all(start: u64, vcpus: u32) -> impl Iterator<Item = Self> + Clone {
        (0..u64::from(vcpus)).map(move |index| Self { index, base: start + index * Self::BYTES })
    }

    /// Guest-physical address of the nucleus pages.
    pub fn nucleus(self) -> u64 {
        self.base + NUCLEUS
    }

    fn nucleus_virt(self) -> u64 {
        NUCLEUS_BASE + self.index * NUCLEUS_STRIDE
    }
}

/// Builds page tables in RAM, from `next` on.
#[derive(Debug)]
pub struct PageTables<'a> {
    memory: &'a Memory,
    next: u64,
    root: u64,
}

impl<'a> PageTables<'a> {
    /// Maps RAM, devices, window, images and the nucleus pages of all vCPUs.
    ///
    /// # Errors
    /// If RAM is too small for the tables.
    pub fn build(
        memory: &'a Memory,
        start: u64,
        areas: impl Iterator<Item = CpuArea>,
    ) -> Result<Self, Error> {
        let mut tables = Self { memory, next: start, root: 0 };
        tables.root = tables.table()?;
        tables.map_large(0, memory.ram_bytes, TABLE)?;
        tables.map_large(MMIO_DOORBELL, HUGE_PAGE_SIZE, TABLE | NO_EXECUTE)?;
        let window = WINDOW_BYTES.next_multiple_of(HUGE_PAGE_SIZE);
        tables.map_large(memory.window_base(), window, TABLE | NO_EXECUTE)?;
        for slot in &memory.images {
            let bytes = slot.bytes.next_multiple_of(HUGE_PAGE_SIZE);
            tables.map_large(slot.base, bytes, TABLE & !WRITABLE | NO_EXECUTE)?;
        }
        for area in areas {
            for page in 0..PAGES {
                let virt = area.nucleus_virt() + page * PAGE_SIZE;
                let phys = area.nucleus() + page * PAGE_SIZE;
                let table = tables.walk(virt, 12)?;
                tables.set(table, virt >> 12 & 511, phys | TABLE)?;
            }
        }
        Ok(tables)
    }

    /// Guest-physical address of the top table.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Guest-physical address after the last table.
    pub fn end(&self) -> u64 {
        self.next
    }

    fn table(&mut self) -> Result<u64, Error> {
        let table = self.next;
        self.next += PAGE_SIZE;
        if self.next > self.memory.ram_bytes {
            return Err(Error::Request("memory is too small for its page tables".into()));
        }
        Ok(table)
    }

    fn get(&self, table: u64, index: u64) -> Result<u64, Error> {
        use vm_memory::{Bytes, GuestAddress};
        Ok(self.memory.ram.read_obj(GuestAddress(table + index * 8))?)
    }

    fn set(&self, table: u64, index: u64, entry: u64) -> Result<(), Error> {
        self.memory.write(table + index * 8, &entry.to_le_bytes())
    }

    /// The table whose entries each cover `1 << shift` bytes at `virt`.
    fn walk(&mut self, virt: u64, shift: u32) -> Result<u64, Error> {
        let mut table = self.root;
        for level in [39, 30, 21] {
            if level <= shift {
                break;
            }
            let index = virt >> level & 511;
            let entry = self.get(table, index)?;
            table = if entry == 0 {
                let new = self.table()?;
                self.set(table, index, new | TABLE)?;
                new
            } else {
                entry & !0xfff
            };
        }
        Ok(table)
    }

    fn map_large(&mut self, phys: u64, bytes: u64, flags: u64) -> Result<(), Error> {
        let mut at = phys;
        while at < phys + bytes {
            let virt = DIRECT_MAP + at;
            let table = self.walk(virt, 21)?;
            // One table covers 1 GiB: fill as much of it as there is in one write.
            let first = virt >> 21 & 511;
            let count = (512 - first).min((phys + bytes - at) / HUGE_PAGE_SIZE);
            let entries: Vec<u8> = (0..count)
                .flat_map(|i| ((at + i * HUGE_PAGE_SIZE) | flags | LARGE).to_le_bytes())
                .collect();
            self.memory.write(table + first * 8, &entries)?;
            at += count * HUGE_PAGE_SIZE;
        }
        Ok(())
    }
}

/// Where a vCPU's descriptor tables are, guest-virtual.
#[derive(Clone, Copy, Debug)]
pub struct Descriptors {
    /// GDT base.
    pub gdt: u64,
    /// IDT base.
    pub idt: u64,
    /// TSS base.
    pub tss: u64,
    /// Start of the nucleus pages.
    pub nucleus: u64,
}

/// Last byte of the GDT.
pub const GDT_LIMIT: u16 = 0x7f;
/// Last byte of the IDT.
pub const IDT_LIMIT: u16 = 0xfff;
/// Last byte of the TSS.
pub const TSS_LIMIT: u32 = 0x67;

/// Writes a vCPU's descriptor tables and nucleus pages.
///
/// # Errors
/// If RAM is too small.
pub fn descriptors(
    memory: &Memory,
    area: CpuArea,
    nucleus: &[u8],
    header: &Header,
) -> Result<Descriptors, Error> {
    let nucleus_virt = area.nucleus_virt();
    let area = area.base;
    let virt = DIRECT_MAP + area;
    let tss_virt = virt + TSS;

    let mut gdt = [0_u64; 16];
    gdt[usize::from(SELECTOR_CODE0 / 8)] = 0x00af_9b00_0000_ffff;
    gdt[usize::from(SELECTOR_CODE0 / 8) + 1] = 0x00cf_9300_0000_ffff;
    gdt[usize::from(SELECTOR_DATA3 / 8)] = 0x00cf_f300_0000_ffff;
    gdt[usize::from(SELECTOR_CODE3 / 8)] = 0x00af_fb00_0000_ffff;
    gdt[usize::from(SELECTOR_TSS / 8)] = u64::from(TSS_LIMIT)
        | (tss_virt & 0xff_ffff) << 16
        | 0x89 << 40
        | (tss_virt >> 24 & 0xff) << 56;
    gdt[usize::from(SELECTOR_TSS / 8) + 1] = tss_virt >> 32;
    memory.write(area, &bytes_of(&gdt))?;

    let mut tss = [0_u8; TSS_LIMIT as usize + 1];
    tss[0x04..0x0c].copy_from_slice(&(nucleus_virt + EXCEPTION_STACK).to_le_bytes());
    tss[0x24..0x2c].copy_from_slice(&(nucleus_virt + KICK_STACK).to_le_bytes());
    tss[0x66..0x68].copy_from_slice(&(TSS_LIMIT as u16 + 1).to_le_bytes());
    memory.write(area + TSS, &tss)?;

    let mut idt = [0_u64; 512];
    let mut gate = |vector: u8, offset: u32, privilege: u64, stack: u64| {
        let entry = nucleus_virt + u64::from(offset);
        let flags = 0x8e00 | privilege << 13 | stack;
        let at = usize::from(vector) * 2;
        idt[at] = entry & 0xffff
            | u64::from(SELECTOR_CODE0) << 16
            | flags << 32
            | (entry >> 16 & 0xffff) << 48;
        idt[at + 1] = entry >> 32;
    };
    for vector in 0..32_u8 {
        let offset = header.exceptions + u32::from(vector) * header.exception_stride;
        // INT3 and INTO may be executed by applications.
        let privilege = if matches!(vector, 3 | 4) { 3 } else { 0 };
        gate(vector, offset, privilege, 0);
    }
    gate(VECTOR_KICK, header.kick, 0, 1);
    memory.write(area + IDT, &bytes_of(&idt))?;
    let mut nucleus = nucleus.to_vec();
    for offset in RELOCATIONS {
        let at = (DATA_PAGE + offset) as usize;
        if let Some(word) = nucleus.get_mut(at..at + 8) {
            let value = u64::from_le_bytes(word.try_into().unwrap_or_default()) + nucleus_virt;
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
    memory.write(area + NUCLEUS, &nucleus)?;
    Ok(Descriptors { gdt: virt, idt: virt + IDT, tss: tss_virt, nucleus: nucleus_virt })
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
