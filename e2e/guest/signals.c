// SPDX-License-Identifier: Apache-2.0
// Signals: handlers, masks, pending, default actions, interrupted calls, an alternate stack.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "line %d: %s (errno %d)\n", __LINE__, #condition, errno); \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

static volatile sig_atomic_t count, last, on_alternate;
static char alternate[64 << 10];

static void on_signal(int signal, siginfo_t *info, void *context) {
    (void)context;
    char here;
    count++;
    last = info->si_signo == signal ? signal : -1;
    on_alternate = &here >= alternate && &here < alternate + sizeof alternate;
}

static void handle(int signal, int flags) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | flags};
    CHECK(sigaction(signal, &action, NULL) == 0);
}

static int status_of(void (*body)(void)) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) { body(); _exit(0); }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

static void die_of_term(void) { raise(SIGTERM); }
static void die_of_abort(void) { abort(); }
static void die_of_pipe(void) {
    int ends[2];
    signal(SIGPIPE, SIG_DFL);
    CHECK(pipe(ends) == 0 && close(ends[0]) == 0);
    CHECK(write(ends[1], "x", 1) != -2);
}
static void die_of_fault(void) {
    volatile int *volatile nowhere = (int *)8;
    *nowhere = 1;
}

int main(void) {
    sigset_t set, old, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);

    handle(SIGUSR1, 0);
    CHECK(raise(SIGUSR1) == 0 && count == 1 && last == SIGUSR1 && !on_alternate);

    CHECK(sigprocmask(SIG_BLOCK, &set, &old) == 0 && raise(SIGUSR1) == 0 && count == 1);
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) == 1);
    CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0 && count == 2);

    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    CHECK(sigaltstack(&stack, NULL) == 0);
    handle(SIGUSR2, SA_ONSTACK);
    CHECK(raise(SIGUSR2) == 0 && count == 3 && on_alternate);

    CHECK(WTERMSIG(status_of(die_of_term)) == SIGTERM);
    CHECK(WTERMSIG(status_of(die_of_abort)) == SIGABRT);
    CHECK(WTERMSIG(status_of(die_of_pipe)) == SIGPIPE);
    CHECK(WTERMSIG(status_of(die_of_fault)) == SIGSEGV);

    // A signal from another process interrupts a read; with SA_RESTART it does not.
    for (int restart = 0; restart < 2; restart++) {
        int ends[2];
        char byte = 0;
        handle(SIGUSR1, restart ? SA_RESTART : 0);
        CHECK(pipe(ends) == 0);
        pid_t parent = getpid(), pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            usleep(200 * 1000);
            kill(parent, SIGUSR1);
            usleep(200 * 1000);
            _exit(write(ends[1], "x", 1) == 1 ? 0 : 1);
        }
        int before = count;
        ssize_t got = read(ends[0], &byte, 1);
        CHECK(count == before + 1);
        CHECK(restart ? got == 1 && byte == 'x' : got == -1 && errno == EINTR);
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
        CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
    }
    CHECK(kill(getpid() + 12345, SIGTERM) == -1 && errno == ESRCH);
    printf("signals ok\n");
    return 0;
}
