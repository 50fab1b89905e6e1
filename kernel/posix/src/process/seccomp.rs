// SPDX-License-Identifier: Apache-2.0
//! Filters on system calls (seccomp(2)): classic BPF over `struct seccomp_data`, checked when it is
//! installed, and run before each call.
//!
//! Most calls are allowed whatever their arguments are.  Which ones is found out once, when a filter
//! is installed; these cost one look at a bit.

use alloc::{sync::Arc, vec::Vec};

use crate::Errno;

/// Most instructions of one filter.
const INSTRUCTIONS_MAX: usize = 4096;
/// Most instructions of all filters of a thread.
const TOTAL_MAX: usize = 32768;
/// Words of scratch memory.
const SCRATCH: usize = 16;
/// Bytes of `struct seccomp_data`.
const DATA_BYTES: u32 = 64;
/// AUDIT_ARCH_X86_64.
pub(crate) const ARCH: u32 = 0xc000_003e;
/// Calls below this are looked at when a filter is installed.
const KNOWN_CALLS: usize = 512;

/// SECCOMP_RET_KILL_PROCESS.
pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;
/// SECCOMP_RET_KILL_THREAD.
pub(crate) const KILL_THREAD: u32 = 0;
/// SECCOMP_RET_TRAP.
pub(crate) const TRAP: u32 = 0x0003_0000;
/// SECCOMP_RET_ERRNO.
pub(crate) const ERRNO: u32 = 0x0005_0000;
/// SECCOMP_RET_TRACE.
pub(crate) const TRACE: u32 = 0x7ff0_0000;
/// SECCOMP_RET_LOG.
pub(crate) const LOG: u32 = 0x7ffc_0000;
/// SECCOMP_RET_ALLOW.
pub(crate) const ALLOW: u32 = 0x7fff_0000;
const ACTION: u32 = 0xffff_0000;

/// One instruction (struct sock_filter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    k: u32,
}

impl Instruction {
    /// From the 8 bytes of a struct sock_filter, read as a little-endian number.
    pub(crate) fn decode(raw: u64) -> Self {
        Self {
            code: raw as u16,
            jump_true: (raw >> 16) as u8,
            jump_false: (raw >> 24) as u8,
            k: (raw >> 32) as u32,
        }
    }
}

/// A system call as a filter sees it (struct seccomp_data).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) number: u32,
    pub(crate) instruction: u64,
    pub(crate) arguments: [u64; 6],
}

impl Call {
    /// The 32-bit word at an offset.
    fn word(&self, offset: u32) -> u32 {
        let half = |value: u64, high: bool| if high { (value >> 32) as u32 } else { value as u32 };
        match offset {
            0 => self.number,
            4 => ARCH,
            8 | 12 => half(self.instruction, offset == 12),
            offset => {
                let index = (offset as usize - 16) / 8;
                self.arguments.get(index).map_or(0, |value| half(*value, offset % 8 == 4))
            }
        }
    }
}

/// A program that was checked, and those that were installed before it.
#[derive(Debug)]
pub(crate) struct Filter {
    program: Vec<Instruction>,
    before: Option<Arc<Filter>>,
    /// Calls that it and those before it allow whatever their arguments are, by bit.
    allowed: [u64; KNOWN_CALLS / 64],
    /// Instructions of it and of those before it.
    total: usize,
    depth: u32,
}

/// What holds for a thread.
#[derive(Clone, Debug, Default)]
pub(crate) enum Seccomp {
    /// Nothing.
    #[default]
    Off,
    /// Only read, write, exit and sigreturn (SECCOMP_MODE_STRICT).
    Strict,
    /// These filters.
    Filters(Arc<Filter>),
}

impl Seccomp {
    /// The mode, as PR_GET_SECCOMP and /proc tell it.
    pub(crate) fn mode(&self) -> u32 {
        match self {
            Self::Off => 0,
            Self::Strict => 1,
            Self::Filters(_) => 2,
        }
    }

    /// How many filters there are.
    pub(crate) fn count(&self) -> u32 {
        match self {
            Self::Filters(filter) => filter.depth,
            _ => 0,
        }
    }
}

impl Filter {
    /// Checks a program and puts it before others.
    ///
    /// # Errors
    /// EINVAL for a program that is not one, ENOMEM if all together are too long.
    pub(crate) fn new(
        program: Vec<Instruction>,
        before: Option<Arc<Filter>>,
    ) -> Result<Arc<Self>, Errno> {
        check(&program)?;
        // As Linux counts: each filter costs 4 more.
        let total = program.len() + before.as_ref().map_or(0, |before| before.total + 4);
        if total > TOTAL_MAX {
            return Err(Errno::NOMEM);
        }
        let depth = before.as_ref().map_or(0, |before| before.depth) + 1;
        let mut allowed = before.as_ref().map_or([u64::MAX; 8], |before| before.allowed);
        for number in 0..KNOWN_CALLS {
            if run(
                &program,
                &Call { number: number as u32, instruction: 0, arguments: [0; 6] },
                true,
            ) != Some(ALLOW)
            {
                allowed[number / 64] &= !(1 << (number % 64));
            }
        }
        Ok(Arc::new(Self { program, before, allowed, total, depth }))
    }

    /// Whether a call is allowed whatever its arguments are.
    pub(crate) fn allows(&self, number: u64) -> bool {
        let word = self.allowed.get((number / 64) as usize);
        word.is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Runs all programs; returns the action that comes first in order of severity, with its data.
    pub(crate) fn judge(&self, call: &Call) -> u32 {
        let severity = |verdict: u32| (verdict & ACTION).cast_signed();
        let mut verdict = ALLOW;
        let mut at = Some(self);
        while let Some(filter) = at {
            let own = run(&filter.program, call, false).unwrap_or(KILL_PROCESS);
            if severity(own) < severity(verdict) {
                verdict = own;
            }
            at = filter.before.as_deref();
        }
        verdict
    }

    /// Whether `other` is this filter or one that was installed before it.
    pub(crate) fn descends_from(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        let mut at = Some(self);
        while let Some(filter) = at {
            if Arc::ptr_eq(filter, other) {
                return true;
            }
            at = filter.before.as_ref();
        }
        false
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // A loop, because a chain of filters may be longer than the stack.
        let mut next = self.before.take();
        while let Some(filter) = next {
            next = Arc::into_inner(filter).and_then(|mut filter| filter.before.take());
        }
    }
}

const LD: u16 = 0;
const LDX: u16 = 1;
const ST: u16 = 2;
const STX: u16 = 3;
const ALU: u16 = 4;
const JMP: u16 = 5;
const RET: u16 = 6;
const MISC: u16 = 7;
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const X: u16 = 0x08;
const A: u16 = 0x10;
const TAX: u16 = 0x00;
const TXA: u16 = 0x80;

/// Checks a program: known instructions, jumps forwards and within, memory that is written before it
/// is read, a return at the end.
fn check(program: &[Instruction]) -> Result<(), Errno> {
    let count = program.len();
    if count == 0 || count > INSTRUCTIONS_MAX {
        return Err(Errno::INVAL);
    }
    // Which words of scratch memory are written on every way to an instruction.
    let mut written = alloc::vec![u16::MAX; count];
    let mut now: u16 = 0;
    for (at, instruction) in program.iter().enumerate() {
        let k = instruction.k;
        now &= written[at];
        let is_good = match instruction.code & 7 {
            LD => match instruction.code & !7 {
                IMM | LEN => true,
                ABS => k < DATA_BYTES && k.is_multiple_of(4),
                MEM => (k as usize) < SCRATCH && now >> k & 1 == 1,
                _ => false,
            },
            LDX => match instruction.code & !7 {
                IMM | LEN => true,
                MEM => (k as usize) < SCRATCH && now >> k & 1 == 1,
                _ => false,
            },
            ST | STX => {
                let good = instruction.code & !7 == 0 && (k as usize) < SCRATCH;
                if good {
                    now |= 1 << k;
                }
                good
            }
            ALU => match (instruction.code & 0xf0, instruction.code & X != 0) {
                (0x30, false) => k != 0,
                (0x60 | 0x70, false) => k < 32,
                (0x80, of_x) => !of_x,
                (0x00..=0x70 | 0xa0, _) => true,
                _ => false,
            },
            JMP => {
                let reach = |offset: usize| at + 1 + offset < count;
                match instruction.code & 0xf0 {
                    0x00 => {
                        let good = instruction.code & X == 0 && reach(k as usize);
                        if good {
                            written[at + 1 + k as usize] &= now;
                            now = u16::MAX;
                        }
                        good
                    }
                    0x10..=0x40 => {
                        let (yes, no) =
                            (instruction.jump_true.into(), instruction.jump_false.into());
                        let good = reach(yes) && reach(no);
                        if good {
                            written[at + 1 + yes] &= now;
                            written[at + 1 + no] &= now;
                            now = u16::MAX;
                        }
                        good
                    }
                    _ => false,
                }
            }
            RET => matches!(instruction.code & !7, IMM | A),
            _ => matches!(instruction.code & !7, TAX | TXA),
        };
        if !is_good {
            return Err(Errno::INVAL);
        }
    }
    let ends = program.last().is_some_and(|last| last.code & 7 == RET);
    if ends { Ok(()) } else { Err(Errno::INVAL) }
}

/// Runs a checked program; with `number_only`, `None` if it asks for more than number and
/// architecture.
fn run(program: &[Instruction], call: &Call, number_only: bool) -> Option<u32> {
    let (mut a, mut x) = (0_u32, 0_u32);
    let mut scratch = [0_u32; SCRATCH];
    let mut at = 0;
    // Jumps go forwards only: this ends.
    while let Some(instruction) = program.get(at) {
        at += 1;
        let k = instruction.k;
        let code = instruction.code;
        let cell = k as usize % SCRATCH;
        match code & 7 {
            LD => {
                a = match code & !7 {
                    IMM => k,
                    LEN => DATA_BYTES,
                    ABS if number_only && k >= 8 => return None,
                    ABS => call.word(k),
                    _ => scratch[cell],
                };
            }
            LDX => {
                x = match code & !7 {
                    IMM => k,
                    LEN => DATA_BYTES,
                    _ => scratch[cell],
                };
            }
            ST => scratch[cell] = a,
            STX => scratch[cell] = x,
            ALU => {
                let operand = if code & X != 0 { x } else { k };
                a = match code & 0xf0 {
                    0x00 => a.wrapping_add(operand),
                    0x10 => a.wrapping_sub(operand),
                    0x20 => a.wrapping_mul(operand),
                    0x30 => match a.checked_div(operand) {
                        Some(quotient) => quotient,
                        // As the kernel's BPF: the filter ends with 0.
                        None => return Some(0),
                    },
                    0x40 => a | operand,
                    0x50 => a & operand,
                    0x60 => a.wrapping_shl(operand),
                    0x70 => a.wrapping_shr(operand),
                    0x80 => a.wrapping_neg(),
                    _ => a ^ operand,
                };
            }
            JMP => {
                let operand = if code & X != 0 { x } else { k };
                let holds = match code & 0xf0 {
                    0x00 => {
                        at += k as usize;
                        continue;
                    }
                    0x10 => a == operand,
                    0x20 => a > operand,
                    0x30 => a >= operand,
                    _ => a & operand != 0,
                };
                let offset = if holds { instruction.jump_true } else { instruction.jump_false };
                at += usize::from(offset);
            }
            RET => return Some(if code & !7 == A { a } else { k }),
            MISC if code & !7 == TAX => x = a,
            _ => a = x,
        }
    }
    None
}
