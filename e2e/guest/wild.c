// SPDX-License-Identifier: Apache-2.0
// wild [FIRST [LAST]]: makes every system call, from number FIRST to LAST (0 to 500), with the worst
// arguments there are, in processes of their own.  What becomes of those is their affair; this one,
// and the kernel, must live.  To be run as process 1: nothing that the others send may reach it.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, LAST = 500, STEP_US = 2000, PATIENCE_MS = 4000 };

static void nothing(int signal) { (void)signal; }

static long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static long raw(long number, const long *a) {
    return syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

// All the calls of one number.
static void sweep(long number, char *memory) {
    const long values[] = {
        0,
        -1,
        7,
        8,
        3,                                // a descriptor
        (long)memory,                     // zeros
        (long)memory + PAGE - 1,          // the last byte before a page that can only be read
        (long)memory + 2 * PAGE - 4,      // the last bytes before a hole
        (long)memory + 2 * PAGE,          // the hole
        0x7f8000001000,                   // where the kernel lies
        0x7efffffff000,                   // the last page of the application's half
        0x00007ffffffff000,
        (long)0x8000000000001000,         // no address
        (long)0xffff800000001000,         // the upper half
        0x7fffffff,
        (long)0x80000000,
        (long)0xffffffff,
        0x7fffffffffffffff,
        (long)0x8000000000000000,
        0x100000000,
    };
    enum { VALUES = sizeof values / sizeof *values };
    pid_t self = getpid();
    struct itimerval step = {{0, STEP_US}, {0, STEP_US}};
    // All arguments alike, then one of each kind in each place, then mixtures.
    for (int round = 0; round < VALUES * 7 + 60; round++) {
        long a[6];
        if (round < VALUES) {
            for (int i = 0; i < 6; i++) a[i] = values[round];
        } else if (round < VALUES * 7) {
            static const long usual[6] = {3, 0, 8, 0, 0, 0};
            for (int i = 0; i < 6; i++) a[i] = i == 1 || i == 3 ? (long)memory : usual[i];
            a[(round - VALUES) / VALUES] = values[round % VALUES];
        } else {
            unsigned seed = number * 1000 + round;
            for (int i = 0; i < 6; i++) a[i] = values[rand_r(&seed) % VALUES];
        }
        setitimer(ITIMER_REAL, &step, NULL);
        raw(number, a);
        // A child of a call like fork.
        if (syscall(SYS_getpid) != self || syscall(SYS_gettid) != self) syscall(SYS_exit, 0);
    }
}

static void child(long number) {
    struct sigaction action = {.sa_handler = nothing};
    sigaction(SIGALRM, &action, NULL);
    setpgid(0, 0);
    const struct rlimit files = {64, 64}, space = {256 << 20, 256 << 20}, processes = {200, 200};
    setrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_AS, &space);
    setrlimit(RLIMIT_NPROC, &processes);
    int nothing_there = open("/dev/null", O_RDWR);
    if (nothing_there >= 0) dup2(nothing_there, 0), dup2(nothing_there, 1), dup2(nothing_there, 2);
    open("/dev/zero", O_RDWR);
    char *memory =
        mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) _exit(9);
    mprotect(memory + PAGE, PAGE, PROT_READ);
    munmap(memory + 2 * PAGE, 2 * PAGE);
    sweep(number, memory);
    _exit(0);
}

// Waits for one child; what takes too long is killed.
static int reap(pid_t pid) {
    long until = now_ms() + PATIENCE_MS;
    for (;;) {
        int status;
        pid_t got = waitpid(pid, &status, WNOHANG);
        if (got == pid) return 0;
        if (got < 0 && errno != EINTR) return 0;
        if (now_ms() > until) {
            kill(-pid, SIGKILL), kill(pid, SIGKILL);
            if (waitpid(pid, &status, 0) != pid) return 1;
            return 0;
        }
        usleep(1000);
    }
}

int main(int argc, char **argv) {
    long first = argc > 1 ? atol(argv[1]) : 0, last = argc > 2 ? atol(argv[2]) : LAST;
    for (int signal = 1; signal < 65; signal++) {
        if (signal != SIGCHLD) {
            struct sigaction action = {.sa_handler = SIG_IGN};
            sigaction(signal, &action, NULL);
        }
    }
    for (long number = first; number <= last; number++) {
        long begun = now_ms();
        pid_t pid = fork();
        if (pid < 0) { perror("fork"); return 1; }
        if (pid == 0) child(number);
        if (reap(pid)) { fprintf(stderr, "call %ld: its process cannot be killed\n", number); return 1; }
        // What it left behind.
        kill(-1, SIGKILL);
        while (waitpid(-1, NULL, WNOHANG) > 0) {}
        if (now_ms() - begun > 2000) fprintf(stderr, "call %ld took %ld ms\n", number, now_ms() - begun);
    }
    // The kernel does what it did before.
    int status, ends[2];
    char letter = 0;
    pid_t pid = fork();
    if (pid == 0) _exit(5);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || WEXITSTATUS(status) != 5) return 1;
    if (pipe(ends) || write(ends[1], "x", 1) != 1 || read(ends[0], &letter, 1) != 1) return 1;
    if (letter != 'x' || getpid() != 1) return 1;
    printf("wild ok\n");
    return 0;
}
