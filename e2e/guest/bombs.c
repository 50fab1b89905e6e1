// SPDX-License-Identifier: Apache-2.0
// Takes all that can be taken, in processes of their own: processes, threads, descriptors, memory,
// links, arguments, buffers; and calls the kernel in ways that it has not.  Each must end with the
// right errno or signal, and leave the kernel as it was.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "line %d: %s (errno %d)\n", __LINE__, #condition, errno); \
            return 1;                                                                 \
        }                                                                             \
    } while (0)

enum { PAGE = 4096 };

// Every process forks as long as it can.
static int forks(void) {
    int ends[2], failed = 0;
    CHECK(pipe(ends) == 0);
    pid_t top = getpid();
    for (;;) {
        pid_t pid = fork();
        if (pid < 0) break;
    }
    CHECK(errno == EAGAIN || errno == ENOMEM);
    // One letter for each that came to its end.
    CHECK(write(ends[1], "x", 1) == 1);
    if (getpid() != top) {
        pause();
        _exit(0);
    }
    close(ends[1]);
    char letters[4096];
    failed = read(ends[0], letters, sizeof letters) < 1;
    // All of its group but itself.
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGKILL);
    return failed;
}

static void *sleeper(void *gate) {
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

static int threads(void) {
    enum { MOST = 100000 };
    static pthread_t all[MOST];
    static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_attr_t small;
    int count = 0, error = 0;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, PTHREAD_STACK_MIN);
    pthread_mutex_lock(&gate);
    while (count < MOST && (error = pthread_create(&all[count], &small, sleeper, &gate)) == 0) count++;
    pthread_mutex_unlock(&gate);
    CHECK(error == EAGAIN || error == ENOMEM);
    CHECK(count > 50);
    for (int i = 0; i < count; i++) CHECK(pthread_join(all[i], NULL) == 0);
    return 0;
}

static int descriptors(void) {
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    // Enough to see that it is no small table.
    limit.rlim_cur = limit.rlim_max < 50000 ? limit.rlim_max : 50000;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int count = 0, fd;
    while ((fd = open("/dev/null", O_RDONLY)) >= 0) count++;
    CHECK(errno == EMFILE || errno == ENFILE || errno == ENOMEM);
    CHECK(count > 100);
    int pair[2];
    CHECK(pipe(pair) == -1 && socket(AF_UNIX, SOCK_STREAM, 0) == -1);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == -1 && dup(0) == -1);
    close(count);
    CHECK((fd = dup(0)) >= 0);
    return 0;
}

static int memory(void) {
    // More than there is: the process ends, and nobody else.
    for (;;) {
        char *part = mmap(NULL, 1 << 24, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (part == MAP_FAILED) return 2;
        for (int i = 0; i < 1 << 24; i += PAGE) part[i] = 1;
    }
}

static int links(void) {
    char name[64], target[64];
    CHECK(mkdir("/tmp/links", 0755) == 0 && chdir("/tmp/links") == 0);
    CHECK(symlink("loop", "loop") == 0 && symlink("pong", "ping") == 0 && symlink("ping", "pong") == 0);
    CHECK(open("loop", O_RDONLY) == -1 && errno == ELOOP);
    CHECK(open("ping/x", O_RDONLY) == -1 && errno == ELOOP);
    // A chain of 40 is followed, one of 41 is not.
    CHECK(symlink("/tmp", "l0") == 0);
    for (int i = 1; i <= 40; i++) {
        sprintf(name, "l%d", i), sprintf(target, "l%d", i - 1);
        CHECK(symlink(target, name) == 0);
    }
    struct stat file;
    CHECK(stat("l39", &file) == 0);
    CHECK(stat("l40", &file) == -1 && errno == ELOOP);
    // Each link doubles the path: 2^30 names, if somebody followed all of them.
    CHECK(symlink(".", "b0") == 0);
    for (int i = 1; i < 30; i++) {
        sprintf(name, "b%d", i), sprintf(target, "b%d/b%d", i - 1, i - 1);
        CHECK(symlink(target, name) == 0);
    }
    CHECK(stat("b29", &file) == -1 && errno == ELOOP);
    // Paths that are too long, and as long as can be.
    static char path[2 * PATH_MAX];
    memset(path, '/', sizeof path - 1);
    CHECK(stat(path, &file) == -1 && errno == ENAMETOOLONG);
    for (int i = 0; i < PATH_MAX - 2; i += 2) memcpy(path + i, "./", 2);
    path[PATH_MAX - 2] = 0;
    CHECK(stat(path, &file) == 0);
    memset(path, 'n', 256), path[256] = 0;
    CHECK(open(path, O_RDONLY | O_CREAT, 0644) == -1 && errno == ENAMETOOLONG);
    // Deep directories, made and entered one by one.
    for (int i = 0; i < 1000; i++) CHECK(mkdir("d", 0755) == 0 && chdir("d") == 0);
    CHECK(getcwd(path, 100) == NULL && errno == ERANGE);
    CHECK(getcwd(path, sizeof path) != NULL);
    return 0;
}

static int arguments(void) {
    enum { COUNT = 200000, LONG = 131072 };
    static char *many[COUNT + 1];
    static char longest[LONG + 16];
    char *const none[] = {NULL};
    // More than a quarter of the stack.
    memset(longest, 'a', LONG - 2);
    for (int i = 0; i < COUNT; i++) many[i] = longest;
    CHECK(execve("/proc/self/exe", many, none) == -1 && errno == E2BIG);
    // One that is too long.
    memset(longest, 'a', LONG + 8);
    char *const one[] = {longest, NULL};
    CHECK(execve("/proc/self/exe", one, none) == -1 && errno == E2BIG);
    // An array without end.
    char **page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED && munmap((char *)page + PAGE, PAGE) == 0);
    for (size_t i = 0; i < PAGE / sizeof *page; i++) page[i] = "x";
    CHECK(execve("/proc/self/exe", page, none) == -1 && errno == EFAULT);
    return 0;
}

static int buffers(void) {
    static char byte[1];
    static struct iovec parts[IOV_MAX + 1];
    int zeros = open("/dev/zero", O_RDWR), ends[2];
    CHECK(zeros >= 0 && pipe(ends) == 0);
    for (int i = 0; i <= IOV_MAX; i++) parts[i] = (struct iovec){byte, 1};
    CHECK(writev(ends[1], parts, IOV_MAX) == IOV_MAX);
    CHECK(writev(ends[1], parts, IOV_MAX + 1) == -1 && errno == EINVAL);
    CHECK(syscall(SYS_writev, ends[1], parts, -1L) == -1 && errno == EINVAL);
    CHECK(syscall(SYS_readv, zeros, parts, (long)INT_MAX) == -1 && errno == EINVAL);
    // Sums that overflow.
    parts[0] = (struct iovec){byte, SSIZE_MAX}, parts[1] = (struct iovec){byte, SSIZE_MAX};
    CHECK(readv(zeros, parts, 2) == -1 && (errno == EINVAL || errno == EFAULT));
    parts[0].iov_len = (size_t)-1;
    CHECK(writev(ends[1], parts, 1) == -1 && errno == EINVAL);
    // Buffers that are larger than all memory: what is there is used.
    char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED && munmap(page + PAGE, PAGE) == 0);
    long got = read(zeros, page, SSIZE_MAX);
    CHECK(got == PAGE || (got == -1 && errno == EFAULT));
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)-1};
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(sendmsg(pair[0], &message, 0) == -1 && (errno == EMSGSIZE || errno == EINVAL));
    message = (struct msghdr){.msg_control = page, .msg_controllen = (size_t)-1};
    CHECK(sendmsg(pair[0], &message, 0) == -1 && (errno == ENOBUFS || errno == EINVAL));
    return 0;
}

// Ends in a child by signal, or gives -ENOSYS.
static int old_calls(void) {
    static const char *const entries[] = {"int $0x80", "sysenter"};
    for (int i = 0; i < 2; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            // getpid of 32-bit Linux.
            long result = 20;
            if (i == 0) __asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
            else __asm__ volatile("sysenter" : "+a"(result) : : "memory", "rcx", "rdx", "r11");
            _exit(result == getpid() ? 1 : 0);
        }
        int status;
        CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
        int is_right = WIFEXITED(status) ? WEXITSTATUS(status) == 0
                                         : WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGILL;
        if (!is_right) fprintf(stderr, "%s: status %#x\n", entries[i], status);
        CHECK(is_right);
    }
    return 0;
}

static void *volatile nowhere;

// Jumps, stacks and accesses where no address is.
static int addresses(void) {
    static const uintptr_t bad[] = {
        0, 8, 0x7effffffe000, 0x7ffffffff000, 0x800000000000, 0x8000000000000000,
        0xffff800000000000, (uintptr_t)-8,
    };
    for (size_t at = 0; at < sizeof bad / sizeof *bad; at++) {
        for (int way = 0; way < 5; way++) {
            nowhere = (void *)bad[at];
            pid_t pid = fork();
            if (pid == 0) {
                struct rlimit none = {0, 0};
                setrlimit(RLIMIT_CORE, &none);
                if (way == 0) *(volatile char *)nowhere;
                else if (way == 1) *(volatile char *)nowhere = 1;
                else if (way == 2) ((void (*)(void))nowhere)();
                else if (way == 3) __asm__ volatile("mov %0, %%rsp\n\tpush %%rax" : : "r"(nowhere) : "memory");
                else __asm__ volatile("mov %0, %%rsp\n\tsyscall" : : "r"(nowhere), "a"(15L) : "memory", "rcx", "r11");
                _exit(0);
            }
            int status;
            CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
            int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
            if (signal != SIGSEGV && signal != SIGBUS) {
                fprintf(stderr, "address %lx, way %d: status %#x\n", (long)bad[at], way, status);
                return 1;
            }
        }
    }
    return 0;
}

struct bomb {
    const char *name;
    int (*run)(void);
    // It may end by SIGKILL.
    int may_die;
};

static const struct bomb bombs[] = {
    {"forks", forks, 1},         {"threads", threads, 1},     {"descriptors", descriptors, 1},
    {"memory", memory, 1},       {"links", links, 0},         {"arguments", arguments, 0},
    {"buffers", buffers, 0},     {"old calls", old_calls, 0}, {"addresses", addresses, 0},
};

int main(int argc, char **argv) {
    int failed = 0;
    mkdir("/tmp", 0755);
    for (size_t i = 0; i < sizeof bombs / sizeof *bombs; i++) {
        if (argc > 1 && strcmp(argv[1], bombs[i].name)) continue;
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            setpgid(0, 0);
            _exit(bombs[i].run());
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid);
        kill(-pid, SIGKILL);
        while (waitpid(-1, NULL, WNOHANG) > 0) {}
        int died = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && bombs[i].may_die;
        if (status && !died) {
            fprintf(stderr, "%s: status %#x\n", bombs[i].name, status);
            failed = 1;
        }
    }
    if (failed) return 1;
    // There is room again for what there was room for before.
    for (int i = 0; i < 20; i++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) _exit(malloc(1 << 20) == NULL);
        CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    }
    printf("bombs ok\n");
    return 0;
}
