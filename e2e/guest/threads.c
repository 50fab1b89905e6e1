// SPDX-License-Identifier: Apache-2.0
// Threads: create and join, a mutex that all want, a condition, thread-local storage.
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

enum { THREADS = 8, ROUNDS = 2000 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int waiting, may_go;
static long total;
static __thread long mine;

static void *work(void *argument) {
    pthread_mutex_lock(&mutex);
    waiting++;
    pthread_cond_broadcast(&condition);
    while (!may_go) pthread_cond_wait(&condition, &mutex);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        total++;
        pthread_mutex_unlock(&mutex);
        mine += (long)argument;
    }
    return (void *)mine;
}

int main(void) {
    pthread_t threads[THREADS];
    for (long i = 0; i < THREADS; i++) {
        int error = pthread_create(&threads[i], NULL, work, (void *)i);
        if (error) { errno = error; perror("pthread_create"); return 1; }
    }
    pthread_mutex_lock(&mutex);
    while (waiting < THREADS) pthread_cond_wait(&condition, &mutex);
    may_go = 1;
    pthread_cond_broadcast(&condition);
    pthread_mutex_unlock(&mutex);
    for (long i = 0; i < THREADS; i++) {
        void *result;
        if (pthread_join(threads[i], &result) || (long)result != i * ROUNDS) {
            fprintf(stderr, "thread %ld returned %ld\n", i, (long)result);
            return 1;
        }
    }
    if (total != THREADS * ROUNDS || mine != 0) { fprintf(stderr, "total %ld\n", total); return 1; }
    printf("threads ok\n");
    return 0;
}
