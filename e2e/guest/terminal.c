// SPDX-License-Identifier: Apache-2.0
// Says whether standard input is a terminal, and its size.
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

int main(void) {
    struct winsize size;
    if (!isatty(0) || ioctl(0, TIOCGWINSZ, &size)) {
        printf("no terminal\n");
        return 1;
    }
    printf("terminal %d rows %d columns\n", size.ws_row, size.ws_col);
    return 0;
}
