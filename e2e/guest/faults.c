// SPDX-License-Identifier: Apache-2.0
// Bad pointers in arguments of system calls whose other arguments are good: each must give EFAULT, as
// on Linux, and neither succeed nor end the caller.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096 };

// Stand-ins for arguments, far from any sensible value.
#define BAD 0x5a5a0000L
#define FILE_ 0x5a5a0001L
#define DIR_ 0x5a5a0002L
#define SOCKET 0x5a5a0003L
#define PIPE_IN 0x5a5a0004L
#define PIPE_OUT 0x5a5a0005L
#define PATH 0x5a5a0006L
#define ZEROS 0x5a5a0007L
#define EPOLL 0x5a5a0008L
#define EVENT 0x5a5a0009L
#define TIMER 0x5a5a000aL
#define WORD1 0x5a5a000bL
#define DGRAM 0x5a5a000cL
#define LINK 0x5a5a000dL
#define CHILD 0x5a5a000eL
#define INOTIFY 0x5a5a000fL
#define PROGRAM 0x5a5a0010L

// What a bad address must be for the call to see it.
enum { ANY, WRITTEN };

struct call {
    const char *name;
    long number;
    long arguments[6];
    // The call writes there: memory that can only be read is bad too.
    int access;
};

#define CALL(name, access, ...) {#name, SYS_##name, {__VA_ARGS__}, access}

static const struct call calls[] = {
    CALL(read, WRITTEN, FILE_, BAD, 16),
    CALL(write, ANY, FILE_, BAD, 16),
    CALL(write, ANY, PIPE_OUT, BAD, 16),
    CALL(pread64, WRITTEN, FILE_, BAD, 16, 0),
    CALL(pwrite64, ANY, FILE_, BAD, 16, 0),
    CALL(readv, ANY, FILE_, BAD, 1),
    CALL(writev, ANY, FILE_, BAD, 1),
    CALL(preadv, ANY, FILE_, BAD, 1, 0),
    CALL(pwritev, ANY, FILE_, BAD, 1, 0),
    CALL(open, ANY, BAD, O_RDONLY),
    CALL(openat, ANY, AT_FDCWD, BAD, O_RDONLY),
    CALL(openat2, ANY, AT_FDCWD, PATH, BAD, 24),
    CALL(openat2, ANY, AT_FDCWD, BAD, ZEROS, 24),
    CALL(creat, ANY, BAD, 0644),
    CALL(stat, ANY, BAD, ZEROS),
    CALL(stat, WRITTEN, PATH, BAD),
    CALL(lstat, WRITTEN, PATH, BAD),
    CALL(fstat, WRITTEN, FILE_, BAD),
    CALL(newfstatat, WRITTEN, AT_FDCWD, PATH, BAD, 0),
    CALL(newfstatat, ANY, AT_FDCWD, BAD, ZEROS, 0),
    CALL(statx, WRITTEN, AT_FDCWD, PATH, 0, 0x7ff, BAD),
    CALL(statx, ANY, AT_FDCWD, BAD, 0, 0x7ff, ZEROS),
    CALL(statfs, WRITTEN, PATH, BAD),
    CALL(statfs, ANY, BAD, ZEROS),
    CALL(fstatfs, WRITTEN, FILE_, BAD),
    CALL(access, ANY, BAD, R_OK),
    CALL(faccessat, ANY, AT_FDCWD, BAD, R_OK),
    CALL(faccessat2, ANY, AT_FDCWD, BAD, R_OK, 0),
    CALL(getcwd, WRITTEN, BAD, 200),
    CALL(chdir, ANY, BAD),
    CALL(chroot, ANY, BAD),
    CALL(mkdir, ANY, BAD, 0755),
    CALL(mkdirat, ANY, AT_FDCWD, BAD, 0755),
    CALL(mknod, ANY, BAD, 0100644, 0),
    CALL(mknodat, ANY, AT_FDCWD, BAD, 0100644, 0),
    CALL(rmdir, ANY, BAD),
    CALL(unlink, ANY, BAD),
    CALL(unlinkat, ANY, AT_FDCWD, BAD, 0),
    CALL(rename, ANY, BAD, PATH),
    CALL(rename, ANY, PATH, BAD),
    CALL(renameat, ANY, AT_FDCWD, PATH, AT_FDCWD, BAD),
    CALL(renameat2, ANY, AT_FDCWD, BAD, AT_FDCWD, PATH, 0),
    CALL(link, ANY, BAD, PATH),
    CALL(link, ANY, PATH, BAD),
    CALL(linkat, ANY, AT_FDCWD, PATH, AT_FDCWD, BAD, 0),
    CALL(symlink, ANY, BAD, PATH),
    CALL(symlink, ANY, PATH, BAD),
    CALL(symlinkat, ANY, PATH, AT_FDCWD, BAD),
    CALL(readlink, ANY, BAD, ZEROS, 100),
    CALL(readlink, WRITTEN, LINK, BAD, 100),
    CALL(readlinkat, WRITTEN, AT_FDCWD, LINK, BAD, 100),
    CALL(chmod, ANY, BAD, 0644),
    CALL(fchmodat, ANY, AT_FDCWD, BAD, 0644),
    CALL(chown, ANY, BAD, 0, 0),
    CALL(lchown, ANY, BAD, 0, 0),
    CALL(fchownat, ANY, AT_FDCWD, BAD, 0, 0, 0),
    CALL(truncate, ANY, BAD, 0),
    CALL(utime, ANY, BAD, 0),
    CALL(utime, ANY, PATH, BAD),
    CALL(utimes, ANY, PATH, BAD),
    CALL(utimensat, ANY, AT_FDCWD, PATH, BAD, 0),
    CALL(utimensat, ANY, AT_FDCWD, BAD, 0, 0),
    CALL(getdents64, WRITTEN, DIR_, BAD, 4096),
    CALL(getdents, WRITTEN, DIR_, BAD, 4096),
    CALL(setxattr, ANY, BAD, PATH, ZEROS, 1, 0),
    CALL(setxattr, ANY, PATH, BAD, ZEROS, 1, 0),
    CALL(getxattr, ANY, PATH, BAD, ZEROS, 1),
    CALL(listxattr, ANY, BAD, ZEROS, 1),
    CALL(removexattr, ANY, PATH, BAD),
    CALL(pipe, WRITTEN, BAD),
    CALL(pipe2, WRITTEN, BAD, 0),
    CALL(select, ANY, 8, BAD, 0, 0, 0),
    CALL(select, ANY, 8, 0, 0, 0, BAD),
    CALL(pselect6, ANY, 8, BAD, 0, 0, 0, 0),
    CALL(poll, ANY, BAD, 1, 0),
    CALL(ppoll, ANY, BAD, 1, 0, 0, 8),
    CALL(ppoll, ANY, 0, 0, BAD, 0, 8),
    CALL(epoll_ctl, ANY, EPOLL, EPOLL_CTL_ADD, PIPE_IN, BAD),
    CALL(epoll_wait, WRITTEN, EPOLL, BAD, 8, 0),
    CALL(epoll_pwait, WRITTEN, EPOLL, BAD, 8, 0, 0, 8),
    CALL(read, WRITTEN, EVENT, BAD, 8),
    CALL(write, ANY, EVENT, BAD, 8),
    CALL(signalfd4, ANY, -1, BAD, 8, 0),
    CALL(timerfd_settime, ANY, TIMER, 0, BAD, 0),
    CALL(timerfd_gettime, WRITTEN, TIMER, BAD),
    CALL(inotify_add_watch, ANY, INOTIFY, BAD, 2),
    CALL(sendfile, ANY, PIPE_OUT, FILE_, BAD, 1),
    CALL(copy_file_range, ANY, FILE_, BAD, FILE_, 0, 1, 0),
    CALL(splice, ANY, FILE_, BAD, PIPE_OUT, 0, 1, 0),
    CALL(vmsplice, ANY, PIPE_OUT, BAD, 1, 0),
    CALL(memfd_create, ANY, BAD, 0),
    CALL(fcntl, ANY, FILE_, F_GETLK, BAD),
    CALL(fcntl, ANY, FILE_, F_SETLK, BAD),
    CALL(ioctl, WRITTEN, PIPE_IN, 0x541b, BAD),
    CALL(socketpair, WRITTEN, AF_UNIX, SOCK_STREAM, 0, BAD),
    CALL(bind, ANY, SOCKET, BAD, 16),
    CALL(connect, ANY, SOCKET, BAD, 16),
    CALL(getsockname, ANY, SOCKET, ZEROS, BAD),
    CALL(getpeername, ANY, SOCKET, ZEROS, BAD),
    CALL(setsockopt, ANY, SOCKET, SOL_SOCKET, SO_SNDBUF, BAD, 4),
    CALL(getsockopt, ANY, SOCKET, SOL_SOCKET, SO_SNDBUF, ZEROS, BAD),
    CALL(getsockopt, WRITTEN, SOCKET, SOL_SOCKET, SO_SNDBUF, BAD, WORD1),
    CALL(sendto, ANY, SOCKET, BAD, 16, 0, 0, 0),
    CALL(sendto, ANY, DGRAM, BAD, 16, 0, 0, 0),
    CALL(recvfrom, WRITTEN, SOCKET, BAD, 4, MSG_PEEK, 0, 0),
    CALL(sendmsg, ANY, SOCKET, BAD, 0),
    CALL(recvmsg, ANY, SOCKET, BAD, MSG_DONTWAIT),
    CALL(sendmmsg, ANY, SOCKET, BAD, 1, 0),
    CALL(recvmmsg, ANY, SOCKET, BAD, 1, MSG_DONTWAIT, 0),
    CALL(rt_sigaction, ANY, 10, BAD, 0, 8),
    CALL(rt_sigaction, WRITTEN, 10, 0, BAD, 8),
    CALL(rt_sigprocmask, ANY, 0, BAD, 0, 8),
    CALL(rt_sigprocmask, WRITTEN, 0, 0, BAD, 8),
    CALL(rt_sigpending, WRITTEN, BAD, 8),
    CALL(rt_sigtimedwait, ANY, BAD, 0, 0, 8),
    CALL(rt_sigsuspend, ANY, BAD, 8),
    CALL(sigaltstack, ANY, BAD, 0),
    CALL(sigaltstack, WRITTEN, 0, BAD),
    CALL(nanosleep, ANY, BAD, 0),
    CALL(clock_nanosleep, ANY, CLOCK_MONOTONIC, 0, BAD, 0),
    CALL(clock_gettime, WRITTEN, CLOCK_PROCESS_CPUTIME_ID, BAD),
    CALL(clock_getres, WRITTEN, CLOCK_MONOTONIC, BAD),
    CALL(gettimeofday, WRITTEN, BAD, 0),
    CALL(time, WRITTEN, BAD),
    CALL(times, WRITTEN, BAD),
    CALL(getitimer, WRITTEN, 0, BAD),
    CALL(setitimer, ANY, 0, BAD, 0),
    CALL(timer_create, ANY, CLOCK_MONOTONIC, BAD, ZEROS),
    CALL(timer_create, WRITTEN, CLOCK_MONOTONIC, 0, BAD),
    CALL(uname, WRITTEN, BAD),
    CALL(sysinfo, WRITTEN, BAD),
    CALL(getrlimit, WRITTEN, 0, BAD),
    CALL(setrlimit, ANY, 0, BAD),
    CALL(prlimit64, ANY, 0, 0, BAD, 0),
    CALL(prlimit64, WRITTEN, 0, 0, 0, BAD),
    CALL(getrusage, WRITTEN, 0, BAD),
    CALL(getresuid, WRITTEN, BAD, ZEROS, ZEROS),
    CALL(getresgid, WRITTEN, ZEROS, ZEROS, BAD),
    CALL(capget, ANY, BAD, ZEROS),
    CALL(sched_getaffinity, WRITTEN, 0, 128, BAD),
    CALL(sched_setaffinity, ANY, 0, 128, BAD),
    CALL(sched_getparam, WRITTEN, 0, BAD),
    CALL(sched_rr_get_interval, WRITTEN, 0, BAD),
    CALL(getcpu, WRITTEN, BAD, 0),
    CALL(getrandom, WRITTEN, BAD, 16, 0),
    CALL(futex, ANY, BAD, 0, 0, 0),
    CALL(get_robust_list, WRITTEN, 0, BAD, ZEROS),
    CALL(mincore, WRITTEN, ZEROS, PAGE, BAD),
    CALL(execve, ANY, BAD, 0, 0),
    CALL(execve, ANY, PROGRAM, BAD, 0),
    CALL(execve, ANY, PROGRAM, 0, BAD),
    CALL(execveat, ANY, AT_FDCWD, BAD, 0, 0, 0),
    CALL(wait4, WRITTEN, CHILD, BAD, 0, 0),
    CALL(waitid, WRITTEN, P_PID, CHILD, BAD, WEXITED | WNOWAIT, 0),
    CALL(clone3, ANY, BAD, 88),
    CALL(process_vm_readv, ANY, 0, BAD, 1, ZEROS, 1, 0),
    CALL(mq_open, ANY, BAD, O_RDONLY, 0, 0),
    CALL(mq_unlink, ANY, BAD),
    CALL(semop, ANY, 0, BAD, 1),
    CALL(prctl, ANY, 15, BAD),
    CALL(prctl, WRITTEN, 16, BAD),
    CALL(arch_prctl, WRITTEN, 0x1003, BAD),
    CALL(set_mempolicy, ANY, 2, BAD, 64),
    CALL(get_mempolicy, WRITTEN, BAD, 0, 0, 0, 0),
};

static char *zeros, *read_only, *unmapped;
static long stand_ins[17];
static pid_t child;

static long resolve(long argument, uintptr_t bad) {
    if (argument == BAD) return (long)bad;
    if (argument > BAD && argument < BAD + 17) return stand_ins[argument - BAD];
    return argument;
}

// Everything that calls take, new for each of them: a call may close or change it.
static int prepare(void) {
    static char path[] = "/tmp/bad-pointers/file", link[] = "/tmp/bad-pointers/link";
    static int four = 4;
    mkdir("/tmp", 0755), mkdir("/tmp/bad-pointers", 0755);
    unlink(link);
    int in_out[2], pair[2], datagrams[2];
    int file = open(path, O_RDWR | O_CREAT, 0755);
    if (file < 0 || write(file, "0123456789abcdef0123456789abcdef", 32) != 32) return 1;
    lseek(file, 0, SEEK_SET);
    if (symlink(path, link)) return 2;
    if (pipe(in_out) || write(in_out[1], "x", 1) != 1) return 3;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || write(pair[1], "four", 4) != 4) return 4;
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams)) return 5;
    int epoll = epoll_create1(0), event = eventfd(1, EFD_NONBLOCK);
    struct epoll_event ready = {.events = EPOLLIN};
    if (epoll < 0 || event < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, event, &ready)) return 6;
    int timer = timerfd_create(CLOCK_MONOTONIC, 0), directory = open("/tmp/bad-pointers", O_RDONLY);
    long inotify = syscall(SYS_inotify_init1, 0);
    if (timer < 0 || directory < 0 || inotify < 0) return 7;
    const long values[17] = {
        0, file, directory, pair[0], in_out[0], in_out[1], (long)path, (long)zeros, epoll, event,
        timer, (long)&four, datagrams[0], (long)link, child, inotify, (long)"/proc/self/exe",
    };
    memcpy(stand_ins, values, sizeof values);
    return 0;
}

// In a process of its own: 0 if the call gave EFAULT.
static int try_call(const struct call *call, uintptr_t bad) {
    child = fork();
    if (child == 0) _exit(0);
    int failed = prepare();
    if (failed) {
        fprintf(stderr, "cannot prepare: step %d (errno %d)\n", failed, errno);
        return 2;
    }
    long a[6];
    for (int i = 0; i < 6; i++) a[i] = resolve(call->arguments[i], bad);
    alarm(5);
    long result = syscall(call->number, a[0], a[1], a[2], a[3], a[4], a[5]);
    int error = errno;
    alarm(0);
    if (result == -1 && error == EFAULT) return 0;
    fprintf(stderr, "%s(%lx, %lx, %lx, %lx, %lx, %lx) = %ld", call->name, a[0], a[1], a[2], a[3],
            a[4], a[5], result);
    if (result == -1) fprintf(stderr, " (%s)", strerror(error));
    fprintf(stderr, " with a bad pointer %lx\n", (long)bad);
    return 1;
}

int main(void) {
    char *memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) { perror("mmap"); return 1; }
    zeros = memory, read_only = memory + PAGE, unmapped = memory + 2 * PAGE;
    if (mprotect(read_only, PAGE, PROT_READ) || munmap(unmapped, 2 * PAGE)) {
        perror("mprotect, munmap");
        return 1;
    }
    const uintptr_t bad[] = {
        8,                            // the first page
        (uintptr_t)unmapped,          // a hole
        0x7f8000001000,               // where the kernel lies, or nothing
        0x8000000000001000,           // no address at all
        0xffff800000001000,           // the upper half
        (uintptr_t)-PAGE,
        (uintptr_t)read_only,
    };
    int faults = 0, tried = 0;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        size_t count = sizeof bad / sizeof *bad - (calls[i].access == WRITTEN ? 0 : 1);
        for (size_t at = 0; at < count; at++) {
            fflush(NULL);
            pid_t pid = fork();
            if (pid < 0) { perror("fork"); return 1; }
            if (pid == 0) _exit(try_call(&calls[i], bad[at]));
            int status;
            if (waitpid(pid, &status, 0) != pid) { perror("waitpid"); return 1; }
            if (WIFSIGNALED(status)) {
                fprintf(stderr, "%s with %lx: the process died of signal %d\n", calls[i].name,
                        (long)bad[at], WTERMSIG(status));
            }
            faults += status != 0, tried++;
        }
    }
    if (faults) { fprintf(stderr, "%d of %d calls are wrong\n", faults, tried); return 1; }
    printf("faults ok\n");
    return 0;
}
