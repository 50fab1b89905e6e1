// SPDX-License-Identifier: Apache-2.0
//! The first instructions, and what a freestanding program must bring along.

use alloc::vec;
use core::{
    arch::global_asm,
    panic::PanicInfo,
    sync::atomic::{AtomicU64, Ordering},
};

use trine_abi::{boot::BootInfo, layout::MAX_VCPUS, vcpu::Call};

use crate::fpu;

/// Bytes of the kernel's stack on each vCPU.
const STACK_BYTES: usize = 128 * 1024;

/// Tops of the stacks of the other vCPUs.
static STACK_TOPS: [AtomicU64; MAX_VCPUS] = [const { AtomicU64::new(0) }; MAX_VCPUS];

/// Lets the other vCPUs enter the kernel.
pub(crate) fn start_others(info: &BootInfo) {
    if info.vcpus == 1 {
        return;
    }
    for top in STACK_TOPS.iter().take(info.vcpus as usize).skip(1) {
        // 16-byte units: the alignment that the calling convention asks for.
        let stack = vec![0_u128; STACK_BYTES / size_of::<u128>()].leak();
        top.store(stack.as_ptr_range().end as u64, Ordering::Release);
    }
    fpu::cpu(0).call(Call::StartOthers);
}

global_asm!(
    ".section .text._start, \"ax\", @progbits",
    ".globl _start",
    "_start:",
    "    xor ebp, ebp",
    "    test rsi, rsi",
    "    jnz 2f",
    "    lea rsp, [rip + {stack} + {bytes}]",
    "    call {main}",
    "    ud2",
    "2:  lea rax, [rip + {tops}]",
    "    mov rsp, [rax + rsi * 8]",
    "    mov rdi, rsi",
    "    call {main_of_other}",
    "    ud2",
    // Called by compiled code; string instructions are native in ring 3.
    ".globl memcpy",
    "memcpy:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    rep movsb",
    "    ret",
    ".globl memmove",
    "memmove:",
    "    mov rax, rdi",
    "    mov rcx, rdx",
    "    mov r8, rdi",
    "    sub r8, rsi",
    "    cmp r8, rdx",
    "    jb 2f",
    "    rep movsb",
    "    ret",
    "2:  std",
    "    lea rsi, [rsi + rdx - 1]",
    "    lea rdi, [rdi + rdx - 1]",
    "    rep movsb",
    "    cld",
    "    ret",
    ".globl memset",
    "memset:",
    "    mov r8, rdi",
    "    mov eax, esi",
    "    mov rcx, rdx",
    "    rep stosb",
    "    mov rax, r8",
    "    ret",
    ".globl memcmp",
    ".globl bcmp",
    "memcmp:",
    "bcmp:",
    "    xor eax, eax",
    "    xor ecx, ecx",
    "3:  cmp rcx, rdx",
    "    je 4f",
    "    movzx eax, byte ptr [rdi + rcx]",
    "    movzx r8d, byte ptr [rsi + rcx]",
    "    inc rcx",
    "    sub eax, r8d",
    "    je 3b",
    "4:  ret",
    ".globl strlen",
    "strlen:",
    "    xor eax, eax",
    "5:  cmp byte ptr [rdi + rax], 0",
    "    je 6f",
    "    inc rax",
    "    jmp 5b",
    "6:  ret",
    // The precompiled core library names these; with panic = abort nothing ever calls them.
    ".globl rust_eh_personality",
    ".globl _Unwind_Resume",
    "rust_eh_personality:",
    "_Unwind_Resume:",
    "    ud2",
    stack = sym STACK,
    bytes = const STACK_BYTES,
    tops = sym STACK_TOPS,
    main = sym crate::main,
    main_of_other = sym crate::main_of_other,
);

#[repr(C, align(4096))]
struct Stack([u8; STACK_BYTES]);

static mut STACK: Stack = Stack([0; STACK_BYTES]);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut line = Line { bytes: [0; 512], used: 0 };
    // Formatting into a fixed buffer only ever truncates.
    let _ = core::fmt::Write::write_fmt(&mut line, format_args!("{info}"));
    let text = core::str::from_utf8(&line.bytes[..line.used]).unwrap_or("panic");
    // SAFETY: this is the guest.
    unsafe { trine_machine::cpu::panic(text) }
}

struct Line {
    bytes: [u8; 512],
    used: usize,
}

impl core::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for c in text.chars() {
            let mut buffer = [0; 4];
            let encoded = c.encode_utf8(&mut buffer).as_bytes();
            let Some(room) = self.bytes.get_mut(self.used..self.used + encoded.len()) else {
                return Ok(());
            };
            room.copy_from_slice(encoded);
            self.used += encoded.len();
        }
        Ok(())
    }
}
