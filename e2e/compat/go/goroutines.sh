# SPDX-License-Identifier: Apache-2.0
# Goroutines, channels, timers, preemption of tight loops, garbage collection, os/exec, signals.
set -e
export GOCACHE=/tmp/c GO111MODULE=off HOME=/tmp; mkdir -p /tmp/g && cd /tmp/g; cat > m.go <<'G'
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	var wg sync.WaitGroup
	var n int64
	for i := 0; i < 20000; i++ {
		wg.Add(1)
		go func(i int) { defer wg.Done(); time.Sleep(time.Duration(i%10) * time.Millisecond); atomic.AddInt64(&n, 1) }(i)
	}
	wg.Wait()
	fmt.Println(n)
	c := make(chan int)
	go func() { for i := 0; i < 100000; i++ { c <- i }; close(c) }()
	s := 0
	for x := range c { s += x }
	fmt.Println(s)
	stop := int32(0)
	for i := 0; i < 1; i++ { go func() { for atomic.LoadInt32(&stop) == 0 { } }() }
	time.Sleep(50 * time.Millisecond)
	atomic.StoreInt32(&stop, 1)
	runtime.GC()
	fmt.Println("preempted")
	var keep [][]byte
	for i := 0; i < 20000; i++ { keep = append(keep, make([]byte, 10000)); if len(keep) > 100 { keep = keep[50:] } }
	fmt.Println(len(keep) > 0)
	out, err := exec.Command("sh", "-c", "echo child; exit 3").Output()
	fmt.Printf("%q %v\n", out, err)
	var cs sync.WaitGroup
	for i := 0; i < 16; i++ { cs.Add(1); go func() { defer cs.Done(); if err := exec.Command("true").Run(); err != nil { fmt.Println(err) } }() }
	cs.Wait()
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGUSR1)
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	fmt.Println(<-sig)
	func() { defer func() { fmt.Println(recover()) }(); var p *int; *p = 1 }()
	select { case <-time.After(30 * time.Millisecond): fmt.Println("timer") }
	os.Exit(5)
}
G
go=/usr/lib/go-1.19/bin/go; $go build -o m m.go && (./m || echo "status $?"); CGO_ENABLED=0 $go build -o s m.go && (GOMAXPROCS=4 ./s || echo "status $?"); $go vet m.go || true; $go run m.go > /dev/null 2>&1 || echo "run $?"
