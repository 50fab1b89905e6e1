// SPDX-License-Identifier: Apache-2.0
//! Loading a program into a fresh memory: `#!` scripts, the ELF file and its interpreter, the
//! initial stack (psABI x86-64, 3.4.1; Linux binfmt_elf).
//!
//! Everything that can fail happens here, before anything of the old program is gone.

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering;

use super::{
    Creds,
    creds::CAP_ALL,
    frame::frame_bytes_max,
    group::{Limits, RLIMIT_AS, RLIMIT_DATA, RLIMIT_STACK},
};
use crate::{
    Errno, Kernel,
    fs::{self, FileRef, FsContext},
    mm::{AreaKind, HIGHEST, MapRequest, Mm, PAGE_SIZE, Placement, Protection, elf::Program},
};

/// Longest argument or environment string, with its NUL.
const STRING_MAX: usize = 128 << 10;
/// Largest total of strings and pointers.
const TOTAL_MAX: u64 = 6 << 20;
/// Bytes of a script that are looked at.
const SCRIPT_BYTES: usize = 256;
/// How deep scripts can name scripts.
const SCRIPT_DEPTH: usize = 5;
/// Where position-independent programs are put, before randomisation.
const PIE_BASE: u64 = 0x5555_5555_4000;
/// Stack that is mapped at the start, in bytes; it grows from there.
const STACK_BYTES: u64 = 132 << 10;

const AT_SYSINFO_EHDR: u64 = 33;
const AT_HWCAP: u64 = 16;
const AT_PAGESZ: u64 = 6;
const AT_CLKTCK: u64 = 17;
const AT_PHDR: u64 = 3;
const AT_PHENT: u64 = 4;
const AT_PHNUM: u64 = 5;
const AT_BASE: u64 = 7;
const AT_FLAGS: u64 = 8;
const AT_ENTRY: u64 = 9;
const AT_UID: u64 = 11;
const AT_EUID: u64 = 12;
const AT_GID: u64 = 13;
const AT_EGID: u64 = 14;
const AT_SECURE: u64 = 23;
const AT_RANDOM: u64 = 25;
const AT_HWCAP2: u64 = 26;
const AT_EXECFN: u64 = 31;
const AT_PLATFORM: u64 = 15;
const AT_MINSIGSTKSZ: u64 = 51;
const AT_NULL: u64 = 0;

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The file, opened for execution.
    pub(crate) file: FileRef,
    /// Its name, for AT_EXECFN and scripts.
    pub(crate) path: Vec<u8>,
    /// Arguments.
    pub(crate) args: Vec<Vec<u8>>,
    /// Environment.
    pub(crate) env: Vec<Vec<u8>>,
    /// Addresses are not to be random (ADDR_NO_RANDOMIZE).
    pub(crate) is_fixed: bool,
    /// Somebody traces the thread.
    pub(crate) is_traced: bool,
}

/// A program that is ready to run.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) mm: Mm,
    pub(crate) entry: u64,
    pub(crate) stack: u64,
    /// PR_GET_NAME.
    pub(crate) name: [u8; 16],
    pub(crate) creds: Creds,
    /// Privileges were gained: not dumpable.
    pub(crate) is_secure: bool,
}

/// The name of a thread that runs a file.
pub(crate) fn thread_name(path: &[u8]) -> [u8; 16] {
    let base = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    let mut name = [0; 16];
    let bytes = base.len().min(15);
    name[..bytes].copy_from_slice(&base[..bytes]);
    name
}

/// What the first line of a script says: interpreter, and one argument.
///
/// # Errors
/// ENOEXEC if it names none.
pub(crate) fn parse_script(head: &[u8]) -> Result<(Vec<u8>, Option<Vec<u8>>), Errno> {
    let line = head.strip_prefix(b"#!").ok_or(Errno::NOEXEC)?;
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let newline = line.iter().position(|&byte| byte == b'\n');
    let line = &line[..newline.unwrap_or(line.len())];
    let Some(start) = line.iter().position(|byte| !is_blank(byte)) else {
        return Err(Errno::NOEXEC);
    };
    let line = &line[start..];
    let end = line.iter().position(|byte| is_blank(byte) || *byte == 0);
    if end.is_none() && newline.is_none() && head.len() >= SCRIPT_BYTES {
        // The interpreter's name was cut off.
        return Err(Errno::NOEXEC);
    }
    let (path, rest) = line.split_at(end.unwrap_or(line.len()));
    let first = rest.iter().position(|byte| !is_blank(byte));
    let last = rest.iter().rposition(|byte| !is_blank(byte));
    let argument = match (first, last) {
        (Some(first), Some(last)) => {
            let text = &rest[first..=last];
            let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
            (end > 0).then(|| text[..end].to_vec())
        }
        _ => None,
    };
    if path.is_empty() {
        return Err(Errno::NOEXEC);
    }
    Ok((path.to_vec(), argument))
}

fn check_strings(request: &Request, stack_limit: u64) -> Result<(), Errno> {
    let limit = TOTAL_MAX.min(stack_limit / 4).max(PAGE_SIZE * 32);
    let mut total = request.path.len() as u64 + 1;
    for string in request.args.iter().chain(&request.env) {
        if string.len() >= STRING_MAX {
            return Err(Errno::TOO_BIG);
        }
        total += string.len() as u64 + 1 + 8;
    }
    if total > limit { Err(Errno::TOO_BIG) } else { Ok(()) }
}

impl Kernel {
    /// Loads a program.
    ///
    /// # Errors
    /// As execve(2).
    pub(crate) fn load_program(
        &self,
        context: &FsContext,
        creds: &Creds,
        limits: &Limits,
        mut request: Request,
    ) -> Result<Loaded, Errno> {
        let name = thread_name(&request.path);
        if request.args.is_empty() {
            // No program is without its name (as Linux since 5.18).
            request.args.push(Vec::new());
        }
        let mut depth = 0;
        loop {
            check_strings(&request, limits.soft(RLIMIT_STACK))?;
            let mut head = [0; SCRIPT_BYTES];
            let got = fs::read_at(&request.file, 0, &mut head)?;
            if !head[..got].starts_with(b"#!") {
                break;
            }
            if depth == SCRIPT_DEPTH {
                return Err(Errno::LOOP);
            }
            depth += 1;
            let (interpreter, argument) = parse_script(&head[..got])?;
            let script = core::mem::replace(&mut request.path, interpreter.clone());
            let rest = request.args.split_off(1);
            request.args = vec![interpreter];
            request.args.extend(argument);
            request.args.push(script);
            request.args.extend(rest);
            request.file = fs::open_executable(context, creds, &request.path)?;
        }
        let program = Program::read(&request.file)?;
        let interpreter = match program.read_interpreter(&request.file)? {
            None => None,
            Some(path) => {
                let file = fs::open_executable(context, creds, &path)?;
                let program = Program::read(&file).map_err(|errno| match errno {
                    Errno::NOEXEC | Errno::INVAL => Errno::LIBBAD,
                    other => other,
                })?;
                Some((file, program))
            }
        };
        let (creds, is_secure) = new_creds(creds, &request.file)?;
        let mut loaded = self.map_program(&request, &program, interpreter, limits)?;
        self.build_stack(&mut loaded, &request, &program, &creds, is_secure)?;
        *loaded.mm.exe.lock() = Some(request.file);
        Ok(Loaded {
            mm: loaded.mm,
            entry: loaded.entry,
            stack: loaded.stack,
            name,
            creds,
            is_secure,
        })
    }

    fn random_pages(&self, request: &Request, bits: u32) -> u64 {
        if request.is_fixed {
            return 0;
        }
        (self.services.random_u64() & ((1 << bits) - 1)) * PAGE_SIZE
    }

    fn map_program(
        &self,
        request: &Request,
        program: &Program,
        interpreter: Option<(FileRef, Program)>,
        limits: &Limits,
    ) -> Result<Mapped, Errno> {
        let mm = Mm::new(&self.services)?;
        if request.is_traced {
            mm.use_own_text();
        }
        let stack_limit = limits.soft(RLIMIT_STACK);
        mm.stack_limit.store(stack_limit, Ordering::Relaxed);
        mm.limits[0].store(limits.soft(RLIMIT_AS), Ordering::Relaxed);
        mm.limits[1].store(limits.soft(RLIMIT_DATA), Ordering::Relaxed);
        let stack_top = HIGHEST - self.random_pages(request, 22);
        let gap = stack_limit.clamp(128 << 20, HIGHEST / 6) + (1 << 20);
        // Two bits less than Linux: sanitizers insist that everything lies above 0x7e80_0000_0000.
        let mmap_base = (stack_top - gap - self.random_pages(request, 26)) & !(PAGE_SIZE - 1);
        mm.layout.lock().mmap_base = mmap_base;

        let (low, high) = program.span();
        let bias = if program.is_dynamic {
            let align = program.align();
            let base = (PIE_BASE + self.random_pages(request, 28)) & !(align - 1);
            base.wrapping_sub(low & !(align - 1))
        } else {
            0
        };
        if high.wrapping_add(bias) > HIGHEST {
            return Err(Errno::NOMEM);
        }
        let data_end = program.map(&mm, &request.file, bias)?;
        let mut base = 0;
        let mut entry = program.entry.wrapping_add(bias);
        let program_entry = entry;
        if let Some((file, interpreter)) = interpreter {
            let (low, high) = interpreter.span();
            base = if interpreter.is_dynamic {
                let align = interpreter.align();
                let bytes = high - low + align;
                let at = mm.areas.lock().find_free(bytes, mmap_base).ok_or(Errno::NOMEM)?;
                at.next_multiple_of(align).wrapping_sub(low & !(align - 1))
            } else {
                0
            };
            interpreter.map(&mm, &file, base)?;
            entry = interpreter.entry.wrapping_add(base);
        }
        let break_at = data_end.next_multiple_of(PAGE_SIZE) + self.random_pages(request, 13);
        {
            let mut layout = mm.layout.lock();
            (layout.brk_start, layout.brk) = (break_at, break_at);
            layout.code = (low.wrapping_add(bias), high.wrapping_add(bias));
            layout.data = (data_end, data_end);
        }
        let execute = program.executable_stack;
        let mut stack = MapRequest::new(
            Placement::FixedIfFree(stack_top - STACK_BYTES),
            STACK_BYTES,
            Protection { read: true, write: true, execute },
            AreaKind::Anonymous,
        );
        stack.name = "[stack]";
        stack.grows_down = true;
        mm.map(stack)?;
        let vdso = match &self.vdso {
            Some(vdso) => vdso.map(&mm)?,
            None => 0,
        };
        mm.layout.lock().vdso = vdso;
        Ok(Mapped {
            mm,
            entry,
            program_entry,
            base,
            headers: program.headers.wrapping_add(bias),
            stack_top,
            stack: 0,
        })
    }

    fn build_stack(
        &self,
        mapped: &mut Mapped,
        request: &Request,
        program: &Program,
        creds: &Creds,
        is_secure: bool,
    ) -> Result<(), Errno> {
        // From the top: a null word, the file name, environment, arguments, platform, random.
        let mut strings = Vec::new();
        let mut random = [0; 16];
        self.services.random(&mut random);
        let random_offset = strings.len();
        strings.extend_from_slice(&random);
        let platform_offset = strings.len();
        strings.extend_from_slice(b"x86_64\0");
        let mut put = |string: &[u8]| {
            let at = strings.len();
            strings.extend_from_slice(string);
            strings.push(0);
            at
        };
        let args: Vec<usize> = request.args.iter().map(|string| put(string)).collect();
        let env: Vec<usize> = request.env.iter().map(|string| put(string)).collect();
        let name_offset = put(&request.path);
        let strings_at = (mapped.stack_top - 8 - strings.len() as u64) & !15;
        let at = |offset: usize| strings_at + offset as u64;

        let ops = &self.options.fpu;
        let mut auxv: Vec<(u64, u64)> = Vec::new();
        let vdso = mapped.mm.layout.lock().vdso;
        if vdso != 0 {
            auxv.push((AT_SYSINFO_EHDR, vdso));
        }
        auxv.extend([
            (AT_MINSIGSTKSZ, frame_bytes_max(ops)),
            (AT_HWCAP, u64::from(self.options.hwcap)),
            (AT_PAGESZ, PAGE_SIZE),
            (AT_CLKTCK, 100),
            (AT_PHDR, mapped.headers),
            (AT_PHENT, 56),
            (AT_PHNUM, u64::from(program.header_count)),
            (AT_BASE, mapped.base),
            (AT_FLAGS, 0),
            (AT_ENTRY, mapped.program_entry),
            (AT_UID, u64::from(creds.uid)),
            (AT_EUID, u64::from(creds.euid)),
            (AT_GID, u64::from(creds.gid)),
            (AT_EGID, u64::from(creds.egid)),
            (AT_SECURE, u64::from(is_secure)),
            (AT_RANDOM, at(random_offset)),
            (AT_HWCAP2, u64::from(self.options.hwcap2)),
            (AT_EXECFN, at(name_offset)),
            (AT_PLATFORM, at(platform_offset)),
            (AT_NULL, 0),
        ]);
        let mut words: Vec<u64> = vec![args.len() as u64];
        words.extend(args.iter().map(|&offset| at(offset)));
        words.push(0);
        words.extend(env.iter().map(|&offset| at(offset)));
        words.push(0);
        let auxv_index = words.len();
        words.extend(auxv.iter().flat_map(|&(key, value)| [key, value]));
        let stack = (strings_at - words.len() as u64 * 8) & !15;
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        {
            let mut layout = mapped.mm.layout.lock();
            layout.stack_start = stack;
            let arg_start = args.first().map_or(strings_at, |&offset| at(offset));
            let env_start = env.first().map_or(at(name_offset), |&offset| at(offset));
            layout.arguments = (arg_start, env_start);
            layout.environment = (env_start, at(name_offset));
            layout.auxv = bytes[auxv_index * 8..].to_vec();
        }
        bytes.resize((strings_at - stack) as usize, 0);
        bytes.extend_from_slice(&strings);
        mapped.mm.write_bytes(stack, &bytes).map_err(|_| Errno::NOMEM)?;
        mapped.stack = stack;
        Ok(())
    }
}

/// A mapped program on its way to be loaded.
struct Mapped {
    mm: Mm,
    entry: u64,
    program_entry: u64,
    base: u64,
    headers: u64,
    stack_top: u64,
    stack: u64,
}

/// The capabilities of a file (`security.capability`): permitted, inheritable, and whether they are
/// effective at once.
fn file_caps(file: &FileRef) -> Option<(u64, u64, bool)> {
    const REVISION: u32 = 0xff00_0000;
    const REVISION_1: u32 = 0x0100_0000;
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    const EFFECTIVE: u32 = 1;
    let raw = file.inode().xattr(b"security.capability").ok()?;
    let word = |index: usize| {
        let bytes = raw.get(index * 4..index * 4 + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    let magic = word(0)?;
    let halves = match magic & REVISION {
        REVISION_1 => 1,
        REVISION_2 => 2,
        // Of a user namespace: the one that there is has root 0.
        REVISION_3 if word(5)? == 0 => 2,
        _ => return None,
    };
    let (mut permitted, mut inheritable) = (0, 0);
    for half in 0..halves {
        permitted |= u64::from(word(1 + 2 * half)?) << (32 * half);
        inheritable |= u64::from(word(2 + 2 * half)?) << (32 * half);
    }
    Some((permitted & CAP_ALL, inheritable & CAP_ALL, magic & EFFECTIVE != 0))
}

/// The credentials after execve (credentials(7), capabilities(7)): set-id bits, then capabilities.
///
/// # Errors
/// EPERM if a program would start without capabilities that it takes for granted.
fn new_creds(old: &Creds, file: &FileRef) -> Result<(Creds, bool), Errno> {
    const SET_UID: u32 = 0o4000;
    const SET_GID: u32 = 0o2010;
    const NOROOT: u32 = 1;
    let attr = file.attr();
    let mut new = old.clone();
    let may_gain = !old.no_new_privileges && !file.location().mount.nosuid;
    if may_gain && attr.mode & SET_UID != 0 {
        new.euid = attr.uid;
    }
    if may_gain && attr.mode & SET_GID == SET_GID {
        new.egid = attr.gid;
    }
    (new.suid, new.fsuid) = (new.euid, new.euid);
    (new.sgid, new.fsgid) = (new.egid, new.egid);
    let set_id = new.euid != old.euid || new.egid != old.egid;
    let caps = if may_gain { file_caps(file) } else { None };
    if set_id || caps.is_some() {
        new.caps.ambient = 0;
    }
    let root_counts = old.securebits & NOROOT == 0;
    // A set-user-id root program with capabilities of its own gets these, not all.
    let is_root = root_counts && (new.uid == 0 || new.euid == 0 && caps.is_none());
    let (file_permitted, file_inheritable, file_effective) = match caps {
        _ if is_root => (CAP_ALL, CAP_ALL, new.euid == 0),
        Some(caps) => caps,
        None => (0, 0, false),
    };
    let granted = (old.caps.inheritable & file_inheritable) | (file_permitted & old.caps.bounding);
    let mut permitted = granted | new.caps.ambient;
    if old.no_new_privileges {
        permitted &= old.caps.permitted | new.caps.ambient;
    }
    if !is_root && file_effective && file_permitted & !permitted != 0 {
        return Err(Errno::PERM);
    }
    new.caps.permitted = permitted;
    new.caps.effective = if file_effective { permitted } else { new.caps.ambient };
    // SECBIT_KEEP_CAPS never survives execve.
    new.securebits &= !(1 << 4);
    let changed = new.euid != new.uid || new.egid != new.gid;
    let gains = !is_root && caps.is_some() && permitted & !new.caps.ambient != 0;
    Ok((new, set_id && changed || gains))
}
