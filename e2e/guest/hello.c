// SPDX-License-Identifier: Apache-2.0
// Prints "hello".
#include <unistd.h>

int main(void) { return write(1, "hello\n", 6) == 6 ? 0 : 1; }
