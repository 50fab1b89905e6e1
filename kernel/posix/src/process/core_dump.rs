// SPDX-License-Identifier: Apache-2.0
//! Core dumps (core(5)): the memory and registers of a process that ends by a signal, as an ELF file
//! `core` in its working directory, if RLIMIT_CORE lets it.
//!
//! What is in the dump is what Linux writes with its default filter: private and shared anonymous
//! memory, pages of files that the process changed, and the first page of each ELF file.

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering;

use super::{
    TaskRef,
    group::RLIMIT_CORE,
    signal::{Default, SigInfo, default_of},
};
use crate::{
    Kernel,
    fs::{
        FileRef,
        open::{How, Opener},
        types::OpenFlags,
        walk::Walk,
    },
    io::SliceSource,
    mm::{Area, AreaKind, Mm, PAGE_SIZE},
    syscall::ptrace::{encode, registers},
};

const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_FILE: u32 = 0x4649_4c45;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_X86_XSTATE: u32 = 0x202;
/// Most segments: their count has 16 bits.
const SEGMENTS_MAX: usize = 0xfff0;

fn put(raw: &mut [u8], at: usize, bytes: &[u8]) {
    raw[at..at + bytes.len()].copy_from_slice(bytes);
}

fn note(notes: &mut Vec<u8>, name: &[u8], kind: u32, contents: &[u8]) {
    for word in [name.len() as u32 + 1, contents.len() as u32, kind] {
        notes.extend_from_slice(&word.to_le_bytes());
    }
    for part in [&[name, b"\0"].concat()[..], contents] {
        notes.extend_from_slice(part);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
}

/// Which part of an area is written: its length from the start.
fn dumped_bytes(mm: &Mm, area: &Area) -> u64 {
    let whole = area.end - area.start;
    match &area.kind {
        AreaKind::Fixed => PAGE_SIZE.min(whole),
        _ if !area.protection.any() => 0,
        AreaKind::Anonymous | AreaKind::SharedAnonymous(..) => whole,
        AreaKind::File { shared: false, .. } if area.protection.write => whole,
        AreaKind::File { shared: false, page: 0, .. } => {
            let mut magic = [0; 4];
            let is_elf = mm.read_bytes(area.start, &mut magic).is_ok() && magic == *b"\x7fELF";
            if is_elf { PAGE_SIZE.min(whole) } else { 0 }
        }
        AreaKind::File { .. } => 0,
    }
}

impl Kernel {
    /// Writes a core dump if the signal and the process's limits ask for one; returns whether it is
    /// there.
    pub(crate) fn dump_core(&mut self, task: &TaskRef, info: &SigInfo) -> bool {
        let process = &task.process;
        let limit = process.limits.lock().soft(RLIMIT_CORE);
        let may = default_of(info.signal) == Default::Core
            && limit >= PAGE_SIZE
            && process.dumpable.load(Ordering::Relaxed) == 1
            && process.group_exit.lock().is_none();
        if !may {
            return false;
        }
        let (Some(mm), Some(fs)) = (task.mm(), task.fs()) else { return false };
        let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC | OpenFlags::NOFOLLOW;
        let how = How { flags, mode: 0o600, walk: Walk::empty() };
        let opener = Opener { ticket: None, task: 0 };
        let fs = fs.lock().clone();
        let file = fs.open(&task.creds(), &fs.cwd, b"core", how, &opener);
        let Ok(file) = file else { return false };
        self.write_core(&file, task, info, &mm, limit).is_some()
    }

    fn write_core(
        &self,
        file: &FileRef,
        task: &TaskRef,
        info: &SigInfo,
        mm: &Mm,
        limit: u64,
    ) -> Option<()> {
        let areas = mm.list();
        if areas.len() > SEGMENTS_MAX {
            return None;
        }
        let notes = self.core_notes(task, info, mm, &areas);
        let count = areas.len() + 1;
        let notes_at = HEADER_BYTES + count * SEGMENT_BYTES;
        let mut head = vec![0; HEADER_BYTES];
        put(&mut head, 0, b"\x7fELF\x02\x01\x01");
        // ET_CORE, EM_X86_64, version; where the segments are; sizes and count.
        for (at, value) in [(16, 4_u16), (18, 62), (52, 64), (54, 56), (56, count as u16)] {
            put(&mut head, at, &value.to_le_bytes());
        }
        put(&mut head, 20, &1_u32.to_le_bytes());
        put(&mut head, 32, &(HEADER_BYTES as u64).to_le_bytes());
        let mut segment = |kind: u32, flags: u32, words: [u64; 6]| {
            head.extend_from_slice(&kind.to_le_bytes());
            head.extend_from_slice(&flags.to_le_bytes());
            head.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        };
        segment(PT_NOTE, 0, [notes_at as u64, 0, 0, notes.len() as u64, 0, 4]);
        let mut at = ((notes_at + notes.len()) as u64).next_multiple_of(PAGE_SIZE);
        let mut parts = Vec::new();
        for area in &areas {
            let bytes = dumped_bytes(mm, area);
            let p = area.protection;
            let flags = u32::from(p.execute) | u32::from(p.write) << 1 | u32::from(p.read) << 2;
            let size = area.end - area.start;
            segment(PT_LOAD, flags, [at, area.start, 0, bytes, size, PAGE_SIZE]);
            parts.push((area.start, bytes, at));
            at += bytes;
        }
        write_all(file, 0, &head, limit)?;
        write_all(file, notes_at as u64, &notes, limit)?;
        let end = at.min(limit);
        for (start, bytes, offset) in parts {
            let mut page = vec![0; PAGE_SIZE as usize];
            let mut done = 0;
            while done < bytes && offset + done < limit {
                // What was never touched stays a hole of the file.
                let resident = mm.space.lock().is_mapped(start + done);
                if resident && mm.read_bytes(start + done, &mut page).is_ok() {
                    write_all(file, offset + done, &page, limit)?;
                }
                done += PAGE_SIZE;
            }
        }
        // The last hole counts, too.
        if file.size() < end {
            file.inode().truncate(end).ok()?;
        }
        Some(())
    }

    fn core_notes(&self, task: &TaskRef, info: &SigInfo, mm: &Mm, areas: &[Area]) -> Vec<u8> {
        let mut notes = Vec::new();
        self.thread_notes(&mut notes, task, info, |notes| {
            note(notes, b"CORE", NT_PRPSINFO, &prpsinfo(task, mm));
            note(notes, b"CORE", NT_SIGINFO, &info.encode());
            let auxv = mm.layout.lock().auxv.clone();
            note(notes, b"CORE", NT_AUXV, &auxv);
            note(notes, b"CORE", NT_FILE, &files(areas));
        });
        let others = task.process.threads.lock().clone();
        for other in others.iter().filter(|other| other.tid() != task.tid()) {
            self.thread_notes(&mut notes, other, info, |_| {});
        }
        notes
    }

    fn thread_notes(
        &self,
        notes: &mut Vec<u8>,
        task: &TaskRef,
        info: &SigInfo,
        after_status: impl FnOnce(&mut Vec<u8>),
    ) {
        note(notes, b"CORE", NT_PRSTATUS, &prstatus(task, info));
        after_status(notes);
        let mut image = self.fpu_image(task);
        note(notes, b"CORE", NT_FPREGSET, &image[..512]);
        if self.options.fpu.mask != 0 && image.len() > 512 {
            put(&mut image, 464, &self.options.fpu.mask.to_le_bytes());
            note(notes, b"LINUX", NT_X86_XSTATE, &image);
        }
    }
}

fn write_all(file: &FileRef, at: u64, bytes: &[u8], limit: u64) -> Option<()> {
    let bytes = &bytes[..(bytes.len() as u64).min(limit.saturating_sub(at)) as usize];
    let mut source = SliceSource(bytes);
    let mut done = 0;
    while !source.0.is_empty() {
        let put = file.write_at(at + done, &mut source).ok().filter(|put| *put > 0)?;
        done += put as u64;
    }
    Some(())
}

/// struct elf_prstatus.
fn prstatus(task: &TaskRef, info: &SigInfo) -> Vec<u8> {
    let mut raw = vec![0; 336];
    let process = &task.process;
    put(&mut raw, 0, &info.signal.to_le_bytes());
    put(&mut raw, 4, &info.code.to_le_bytes());
    put(&mut raw, 12, &(info.signal as u16).to_le_bytes());
    put(&mut raw, 16, &task.pending_signals().to_le_bytes());
    put(&mut raw, 24, &task.signals.lock().mask.to_le_bytes());
    let ids = [task.tid(), process.parent_pid(), process.pgid(), process.sid()];
    for (index, id) in ids.into_iter().enumerate() {
        put(&mut raw, 32 + 4 * index, &id.to_le_bytes());
    }
    put(&mut raw, 112, &encode(&registers(task)));
    put(&mut raw, 328, &1_u32.to_le_bytes());
    raw
}

/// struct elf_prpsinfo.
fn prpsinfo(task: &TaskRef, mm: &Mm) -> Vec<u8> {
    let mut raw = vec![0; 136];
    let process = &task.process;
    raw[1] = b'R';
    let creds = task.creds();
    let ids =
        [creds.uid, creds.gid, process.pid, process.parent_pid(), process.pgid(), process.sid()];
    for (index, id) in ids.into_iter().enumerate() {
        put(&mut raw, 16 + 4 * index, &id.to_le_bytes());
    }
    put(&mut raw, 40, &*task.name.lock());
    let (start, end) = mm.layout.lock().arguments;
    let mut arguments = vec![0; end.saturating_sub(start).min(79) as usize];
    if mm.read_bytes(start, &mut arguments).is_ok() {
        for byte in &mut arguments {
            *byte = if *byte == 0 { b' ' } else { *byte };
        }
        put(&mut raw, 56, &arguments);
    }
    raw
}

/// The list of mapped files.
fn files(areas: &[Area]) -> Vec<u8> {
    let (mut ranges, mut names, mut count) = (Vec::new(), Vec::new(), 0_u64);
    for area in areas {
        if let AreaKind::File { file, page, .. } = &area.kind {
            count += 1;
            ranges.extend([area.start, area.end, *page].iter().flat_map(|word| word.to_le_bytes()));
            names.extend_from_slice(&file.path());
            names.push(0);
        }
    }
    let mut raw = [count.to_le_bytes(), PAGE_SIZE.to_le_bytes()].concat();
    raw.extend(ranges);
    raw.extend(names);
    raw
}
