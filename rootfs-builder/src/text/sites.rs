// SPDX-License-Identifier: Apache-2.0
//! The system calls of a function, and which instructions before them can be replaced.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

const BITNESS: u32 = 64;
/// rt_sigreturn: unwinders and debuggers know a signal's frame by the bytes that make this call.
const SIGRETURN: u32 = 15;

/// What decoding a function found.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    /// How many system calls it has.
    pub(super) found: u64,
    /// Instructions directly before system calls that can be replaced, in order.
    pub(super) replaceable: Vec<Range<u64>>,
    /// Where it jumps to and what it calls, in order.
    pub(super) targets: Vec<u64>,
    /// Whether all of it was decoded, and nothing flows out of its end.
    pub(super) is_closed: bool,
}

/// Decodes a function, from its first byte to its last or to one that no instruction begins with.
pub(super) fn decode(code: &[u8], address: u64) -> Decoded {
    let mut decoded = Decoded::default();
    let mut decoder = Decoder::with_ip(BITNESS, code, address, DecoderOptions::NONE);
    let mut before: Option<Range<u64>> = None;
    let mut instruction = Instruction::default();
    let mut flows_on = true;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            flows_on = true;
            break;
        }
        if instruction.mnemonic() == Mnemonic::Syscall {
            decoded.found += 1;
            decoded.replaceable.extend(before.take());
        }
        let range = instruction.ip()..instruction.next_ip();
        before = is_repeatable(&instruction).then_some(range);
        flows_on = flows_on_after(&instruction);
        let is_near = (0..instruction.op_count())
            .any(|operand| instruction.op_kind(operand) == OpKind::NearBranch64);
        if is_near {
            decoded.targets.push(instruction.near_branch64());
        }
    }
    decoded.is_closed = !flows_on;
    // Nobody may jump into what is replaced.
    decoded.targets.sort_unstable();
    decoded.targets.dedup();
    let targets = &decoded.targets;
    decoded.replaceable.retain(|range| {
        let next = targets.partition_point(|target| *target <= range.start);
        targets.get(next).is_none_or(|target| *target >= range.end)
    });
    decoded
}

/// Whether bytes are nothing but instructions that do nothing, or trap.
pub(super) fn is_padding(code: &[u8]) -> bool {
    let mut decoder = Decoder::new(BITNESS, code, DecoderOptions::NONE);
    decoder.iter().all(|instruction| {
        !instruction.is_invalid()
            && matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
    })
}

/// Whether what follows an instruction may run after it.
///
/// A call may come back, although compilers end functions with calls that do not.
fn flows_on_after(instruction: &Instruction) -> bool {
    let flow = instruction.flow_control();
    let ends = matches!(
        flow,
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return
    );
    !ends && !matches!(instruction.mnemonic(), Mnemonic::Ud2 | Mnemonic::Hlt)
}

/// Whether an instruction may move to a trampoline.
///
/// It reads and writes nothing but registers, of which neither is RCX (a trampoline sets it) nor, to
/// write, RSP; and it may run again after it ran (the kernel moves who is in a trampoline back).
fn is_repeatable(instruction: &Instruction) -> bool {
    if instruction.op_count() != 2 || instruction.op0_kind() != OpKind::Register {
        return false;
    }
    let written = instruction.op0_register();
    let target = written.full_register();
    let is_whole = written.is_gpr32() || written.is_gpr64();
    if !is_whole || matches!(target, Register::RCX | Register::RSP) {
        return false;
    }
    let is_immediate = matches!(
        instruction.op1_kind(),
        OpKind::Immediate8
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32
            | OpKind::Immediate32to64
            | OpKind::Immediate64
    );
    let is_register = instruction.op1_kind() == OpKind::Register;
    let read = if is_register { instruction.op1_register() } else { Register::None };
    match instruction.mnemonic() {
        Mnemonic::Mov if is_immediate => {
            !(target == Register::RAX && instruction.immediate(1) == u64::from(SIGRETURN))
        }
        Mnemonic::Mov | Mnemonic::Movsxd | Mnemonic::Movsx | Mnemonic::Movzx if is_register => {
            // The high bytes would not be there the second time.
            let is_high = matches!(read, Register::AH | Register::BH | Register::CH | Register::DH);
            read.is_gpr() && !is_high && read.full_register() != Register::RCX
        }
        Mnemonic::Xor | Mnemonic::Sub => is_register && read == written,
        Mnemonic::And | Mnemonic::Or => is_immediate,
        Mnemonic::Lea => {
            let parts = [instruction.memory_base(), instruction.memory_index()];
            !instruction.is_ip_rel_memory_operand()
                && parts.iter().all(|part| {
                    *part == Register::None
                        || part.is_gpr() && ![Register::RCX, target].contains(&part.full_register())
                })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the instruction before a `syscall` can be replaced.
    fn replaces(before: &[u8]) -> bool {
        let mut code = vec![0x90];
        code.extend(before);
        code.extend([0x0f, 0x05, 0xc3]);
        let decoded = decode(&code, 0x1000);
        assert!(decoded.is_closed && decoded.found == 1, "{before:x?}");
        let expected = 0x1001..0x1001 + before.len() as u64;
        assert!(decoded.replaceable.iter().all(|range| *range == expected), "{before:x?}");
        !decoded.replaceable.is_empty()
    }

    #[test]
    fn moves_between_registers_are_replaced() {
        let good: &[&[u8]] = &[
            &[0xb8, 0x27, 0, 0, 0],                // mov $39,%eax
            &[0x48, 0xc7, 0xc0, 0x27, 0, 0, 0],    // mov $39,%rax
            &[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8], // movabs $...,%rax
            &[0x31, 0xc0],                         // xor %eax,%eax
            &[0x45, 0x31, 0xd2],                   // xor %r10d,%r10d
            &[0x29, 0xc0],                         // sub %eax,%eax
            &[0x89, 0xf8],                         // mov %edi,%eax
            &[0x4c, 0x89, 0xc0],                   // mov %r8,%rax
            &[0x48, 0x89, 0xdf],                   // mov %rbx,%rdi
            &[0x48, 0x63, 0xff],                   // movslq %edi,%rdi
            &[0x0f, 0xb6, 0xc0],                   // movzbl %al,%eax
            &[0x48, 0x8d, 0x74, 0x24, 0x10],       // lea 16(%rsp),%rsi
            &[0x83, 0xc8, 0xff],                   // or $-1,%eax
            &[0x83, 0xe0, 0x0f],                   // and $15,%eax
        ];
        for bytes in good {
            assert!(replaces(bytes), "{bytes:x?}");
        }
    }

    #[test]
    fn what_cannot_run_twice_or_elsewhere_is_left() {
        let bad: &[&[u8]] = &[
            &[0xb8, 15, 0, 0, 0],                     // mov $15,%eax: rt_sigreturn
            &[0x48, 0xc7, 0xc0, 15, 0, 0, 0],         // the same
            &[0x89, 0xc8],                            // mov %ecx,%eax
            &[0x31, 0xc9],                            // xor %ecx,%ecx
            &[0x31, 0xd8],                            // xor %ebx,%eax
            &[0x29, 0xf8],                            // sub %edi,%eax
            &[0x48, 0x89, 0xc4],                      // mov %rax,%rsp
            &[0x83, 0xc0, 0x01],                      // add $1,%eax
            &[0xff, 0xc0],                            // inc %eax
            &[0x58],                                  // pop %rax
            &[0x8b, 0x45, 0x10],                      // mov 16(%rbp),%eax
            &[0x8b, 0x05, 0, 0, 0, 0],                // mov 0(%rip),%eax
            &[0x48, 0x8d, 0x05, 0, 0, 0, 0],          // lea 0(%rip),%rax
            &[0x48, 0x8d, 0x40, 0x08],                // lea 8(%rax),%rax
            &[0x48, 0x8d, 0x04, 0x0f],                // lea (%rdi,%rcx),%rax
            &[0x0f, 0xb6, 0xc4],                      // movzbl %ah,%eax
            &[0x8c, 0xe0],                            // mov %fs,%eax
            &[0x0f, 0x20, 0xc0],                      // mov %cr0,%rax
            &[0xb0, 0x27],                            // mov $39,%al
            &[0x66, 0xb8, 0x27, 0],                   // mov $39,%ax
            &[0x89, 0x07],                            // mov %eax,(%rdi)
            &[0xc7, 0x44, 0x24, 0xb8, 0x10, 0, 0, 0], // movl $16,-72(%rsp)
            &[0x0f, 0x44, 0xc7],                      // cmove %edi,%eax
            &[0x90],                                  // nop
        ];
        for bytes in bad {
            assert!(!replaces(bytes), "{bytes:x?}");
        }
    }

    #[test]
    fn jumps_into_an_instruction_leave_it() {
        // mov $39,%eax; syscall; jmp to the second byte; and to the first
        for (distance, is_replaced) in [(-8_i8, false), (-9, true), (-4, true)] {
            let code = [0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xeb, distance.cast_unsigned()];
            let decoded = decode(&code, 0);
            let target = 9_u64.wrapping_add_signed(distance.into());
            assert_eq!(decoded.targets, [target]);
            assert_eq!(!decoded.replaceable.is_empty(), is_replaced, "{distance}");
        }
    }

    #[test]
    fn decoding_stops_at_what_is_no_instruction() {
        let code = [0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0x06, 0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xc3];
        let decoded = decode(&code, 0);
        assert_eq!((decoded.found, decoded.replaceable.len()), (1, 1));
        assert!(!decoded.is_closed);
        // Cut in the middle of an instruction.
        assert!(!decode(&[0xc3, 0xb8, 0], 0).is_closed);
        assert!(!decode(&[], 0).is_closed);
        assert!(!decode(&[0xe8, 0, 0, 0, 0], 0).is_closed, "a call may return");
        for end in [&[0xc3][..], &[0x0f, 0x0b], &[0xeb, 0x10], &[0xff, 0xe0], &[0xf4]] {
            assert!(decode(end, 0).is_closed, "{end:x?}");
        }
    }

    #[test]
    fn padding_is_what_compilers_fill_with() {
        for good in [
            &[0x90][..],
            &[0x66, 0x90],
            &[0xcc, 0xcc],
            &[0x0f, 0x1f, 0x44, 0, 0],
            &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
        ] {
            assert!(is_padding(good), "{good:x?}");
        }
        for bad in
            [&[0][..], &[0x90, 0xc3], &[0xf3, 0x0f, 0x1e, 0xfa], &[0x0f, 0x1f], &[0xf3, 0x90]]
        {
            assert!(!is_padding(bad), "{bad:x?}");
        }
    }
}
