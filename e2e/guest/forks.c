// SPDX-License-Identifier: Apache-2.0
// forks N: N times fork, exit, wait; then N/4 times vfork, exec of itself, wait.  Every child's exit
// status is checked, and that memory is copied on write and not shared.
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int shared_value = 1;

static int reap(pid_t pid, int expected) {
    int status;
    if (waitpid(pid, &status, 0) != pid) { perror("waitpid"); return 1; }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != expected) {
        fprintf(stderr, "child ended with %#x instead of exit status %d\n", status, expected);
        return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3) return atoi(argv[2]);
    int count = argc > 1 ? atoi(argv[1]) : 100;
    for (int i = 0; i < count; i++) {
        pid_t pid = fork();
        if (pid < 0) { perror("fork"); return 1; }
        if (pid == 0) {
            if (shared_value != 1 + i) _exit(99);
            shared_value = -1;
            _exit(i & 0x3f);
        }
        if (reap(pid, i & 0x3f)) return 1;
        if (shared_value != 1 + i) { fprintf(stderr, "a child wrote its parent's memory\n"); return 1; }
        shared_value++;
    }
    for (int i = 0; i < count / 4; i++) {
        char status[8];
        snprintf(status, sizeof status, "%d", i & 0x3f);
        char *arguments[] = {argv[0], "exit", status, NULL};
        pid_t pid = vfork();
        if (pid < 0) { perror("vfork"); return 1; }
        if (pid == 0) {
            execv(argv[0], arguments);
            _exit(98);
        }
        if (reap(pid, i & 0x3f)) return 1;
    }
    if (waitpid(-1, NULL, 0) != -1) { fprintf(stderr, "a child too many\n"); return 1; }
    printf("forks ok\n");
    return 0;
}
