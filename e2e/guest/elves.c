// SPDX-License-Identifier: Apache-2.0
// elves [ROUNDS]: executes copies of itself with bytes changed, the same ones each time.  They may
// fail to start, fault, loop or run; this one, and the kernel, must live.
//
// They run without random addresses, so that each does the same every time, and an address in the
// kernel's half is put only where the kernel itself is to refuse it: as an alignment of thread-local
// storage, say, it makes the C library write there, which may end the VM (docs/limitations.md).
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static uint64_t state = 0x9e3779b97f4a7c15;

static uint64_t next(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

// What parsers get wrong.
static uint64_t nasty(bool is_address) {
    static const uint64_t base[] = {
        0, 1, 0xfff, 0x1000, 1u << 31, 1ul << 32, 1ul << 47, 1ul << 63, UINT64_MAX, 0x7f0000000000,
    };
    size_t count = sizeof base / sizeof *base - !is_address;
    return base[next() % count] + next() % 3 - 1;
}

// Whether a place in the headers is the entry point or the address of a segment.
static bool is_address(size_t at) {
    size_t in_segment = (at - sizeof(Elf64_Ehdr)) % sizeof(Elf64_Phdr);
    return at == offsetof(Elf64_Ehdr, e_entry)
        || (at > sizeof(Elf64_Ehdr) && in_segment == offsetof(Elf64_Phdr, p_vaddr));
}

// Changes a copy: fields of its headers, or any bytes of its first pages.
static void change(uint8_t *file, size_t bytes, int round) {
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)file;
    size_t headers = header->e_phoff + header->e_phnum * sizeof(Elf64_Phdr);
    for (int i = 0; i <= round % 5; i++) {
        if (round % 3) {
            size_t at = 16 + next() % (headers - 24), width = 1u << next() % 4;
            at -= at % width;
            uint64_t value = nasty(width == sizeof value && is_address(at));
            memcpy(file + at, &value, width);
        } else {
            file[16 + next() % ((bytes < 32768 ? bytes : 32768) - 16)] = next();
        }
    }
}

int main(int argc, char **argv) {
    if (argc == 3) return 0;
    int rounds = argc > 1 ? atoi(argv[1]) : 400, ran = 0, refused = 0, died = 0;
    static const char path[] = "/tmp/elf";
    mkdir("/tmp", 0755);
    int self = open("/proc/self/exe", O_RDONLY);
    struct stat attributes;
    CHECK(self >= 0 && fstat(self, &attributes) == 0);
    size_t bytes = attributes.st_size;
    uint8_t *good = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, self, 0), *changed = malloc(bytes);
    CHECK(good != MAP_FAILED && changed);
    for (int round = 0; round < rounds; round++) {
        memcpy(changed, good, bytes);
        if (round) change(changed, bytes, round);
        size_t length = round % 7 == 6 ? next() % bytes : bytes;
        unlink(path);
        int file = open(path, O_WRONLY | O_CREAT, 0755);
        CHECK(file >= 0 && write(file, changed, length) == (ssize_t)length && close(file) == 0);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            const struct rlimit none = {0, 0}, second = {1, 1};
            setrlimit(RLIMIT_CORE, &none), setrlimit(RLIMIT_CPU, &second);
            setpgid(0, 0);
            alarm(1);
            personality(ADDR_NO_RANDOMIZE);
            int nowhere = open("/dev/null", O_RDWR);
            dup2(nowhere, 0), dup2(nowhere, 1), dup2(nowhere, 2);
            execl(path, path, "0", "run", (char *)NULL);
            _exit(100 + (errno < 100 ? errno : 100));
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid);
        kill(-pid, SIGKILL);
        while (waitpid(-1, NULL, WNOHANG) > 0) {}
        if (WIFSIGNALED(status)) died++;
        else if (WEXITSTATUS(status) >= 100) refused++;
        else ran++;
        if (round == 0) CHECK(status == 0);
    }
    // Each of the three must be among so many, or the changes change nothing.
    CHECK(rounds < 100 || (ran > 5 && refused > 5 && died > 5));
    printf("elves ok\n");
    return 0;
}
