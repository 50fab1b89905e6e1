// SPDX-License-Identifier: Apache-2.0
// Stale translations: other threads write to a page without pause while this one takes write access
// away, forks, and unmaps it.  A write that comes through afterwards changes what must not change.
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WRITERS = 3 };
static _Atomic(volatile long *) target;
static atomic_int is_over;
static atomic_long writes, faults;
static __thread sigjmp_buf before;

static void on_fault(int signal) {
    (void)signal;
    siglongjmp(before, 1);
}

static void *write_on(void *argument) {
    if (sigsetjmp(before, 1)) faults++;
    while (!is_over) {
        volatile long *page = target;
        if (page) {
            ++*page;
            writes++;
        }
    }
    return argument;
}

static void spin(long turns) {
    for (volatile long i = 0; i < turns; i++) {}
}

static int is_stable(volatile long *page) {
    long first = *page;
    spin(20000);
    return first == *page;
}

// A page where none was before: a writer may still be about to write to one of the addresses before.
static volatile long *fresh(void) {
    static char *next = (char *)0x100000000000;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    volatile long *page = mmap(next, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (page == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    next += PAGE;
    return page;
}

static const char *round_of_all(int forks) {
    volatile long *page = fresh();
    *page = 1;
    target = page;
    spin(20000);
    mprotect((void *)page, PAGE, PROT_READ);
    if (!is_stable(page)) return "a page without write access changed";
    mprotect((void *)page, PAGE, PROT_READ | PROT_WRITE);
    if (forks) {
        pid_t child = fork();
        if (child == 0) _exit(!is_stable(page));
        int status = 1;
        waitpid(child, &status, 0);
        if (status) return "a child's page changed";
    }
    target = 0;
    munmap((void *)page, PAGE);
    // Likely the same frame.
    volatile long *other = fresh();
    *other = 7;
    spin(5000);
    if (*other != 7) return "a page of another mapping changed";
    munmap((void *)other, PAGE);
    return 0;
}

int main(int count, char **words) {
    time_t end = time(0) + (count > 1 ? atoi(words[1]) : 1);
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
    sigaction(SIGSEGV, &action, 0);
    pthread_t threads[WRITERS];
    for (int i = 0; i < WRITERS; i++) pthread_create(&threads[i], 0, write_on, 0);
    const char *failure = 0;
    for (int round = 0; !failure && time(0) <= end; round++) failure = round_of_all(round % 20 == 0);
    is_over = 1;
    for (int i = 0; i < WRITERS; i++) pthread_join(threads[i], 0);
    // On one vCPU a writer need never run while there is no write access.
    int is_parallel = sysconf(_SC_NPROCESSORS_ONLN) > 1;
    if (!failure && (!writes || (is_parallel && !faults))) failure = "nobody wrote, or no write was refused";
    puts(failure ? failure : "shootdown ok");
    return failure != 0;
}
