# SPDX-License-Identifier: Apache-2.0
# See lib.rs.  Offsets into the data page are those of trine_abi::nucleus::Data; offsets from RSP
# in the save code are those of trine_machine::context::Registers.

.section .nucleus, "awx", @progbits
.balign 4096
.globl trine_nucleus_start
trine_nucleus_start:
    .ascii "TRINENU1"
    .long  stub_syscall - trine_nucleus_start
    .long  stub_kick - trine_nucleus_start
    .long  privileged - trine_nucleus_start
    .long  stub_exceptions - trine_nucleus_start
    .long  16
    .long  run - trine_nucleus_start

.set DATA, trine_nucleus_start + 0x2000
.set KERNEL_RSP, DATA + 0x00
.set USER_RSP, DATA + 0x08
.set FAULT_ADDRESS, DATA + 0x10
.set VECTOR, DATA + 0x18
.set KERNEL_MXCSR, DATA + 0x28
.set ENTER_SYSCALL, DATA + 0x30
.set ENTER_PAGE_FAULT, DATA + 0x58
.set ENTER_EXCEPTION, DATA + 0x80
.set ENTER_KICK, DATA + 0xa8
.set LEAVE, DATA + 0xd0
.set DELIVERED, DATA + 0xf8
# The frames that the CPU pushes: RIP, CS, RFLAGS, RSP, SS below the stack's top.
.set EXCEPTION_FRAME, DATA + 0x800 - 40
.set KICK_FRAME, DATA + 0x900 - 40

# ---- ring 0 (SYSCALL: ring 0 or 3) ---------------------------------------------------------

stub_syscall:
    movq %rsp, USER_RSP(%rip)
    leaq ENTER_SYSCALL(%rip), %rsp
    iretq

# UD2 in the nucleus pages is the kernel's privileged call: loads CR3 from RDI, which drops stale
# translations.  (A PVM host turns INT n in ring 3 into #UD, so a gate of its own is no way in.)
stub_invalid_opcode:
    cmpw $0x7f80, 4(%rsp)
    jne 1f
    movq %rdi, %cr3
    addq $2, (%rsp)
    iretq
1:  movb $6, VECTOR(%rip)
    jmp stub_exception

stub_page_fault:
    movq %cr2, %rsp
    movq %rsp, FAULT_ADDRESS(%rip)
    leaq ENTER_PAGE_FAULT(%rip), %rsp
    iretq

stub_exception:
    leaq ENTER_EXCEPTION(%rip), %rsp
    iretq

stub_kick:
    cmpb $0x7f, 5(%rsp)             # the system half?
    jne 1f
    movb $1, DELIVERED(%rip)
    cmpb $0x80, 4(%rsp)             # the nucleus pages?
    jne 2f
    testb $0x10, 1(%rsp)            # the exit page?
    jz 2f
    movw $(exit_abort - trine_nucleus_start), (%rsp)
2:  iretq
1:  leaq ENTER_KICK(%rip), %rsp
    iretq

.balign 16
stub_exceptions:
.set vector, 0
.rept 32
    .balign 16
    .if vector == 14
    jmp stub_page_fault
    .elseif vector == 6
    jmp stub_invalid_opcode
    .else
    movb $vector, VECTOR(%rip)
    jmp stub_exception
    .endif
    .set vector, vector + 1
.endr
.balign 16

# ---- ring 3: entry; RSP is the address of the application's registers ------------------------

.macro SAVE_REGISTERS
    movq %rax, 0x00(%rsp)
    movq %rbx, 0x08(%rsp)
    movq %rcx, 0x10(%rsp)
    movq %rdx, 0x18(%rsp)
    movq %rsi, 0x20(%rsp)
    movq %rdi, 0x28(%rsp)
    movq %rbp, 0x30(%rsp)
    movq %r8,  0x38(%rsp)
    movq %r9,  0x40(%rsp)
    movq %r10, 0x48(%rsp)
    movq %r11, 0x50(%rsp)
    movq %r12, 0x58(%rsp)
    movq %r13, 0x60(%rsp)
    movq %r14, 0x68(%rsp)
    movq %r15, 0x70(%rsp)
.endm

.macro SAVE_FRAME frame
    movq \frame + 0(%rip), %rcx
    movq %rcx, 0x78(%rsp)
    movq \frame + 16(%rip), %rcx
    movq %rcx, 0x80(%rsp)
    movq \frame + 24(%rip), %rcx
    movq %rcx, 0x88(%rsp)
.endm

enter_syscall:
    SAVE_REGISTERS
    movq %rcx, 0x78(%rsp)
    movq %r11, 0x80(%rsp)
    movq USER_RSP(%rip), %rcx
    movq %rcx, 0x88(%rsp)
    xorl %eax, %eax
    jmp enter

# Where a trampoline jumps (trine_abi::text): RCX has the address to return to, RFLAGS and RSP are
# the application's.  The stack is one word, Data::reserved.
enter_direct:
    movq %rsp, USER_RSP(%rip)
    leaq KERNEL_MXCSR(%rip), %rsp
    pushfq
    popq %r11
    movq ENTER_SYSCALL + 24(%rip), %rsp
    jmp enter_syscall

enter_page_fault:
    SAVE_REGISTERS
    SAVE_FRAME EXCEPTION_FRAME
    movl $2, %eax
    jmp enter

enter_exception:
    SAVE_REGISTERS
    SAVE_FRAME EXCEPTION_FRAME
    movl $3, %eax
    jmp enter

enter_kick:
    SAVE_REGISTERS
    SAVE_FRAME KICK_FRAME
    movl $1, %eax

enter:
    movaps %xmm0, 0x90(%rsp)
    movaps %xmm1, 0xa0(%rsp)
    movaps %xmm2, 0xb0(%rsp)
    movaps %xmm3, 0xc0(%rsp)
    movaps %xmm4, 0xd0(%rsp)
    movaps %xmm5, 0xe0(%rsp)
    movaps %xmm6, 0xf0(%rsp)
    movaps %xmm7, 0x100(%rsp)
    movaps %xmm8, 0x110(%rsp)
    movaps %xmm9, 0x120(%rsp)
    movaps %xmm10, 0x130(%rsp)
    movaps %xmm11, 0x140(%rsp)
    movaps %xmm12, 0x150(%rsp)
    movaps %xmm13, 0x160(%rsp)
    movaps %xmm14, 0x170(%rsp)
    movaps %xmm15, 0x180(%rsp)
    stmxcsr 0x190(%rsp)
to_kernel:
    movq KERNEL_RSP(%rip), %rsp
    cld
    ldmxcsr KERNEL_MXCSR(%rip)
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret

# A trap before the kernel was ready: the VMM reads the vector and the frame from the data page.
early:
    movabsq $0x7f4000001000, %rax   # DIRECT_MAP + MMIO_CALL
    movl $4, (%rax)                 # Call::Panic, without a text
    jmp early

# extern "C" fn privileged(root: u64): loads a page table.
privileged:
    ud2
    ret

# extern "C" fn run(registers: *mut Registers) -> u64: runs application code until it traps.
.globl trine_nucleus_run
run:
trine_nucleus_run:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, KERNEL_RSP(%rip)
    movq %rdi, ENTER_SYSCALL + 24(%rip)
    movq %rdi, ENTER_PAGE_FAULT + 24(%rip)
    movq %rdi, ENTER_EXCEPTION + 24(%rip)
    movq %rdi, ENTER_KICK + 24(%rip)
    jmp exit

# ---- ring 3: exit ----------------------------------------------------------------------------

.balign 4096
exit:
    cmpb $0, DELIVERED(%rip)
    jne exit_abort
    movq 0x78(%rdi), %rax
    movq %rax, LEAVE + 0(%rip)
    movq 0x80(%rdi), %rax
    movq %rax, LEAVE + 16(%rip)
    movq 0x88(%rdi), %rax
    movq %rax, LEAVE + 24(%rip)
    movaps 0x90(%rdi), %xmm0
    movaps 0xa0(%rdi), %xmm1
    movaps 0xb0(%rdi), %xmm2
    movaps 0xc0(%rdi), %xmm3
    movaps 0xd0(%rdi), %xmm4
    movaps 0xe0(%rdi), %xmm5
    movaps 0xf0(%rdi), %xmm6
    movaps 0x100(%rdi), %xmm7
    movaps 0x110(%rdi), %xmm8
    movaps 0x120(%rdi), %xmm9
    movaps 0x130(%rdi), %xmm10
    movaps 0x140(%rdi), %xmm11
    movaps 0x150(%rdi), %xmm12
    movaps 0x160(%rdi), %xmm13
    movaps 0x170(%rdi), %xmm14
    movaps 0x180(%rdi), %xmm15
    ldmxcsr 0x190(%rdi)
    movq 0x00(%rdi), %rax
    movq 0x08(%rdi), %rbx
    movq 0x10(%rdi), %rcx
    movq 0x18(%rdi), %rdx
    movq 0x20(%rdi), %rsi
    movq 0x30(%rdi), %rbp
    movq 0x38(%rdi), %r8
    movq 0x40(%rdi), %r9
    movq 0x48(%rdi), %r10
    movq 0x50(%rdi), %r11
    movq 0x58(%rdi), %r12
    movq 0x60(%rdi), %r13
    movq 0x68(%rdi), %r14
    movq 0x70(%rdi), %r15
    movq 0x28(%rdi), %rdi
    leaq LEAVE(%rip), %rsp
    iretq

exit_abort:
    movl $1, %eax
    jmp to_kernel

# ---- data ------------------------------------------------------------------------------------

.balign 4096
trine_nucleus_data:
# The VMM adds the address of the nucleus to every pointer here (trine_abi::nucleus::RELOCATIONS):
# until the kernel has run an application, a trap saves its registers in `scratch` and reports.
    .quad early_stack - trine_nucleus_start
    .quad 0, 0, 0, 0, 0x1f80
.macro FRAME entry
    .quad \entry - trine_nucleus_start, 0x33, 0x202, scratch - trine_nucleus_start, 0x2b
.endm
    FRAME enter_syscall
    FRAME enter_page_fault
    FRAME enter_exception
    FRAME enter_kick
    .quad 0, 0x33, 0x202, 0, 0x2b
    .quad 0
    .quad enter_direct - trine_nucleus_start
.org trine_nucleus_data - trine_nucleus_start + 0xa00
scratch:
.org trine_nucleus_data - trine_nucleus_start + 0xc00
early_stack:
    .quad 0, 0, 0, 0, 0, 0
    .quad early - trine_nucleus_start
.balign 4096
.text
