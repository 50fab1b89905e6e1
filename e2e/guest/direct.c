// SPDX-License-Identifier: Apache-2.0
// direct: system calls by a jump must be like those by a trap.  Where the image has rewritten text,
// nobody finds a thread in it, calls are interrupted and made again, and whoever needs GS, or is
// traced, goes on with the file's own text.
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define MUST(condition)                                                               \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "line %d: %s (errno %d)\n", __LINE__, #condition, errno); \
            _exit(1);                                                                 \
        }                                                                             \
    } while (0)

static uintptr_t low, high;
static volatile sig_atomic_t ticks, inside;

// Where the trampolines are, as everybody can see.
static void find_trampolines(void) {
    char line[256];
    FILE *maps = fopen("/proc/self/maps", "r");
    MUST(maps);
    while (fgets(line, sizeof line, maps)) {
        if (strstr(line, "[syscalls]")) MUST(sscanf(line, "%lx-%lx r-xp", &low, &high) == 2);
    }
    fclose(maps);
    MUST(low);
}

static void on_tick(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    uintptr_t rip = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    if (rip >= low && rip < high) inside = 1;
    ticks++;
}

// Cheap calls, one after the other; each must give what it should.
static void *make_calls(void *argument) {
    pid_t parent = getppid();
    int zero = open("/dev/zero", O_RDWR);
    MUST(zero >= 0);
    char byte = 1;
    struct stat attributes;
    for (long left = (long)argument; left > 0; left--) {
        MUST(getppid() == parent);
        MUST(read(zero, &byte, 1) == 1 && byte == 0);
        MUST(write(zero, &byte, 1) == 1);
        MUST(fstat(zero, &attributes) == 0 && S_ISCHR(attributes.st_mode));
        MUST(syscall(SYS_getppid) == parent);
        MUST(lseek(-1, 0, SEEK_SET) == -1 && errno == EBADF);
    }
    close(zero);
    return NULL;
}

// Signals come between any two instructions of calls.
static void interrupt(void) {
    struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    MUST(sigaction(SIGALRM, &action, NULL) == 0);
    // An emulated machine is too slow for more often.
    struct itimerval often = {{0, 20000}, {0, 20000}}, never = {0};
    MUST(setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (int round = 0; round < 500 && ticks < 30; round++) make_calls((void *)500);
    MUST(ticks >= 30 && !inside);
    // A call that is made again, and one that is not.
    int ends[2];
    MUST(pipe(ends) == 0);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        usleep(30000);
        _exit(write(ends[1], "x", 1) != 1);
    }
    char byte = 0;
    MUST(read(ends[0], &byte, 1) == 1 && byte == 'x');
    MUST(pause() == -1 && errno == EINTR);
    MUST(setitimer(ITIMER_REAL, &never, NULL) == 0);
    int status;
    MUST(waitpid(child, &status, 0) == child && status == 0);
}

static void thread_calls(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) MUST(pthread_create(&threads[i], NULL, make_calls, (void *)1500) == 0);
    for (int i = 0; i < 4; i++) MUST(pthread_join(threads[i], NULL) == 0);
}

// In children, as their text does not change back.
static void use_gs(void) {
    static uint64_t word = 0x1122334455667788;
    for (int way = 0; way < 2; way++) {
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0) {
            uint64_t found;
            if (way) asm volatile("wrgsbase %0" : : "r"(&word));
            else MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, &word) == 0);
            make_calls((void *)100);
            asm volatile("mov %%gs:0, %0" : "=r"(found));
            _exit(found != word);
        }
        int status;
        MUST(waitpid(child, &status, 0) == child && status == 0);
    }
}

// One instruction after the other, over calls; then a tracer that reads the text.
static void trace(void) {
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0)) _exit(1);
        raise(SIGSTOP);
        make_calls((void *)20);
        _exit(7);
    }
    int status, steps = 0;
    MUST(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    for (; steps < 800; steps++) {
        struct user_regs_struct registers;
        MUST(ptrace(PTRACE_SINGLESTEP, child, 0, 0) == 0);
        MUST(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
        MUST(WSTOPSIG(status) == SIGTRAP);
        MUST(ptrace(PTRACE_GETREGS, child, 0, &registers) == 0);
        MUST(registers.rip < low || registers.rip >= high);
    }
    MUST(ptrace(PTRACE_CONT, child, 0, 0) == 0);
    MUST(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

int main(void) {
    find_trampolines();
    make_calls((void *)1500);
    interrupt();
    thread_calls();
    use_gs();
    trace();
    make_calls((void *)1000);
    printf("direct ok\n");
    return 0;
}
