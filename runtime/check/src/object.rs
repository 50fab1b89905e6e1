// SPDX-License-Identifier: Apache-2.0
//! One ELF file: what it exports, what it wants from others, and its code.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
};

use elf::{
    ElfBytes,
    abi::{
        DF_1_PIE, DT_FINI, DT_FLAGS_1, DT_INIT, DT_NEEDED, DT_RPATH, DT_RUNPATH, EM_X86_64, ET_DYN,
        ET_EXEC, PF_X, PT_GNU_EH_FRAME, PT_INTERP, PT_LOAD, R_X86_64_64, R_X86_64_GLOB_DAT,
        R_X86_64_JUMP_SLOT, R_X86_64_RELATIVE, SHF_EXECINSTR, SHN_UNDEF, SHT_FINI_ARRAY,
        SHT_INIT_ARRAY, SHT_NOBITS, SHT_PREINIT_ARRAY, SHT_RELA, STT_FUNC, STT_GNU_IFUNC,
        STT_NOTYPE,
    },
    endian::LittleEndian,
    symbol::Symbol,
};

use crate::code::{Code, Region};

/// Largest file that is read.
pub(crate) const OBJECT_MAX: u64 = 1 << 30;

/// What can be told from the first bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A program or library for x86-64.
    Elf,
    /// A program or library for another machine, and which.
    Foreign(String),
    /// A script, and the path of its interpreter.
    Script(PathBuf),
    /// Anything else.
    Other,
}

impl Format {
    /// Looks at the beginning of a file.
    pub(crate) fn of(head: &[u8]) -> Self {
        if let Some(line) = head.strip_prefix(b"#!") {
            let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let line = line.trim_ascii_start();
            let word = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
            return Self::Script(PathBuf::from(String::from_utf8_lossy(word).into_owned()));
        }
        if !head.starts_with(b"\x7fELF") || head.len() < 20 {
            return Self::Other;
        }
        let machine = match head[5] {
            2 => u16::from_be_bytes([head[18], head[19]]),
            _ => u16::from_le_bytes([head[18], head[19]]),
        };
        match (head[4], machine) {
            (2, EM_X86_64) => Self::Elf,
            (1, EM_X86_64) => Self::Foreign("x32 (32-bit pointers)".into()),
            (1, 3) => Self::Foreign("32-bit x86".into()),
            (_, 40) => Self::Foreign("32-bit ARM".into()),
            (_, 183) => Self::Foreign("64-bit ARM".into()),
            (_, 243) => Self::Foreign("RISC-V".into()),
            (bits, other) => Self::Foreign(format!("machine {other}, class {bits}")),
        }
    }
}

/// One ELF file.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) path: PathBuf,
    /// It can be executed: it has an entry point and is no mere library.
    pub(crate) is_program: bool,
    pub(crate) interpreter: Option<PathBuf>,
    pub(crate) needed: Vec<String>,
    /// DT_RUNPATH or DT_RPATH, with $ORIGIN.
    pub(crate) run_paths: Vec<String>,
    /// Functions that others can use, by name.
    pub(crate) exports: HashMap<String, Vec<u64>>,
    /// Names that others must have.
    pub(crate) imports: BTreeSet<String>,
    /// Functions that run whenever it is loaded.
    pub(crate) init: Vec<u64>,
    pub(crate) code: Code,
}

type File<'a> = ElfBytes<'a, LittleEndian>;

impl Object {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(path: PathBuf, data: &[u8]) -> Result<Self, String> {
        let file = File::minimal_parse(data).map_err(|error| error.to_string())?;
        let kind = file.ehdr.e_type;
        if kind != ET_EXEC && kind != ET_DYN {
            return Err("it is neither a program nor a library".into());
        }
        let dynamic = Dynamic::read(&file, data);
        let symbols = Symbols::read(&file);
        let interpreter = interpreter(&file, data);
        let slots = slots(&file, &symbols);

        let mut starts = symbols.functions.clone();
        starts.extend(frames(&file, data));
        starts.push(file.ehdr.e_entry);
        starts.extend(&dynamic.init);
        starts.extend(&slots.pointers);
        let regions = regions(&file, data);
        let mut pinned: BTreeSet<u64> = slots.pointers.iter().copied().collect();
        pinned.insert(file.ehdr.e_entry);
        let exported: BTreeSet<u64> = symbols.exports.values().flatten().copied().collect();
        let code = Code::decode(regions, starts, slots.imports, exported, pinned);
        let is_program = kind == ET_EXEC || interpreter.is_some() || dynamic.is_pie;
        let mut init = dynamic.init;
        init.extend(slots.pointers);
        if is_program || !code.is_empty() && file.ehdr.e_entry != 0 {
            init.push(file.ehdr.e_entry);
        }
        Ok(Self {
            path,
            is_program,
            interpreter,
            needed: dynamic.needed,
            run_paths: dynamic.run_paths,
            exports: symbols.exports,
            imports: symbols.imports,
            init,
            code,
        })
    }
}

/// The dynamic section.
#[derive(Debug, Default)]
struct Dynamic {
    needed: Vec<String>,
    run_paths: Vec<String>,
    init: Vec<u64>,
    is_pie: bool,
}

impl Dynamic {
    fn read(file: &File<'_>, data: &[u8]) -> Self {
        let mut this = Self::default();
        let table = file.dynamic().ok().flatten();
        let strings = file.dynamic_symbol_table().ok().flatten().map(|(_, strings)| strings);
        let string = |at: u64| {
            let text = strings.as_ref()?.get(usize::try_from(at).ok()?).ok()?;
            Some(text.to_owned())
        };
        for entry in table.iter().flat_map(|table| table.iter()) {
            match entry.d_tag {
                DT_NEEDED => this.needed.extend(string(entry.d_val())),
                DT_RUNPATH | DT_RPATH => {
                    let paths = string(entry.d_val()).unwrap_or_default();
                    this.run_paths.extend(paths.split(':').map(str::to_owned));
                }
                DT_INIT | DT_FINI => this.init.push(entry.d_val()),
                DT_FLAGS_1 => this.is_pie = entry.d_val() & u64::from(DF_1_PIE as u32) != 0,
                _ => {}
            }
        }
        // In programs that are not relocated, these hold addresses.
        for section in file.section_headers().iter().flat_map(|sections| sections.iter()) {
            if matches!(section.sh_type, SHT_INIT_ARRAY | SHT_FINI_ARRAY | SHT_PREINIT_ARRAY) {
                let bytes = range(data, section.sh_offset, section.sh_size);
                let words = bytes.chunks_exact(8).filter_map(|word| word.try_into().ok());
                this.init.extend(words.map(u64::from_le_bytes).filter(|&word| word != 0));
            }
        }
        this
    }
}

/// The symbols.
#[derive(Debug, Default)]
struct Symbols {
    exports: HashMap<String, Vec<u64>>,
    imports: BTreeSet<String>,
    functions: Vec<u64>,
    /// Names of the dynamic symbols, by index.
    dynamic: Vec<(String, Symbol)>,
}

impl Symbols {
    fn read(file: &File<'_>) -> Self {
        let mut this = Self::default();
        if let Ok(Some((table, strings))) = file.dynamic_symbol_table() {
            for symbol in table.iter() {
                let name = strings.get(symbol.st_name as usize).unwrap_or_default().to_owned();
                this.dynamic.push((name.clone(), symbol.clone()));
                let kind = symbol.st_symtype();
                if symbol.st_shndx == SHN_UNDEF {
                    if !name.is_empty() && matches!(kind, STT_FUNC | STT_NOTYPE) {
                        this.imports.insert(name);
                    }
                } else if matches!(kind, STT_FUNC | STT_GNU_IFUNC) {
                    this.functions.push(symbol.st_value);
                    this.exports.entry(name).or_default().push(symbol.st_value);
                }
            }
        }
        if let Ok(Some((table, _))) = file.symbol_table() {
            let functions = table.iter().filter(|symbol| {
                symbol.st_shndx != SHN_UNDEF
                    && matches!(symbol.st_symtype(), STT_FUNC | STT_GNU_IFUNC)
            });
            this.functions.extend(functions.map(|symbol| symbol.st_value));
        }
        this
    }
}

/// Places that the dynamic linker fills in.
#[derive(Debug, Default)]
struct Slots {
    /// With the address of somebody's function, by address of the place.
    imports: BTreeMap<u64, String>,
    /// With the address of code of the object itself: tables of functions.
    pointers: Vec<u64>,
}

fn slots(file: &File<'_>, symbols: &Symbols) -> Slots {
    let mut slots = Slots::default();
    let in_code = code_ranges(file);
    let is_code =
        |address: u64| in_code.iter().any(|(start, end)| (*start..*end).contains(&address));
    for section in file.section_headers().iter().flat_map(|sections| sections.iter()) {
        if section.sh_type != SHT_RELA {
            continue;
        }
        let Ok(relocations) = file.section_data_as_relas(&section) else { continue };
        for relocation in relocations {
            let target = relocation.r_addend.cast_unsigned();
            match relocation.r_type {
                R_X86_64_JUMP_SLOT | R_X86_64_GLOB_DAT | R_X86_64_64 => {
                    let Some((name, symbol)) = symbols.dynamic.get(relocation.r_sym as usize)
                    else {
                        continue;
                    };
                    let is_table = relocation.r_type == R_X86_64_64;
                    if is_table && symbol.st_shndx != SHN_UNDEF && is_code(symbol.st_value) {
                        slots.pointers.push(symbol.st_value);
                    }
                    slots.imports.insert(relocation.r_offset, name.clone());
                }
                R_X86_64_RELATIVE if is_code(target) => slots.pointers.push(target),
                _ => {}
            }
        }
    }
    slots
}

fn interpreter(file: &File<'_>, data: &[u8]) -> Option<PathBuf> {
    let segments = file.segments()?;
    let segment = segments.iter().find(|segment| segment.p_type == PT_INTERP)?;
    let bytes = range(data, segment.p_offset, segment.p_filesz);
    let path = bytes.split(|&byte| byte == 0).next()?;
    Some(PathBuf::from(String::from_utf8_lossy(path).into_owned()))
}

/// Addresses of executable memory.
fn code_ranges(file: &File<'_>) -> Vec<(u64, u64)> {
    let segments = file.segments().into_iter().flat_map(|segments| segments.into_iter());
    let code = segments.filter(|segment| segment.p_type == PT_LOAD && segment.p_flags & PF_X != 0);
    code.map(|segment| (segment.p_vaddr, segment.p_vaddr.saturating_add(segment.p_memsz))).collect()
}

/// Executable sections, or segments where there are no sections.
fn regions(file: &File<'_>, data: &[u8]) -> Vec<Region> {
    let sections = file.section_headers().into_iter().flat_map(|sections| sections.into_iter());
    let sections = sections.filter(|section| {
        section.sh_flags & u64::from(SHF_EXECINSTR) != 0 && section.sh_type != SHT_NOBITS
    });
    let region =
        |address, offset, size| Region { address, bytes: range(data, offset, size).into() };
    let mut regions: Vec<_> = sections
        .map(|section| region(section.sh_addr, section.sh_offset, section.sh_size))
        .collect();
    if regions.is_empty() {
        let segments = file.segments().into_iter().flat_map(|segments| segments.into_iter());
        let code =
            segments.filter(|segment| segment.p_type == PT_LOAD && segment.p_flags & PF_X != 0);
        regions = code.map(|s| region(s.p_vaddr, s.p_offset, s.p_filesz)).collect();
    }
    regions.retain(|region| !region.bytes.is_empty());
    regions.sort_by_key(|region| region.address);
    regions
}

/// Where functions begin, as the table for unwinding has it: stripped files have it too.
fn frames(file: &File<'_>, data: &[u8]) -> Vec<u64> {
    /// Version 1, then: pointer 4 bytes relative to its place, count 4 bytes, table of pairs of 4
    /// bytes relative to the header.
    const USUAL: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
    let Some(segments) = file.segments() else { return Vec::new() };
    let Some(header) = segments.iter().find(|segment| segment.p_type == PT_GNU_EH_FRAME) else {
        return Vec::new();
    };
    let bytes = range(data, header.p_offset, header.p_filesz);
    if !bytes.starts_with(&USUAL) {
        return Vec::new();
    }
    let table = bytes.get(12..).unwrap_or_default();
    let starts = table.chunks_exact(8).map(|pair| {
        let relative = i32::from_le_bytes([pair[0], pair[1], pair[2], pair[3]]);
        header.p_vaddr.wrapping_add_signed(relative.into())
    });
    starts.collect()
}

/// Bytes of the file, as many as there are.
fn range(data: &[u8], offset: u64, size: u64) -> &[u8] {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
    let end = usize::try_from(offset.saturating_add(size)).unwrap_or(usize::MAX).min(data.len());
    &data[start..end]
}
