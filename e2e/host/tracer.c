// SPDX-License-Identifier: Apache-2.0
// tracer record FILE COMMAND...
//     runs a command and writes which system calls `trine-vmm` and `trine-io` made under their
//     filters: lines `PROGRAM NUMBER`, and `PROGRAM NUMBER ARGUMENT VALUE` for values of the first
//     three arguments, of which at most 64 each are kept.
// tracer swap PID A B
//     holds process PID at the entry of every system call that takes a name, and exchanges the
//     names A and B then, in an order that does not repeat; until standard input ends.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROGRAMS = 2, NUMBERS = 512, KEPT = 64, THREADS = 4096 };
static const char *const programs[PROGRAMS] = {"trine-vmm", "trine-io"};
static struct { unsigned values[3][KEPT]; int counts[3], seen; } records[PROGRAMS][NUMBERS];
// What is known of a thread: its program, -1 none, -2 not asked yet; whether it is under its filter.
static struct { pid_t tid; int program, is_filtered; } threads[THREADS];

static const long named[] = {SYS_openat2, SYS_newfstatat, SYS_statx, SYS_readlinkat, SYS_mkdirat,
                             SYS_mknodat, SYS_linkat, SYS_unlinkat, SYS_renameat2, SYS_symlinkat,
                             SYS_fchmodat, SYS_fchownat, SYS_utimensat, SYS_getxattr, SYS_setxattr};

static int slot_of(pid_t tid) {
    for (int at = 0; at < THREADS; at++) {
        int slot = (tid + at) % THREADS;
        if (threads[slot].tid == tid) return slot;
        if (threads[slot].tid == 0) {
            threads[slot].tid = tid;
            threads[slot].program = -2;
            return slot;
        }
    }
    fprintf(stderr, "too many threads\n");
    exit(2);
}

static void status_of(pid_t tid, char *text, size_t bytes) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", tid);
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, text, bytes - 1);
    if (fd >= 0) close(fd);
    text[got < 0 ? 0 : got] = 0;
}

static void ask(int slot) {
    char text[4096], path[64], name[32] = "";
    pid_t tid = threads[slot].tid;
    status_of(tid, text, sizeof text);
    const char *group = strstr(text, "\nTgid:"), *mode = strstr(text, "\nSeccomp:");
    threads[slot].is_filtered = mode && strtol(mode + 9, NULL, 10) == 2;
    if (threads[slot].program != -2 || !group) return;
    snprintf(path, sizeof path, "/proc/%ld/comm", strtol(group + 6, NULL, 10));
    int fd = open(path, O_RDONLY);
    if (fd >= 0 && read(fd, name, sizeof name - 1) > 0) {
        name[strcspn(name, "\n")] = 0;
        threads[slot].program = -1;
        for (int at = 0; at < PROGRAMS; at++)
            if (!strcmp(name, programs[at])) threads[slot].program = at;
    }
    if (fd >= 0) close(fd);
}

static void record(pid_t tid, const struct __ptrace_syscall_info *info) {
    int slot = slot_of(tid);
    if (threads[slot].program == -1) return;
    if (!threads[slot].is_filtered) ask(slot);
    int program = threads[slot].program;
    if (program < 0 || !threads[slot].is_filtered || info->entry.nr >= NUMBERS) return;
    records[program][info->entry.nr].seen = 1;
    for (int argument = 0; argument < 3; argument++) {
        unsigned value = (unsigned)info->entry.args[argument];
        int *count = &records[program][info->entry.nr].counts[argument];
        unsigned *values = records[program][info->entry.nr].values[argument];
        int at = 0;
        while (at < *count && values[at] != value) at++;
        if (at == *count && at < KEPT) values[(*count)++] = value;
    }
}

static const char *name_a, *name_b;
static unsigned long swaps;

static void swap(const struct __ptrace_syscall_info *info) {
    int is_named = 0;
    for (size_t at = 0; at < sizeof named / sizeof *named; at++)
        is_named |= info->entry.nr == (unsigned long)named[at];
    static unsigned long turn;
    // The Thue-Morse sequence: no period for the calls to fall in step with.
    if (is_named && __builtin_parityl(turn++)) {
        if (syscall(SYS_renameat2, AT_FDCWD, name_a, AT_FDCWD, name_b, 2) == 0) swaps++;
    }
}

static int write_records(const char *path) {
    FILE *file = fopen(path, "a");
    if (!file) { perror(path); return 2; }
    for (int program = 0; program < PROGRAMS; program++)
        for (int number = 0; number < NUMBERS; number++) {
            if (!records[program][number].seen) continue;
            fprintf(file, "%s %d\n", programs[program], number);
            for (int argument = 0; argument < 3; argument++)
                for (int at = 0; at < records[program][number].counts[argument]; at++)
                    fprintf(file, "%s %d %d %u\n", programs[program], number, argument,
                            records[program][number].values[argument][at]);
        }
    return fclose(file) ? 2 : 0;
}

enum { OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                 PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC };

static int attach_all(pid_t pid) {
    char path[64];
    int number = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
        pid_t tid = atoi(entry->d_name);
        if (tid == 0 || ptrace(PTRACE_SEIZE, tid, 0, OPTIONS) != 0) continue;
        ptrace(PTRACE_INTERRUPT, tid, 0, 0);
        number++;
    }
    if (tasks) closedir(tasks);
    return number;
}

static void on_stop(pid_t tid, int status, int is_record) {
    struct __ptrace_syscall_info info;
    int signal = WSTOPSIG(status), event = status >> 16;
    if (signal == (SIGTRAP | 0x80)) {
        if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) > 0 &&
            info.op == PTRACE_SYSCALL_INFO_ENTRY) {
            if (is_record) record(tid, &info); else swap(&info);
        }
        signal = 0;
    } else if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
        // A stop signal: it stays stopped, as it should.
        ptrace(PTRACE_LISTEN, tid, 0, 0);
        return;
    } else if (event) {
        if (event == PTRACE_EVENT_EXEC) {
            int slot = slot_of(tid);
            threads[slot].program = -2;
            threads[slot].is_filtered = 0;
        }
        signal = 0;
    }
    ptrace(PTRACE_SYSCALL, tid, 0, signal);
}

static int do_record(char **argv) {
    pid_t child = fork();
    if (child == 0) {
        raise(SIGSTOP);
        execvp(argv[3], argv + 3);
        perror(argv[3]);
        _exit(127);
    }
    int status, code = 0;
    waitpid(child, &status, WUNTRACED);
    if (ptrace(PTRACE_SEIZE, child, 0, OPTIONS) != 0) { perror("ptrace"); return 2; }
    kill(child, SIGCONT);
    for (pid_t tid; (tid = waitpid(-1, &status, __WALL)) > 0;) {
        if (WIFSTOPPED(status)) { on_stop(tid, status, 1); continue; }
        threads[slot_of(tid)].program = -2;
        threads[slot_of(tid)].is_filtered = 0;
        if (tid == child) code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    int written = write_records(argv[2]);
    return written ? written : code;
}

static int do_swap(char **argv) {
    name_a = argv[3];
    name_b = argv[4];
    if (attach_all(atoi(argv[2])) == 0) { perror("ptrace"); return 2; }
    printf("held\n");
    fflush(stdout);
    for (;;) {
        int status;
        pid_t tid = waitpid(-1, &status, __WALL | WNOHANG);
        if (tid > 0 && WIFSTOPPED(status)) { on_stop(tid, status, 0); continue; }
        if (tid > 0) continue;
        if (tid < 0) break;
        struct pollfd end = {.fd = 0, .events = POLLIN};
        struct timespec moment = {.tv_nsec = 20000};
        char byte;
        if (ppoll(&end, 1, &moment, NULL) > 0 && read(0, &byte, 1) <= 0) break;
    }
    printf("%lu swaps\n", swaps);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 3 && !strcmp(argv[1], "record")) return do_record(argv);
    if (argc == 5 && !strcmp(argv[1], "swap")) return do_swap(argv);
    fprintf(stderr, "tracer record FILE COMMAND... | tracer swap PID A B\n");
    return 2;
}
