// SPDX-License-Identifier: Apache-2.0
//! Which instructions before a `syscall` may run in a trampoline.
//!
//! One of them, the *head*, is replaced by the jump to the trampoline; it, and those between it and
//! the `syscall`, run there.  Those between stay where they are as well, so that whoever jumps to one
//! of them is right.
//!
//! They may run twice in a row, or some of them, and all again: the kernel moves who is in a
//! trampoline back to the head.  So none writes a register of which one before it, or it itself, has
//! read what was there at first (masks may: the second time changes nothing).  They write no memory
//! but their own stack, nor RSP, and know nothing of RCX, which trampolines set.

use std::{collections::VecDeque, ops::Range};

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use trine_abi::text::TRAMPOLINE_ORIGIN;

use super::sites::BITNESS;

/// Bytes of the two instructions that follow in a trampoline.
const ENTRY_BYTES: u64 = 15;
/// Bytes of instructions that a trampoline has room for.
const MOVED_BYTES_MAX: u64 = TRAMPOLINE_ORIGIN - ENTRY_BYTES;
/// rt_sigreturn: unwinders and debuggers know a signal's frame by the bytes that make this call.
const SIGRETURN: u64 = 15;

/// A set of general registers.
type Registers = u16;

/// An instruction that may move.
#[derive(Clone, Debug)]
struct Movable {
    place: Range<u64>,
    reads: Registers,
    writes: Registers,
    /// Those of which nothing is left.
    defines: Registers,
    /// It reads what it writes, and doing that twice is as good as once.
    is_mask: bool,
    memory: Option<Access>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Load,
    Store,
}

/// The last instructions that were decoded, without jumps and calls between them.
#[derive(Debug)]
pub(super) struct Window {
    /// A ring.
    last: [Instruction; MOVED_BYTES_MAX as usize],
    next: usize,
    count: usize,
}

impl Window {
    pub(super) fn new() -> Self {
        let last = [Instruction::default(); MOVED_BYTES_MAX as usize];
        Self { last, next: 0, count: 0 }
    }

    /// Takes the next instruction.
    pub(super) fn push(&mut self, instruction: &Instruction) {
        if instruction.flow_control() != FlowControl::Next {
            self.count = 0;
        } else if instruction.mnemonic() != Mnemonic::Nop {
            self.last[self.next] = *instruction;
            self.next = (self.next + 1) % self.last.len();
            self.count = (self.count + 1).min(self.last.len());
        }
    }

    /// The last instructions of `long` and of `short` bytes at least that can be the head.
    pub(super) fn heads(&self, long: u64, short: u64) -> [Option<Range<u64>>; 2] {
        let mut moved = VecDeque::new();
        let mut bytes = 0;
        let mut heads = [None, None];
        for back in 1..=self.count {
            let index = (self.next + self.last.len() - back) % self.last.len();
            let Some(movable) = Movable::of(&self.last[index]) else { break };
            let place = movable.place.clone();
            let length = place.end - place.start;
            bytes += length;
            moved.push_front(movable);
            if bytes > MOVED_BYTES_MAX {
                break;
            }
            if is_repeatable(&moved) {
                for (head, least) in heads.iter_mut().zip([long, short]) {
                    if length >= least && head.is_none() {
                        *head = Some(place.clone());
                    }
                }
            }
        }
        heads
    }
}

impl Movable {
    fn of(instruction: &Instruction) -> Option<Self> {
        let is_elsewhere = instruction.is_ip_rel_memory_operand()
            || instruction.memory_segment() == Register::GS
            || instruction.has_lock_prefix();
        if instruction.op_count() != 2 || is_elsewhere {
            return None;
        }
        let movable = match instruction.op0_kind() {
            OpKind::Register => Self::computation(instruction)?,
            OpKind::Memory => Self::store(instruction)?,
            _ => return None,
        };
        let (stack, return_address) = (bit(Register::RSP)?, bit(Register::RCX)?);
        let is_bad =
            movable.writes & stack != 0 || (movable.reads | movable.writes) & return_address != 0;
        (!is_bad).then_some(movable)
    }

    /// What sets a register.
    fn computation(instruction: &Instruction) -> Option<Self> {
        let written = instruction.op0_register();
        let writes = bit(written)?;
        let source = instruction.op1_kind();
        let mut reads = match source {
            OpKind::Register => bit(instruction.op1_register())?,
            OpKind::Memory => address(instruction)?,
            _ => constant(instruction).map(|_| 0)?,
        };
        let is_same = source == OpKind::Register && instruction.op1_register() == written;
        let mut is_mask = false;
        match instruction.mnemonic() {
            Mnemonic::Mov => {
                let is_number = written.full_register() == Register::RAX;
                if is_number && constant(instruction) == Some(SIGRETURN) {
                    return None;
                }
            }
            Mnemonic::Movsx | Mnemonic::Movsxd | Mnemonic::Movzx | Mnemonic::Lea => {}
            Mnemonic::Xor | Mnemonic::Sub if is_same => reads = 0,
            Mnemonic::And | Mnemonic::Or => {
                is_mask = constant(instruction).is_some();
                reads |= writes;
            }
            Mnemonic::Xor
            | Mnemonic::Sub
            | Mnemonic::Add
            | Mnemonic::Shl
            | Mnemonic::Shr
            | Mnemonic::Sar => reads |= writes,
            _ => return None,
        }
        let is_load = source == OpKind::Memory && instruction.mnemonic() != Mnemonic::Lea;
        Some(Self {
            place: instruction.ip()..instruction.next_ip(),
            reads,
            writes,
            defines: if written.is_gpr32() || written.is_gpr64() { writes } else { 0 },
            is_mask,
            memory: is_load.then_some(Access::Load),
        })
    }

    /// What stores to the stack, which is the thread's own: of other memory, others may have made
    /// something when it stores again.
    fn store(instruction: &Instruction) -> Option<Self> {
        let is_own = instruction.memory_base() == Register::RSP
            && instruction.memory_index() == Register::None
            && instruction.segment_prefix() == Register::None;
        if !is_own || instruction.mnemonic() != Mnemonic::Mov {
            return None;
        }
        let source = match instruction.op1_kind() {
            OpKind::Register => bit(instruction.op1_register())?,
            _ => constant(instruction).map(|_| 0)?,
        };
        Some(Self {
            place: instruction.ip()..instruction.next_ip(),
            reads: source | address(instruction)?,
            writes: 0,
            defines: 0,
            is_mask: false,
            memory: Some(Access::Store),
        })
    }
}

/// Whether instructions do the same again after some or all of them ran.
fn is_repeatable(instructions: &VecDeque<Movable>) -> bool {
    let mut first_values: Registers = 0;
    let mut defined: Registers = 0;
    let mut has_loaded = false;
    instructions.iter().all(|instruction| {
        let read_before = first_values;
        first_values |= instruction.reads & !defined;
        defined |= instruction.defines;
        // What was loaded first would be loaded after the store the second time.
        let is_late_store = has_loaded && instruction.memory == Some(Access::Store);
        has_loaded |= instruction.memory == Some(Access::Load);
        let kept = if instruction.is_mask { read_before } else { first_values };
        instruction.writes & kept == 0 && !is_late_store
    })
}

/// What a constant operand says.
fn constant(instruction: &Instruction) -> Option<u64> {
    let is_constant = matches!(
        instruction.op1_kind(),
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    );
    is_constant.then(|| instruction.immediate(1))
}

/// The registers that make the address of an operand in memory.
fn address(instruction: &Instruction) -> Option<Registers> {
    let mut registers = 0;
    for part in [instruction.memory_base(), instruction.memory_index()] {
        if part != Register::None {
            registers |= bit(part)?;
        }
    }
    Some(registers)
}

/// The bytes to move, given the code from the head up to the `syscall`: all but padding.
pub(super) fn moved(code: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new(BITNESS, code, DecoderOptions::NONE);
    let mut moved = Vec::new();
    while decoder.can_decode() {
        let start = decoder.position();
        if decoder.decode().mnemonic() != Mnemonic::Nop {
            moved.extend(&code[start..decoder.position()]);
        }
    }
    moved
}

/// The set of the register that one is a part of, if it is a general one.
fn bit(register: Register) -> Option<Registers> {
    let number = register.is_gpr().then(|| register.full_register().number())?;
    1_u16.checked_shl(number as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The heads of at least 5 and of at least 2 bytes, as offsets.
    fn heads(code: &[&[u8]]) -> (Option<u64>, Option<u64>) {
        let code = code.concat();
        let mut window = Window::new();
        let mut decoder = Decoder::new(BITNESS, &code, DecoderOptions::NONE);
        decoder.iter().for_each(|instruction| {
            assert!(!instruction.is_invalid());
            window.push(&instruction);
        });
        let start = |range: Range<u64>| range.start;
        let [long, short] = window.heads(5, 2);
        (long.map(start), short.map(start))
    }

    /// mov $202,%eax
    const FUTEX: &[u8] = &[0xb8, 0xca, 0, 0, 0];

    #[test]
    fn moves_to_registers_are_heads() {
        let long: &[&[u8]] = &[
            FUTEX,
            &[0x48, 0xc7, 0xc0, 0x27, 0, 0, 0],    // mov $39,%rax
            &[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8], // movabs $...,%rax
            &[0x48, 0x8d, 0x74, 0x24, 0x10],       // lea 16(%rsp),%rsi
            &[0x4c, 0x8b, 0x4c, 0x24, 0x08],       // mov 8(%rsp),%r9
        ];
        for code in long {
            assert_eq!(heads(&[code]), (Some(0), Some(0)), "{code:x?}");
        }
        let short: &[&[u8]] = &[
            &[0x31, 0xc0],           // xor %eax,%eax
            &[0x45, 0x31, 0xd2],     // xor %r10d,%r10d
            &[0x29, 0xc0],           // sub %eax,%eax
            &[0x89, 0xf8],           // mov %edi,%eax
            &[0x4c, 0x89, 0xc0],     // mov %r8,%rax
            &[0x48, 0x89, 0xdf],     // mov %rbx,%rdi
            &[0x48, 0x63, 0xc7],     // movslq %edi,%rax
            &[0x0f, 0xb6, 0xc4 ^ 3], // movzbl %bh,%eax
            &[0xb0, 0x27],           // mov $39,%al
            &[0x8b, 0x45, 0x10],     // mov 16(%rbp),%eax
        ];
        for code in short {
            assert_eq!(heads(&[code]), (None, Some(0)), "{code:x?}");
        }
    }

    #[test]
    fn stores_to_the_stack_are_heads() {
        // movl $16,-72(%rsp)
        assert_eq!(heads(&[&[0xc7, 0x44, 0x24, 0xb8, 16, 0, 0, 0]]).0, Some(0));
    }

    #[test]
    fn what_cannot_run_twice_or_elsewhere_is_no_head() {
        let bad: &[&[u8]] = &[
            &[0xb8, 15, 0, 0, 0],                        // mov $15,%eax: rt_sigreturn
            &[0x48, 0xc7, 0xc0, 15, 0, 0, 0],            // the same
            &[0x89, 0xc8],                               // mov %ecx,%eax
            &[0x31, 0xc9],                               // xor %ecx,%ecx
            &[0x31, 0xd8],                               // xor %ebx,%eax
            &[0x29, 0xf8],                               // sub %edi,%eax
            &[0x48, 0x89, 0xc4],                         // mov %rax,%rsp
            &[0x48, 0x83, 0xec, 0x08],                   // sub $8,%rsp
            &[0x83, 0xc0, 0x01],                         // add $1,%eax
            &[0xff, 0xc0],                               // inc %eax
            &[0x58],                                     // pop %rax
            &[0x8b, 0x00],                               // mov (%rax),%eax
            &[0x8b, 0x05, 0, 0, 0, 0],                   // mov 0(%rip),%eax
            &[0x48, 0x8d, 0x05, 0, 0, 0, 0],             // lea 0(%rip),%rax
            &[0x65, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0], // mov %gs:0,%rax
            &[0x48, 0x8d, 0x40, 0x08],                   // lea 8(%rax),%rax
            &[0x48, 0x8d, 0x04, 0x0f],                   // lea (%rdi,%rcx),%rax
            &[0x0f, 0xb6, 0xc4],                         // movzbl %ah,%eax
            &[0x8c, 0xe0],                               // mov %fs,%eax
            &[0x0f, 0x20, 0xc0],                         // mov %cr0,%rax
            &[0x89, 0x07],                               // mov %eax,(%rdi)
            &[0x0f, 0x44, 0xc7],                         // cmove %edi,%eax
            &[0xd3, 0xe0],                               // shl %cl,%eax
            &[0x90],                                     // nop
        ];
        for code in bad {
            assert_eq!(heads(&[code]), (None, None), "{code:x?}");
        }
    }

    #[test]
    fn sequences_move_if_they_repeat() {
        let load_edi: &[u8] = &[0x8b, 0x7c, 0x24, 0x08]; // mov 8(%rsp),%edi
        let flip_esi: &[u8] = &[0x40, 0x80, 0xf6, 0x80]; // xor $0x80,%sil
        let set_esi: &[u8] = &[0x89, 0xde]; // mov %ebx,%esi
        let set_ebx: &[u8] = &[0x89, 0xfb]; // mov %edi,%ebx
        assert_eq!(heads(&[FUTEX, load_edi]), (Some(0), Some(5)));
        assert_eq!(heads(&[FUTEX, flip_esi]), (None, None), "twice is not once");
        assert_eq!(heads(&[FUTEX, set_esi, flip_esi]), (Some(0), Some(5)));
        assert_eq!(heads(&[set_esi, FUTEX, flip_esi]), (None, Some(0)));
        assert_eq!(heads(&[FUTEX, set_esi, set_ebx]), (None, Some(7)), "EBX is lost");
        assert_eq!(heads(&[FUTEX, set_ebx, set_esi]), (Some(0), Some(7)));
        // Of a register that is written in part, the rest is what it was at first.
        let low: &[u8] = &[0x40, 0xb6, 0x01]; // mov $1,%sil
        let double: &[u8] = &[0x01, 0xf6]; // add %esi,%esi
        assert_eq!(heads(&[FUTEX, low, double]), (None, None));
        let mask: &[u8] = &[0x83, 0xe6, 0x0f]; // and $15,%esi
        let use_esi: &[u8] = &[0x89, 0xf2]; // mov %esi,%edx
        assert_eq!(heads(&[FUTEX, mask, use_esi]), (Some(0), Some(8)));
        assert_eq!(heads(&[FUTEX, use_esi, mask]), (None, Some(7)));
        assert_eq!(heads(&[FUTEX, mask, flip_esi]), (None, None));
        // What is loaded after a store is what was stored, or was there.
        let store: &[u8] = &[0x89, 0x3c, 0x24]; // mov %edi,(%rsp)
        let load: &[u8] = &[0x8b, 0x14, 0x24]; // mov (%rsp),%edx
        assert_eq!(heads(&[FUTEX, store, load]), (Some(0), Some(8)));
        assert_eq!(heads(&[FUTEX, load, store]), (None, Some(8)));
        assert_eq!(heads(&[store, FUTEX, load_edi]), (Some(3), Some(8)), "EDI was stored");
        assert_eq!(heads(&[&[0x90], FUTEX, &[0xff, 0xd0]]), (None, None), "calls");
        // 14 bytes do not fit.
        assert_eq!(heads(&[FUTEX, load_edi, load_edi]), (Some(0), Some(9)));
        assert_eq!(heads(&[FUTEX, load_edi, load_edi, &[0x90]]), (Some(0), Some(9)));
        assert_eq!(heads(&[FUTEX, load_edi, FUTEX]), (Some(9), Some(9)));
        assert_eq!(heads(&[FUTEX, load_edi, load_edi, set_esi]), (None, Some(13)));
    }

    #[test]
    fn padding_does_not_move() {
        let code = [FUTEX, &[0x0f, 0x1f, 0x40, 0], &[0x31, 0xff]].concat();
        assert_eq!(moved(&code), [FUTEX, &[0x31, 0xff]].concat());
        assert_eq!(heads(&[&code]), (Some(0), Some(9)));
    }
}
