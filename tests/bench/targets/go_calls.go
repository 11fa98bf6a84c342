// SPDX-License-Identifier: Apache-2.0 OR MIT

// The Go counterpart of calls.c: same protocol. checked has a stack check, as functions have that call others; leaf has
// none.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

const clockThreadCPUTime = 3 // linux/time.h

func cpuNanoseconds() int64 {
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockThreadCPUTime, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano()
}

//go:noinline
func leaf(x int) int { return x*31 + 7 }

//go:noinline
func checked(x int) int { return leaf(x) ^ x }

func main() {
	runtime.LockOSThread()
	// A collection in the middle of a batch would be counted to the probes.
	debug.SetGCPercent(-1)
	if len(os.Args) > 1 {
		if cpu, err := strconv.Atoi(os.Args[1]); err == nil {
			mask := [16]uint64{}
			mask[cpu/64] = 1 << (cpu % 64)
			syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
		}
	}
	functions := map[string]func(int) int{"main.leaf": leaf, "main.checked": checked}
	lines := bufio.NewScanner(os.Stdin)
	sink := 0
	for lines.Scan() {
		name, number, _ := strings.Cut(lines.Text(), " ")
		calls, err := strconv.Atoi(number)
		function := functions[name]
		if err != nil || function == nil {
			fmt.Fprintln(os.Stderr, "go_calls: what is", lines.Text())
			os.Exit(2)
		}
		start := cpuNanoseconds()
		for call := 0; call < calls; call++ {
			sink += function(call)
		}
		fmt.Println(calls, cpuNanoseconds()-start)
	}
	runtime.KeepAlive(sink)
}
