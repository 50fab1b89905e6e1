// SPDX-License-Identifier: Apache-2.0
//! Rewriting of files that are made to be difficult.

mod common;

use common::elf::{EXECUTE, FIRST_OFFSET, Program, READ, WRITE};
use common::text::check;
use trine_rootfs_builder::text::{self, Rewrite};

const BASE: u64 = 0x40_1000;
/// mov $39,%eax; syscall; ret
const GETPID: [u8; 8] = [0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3];
/// xor %eax,%eax; syscall; ret
const READ_CALL: [u8; 5] = [0x31, 0xc0, 0x0f, 0x05, 0xc3];

fn rewritten(program: &Program) -> Rewrite {
    let file = program.bytes();
    let rewrite = text::rewrite(&file);
    check(&file, &rewrite);
    rewrite
}

/// Rewrites one function.
fn function(code: &[u8]) -> Rewrite {
    let range = BASE..BASE + code.len() as u64;
    rewritten(&Program::fixed().segment(READ | EXECUTE, BASE, code).function(range))
}

/// Where sites are, from the start of the code.
fn sites(rewrite: &Rewrite) -> Vec<u64> {
    rewrite.sites.iter().map(|site| site.offset - FIRST_OFFSET).collect()
}

#[test]
fn constants_before_a_call_become_jumps() {
    let rewrite = function(&GETPID);
    assert_eq!((rewrite.found, sites(&rewrite)), (1, vec![0]));
    // Directly below the first page: the file's first byte would lie at 0x400000.
    assert_eq!(rewrite.place, 0);
    assert_eq!(rewrite.pages.len(), 1);
    assert_eq!(rewrite.pages[0].number, (FIRST_OFFSET / 4096) as u32);
    let go = [&[0x48, 0xc7, 0xc0, 39, 0, 0, 0][..], &GETPID[5..]].concat();
    assert_eq!(sites(&function(&go)), [0]);
    assert_eq!(function(&go).sites[0].length, 7);
}

#[test]
fn bytes_of_other_instructions_are_left() {
    // movl $16,-72(%rbp), which ends like mov $16,%eax; syscall
    let ioctl = [0xc7, 0x45, 0xb8, 16, 0, 0, 0, 0x0f, 0x05, 0xc3];
    assert_eq!((function(&ioctl).found, function(&ioctl).sites.len()), (1, 0));
    // The same with the thread's own stack: what moves is the whole instruction.
    let ioctl = [0xc7, 0x44, 0x24, 0xb8, 16, 0, 0, 0, 0x0f, 0x05, 0xc3];
    assert_eq!((sites(&function(&ioctl)), function(&ioctl).sites[0].length), (vec![0], 8));
    // mov $0x050f0000,%edi, which has a syscall in it
    let inside = [0xb8, 0, 0, 0, 0, 0xbf, 0, 0, 0x0f, 0x05, 0xc3];
    assert_eq!(function(&inside), Rewrite::default());
    // The same in a displacement, behind what looks like mov $39,%eax.
    let displaced = [0x48, 0x8b, 0x80, 0xb8, 39, 0, 0, 0x48, 0x8b, 0x80, 0x0f, 0x05, 0, 0, 0xc3];
    assert_eq!(function(&displaced), Rewrite::default());
    // A jump to the middle of mov.
    let jumped = [&GETPID[..7], &[0xeb, 0xf8]].concat();
    assert_eq!((function(&jumped).found, function(&jumped).sites.len()), (1, 0));
    // No instruction begins like that, so who knows what follows.
    let broken = [&[0x06][..], &GETPID].concat();
    assert_eq!(function(&broken), Rewrite::default());
}

#[test]
fn code_that_is_in_no_function_is_left() {
    let program = Program::fixed().segment(READ | EXECUTE, BASE, &[GETPID, GETPID].concat());
    assert_eq!(rewritten(&program), Rewrite::default());
    let program = program.function(BASE + 8..BASE + 16);
    assert_eq!((rewritten(&program).found, sites(&rewritten(&program))), (1, vec![8]));
    // The function that begins in the middle of an instruction sees another `mov`.
    let program = program.function(BASE + 9..BASE + 16);
    assert!(rewritten(&program).sites.is_empty());
}

#[test]
fn short_instructions_jump_to_padding() {
    let code = [&READ_CALL[..], &[0xcc; 11], &READ_CALL, &[0x90; 3], &READ_CALL].concat();
    let at = |start: u64, length: u64| BASE + start..BASE + start + length;
    let functions = [at(0, 5), at(16, 5), at(24, 5)];
    let program = |code: &[u8]| {
        let program = Program::fixed().segment(READ | EXECUTE, BASE, code);
        functions.iter().cloned().fold(program, Program::function)
    };
    let rewrite = rewritten(&program(&code));
    // 11 bytes have room for two jumps, 3 for none.
    assert_eq!((rewrite.found, sites(&rewrite)), (3, vec![0, 16]));
    let hops: Vec<_> =
        rewrite.sites.iter().map(|site| site.hop.clone().unwrap().offset - FIRST_OFFSET).collect();
    assert_eq!(hops, [5, 10]);

    let mut flows_on = code.clone();
    flows_on[4] = 0x90;
    assert!(rewritten(&program(&flows_on)).sites.is_empty(), "what executes is no padding");
    let mut has_code = code.clone();
    has_code[10] = 0xc3;
    assert!(rewritten(&program(&has_code)).sites.is_empty(), "somebody's code is no padding");
    let mut zeros = code.clone();
    zeros[5..16].fill(0);
    assert!(rewritten(&program(&zeros)).sites.is_empty(), "zeros may be data");
    // The third function jumps there: jmp to 7, in place of its ret.
    let mut jumped = code.clone();
    jumped.truncate(28);
    jumped.extend([0xeb, (7_i8 - 30).cast_unsigned()]);
    let rewrite = rewritten(&program(&jumped).function(at(24, 6)));
    assert!(rewrite.sites.is_empty(), "what is jumped to is no padding");
}

#[test]
fn padding_out_of_reach_is_not_used() {
    for (distance, is_rewritten) in [(120_usize, true), (140, false)] {
        let mut code = READ_CALL[..4].to_vec();
        code.resize(distance, 0x90);
        code.push(0xc3);
        let end = BASE + code.len() as u64;
        code.extend([0xcc; 8]);
        code.extend([0xc3]);
        let program = Program::relocated()
            .segment(READ | EXECUTE, BASE, &code)
            .function(BASE..end)
            .function(end + 8..end + 9);
        assert_eq!(!rewritten(&program).sites.is_empty(), is_rewritten, "{distance}");
    }
}

#[test]
fn pages_that_somebody_writes_are_left() {
    let code = [&GETPID[..], &[0x90; 4096 - 8], &GETPID].concat();
    let program = |flags| {
        Program::fixed()
            .segment(flags, BASE, &code)
            .function(BASE..BASE + 8)
            .function(BASE + 4096..BASE + 4104)
    };
    assert_eq!(sites(&rewritten(&program(READ | EXECUTE))), [0, 4096]);
    assert_eq!(rewritten(&program(READ | WRITE | EXECUTE)), Rewrite::default());
    assert_eq!(rewritten(&program(READ)), Rewrite::default());

    // The data begins in the page of the file in which the code ends: one byte less is enough.
    let mut file = program(READ | EXECUTE).segment(READ | WRITE, 0x60_0000, b"data").bytes();
    assert_eq!(sites(&text::rewrite(&file)), [0, 4096]);
    let offset = 64 + 56 + 8;
    file[offset..offset + 8].copy_from_slice(&(FIRST_OFFSET + 4096).to_le_bytes());
    let rewrite = text::rewrite(&file);
    check(&file, &rewrite);
    assert_eq!(sites(&rewrite), [0]);
}

#[test]
fn of_segments_that_move_apart_the_one_with_most_sites_is_rewritten() {
    let two = [GETPID, GETPID].concat();
    let program = Program::relocated()
        .segment(READ | EXECUTE, 0x1000, &GETPID)
        .segment(READ | EXECUTE, 0x9000, &two)
        .function(0x1000..0x1008)
        .function(0x9000..0x9008)
        .function(0x9008..0x9010);
    let rewrite = rewritten(&program);
    assert_eq!((rewrite.found, sites(&rewrite)), (3, vec![4096, 4104]));
    // One page below 0x1000, seen from a file whose byte 0x2000 lies at 0x9000.
    assert_eq!(rewrite.place, -0x7000);
}

#[test]
fn trampolines_need_room_below_programs_that_are_not_relocated() {
    let program = |start: Program, address: u64| {
        start.segment(READ | EXECUTE, address, &GETPID).function(address..address + 8)
    };
    assert_eq!(rewritten(&program(Program::fixed(), 0x1_2000)).sites.len(), 1);
    let low = rewritten(&program(Program::fixed(), 0x1_1000));
    assert_eq!((low.found, low.sites.len()), (1, 0));
    let relocated = rewritten(&program(Program::relocated(), 0));
    assert_eq!(relocated.place, -0x1000 + i64::from(FIRST_OFFSET as i32));
    assert_eq!(relocated.sites.len(), 1);
}

#[test]
fn more_sites_than_a_page_of_trampolines_has_take_more_pages() {
    let code = GETPID.repeat(129);
    let functions = (0..129).map(|index| BASE + 8 * index);
    let program = Program::fixed().segment(READ | EXECUTE, BASE, &code);
    let program = functions.fold(program, |all, start| all.function(start..start + 8));
    let rewrite = rewritten(&program);
    assert_eq!((rewrite.sites.len(), rewrite.trampolines.len()), (129, 2 * 4096));
    assert_eq!(rewrite.place, -0x1000);
}

#[test]
fn calls_that_cross_a_page_change_both_pages() {
    let code = [&[0x90; 4093][..], &GETPID].concat();
    let rewrite = function(&code);
    assert_eq!((sites(&rewrite), rewrite.pages.len()), (vec![4093], 2));
}

#[test]
fn damaged_files_are_rewritten_soundly_or_left() {
    let code = [&READ_CALL[..], &[0xcc; 11], &GETPID, &[0x90; 8], &GETPID].concat();
    let good = Program::fixed()
        .segment(READ | EXECUTE, BASE, &code)
        .segment(READ | WRITE, 0x60_0000, b"data")
        .function(BASE..BASE + 5)
        .function(BASE + 16..BASE + 24)
        .function(BASE + 32..BASE + 40)
        .bytes();
    assert_eq!(text::rewrite(&good).sites.len(), 3);
    let mut unlike = 0;
    let mut damaged = |file: &[u8]| {
        let rewrite = text::rewrite(file);
        check(file, &rewrite);
        unlike += usize::from(rewrite.sites.len() != 3);
    };
    for end in (0..good.len()).rev().filter(|end| *end < 200 || end % 7 == 0) {
        damaged(&good[..end]);
    }
    let interesting = |at: &usize| *at < 64 + 2 * 56 || *at >= FIRST_OFFSET as usize;
    for at in (0..good.len()).filter(interesting) {
        for bit in 0..8 {
            let mut file = good.clone();
            file[at] ^= 1 << bit;
            damaged(&file);
        }
        let mut file = good.clone();
        file[at] = 0xff;
        damaged(&file);
    }
    assert!(unlike > 1000, "{unlike} of the damaged files lost a site");
}
