// SPDX-License-Identifier: Apache-2.0
// simd SECONDS: four processes fill every vector register with values of their own, then lose the CPU
// in all ways there are (preemption, system calls, page faults, signals), and look again.  Also
// MXCSR and the x87 control word.
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 4, REGISTERS = 16, BYTES = 32, PAGE = 4096, PAGES = 64 };

static int has_avx(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX)) return 0;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 6) == 6;
}

#define ALL(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD_YMM(n) "vmovdqu 32*" #n "(%[in]), %%ymm" #n "\n"
#define SAVE_YMM(n) "vmovdqu %%ymm" #n ", 32*" #n "(%[out])\n"
#define LOAD_XMM(n) "movdqu 32*" #n "(%[in]), %%xmm" #n "\n"
#define SAVE_XMM(n) "movdqu %%xmm" #n ", 32*" #n "(%[out])\n"
// Between load and save: a long loop (to be preempted in), system calls, and a store to a page that
// may not be there yet.
#define BETWEEN                                                                  \
    "mov $20000, %%r8\n1: dec %%r8\njnz 1b\n"                                    \
    "mov $3, %%r8\n2: mov %[call], %%eax\nsyscall\nmovb $1, (%[page])\n"         \
    "dec %%r8\njnz 2b\n"
#define ROUND(LOAD, SAVE)                                                        \
    __asm__ volatile(ALL(LOAD) BETWEEN ALL(SAVE)                                 \
                     :                                                           \
                     : [in] "r"(in), [out] "r"(out), [page] "r"(page),           \
                       [call] "i"(SYS_getppid)                                   \
                     : "rax", "rcx", "r8", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", \
                       "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
                       "xmm13", "xmm14", "xmm15")

static volatile double disturbance = 1.5;
static void on_signal(int signal) { disturbance = disturbance * 1.25 + signal; }

static int work(int seed, int seconds, int avx) {
    uint8_t in[REGISTERS * BYTES], out[REGISTERS * BYTES];
    uint32_t mxcsr = 0x1f80 | (uint32_t)(seed & 3) << 13, mxcsr_after;
    uint16_t control = (uint16_t)(0x037f | (seed & 3) << 10), control_after;
    __asm__ volatile("ldmxcsr %0\nfldcw %1" : : "m"(mxcsr), "m"(control));
    signal(SIGUSR1, on_signal);
    time_t end = time(NULL) + seconds;
    unsigned value = (unsigned)seed * 2654435761u, rounds = 0;
    char *pages = NULL;
    do {
        if (rounds % PAGES == 0) {
            if (pages) munmap(pages, PAGES * PAGE);
            pages = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (pages == MAP_FAILED) { perror("mmap"); return 1; }
        }
        char *page = pages + rounds % PAGES * PAGE;
        for (size_t i = 0; i < sizeof in; i++) in[i] = (uint8_t)((value = value * 1103515245 + 12345) >> 16);
        memset(out, 0, sizeof out);
        if (avx) ROUND(LOAD_YMM, SAVE_YMM);
        else ROUND(LOAD_XMM, SAVE_XMM);
        for (int r = 0; r < REGISTERS; r++) {
            if (memcmp(in + r * BYTES, out + r * BYTES, avx ? 32 : 16)) {
                fprintf(stderr, "register %d changed in round %u\n", r, rounds);
                return 1;
            }
        }
        __asm__ volatile("stmxcsr %0\nfnstcw %1" : "=m"(mxcsr_after), "=m"(control_after));
        if ((mxcsr_after & ~0x3fu) != mxcsr || control_after != control) {
            fprintf(stderr, "mxcsr %#x not %#x, or control word %#x not %#x\n", mxcsr_after, mxcsr,
                    control_after, control);
            return 1;
        }
        rounds++;
    } while (time(NULL) < end);
    return rounds < 3;
}

int main(int argc, char **argv) {
    int seconds = argc > 1 ? atoi(argv[1]) : 2, avx = has_avx(), failed = 0;
    pid_t workers[WORKERS];
    signal(SIGUSR1, on_signal); // inherited: a signal may come before the worker sets its own
    for (int i = 0; i < WORKERS; i++) {
        if ((workers[i] = fork()) < 0) { perror("fork"); return 1; }
        if (workers[i] == 0) _exit(work(i + 1, seconds, avx));
    }
    for (int i = 0; i < seconds * 20; i++) {
        usleep(50 * 1000);
        for (int j = 0; j < WORKERS; j++) kill(workers[j], SIGUSR1);
    }
    for (int i = 0; i < WORKERS; i++) {
        int status;
        if (waitpid(workers[i], &status, 0) != workers[i] || status != 0) {
            fprintf(stderr, "worker %d ended with %#x\n", i, status);
            failed = 1;
        }
    }
    if (!failed) printf("simd ok\n");
    fprintf(stderr, "vector registers: %s\n", avx ? "ymm" : "xmm");
    return failed;
}
