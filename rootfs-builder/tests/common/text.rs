// SPDX-License-Identifier: Apache-2.0
//! What must hold of every rewritten file.

use std::collections::BTreeMap;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};
use trine_abi::text::{GATE_DISPLACEMENT, TRAMPOLINE_BYTES, TRAMPOLINE_ORIGIN};
use trine_rootfs_builder::text::Rewrite;

const PAGE: usize = 4096;
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Returns a file with its rewritten pages in place.
pub(crate) fn patched(original: &[u8], rewrite: &Rewrite) -> Vec<u8> {
    let mut file = original.to_vec();
    for page in &rewrite.pages {
        let start = page.number as usize * PAGE;
        let end = file.len().min(start + PAGE);
        let bytes = &page.bytes[..end - start];
        assert_ne!(file[start..end], *bytes, "page {} is as it was", page.number);
        assert!(page.bytes[end - start..].iter().all(|byte| *byte == 0));
        file[start..end].copy_from_slice(bytes);
    }
    file
}

/// Decodes bytes, all of which must be instructions.
pub(crate) fn decode(bytes: &[u8], address: u64) -> Vec<Instruction> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    let instructions: Vec<_> = decoder.iter().collect();
    assert!(instructions.iter().all(|instruction| !instruction.is_invalid()), "{bytes:x?}");
    instructions
}

/// Checks a rewritten file, all of it, against the original.
pub(crate) fn check(original: &[u8], rewrite: &Rewrite) {
    let numbers: Vec<_> = rewrite.pages.iter().map(|page| page.number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert!(rewrite.trampolines.len().is_multiple_of(PAGE));
    assert!(rewrite.place % PAGE as i64 == 0);
    assert!(rewrite.found >= rewrite.sites.len() as u64);
    assert_eq!(rewrite.sites.is_empty(), rewrite.pages.is_empty());
    assert!(rewrite.sites.is_sorted_by(|a, b| a.offset < b.offset));

    let patched = patched(original, rewrite);
    let mut undone = patched.clone();
    let mut unused: BTreeMap<_, _> = rewrite
        .trampolines
        .chunks(TRAMPOLINE_BYTES as usize)
        .enumerate()
        .map(|(index, bytes)| (index as u64 * TRAMPOLINE_BYTES, bytes))
        .collect();
    for site in &rewrite.sites {
        let (start, length) = (site.offset as usize, usize::from(site.length));
        let replaced = &original[start..start + length];
        let (after, call) = (start + length, site.call as usize);
        // What runs in the trampoline stays where it is, but for the replaced instruction.
        assert_eq!(original[call..call + 2], SYSCALL);
        assert_eq!(original[after..call + 2], patched[after..call + 2]);
        let mut moved = decode(&original[start..call], 0);
        moved.retain(|instruction| instruction.mnemonic() != Mnemonic::Nop);
        assert!(moved.iter().all(|moved| moved.flow_control() == FlowControl::Next));
        assert_eq!(moved[0].len(), length);

        // Addresses as if the file lay at 0, and its trampolines where they belong.
        let base = 1_i64 << 40;
        let offset = (base + start as i64).cast_unsigned();
        let trampoline = (base + rewrite.place).cast_unsigned() + site.trampoline;
        let mut jump = decode(&patched[start..after], offset);
        if let Some(hop) = &site.hop {
            assert_eq!(jump[0].code(), Code::Jmp_rel8_64, "{:x}", site.offset);
            assert!(jump[1..].iter().all(|rest| rest.mnemonic() == Mnemonic::Nop));
            assert_eq!(jump[0].near_branch64(), base.cast_unsigned() + hop.offset);
            assert!(hop.gap.start <= hop.offset && hop.offset + 5 <= hop.gap.end);
            let at = hop.offset as usize;
            jump = decode(&patched[at..at + 5], base.cast_unsigned() + hop.offset);
            let gap = hop.gap.start as usize..hop.gap.end as usize;
            let padding = decode(&original[gap.clone()], 0);
            assert!(
                padding
                    .iter()
                    .all(|filler| { matches!(filler.mnemonic(), Mnemonic::Nop | Mnemonic::Int3) })
            );
            undone[gap.clone()].copy_from_slice(&original[gap]);
        }
        assert_eq!(jump[0].code(), Code::Jmp_rel32_64, "{:x}", site.offset);
        assert!(jump[1..].iter().all(|rest| rest.mnemonic() == Mnemonic::Nop));
        assert_eq!(jump[0].near_branch64(), trampoline, "{:x}", site.offset);

        let bytes = unused.remove(&site.trampoline).expect("a trampoline of its own");
        assert!(bytes.starts_with(replaced));
        check_trampoline(bytes, trampoline, &moved, offset, (base + site.call as i64 + 2) as u64);
        undone[start..after].copy_from_slice(&bytes[..length]);
    }
    assert!(undone == original, "undoing the changes does not give the original");
    assert!(unused.values().all(|bytes| bytes.iter().all(|byte| *byte == 0xcc)));
}

fn check_trampoline(bytes: &[u8], address: u64, moved: &[Instruction], origin: u64, after: u64) {
    let (code, distance) = bytes.split_at(TRAMPOLINE_ORIGIN as usize);
    let distance = i32::from_le_bytes(distance.try_into().unwrap());
    assert_eq!(address.wrapping_add_signed(distance.into()), origin);
    let instructions = decode(code, address);
    // Of instructions, the place is not compared.
    let (first, rest) = instructions.split_at(moved.len());
    assert_eq!(first, moved);
    let [load, enter, filler @ ..] = rest else { panic!("{bytes:x?}") };
    assert_eq!((load.code(), load.op0_register()), (Code::Lea_r64_m, Register::RCX));
    assert!(load.is_ip_rel_memory_operand());
    assert_eq!(load.ip_rel_memory_address(), after);
    assert_eq!((enter.code(), enter.segment_prefix()), (Code::Jmp_rm64, Register::GS));
    assert_eq!((enter.memory_base(), enter.memory_index()), (Register::None, Register::None));
    assert_eq!(enter.memory_displacement64().cast_signed(), i64::from(GATE_DISPLACEMENT));
    assert!(filler.iter().all(|rest| rest.mnemonic() == Mnemonic::Int3));
}
