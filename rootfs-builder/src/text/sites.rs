// SPDX-License-Identifier: Apache-2.0
//! The system calls of a function, and the room in it.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

use super::{
    moving::Window,
    padding::{FAR_JUMP_BYTES, NEAR_JUMP_BYTES},
    plan::SITES_MAX,
};

pub(super) const BITNESS: u32 = 64;

/// What decoding a function found.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    /// Its system calls.
    pub(super) found: Vec<u64>,
    /// Those that can be rewritten, in order.
    pub(super) calls: Vec<Call>,
    /// Where it jumps to and what it calls, in order.
    pub(super) targets: Vec<u64>,
    /// Padding in it that nothing executes.
    pub(super) padding: Vec<Range<u64>>,
    /// Whether all of it was decoded, and nothing flows out of its end.
    pub(super) is_closed: bool,
}

/// A `syscall` that can be rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Its address.
    pub(super) at: u64,
    /// The instruction to replace by a far jump, if there is one with room for it.
    pub(super) long: Option<Range<u64>>,
    /// The instruction to replace by a near jump.
    pub(super) short: Option<Range<u64>>,
}

impl Call {
    /// All bytes that it is about.
    pub(super) fn claim(&self) -> Range<u64> {
        let starts = [&self.long, &self.short].into_iter().flatten().map(|head| head.start);
        starts.min().unwrap_or(self.at)..self.at + super::plan::SYSCALL.len() as u64
    }
}

/// Decodes a function, from its first byte to its last or to one that no instruction begins with.
pub(super) fn decode(code: &[u8], address: u64) -> Decoded {
    let mut decoded = Decoded::default();
    let mut decoder = Decoder::with_ip(BITNESS, code, address, DecoderOptions::NONE);
    let mut window = Window::new();
    let mut instruction = Instruction::default();
    let mut flows_on = true;
    let mut is_sound = true;
    let mut jumps_anywhere = false;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            is_sound = false;
            break;
        }
        let place = instruction.ip()..instruction.next_ip();
        if instruction.mnemonic() == Mnemonic::Syscall {
            decoded.found.push(place.start);
            let [long, short] = window.heads(FAR_JUMP_BYTES, NEAR_JUMP_BYTES);
            if (long.is_some() || short.is_some()) && decoded.calls.len() < SITES_MAX {
                decoded.calls.push(Call { at: place.start, long, short });
            }
        }
        window.push(&instruction);
        if !flows_on && is_filler(&instruction) {
            match decoded.padding.last_mut() {
                Some(last) if last.end == place.start => last.end = place.end,
                _ => decoded.padding.push(place),
            }
            continue;
        }
        flows_on = flows_on_after(&instruction);
        jumps_anywhere |= instruction.flow_control() == FlowControl::IndirectBranch
            && !instruction.is_ip_rel_memory_operand();
        let is_near =
            instruction.op_count() > 0 && (instruction.op0_kind() == OpKind::NearBranch64);
        if is_near {
            decoded.targets.push(instruction.near_branch64());
        }
    }
    decoded.is_closed = is_sound && !flows_on;
    decoded.targets.sort_unstable();
    decoded.targets.dedup();
    let targets = &decoded.targets;
    // Nobody may jump into what is replaced, ...
    for call in &mut decoded.calls {
        for head in [&mut call.long, &mut call.short] {
            *head = head.take().filter(|head| !has_any(targets, head.start + 1..head.end));
        }
    }
    decoded.calls.retain(|call| call.long.is_some() || call.short.is_some());
    // ... nor into padding.
    decoded.padding.retain(|padding| {
        let size = padding.end - padding.start;
        size >= FAR_JUMP_BYTES && is_sound && !jumps_anywhere && !has_any(targets, padding.clone())
    });
    decoded
}

/// Whether any address of an ordered list is in a range.
pub(super) fn has_any(addresses: &[u64], range: Range<u64>) -> bool {
    let first = addresses.partition_point(|address| *address < range.start);
    addresses.get(first).is_some_and(|address| *address < range.end)
}

/// Whether bytes are nothing but what compilers fill with.
pub(super) fn is_padding(code: &[u8]) -> bool {
    let mut decoder = Decoder::new(BITNESS, code, DecoderOptions::NONE);
    decoder.iter().all(|instruction| is_filler(&instruction))
}

/// Whether an instruction does nothing, or is a trap that nothing is meant to meet.
fn is_filler(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_a_head_with_room_and_one_without() {
        // mov $39,%eax; xor %edi,%edi; syscall; ret
        let code = [0xb8, 39, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, 0xc3];
        let decoded = decode(&code, 0x1000);
        let expected = Call { at: 0x1007, long: Some(0x1000..0x1005), short: Some(0x1005..0x1007) };
        assert_eq!((decoded.found, decoded.calls), (vec![0x1007], vec![expected.clone()]));
        assert_eq!(expected.claim(), 0x1000..0x1009);
        // Nothing moves over another call, a jump or a store.
        for between in [&[0x0f, 0x05][..], &[0xeb, 0], &[0x74, 0], &[0x89, 0x07], &[0xff, 0xd3]] {
            let code = [&code[..5], between, &code[7..]].concat();
            assert!(!decode(&code, 0).calls.iter().any(|call| call.at > 5), "{between:x?}");
        }
    }

    #[test]
    fn jumps_into_an_instruction_leave_it() {
        // mov $39,%eax; syscall; jmp to the second byte; to the first; to the call
        for (distance, is_replaced) in [(-8_i8, false), (-9, true), (-4, true)] {
            let code = [0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xeb, distance.cast_unsigned()];
            let decoded = decode(&code, 0);
            let target = 9_u64.wrapping_add_signed(distance.into());
            assert_eq!(decoded.targets, [target]);
            assert_eq!(!decoded.calls.is_empty(), is_replaced, "{distance}");
        }
    }

    #[test]
    fn decoding_stops_at_what_is_no_instruction() {
        let code = [0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0x06, 0xb8, 0x27, 0, 0, 0, 0x0f, 0x05, 0xc3];
        let decoded = decode(&code, 0);
        assert_eq!((decoded.found.len(), decoded.calls.len()), (1, 1));
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
    fn padding_of_a_function_is_what_nothing_reaches() {
        // ret; 6 bytes that do nothing; ret
        let code = [0xc3, 0x66, 0x0f, 0x1f, 0x44, 0, 0, 0xc3];
        assert_eq!(decode(&code, 0).padding, vec![1..7; 1]);
        assert_eq!(decode(&[&code[..], &[0xcc; 5]].concat(), 0).padding, [1..7, 8..13]);
        let flows_on = [&[0x90][..], &code[1..]].concat();
        assert_eq!(decode(&flows_on, 0).padding, []);
        let jumped = [&code[..], &[0xeb, (1_i8 - 10).cast_unsigned()]].concat();
        assert_eq!(decode(&jumped, 0).padding, []);
        let behind = [&code[..], &[0xeb, (7_i8 - 10).cast_unsigned()]].concat();
        assert_eq!(decode(&behind, 0).padding, vec![1..7; 1]);
        let anywhere = [&code[..], &[0xff, 0xe0]].concat();
        assert_eq!(decode(&anywhere, 0).padding, [], "a table of jumps may lead there");
        let broken = [&code[..], &[0x06]].concat();
        assert_eq!(decode(&broken, 0).padding, [], "who knows what follows");
        assert_eq!(decode(&[0xc3, 0x90, 0x90, 0x90, 0x90, 0xc3], 0).padding, [], "too short");
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
