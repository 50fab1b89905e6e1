# SPDX-License-Identifier: Apache-2.0
# The vDSO: clocks without a system call (vdso(7)).
#
# The page before the image holds what the kernel knows of the clock; it never changes:
#    0  tsc_base          TSC at base_ns
#    8  mult              nanoseconds a tick, times 2^32
#   16  base_ns           CLOCK_MONOTONIC at tsc_base
#   24  realtime_offset   CLOCK_REALTIME minus CLOCK_MONOTONIC
#
# CLOCK_MONOTONIC = base_ns + ((tsc - tsc_base) * mult >> 32), with a 128-bit product.
#
# Built into vdso.so, which is what the kernel maps, by:
#   gcc -nostdlib -shared -s -Wl,-T,vdso.lds -Wl,--hash-style=both -Wl,--build-id=none \
#       -Wl,-soname,linux-vdso.so.1 -Wl,-z,max-page-size=4096 -Wl,-z,noexecstack \
#       -o vdso.so vdso.S

    .set    REALTIMES, 0x821        # clocks 0, 5, 11
    .set    COARSE, 0x060           # clocks 5, 6
    .set    CLOCKS, 0x8f3           # those, and 1, 4, 6, 7
    .set    SYS_CLOCK_GETTIME, 228
    .set    SYS_CLOCK_GETRES, 229

    .text

# CLOCK_MONOTONIC in nanoseconds -> rax; uses rdx and r8.
    .macro  monotonic
    lfence                          # no earlier than the code before it
    rdtsc
    shl     $32, %rdx
    or      %rdx, %rax
    lea     vvar(%rip), %r8
    sub     (%r8), %rax
    jae     1f
    xor     %eax, %eax              # another CPU's counter was a bit behind
1:  mulq    8(%r8)
    shrd    $32, %rdx, %rax
    add     16(%r8), %rax
    .endm

# rax nanoseconds -> rax seconds, rdx nanoseconds; uses rcx.
    .macro  split
    xor     %edx, %edx
    mov     $1000000000, %ecx
    div     %rcx
    .endm

    .globl  __vdso_clock_gettime
    .type   __vdso_clock_gettime, @function
__vdso_clock_gettime:
    .cfi_startproc
    cmp     $11, %edi
    ja      2f
    mov     $CLOCKS, %eax
    bt      %edi, %eax
    jnc     2f
    monotonic
    mov     $REALTIMES, %ecx
    bt      %edi, %ecx
    jnc     3f
    add     24(%r8), %rax
3:  split
    mov     %rax, (%rsi)
    mov     %rdx, 8(%rsi)
    xor     %eax, %eax
    ret
2:  mov     $SYS_CLOCK_GETTIME, %eax
    syscall
    ret
    .cfi_endproc
    .size   __vdso_clock_gettime, . - __vdso_clock_gettime

    .globl  __vdso_clock_getres
    .type   __vdso_clock_getres, @function
__vdso_clock_getres:
    .cfi_startproc
    cmp     $11, %edi
    ja      2f
    mov     $CLOCKS, %eax
    bt      %edi, %eax
    jnc     2f
    test    %rsi, %rsi
    jz      4f
    movq    $0, (%rsi)
    movq    $1, 8(%rsi)
    mov     $COARSE, %eax
    bt      %edi, %eax
    jnc     4f
    movq    $4000000, 8(%rsi)
4:  xor     %eax, %eax
    ret
2:  mov     $SYS_CLOCK_GETRES, %eax
    syscall
    ret
    .cfi_endproc
    .size   __vdso_clock_getres, . - __vdso_clock_getres

    .globl  __vdso_gettimeofday
    .type   __vdso_gettimeofday, @function
__vdso_gettimeofday:
    .cfi_startproc
    test    %rdi, %rdi
    jz      5f
    monotonic
    add     24(%r8), %rax
    split
    mov     %rax, (%rdi)
    mov     %rdx, %rax
    xor     %edx, %edx
    mov     $1000, %ecx
    div     %rcx
    mov     %rax, 8(%rdi)
5:  test    %rsi, %rsi
    jz      6f
    movq    $0, (%rsi)
6:  xor     %eax, %eax
    ret
    .cfi_endproc
    .size   __vdso_gettimeofday, . - __vdso_gettimeofday

    .globl  __vdso_time
    .type   __vdso_time, @function
__vdso_time:
    .cfi_startproc
    monotonic
    add     24(%r8), %rax
    split
    test    %rdi, %rdi
    jz      7f
    mov     %rax, (%rdi)
7:  ret
    .cfi_endproc
    .size   __vdso_time, . - __vdso_time

# One vCPU runs all threads of a container in turns, and there is one node.
    .globl  __vdso_getcpu
    .type   __vdso_getcpu, @function
__vdso_getcpu:
    .cfi_startproc
    test    %rdi, %rdi
    jz      8f
    movl    $0, (%rdi)
8:  test    %rsi, %rsi
    jz      9f
    movl    $0, (%rsi)
9:  xor     %eax, %eax
    ret
    .cfi_endproc
    .size   __vdso_getcpu, . - __vdso_getcpu

    .macro  alias name
    .weak   \name
    .set    \name, __vdso_\name
    .endm

    alias   clock_gettime
    alias   clock_getres
    alias   gettimeofday
    alias   time
    alias   getcpu

    .section .note.GNU-stack, "", @progbits
