# SPDX-License-Identifier: Apache-2.0
# Address and undefined behaviour sanitizers: huge reservations, shadow memory.
cd /tmp; cat > s.c <<'C'
#include <stdlib.h>
int main(int c, char **v) { char *p = malloc(10); p[c * 9] = 1; free(p); if (c > 1) p[0] = 2; return 0; }
C
gcc -g -fsanitize=address,undefined s.c -o s && ./s; echo "good $?"; ASAN_OPTIONS=detect_leaks=0 ./s x 2>&1 | grep -o 'heap-[a-z-]*' | head -n 1
gcc -g -fsanitize=thread -x c - -o t -pthread <<'C' && ./t > /dev/null 2> log; grep -c 'data race' log
#include <pthread.h>
int x; void *f(void *p) { x++; return p; }
int main(void) { pthread_t t; pthread_create(&t, 0, f, 0); x++; pthread_join(t, 0); return 0; }
C
