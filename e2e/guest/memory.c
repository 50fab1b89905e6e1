// SPDX-License-Identifier: Apache-2.0
// Memory of a process: zeroed, copied on write, shared, protected; bad pointers give EFAULT to a
// system call and SIGSEGV, with the address, to the program.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { SIZE = 8 << 20, PAGE = 4096 };
static sigjmp_buf back;
static void *volatile fault_address;

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    fault_address = info->si_addr;
    siglongjmp(back, 1);
}

int main(void) {
    char *private = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(private != MAP_FAILED && shared != MAP_FAILED);
    for (int i = 0; i < SIZE; i += PAGE / 2) CHECK(private[i] == 0);
    memset(private, 1, SIZE);

    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        for (int i = 0; i < SIZE; i += PAGE) private[i] = 2;
        shared[0] = 3;
        _exit(private[SIZE - 1] == 1 ? 0 : 9);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    for (int i = 0; i < SIZE; i += PAGE) CHECK(private[i] == 1);
    CHECK(shared[0] == 3);

    // Volatile, or the compiler sees through it.
    void *volatile nowhere = (void *)8;
    struct stat file;
    CHECK(write(1, nowhere, 1) == -1 && errno == EFAULT);
    CHECK(stat((char *)-1, &file) == -1 && errno == EFAULT);
    CHECK(stat("/", (struct stat *)0x10) == -1 && errno == EFAULT);
    nowhere = (void *)0x7fff00000000; // not the application's half, or not mapped
    CHECK(write(1, nowhere, 1) == -1 && errno == EFAULT);

    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    CHECK(mprotect(private, PAGE, PROT_READ) == 0);
    volatile int faults = 0;
    if (sigsetjmp(back, 1) == 0) private[7] = 1;
    else faults++;
    CHECK(faults == 1 && fault_address == private + 7 && private[7] == 1);
    CHECK(munmap(private + PAGE, PAGE) == 0);
    if (sigsetjmp(back, 1) == 0) *(volatile char *)(private + PAGE);
    else faults++;
    CHECK(faults == 2 && fault_address == private + PAGE);
    CHECK(private[2 * PAGE] == 1);
    printf("memory ok\n");
    return 0;
}
