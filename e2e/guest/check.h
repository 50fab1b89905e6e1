// SPDX-License-Identifier: Apache-2.0
// For functions that return 1 when something is wrong, and say where.
#include <errno.h>
#include <stdio.h>

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "line %d: %s (errno %d)\n", __LINE__, #condition, errno); \
            return 1;                                                                 \
        }                                                                             \
    } while (0)
