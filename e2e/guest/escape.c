// SPDX-License-Identifier: Apache-2.0
// escape DIR CANARY [race SECONDS | quick | brief | planted PATH]
//
// Tries to get out of the volume at DIR, as root: every shape of a path through every call that
// takes a name.  CANARY is where the host has a tree that must not be reached, beside the volume;
// its file `secret` has contents, a size and a time of its own, by which it is known when it is seen.
// `race` looks up DIR/swap/secret for so long while the host exchanges DIR/swap with a link to
// CANARY.  `planted` adds PATH, under which the secret *is* to be found: then the program must fail.
// `quick` makes one call of each kind, `brief` that with every ninth shape, for slow machines.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

// Also a script, so that running it can be told.
#define SECRET "#!/bin/sh\nexit 77 # host-canary-secret\n"
#define SECRET_SIZE 31337
#define SECRET_TIME 987654321

static const char *base, *canary;
static int is_brief;
static const char *shape_now = "", *call_now = "";
static int leaks, calls_made, calls_good;
static int dir_fd;

static void leak(const char *what) {
    leaks++;
    printf("LEAK %s: ", what);
    for (const char *at = shape_now; *at && at < shape_now + 60; at++)
        if (*at < ' ' || *at > '~') printf("\\x%02x", (unsigned char)*at); else putchar(*at);
    printf(" through %s\n", call_now);
}

static void look(const struct stat *s) {
    if (s->st_size == SECRET_SIZE && s->st_mtime == SECRET_TIME) leak("attributes");
}

// Reads what is open: a secret, or a directory that holds one.
static int look_into(int fd) {
    if (fd < 0) return -1;
    struct stat s;
    if (fstat(fd, &s) == 0) {
        look(&s);
        char text[sizeof SECRET] = "";
        if (S_ISREG(s.st_mode) && pread(fd, text, sizeof text - 1, 0) > 0 && !strcmp(text, SECRET))
            leak("contents");
        if (S_ISDIR(s.st_mode) && fstatat(fd, "secret", &s, 0) == 0) look(&s);
        if (S_ISDIR(s.st_mode) && fstatat(fd, "../canary/secret", &s, 0) == 0) look(&s);
    }
    close(fd);
    return 0;
}

static void full(char *to, const char *name) { snprintf(to, 6000, "%s/%s", base, name); }

// Each call gets the shape as its name.  0: it succeeded.
#define CALL(name) static int call_##name(const char *p)
CALL(open) { return look_into(open(p, O_RDONLY | O_NONBLOCK)); }
CALL(open_write) { return look_into(open(p, O_RDWR | O_NONBLOCK)); }
CALL(open_create) { return look_into(open(p, O_RDWR | O_CREAT | O_NONBLOCK, 0600)); }
CALL(open_exclusive) { return look_into(open(p, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0600)); }
CALL(open_truncate) { return look_into(open(p, O_WRONLY | O_TRUNC | O_NONBLOCK)); }
CALL(open_append) {
    int fd = open(p, O_WRONLY | O_APPEND | O_NONBLOCK);
    if (fd < 0) return -1;
    struct stat s;
    if (fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && write(fd, "x", 1) != 1) { close(fd); return -1; }
    return look_into(fd);
}
CALL(open_path) { return look_into(open(p, O_PATH)); }
CALL(open_path_link) { return look_into(open(p, O_PATH | O_NOFOLLOW)); }
CALL(open_directory) { return look_into(open(p, O_RDONLY | O_DIRECTORY)); }
CALL(open_nofollow) { return look_into(open(p, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)); }
CALL(open_temporary) { return look_into(open(p, O_RDWR | O_TMPFILE, 0600)); }
CALL(openat) { return look_into(openat(dir_fd, p, O_RDONLY | O_NONBLOCK)); }
CALL(creat) { return look_into(creat(p, 0600)); }
CALL(stat) { struct stat s; int r = stat(p, &s); if (r == 0) look(&s); return r; }
CALL(lstat) { struct stat s; int r = lstat(p, &s); if (r == 0) look(&s); return r; }
CALL(fstatat) { struct stat s; int r = fstatat(dir_fd, p, &s, 0); if (r == 0) look(&s); return r; }
CALL(statx) {
    struct statx s;
    int r = statx(dir_fd, p, 0, STATX_BASIC_STATS, &s);
    if (r == 0 && s.stx_size == SECRET_SIZE && s.stx_mtime.tv_sec == SECRET_TIME) leak("attributes");
    return r;
}
CALL(statfs) { struct statfs s; return statfs(p, &s); }
CALL(access) { return access(p, R_OK | W_OK); }
CALL(faccessat) { return faccessat(dir_fd, p, F_OK, 0); }
CALL(readlink) { char to[300]; return readlink(p, to, sizeof to) < 0 ? -1 : 0; }
CALL(list) {
    DIR *directory = opendir(p);
    if (!directory) return -1;
    struct dirent *entry;
    int number = 0;
    while ((entry = readdir(directory)) && number++ < 200)
        if (!strcmp(entry->d_name, "canary-marker")) leak("a directory");
    closedir(directory);
    return 0;
}
CALL(chdir) {
    int r = chdir(p);
    if (r == 0) {
        look_into(open("secret", O_RDONLY));
        look_into(open("../canary/secret", O_RDONLY));
        look_into(open("canary/secret", O_RDONLY));
    }
    if (fchdir(dir_fd) != 0) { perror("fchdir"); exit(2); }
    return r;
}
CALL(chroot) {
    pid_t pid = fork();
    if (pid == 0) {
        if (chroot(p) != 0) _exit(1);
        int found = open("/secret", O_RDONLY) >= 0 || open("/../canary/secret", O_RDONLY) >= 0 ||
                    open("canary/secret", O_RDONLY) >= 0;
        _exit(found ? 9 : 0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 9) leak("a root");
    return status == 0 ? 0 : -1;
}
CALL(execve) {
    struct stat s;
    // Programs of the container itself would run, and prove nothing.
    if (stat(p, &s) == 0 && s.st_size > 4 * SECRET_SIZE) return -1;
    pid_t pid = fork();
    if (pid == 0) { char *arguments[] = {"x", NULL}; execv(p, arguments); _exit(1); }
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) leak("a program");
    return status == 0 ? 0 : -1;
}
CALL(mkdir) { return mkdir(p, 0755); }
CALL(rmdir) { return rmdir(p); }
CALL(mknod_file) { return mknod(p, S_IFREG | 0644, 0); }
CALL(mknod_fifo) { return mknod(p, S_IFIFO | 0644, 0); }
CALL(mknod_device) {
    int r = mknod(p, S_IFCHR | 0644, makedev(1, 3));
    if (r == 0) unlink(p);
    return r;
}
CALL(symlink) { return symlink("/etc", p); }
CALL(symlink_to) {
    char name[6000];
    full(name, "to");
    unlink(name);
    if (symlink(p, name) != 0) return -1;
    return look_into(open(name, O_RDONLY | O_NONBLOCK));
}
CALL(link_from) { char to[6000]; full(to, "linked"); return link(p, to); }
CALL(link_to) { char from[6000]; full(from, "f"); return link(from, p); }
CALL(link_follow) {
    char to[6000];
    full(to, "followed");
    return linkat(AT_FDCWD, p, AT_FDCWD, to, AT_SYMLINK_FOLLOW) ? -1
           : look_into(open(to, O_RDONLY | O_NONBLOCK));
}
CALL(rename_from) { char to[6000]; full(to, "renamed"); return rename(p, to); }
CALL(rename_to) { char from[6000]; full(from, "f"); return rename(from, p); }
CALL(rename_directory_to) { char from[6000]; full(from, "d"); return rename(from, p); }
CALL(rename_exchange) {
    char other[6000];
    full(other, "f");
    if (syscall(SYS_renameat2, AT_FDCWD, p, AT_FDCWD, other, 2) != 0) return -1;
    look_into(open(other, O_RDONLY | O_NONBLOCK));
    return syscall(SYS_renameat2, AT_FDCWD, p, AT_FDCWD, other, 2);
}
CALL(unlink) { return unlink(p); }
CALL(unlinkat) { return unlinkat(dir_fd, p, 0); }
CALL(unlinkat_directory) { return unlinkat(dir_fd, p, AT_REMOVEDIR); }
CALL(chmod) { return chmod(p, 0777); }
CALL(fchmodat) { return fchmodat(dir_fd, p, 0777, 0); }
CALL(chown) { return chown(p, 4242, 4242); }
CALL(lchown) { return lchown(p, 4242, 4242); }
CALL(fchownat) { return fchownat(dir_fd, p, 4242, 4242, 0); }
CALL(utimensat) { return utimensat(dir_fd, p, NULL, 0); }
CALL(utimes_link) { return utimensat(dir_fd, p, NULL, AT_SYMLINK_NOFOLLOW); }
CALL(utimes) { return utimes(p, NULL); }
CALL(truncate) { return truncate(p, 0); }
CALL(setxattr) { return setxattr(p, "user.escape", "x", 1, 0); }
CALL(lsetxattr) { return lsetxattr(p, "user.escape", "x", 1, 0); }
CALL(getxattr) {
    char value[64] = "";
    int r = getxattr(p, "user.canary", value, sizeof value - 1);
    if (r > 0 && !strcmp(value, SECRET)) leak("an attribute");
    return r < 0 ? -1 : 0;
}
CALL(listxattr) { char names[256]; return listxattr(p, names, sizeof names) < 0 ? -1 : 0; }
CALL(removexattr) { return removexattr(p, "user.canary"); }
CALL(bind) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(p) >= sizeof address.sun_path) return -1;
    strcpy(address.sun_path, p);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    int r = bind(fd, (void *)&address, sizeof address);
    close(fd);
    return r;
}
CALL(connect) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(p) >= sizeof address.sun_path) return -1;
    strcpy(address.sun_path, p);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    int r = connect(fd, (void *)&address, sizeof address);
    if (r == 0) leak("a socket");
    close(fd);
    return r;
}
CALL(watch) {
    int fd = inotify_init1(0);
    int r = inotify_add_watch(fd, p, IN_ALL_EVENTS);
    close(fd);
    return r < 0 ? -1 : 0;
}
CALL(bind_mount) {
    char to[6000];
    full(to, "d");
    if (mount(p, to, NULL, MS_BIND, NULL) != 0) return -1;
    look_into(open(to, O_RDONLY));
    return umount2(to, MNT_DETACH);
}

#define ENTRY(name) {#name, call_##name}
static const struct { const char *name; int (*make)(const char *); } calls[] = {
    ENTRY(open), ENTRY(open_write), ENTRY(open_append), ENTRY(open_path), ENTRY(open_path_link),
    ENTRY(open_directory), ENTRY(open_nofollow), ENTRY(open_temporary), ENTRY(openat), ENTRY(stat),
    ENTRY(lstat), ENTRY(fstatat), ENTRY(statx), ENTRY(statfs), ENTRY(access), ENTRY(faccessat),
    ENTRY(readlink), ENTRY(list), ENTRY(chdir), ENTRY(chroot), ENTRY(execve), ENTRY(watch),
    ENTRY(getxattr), ENTRY(listxattr), ENTRY(setxattr), ENTRY(lsetxattr), ENTRY(removexattr),
    ENTRY(chmod), ENTRY(fchmodat), ENTRY(chown), ENTRY(lchown), ENTRY(fchownat), ENTRY(utimensat),
    ENTRY(utimes_link), ENTRY(utimes), ENTRY(connect), ENTRY(bind_mount),
    // From here on (FIRST_CHANGE) what is there changes.
    ENTRY(symlink_to),
    ENTRY(link_from), ENTRY(link_follow), ENTRY(truncate), ENTRY(open_truncate), ENTRY(creat),
    ENTRY(rename_exchange), ENTRY(open_create), ENTRY(open_exclusive), ENTRY(mkdir), ENTRY(rmdir),
    ENTRY(mknod_file), ENTRY(mknod_fifo), ENTRY(mknod_device), ENTRY(symlink), ENTRY(link_to),
    ENTRY(rename_from), ENTRY(rename_to), ENTRY(rename_directory_to), ENTRY(bind), ENTRY(unlink),
    ENTRY(unlinkat), ENTRY(unlinkat_directory),
};
#define FIRST_CHANGE 37
#define CALLS (sizeof calls / sizeof *calls)
// The calls that `quick` makes: one of each kind.
static const char *const quick[] = {"open", "open_append", "list", "stat", "chmod", "setxattr",
                                    "truncate", "open_create", "rename_from", "unlink"};

static const char *const fixed[] = {
    "", ".", "..", "...", "/", "//", "./", "../", "/..", "../..", "../canary", "./../canary",
    "../canary/secret", "../canary/", "../canary/.", "../canary/new", "d/../../canary/secret",
    "d/..", "d/../..", "d/./../../canary", "d//..//..//canary", "../../../../../../../../canary",
    "/proc/self/root", "/proc/self/root/", "/proc/self/root/../canary", "/proc/self/cwd/../canary",
    "/proc/self/cwd/../canary/secret", "/proc/1/root/..", "/proc/1/cwd/..", "/proc/thread-self/root",
    "/proc/self/fd/FD", "/proc/self/fd/FD/..", "/proc/self/fd/FD/../canary/secret",
    "/proc/self/exe", "/proc/self/map_files", "/dev/fd/FD/../canary", "absolute", "absolute/",
    "absolute/secret", "absolute/../canary/secret", "absolute/new", "relative", "relative/secret",
    "relative/new", "up", "up/canary/secret", "up/up/canary", "magic", "magic/etc/passwd",
    "magic/../canary/secret", "leaf", "leaf/", "leafrel", "dangling", "danglingabs", "loop", "loop/x",
    "chain0", "toolong0", "inner/../../canary/secret", "inner/../../../canary/secret",
    "inner/up/secret", "f/", "f/.", "f/..", "f/../../canary/secret", "hard", "hardlink",
    "in", "in/..", "in/../../canary/secret", "in/../in/../../canary", "a\nb", "..\n", "\t..", ".. ",
    "\xff\xfe..", "\xc0\xae\xc0\xae/canary", "\xef\xbc\x8e\xef\xbc\x8e/canary", "%2e%2e/canary",
    "..\\canary", "~", "../canary/socket", "CANARY/socket", "CANARY", "CANARY/secret", "CANARY/new", "/proc/self/rootCANARY/secret",
    "/dev/../CANARY/secret",
};
#define FIXED (sizeof fixed / sizeof *fixed)

static void make_links(const char *stem, int number, const char *end) {
    char name[64], to[64];
    struct stat s;
    snprintf(name, sizeof name, "%s0", stem);
    if (lstat(name, &s) == 0 && S_ISLNK(s.st_mode)) return;
    for (int at = 0; at < number; at++) {
        snprintf(name, sizeof name, "%s%d", stem, at);
        snprintf(to, sizeof to, "%s%d", stem, at + 1);
        if (symlink(at + 1 == number ? end : to, name) != 0 && errno != EEXIST) perror(name);
    }
}

// Puts everything in its place that an earlier call has moved or removed.
static void restore(void) {
    static const struct { const char *name, *to; } links[] = {
        {"relative", "../canary"}, {"up", ".."}, {"magic", "/proc/self/root"},
        {"leafrel", "../canary/secret"}, {"dangling", "../canary/new"}, {"loop", "loop"},
        {"inner", "d/e"},
    };
    char name[6000];
    struct stat s;
    umask(0);
    if (lstat("d", &s) != 0 || !S_ISDIR(s.st_mode)) { unlink("d"); mkdir("d", 0755); }
    mkdir("d/e", 0755);
    symlink("../../../canary", "d/e/up");
    if (lstat("f", &s) != 0 || !S_ISREG(s.st_mode)) {
        unlink("f"); rmdir("f");
        int fd = open("f", O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0 || write(fd, "inside", 6) != 6) { perror("f"); exit(2); }
        close(fd);
    }
    for (size_t at = 0; at < sizeof links / sizeof *links; at++) symlink(links[at].to, links[at].name);
    symlink(canary, "absolute");
    snprintf(name, sizeof name, "%s/secret", canary);
    symlink(name, "leaf");
    snprintf(name, sizeof name, "%s/new", canary);
    symlink(name, "danglingabs");
    link("f", "hard");
    link("leafrel", "hardlink");
    if (!is_brief) {
        make_links("chain", 39, "../canary/secret");
        make_links("toolong", 42, "../canary/secret");
    }
    unlink("to"); unlink("linked"); unlink("followed"); unlink("renamed"); rmdir("renamed");
}

static void replace(char *text, const char *word, const char *by) {
    char *at = strstr(text, word), rest[6000];
    if (!at) return;
    strcpy(rest, at + strlen(word));
    strcpy(at, by);
    strcat(at, rest);
}

static void try_shape(const char *shape, int is_quick) {
    shape_now = shape;
    for (size_t at = 0; at < CALLS; at++) {
        int wanted = !is_quick;
        for (size_t word = 0; word < sizeof quick / sizeof *quick; word++)
            wanted |= !strcmp(calls[at].name, quick[word]);
        if (!wanted) continue;
        call_now = calls[at].name;
        calls_made++;
        if (calls[at].make(shape) != 0) continue;
        calls_good++;
        // Those before only look, or change attributes.
        if (at >= FIRST_CHANGE) restore();
    }
}

static int race(double seconds) {
    struct timespec now, end;
    long inside = 0, failed = 0;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += (long)seconds;
    shape_now = "swap/secret";
    do {
        struct stat s;
        call_now = "open";
        int fd = open("swap/secret", O_RDWR);
        if (fd >= 0) { inside++; look_into(fd); } else failed++;
        call_now = "stat";
        if (stat("swap/secret", &s) == 0) look(&s);
        call_now = "chdir";
        if (chdir("swap") == 0) {
            look_into(open("secret", O_RDONLY));
            look_into(open("../canary/secret", O_RDONLY));
            look_into(open("../../canary/secret", O_RDONLY));
        }
        if (fchdir(dir_fd) != 0) { perror("fchdir"); return 2; }
        call_now = "creat and unlink";
        fd = open("swap/new", O_WRONLY | O_CREAT, 0644);
        if (fd >= 0) close(fd);
        rename("swap/new", "swap/newer");
        unlink("swap/newer");
        unlink("swap/new");
        chmod("swap/secret", 0640);
        truncate("swap/secret", 6);
        mkdir("swap/directory", 0755);
        rmdir("swap/directory");
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
    printf("race: %ld inside, %ld not found\n", inside, failed);
    if (leaks) return 1;
    printf("escape ok\n");
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3) { fprintf(stderr, "escape DIR CANARY [race SECONDS | quick | brief | planted PATH]\n"); return 2; }
    base = argv[1];
    canary = argv[2];
    if (chdir(base) != 0 || (dir_fd = open(".", O_RDONLY | O_DIRECTORY)) < 0) { perror(base); return 2; }
    if (argc > 4 && !strcmp(argv[3], "race")) return race(atof(argv[4]));
    is_brief = argc > 3 && !strcmp(argv[3], "brief");
    int is_quick = is_brief || (argc > 3 && !strcmp(argv[3], "quick"));
    int number = 0;
    char descriptor[16];
    static char shape[6000];
    snprintf(descriptor, sizeof descriptor, "%d", dir_fd);
    restore();
    if (calls[FIRST_CHANGE].make != call_symlink_to) { fprintf(stderr, "FIRST_CHANGE is wrong\n"); return 2; }
    for (size_t at = 0; at < FIXED; at++) {
        if (is_brief && at % 9 != 2) continue;
        number++;
        snprintf(shape, sizeof shape, "%s", fixed[at]);
        replace(shape, "FD", descriptor);
        replace(shape, "CANARY", canary);
        try_shape(shape, is_quick);
    }
    // Long ones: names of 255 and 256 bytes, paths of just under and over PATH_MAX.
    const int lengths[] = {255, 256, 4095, 4096, 5000};
    for (size_t at = 0; !is_brief && at < sizeof lengths / sizeof *lengths; at++, number++) {
        memset(shape, 0, sizeof shape);
        if (lengths[at] < 1000) memset(shape, 'a', (size_t)lengths[at]);
        else for (int end = 0; end < lengths[at]; end++) shape[end] = "../"[end % 3];
        if (lengths[at] > 1000) strcpy(shape + lengths[at] - 13, "canary/secret");
        try_shape(shape, is_quick);
    }
    if (argc > 4) { try_shape(argv[4], is_quick); number++; }
    printf("%d shapes, %d calls, %d of them succeeded\n", number, calls_made, calls_good);
    if (leaks) return 1;
    printf("escape ok\n");
    return 0;
}
