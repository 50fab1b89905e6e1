// SPDX-License-Identifier: Apache-2.0
// forward DIR: makes every kind of call that a guest forwards to the host: on files of the volume at
// DIR, and on sockets over the loopback interface.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define MUST(call) do { if ((call) < 0) { fprintf(stderr, "line %d: %s: %s\n", __LINE__, #call, strerror(errno)); exit(1); } } while (0)

static void files(void) {
    struct stat s;
    struct statfs space;
    char text[8192] = "";
    int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0644), one = 0;
    MUST(fd);
    MUST(write(fd, text, sizeof text));
    MUST(pwrite(fd, "x", 1, 100));
    MUST(pread(fd, text, 10, 0));
    MUST(fallocate(fd, 0, 0, 100000));
    MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 4096));
    MUST(lseek(fd, 0, SEEK_DATA));
    MUST(lseek(fd, 0, SEEK_HOLE));
    MUST(fsync(fd));
    MUST(fdatasync(fd));
    MUST(flock(fd, LOCK_EX));
    MUST(flock(fd, LOCK_UN));
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
    MUST(fcntl(fd, F_SETLK, &lock));
    MUST(fcntl(fd, F_GETLK, &lock));
    lock.l_type = F_UNLCK;
    MUST(fcntl(fd, F_SETLK, &lock));
    MUST(ftruncate(fd, 50));
    MUST(ioctl(fd, FIONREAD, &one));
    close(fd);
    MUST(fd = open("file", O_WRONLY | O_APPEND));
    MUST(write(fd, "end", 3));
    close(fd);
    MUST(fd = open("file", O_WRONLY | O_DSYNC));
    MUST(write(fd, "now", 3));
    close(fd);
    // Larger than what one request carries.
    MUST(fd = open("large", O_RDWR | O_CREAT | O_TRUNC, 0644));
    char *big = calloc(1, 3 << 20);
    MUST(write(fd, big, 3 << 20));
    MUST(pread(fd, big, 3 << 20, 0));
    free(big);
    close(fd);
    MUST(mkdir("directory", 0755));
    MUST(symlink("file", "link"));
    MUST(readlink("link", text, sizeof text));
    MUST(link("file", "hard"));
    MUST(mkfifo("fifo", 0644));
    MUST(rename("hard", "directory/renamed"));
    MUST(chmod("file", 0600));
    MUST(chown("file", 1, 2));
    MUST(utimensat(AT_FDCWD, "file", NULL, 0));
    MUST(truncate("file", 10));
    // tmpfs has no attributes of users before Linux 6.6.
    if (setxattr("file", "user.x", "y", 1, 0) == 0) {
        MUST(getxattr("file", "user.x", text, sizeof text));
        MUST(listxattr("file", text, sizeof text));
        MUST(removexattr("file", "user.x"));
    } else if (errno != EOPNOTSUPP) {
        MUST(-1);
    }
    MUST(stat("file", &s));
    MUST(statfs("file", &space));
    DIR *list = opendir(".");
    while (list && readdir(list)) {}
    closedir(list);
    MUST(unlink("directory/renamed"));
    MUST(rmdir("directory"));
    MUST(unlink("link"));
    MUST(unlink("fifo"));
    MUST(unlink("large"));
    MUST(unlink("file"));
}

static struct sockaddr_in loopback(int fd) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    MUST(bind(fd, (void *)&address, bytes));
    MUST(getsockname(fd, (void *)&address, &bytes));
    return address;
}

static void streams(void) {
    int on = 1, value = 0;
    socklen_t bytes = sizeof value;
    char text[64];
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    MUST(listener);
    MUST(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    struct sockaddr_in address = loopback(listener);
    MUST(listen(listener, 8));
    MUST(connect(client, (void *)&address, sizeof address));
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(server);
    bytes = sizeof address;
    MUST(getpeername(client, (void *)&address, &bytes));
    bytes = sizeof value;
    MUST(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    MUST(getsockopt(client, IPPROTO_TCP, TCP_NODELAY, &value, &bytes));
    MUST(setsockopt(client, IPPROTO_IP, IP_TTL, &(int){9}, sizeof on));
    MUST(write(client, "hello", 5));
    struct pollfd ready = {.fd = server, .events = POLLIN};
    MUST(poll(&ready, 1, 5000));
    MUST(ioctl(server, FIONREAD, &value));
    MUST(ioctl(client, TIOCOUTQ, &value));
    MUST(recv(server, text, 2, MSG_PEEK));
    MUST(read(server, text, sizeof text));
    MUST(send(client, "!", 1, MSG_OOB));
    poll(NULL, 0, 50);
    MUST(ioctl(server, 0x8905 /* SIOCATMARK */, &value));
    MUST(recv(server, text, 1, MSG_OOB));
    // More than the buffers hold, so that both wait.
    char *big = malloc(1 << 20);
    memset(big, 'x', 1 << 20);
    pid_t pid = fork();
    MUST(pid);
    if (pid == 0) {
        for (long left = 4 << 20; left > 0;) { ssize_t n = write(client, big, 1 << 20); if (n <= 0) _exit(1); left -= n; }
        _exit(0);
    }
    for (long left = 4 << 20; left > 0;) { ssize_t n = read(server, big, 1 << 20); MUST(n); left -= n; }
    free(big);
    MUST(shutdown(client, SHUT_WR));
    close(client);
    close(server);
    close(listener);
}

static void datagrams(void) {
    char text[64];
    int one = socket(AF_INET, SOCK_DGRAM, 0), two = socket(AF_INET, SOCK_DGRAM, 0), six;
    MUST(one);
    struct sockaddr_in address = loopback(one);
    MUST(sendto(two, "hello", 5, 0, (void *)&address, sizeof address));
    MUST(recvfrom(one, text, sizeof text, 0, NULL, NULL));
    struct iovec piece = {text, 5};
    struct msghdr message = {.msg_name = &address, .msg_namelen = sizeof address, .msg_iov = &piece, .msg_iovlen = 1};
    MUST(sendmsg(two, &message, 0));
    MUST(recvmsg(one, &message, 0));
    MUST(six = socket(AF_INET6, SOCK_DGRAM, 0));
    MUST(setsockopt(six, IPPROTO_IPV6, IPV6_V6ONLY, &(int){1}, sizeof(int)));
    close(one);
    close(two);
    close(six);
}

int main(int argc, char **argv) {
    if (argc < 2 || chdir(argv[1]) != 0) { perror(argc > 1 ? argv[1] : "forward DIR"); return 2; }
    files();
    streams();
    datagrams();
    printf("forward ok\n");
    return 0;
}
