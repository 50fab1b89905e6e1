// SPDX-License-Identifier: Apache-2.0
// preempt SECONDS: three processes that only compute; none may starve, and one that sleeps must wake
// up between them.  On a machine that stands still at times, they need longer to have had their turns.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 3 };

int main(int argc, char **argv) {
    int seconds = argc > 1 ? atoi(argv[1]) : 2;
    volatile unsigned long *counters =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counters == MAP_FAILED) { perror("mmap"); return 1; }
    pid_t workers[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        workers[i] = fork();
        if (workers[i] < 0) { perror("fork"); return 1; }
        // No system call, no fault: only an interrupt takes the CPU away.
        if (workers[i] == 0) for (;;) counters[i * 8]++;
    }
    struct timespec start, now, pause = {.tv_nsec = 50 * 1000 * 1000};
    clock_gettime(CLOCK_MONOTONIC, &start);
    int naps = 0, elapsed;
    unsigned long least, most;
    do {
        nanosleep(&pause, NULL);
        naps++;
        clock_gettime(CLOCK_MONOTONIC, &now);
        elapsed = now.tv_sec - start.tv_sec;
        least = -1UL, most = 0;
        for (int i = 0; i < WORKERS; i++) {
            unsigned long count = counters[i * 8];
            if (count < least) least = count;
            if (count > most) most = count;
        }
    } while (elapsed < seconds || (least < most / 10 && elapsed < 10 * seconds));
    for (int i = 0; i < WORKERS; i++) {
        kill(workers[i], SIGKILL);
        int status;
        if (waitpid(workers[i], &status, 0) != workers[i] || !WIFSIGNALED(status)) return 1;
    }
    if (naps < 2 || least == 0 || least < most / 10) {
        fprintf(stderr, "naps %d, least %lu, most %lu\n", naps, least, most);
        return 1;
    }
    printf("preempt ok\n");
    return 0;
}
