# SPDX-License-Identifier: Apache-2.0
# A program that calls C, with threads that C made.
set -e
export GOCACHE=/tmp/c GO111MODULE=off HOME=/tmp; mkdir -p /tmp/g && cd /tmp/g; cat > m.go <<'G'
package main

/*
#include <pthread.h>
#include <stdlib.h>
extern void called(int);
static void *f(void *p) { called((int)(long)p); return 0; }
static void run(int n) { pthread_t t; pthread_create(&t, 0, f, (void *)(long)n); pthread_join(t, 0); }
*/
import "C"
import ("fmt"; "os/user"; "sync")

var mu sync.Mutex
var sum int

//export called
func called(n C.int) { mu.Lock(); sum += int(n); mu.Unlock() }

func main() {
	var wg sync.WaitGroup
	for i := 0; i < 50; i++ { wg.Add(1); go func(i int) { defer wg.Done(); C.run(C.int(i)) }(i) }
	wg.Wait(); u, err := user.Current(); fmt.Println(sum, u.Username, err)
}
G
/usr/lib/go-1.19/bin/go build -o m . && ./m
