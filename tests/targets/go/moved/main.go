// A function that is called while the memory of its goroutine goes and comes. The kernel does that where it makes huge pages or
// compacts memory, for a moment each; here the page lies in a file, and a thread takes it out of the address space all the time.
// Whoever may not wait for it cannot read it then.
package main

import (
	"syscall"
	"time"
	"unsafe"

	"edgelat/targets/oracle"
)

const page = 4096

var ofStep = oracle.New("main.step")

// The goroutine that runs, as Go keeps it in a register.
func goroutine() uintptr

// Touches no memory of its goroutine while it computes, and has no frame: who misses that memory first is the probe at the return.
//
//go:noinline
func step(value uint64) uint64 {
	ofStep.Enter()
	ofStep.Leave()
	for i := 0; i < 10_000; i++ {
		value = value*6364136223846793005 + 1
	}
	return value
}

func must(err error) {
	if err != nil && err != syscall.Errno(0) {
		panic(err)
	}
}

// Nothing else runs that uses this page, and no call here lets anything else run.
//
//go:nosplit
func moveToFile(start uintptr, file uintptr) (err syscall.Errno) {
	if _, _, err = syscall.RawSyscall6(syscall.SYS_PWRITE64, file, start, page, 0, 0, 0); err != 0 {
		return err
	}
	_, _, err = syscall.RawSyscall6(syscall.SYS_MMAP, start, page, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_SHARED|syscall.MAP_FIXED, file, 0)
	return err
}

func calls() {
	name := []byte("goroutine\x00")
	file, _, err := syscall.RawSyscall(memfdCreate, uintptr(unsafe.Pointer(&name[0])), 0, 0)
	must(err)
	must(syscall.Ftruncate(int(file), page))
	start := goroutine() &^ (page - 1)
	must(moveToFile(start, file))
	go func() {
		for {
			syscall.RawSyscall(syscall.SYS_MADVISE, start, page, syscall.MADV_DONTNEED)
		}
	}()
	value := uint64(1)
	for turn := uint64(0); oracle.Next(turn, true); turn++ {
		value = step(value)
	}
}

// The goroutines next to the one that calls, in the same page, wait for ever: what they wrote while it is moved would be lost.
func loop(int) {
	const neighbours = 200
	begin, never, done := make(chan bool), make(chan bool), make(chan bool)
	for i := 0; i < neighbours; i++ {
		calling := i == neighbours/2
		go func() {
			if calling {
				<-begin
				calls()
				close(done)
			}
			<-never
		}()
	}
	time.Sleep(50 * time.Millisecond)
	close(begin)
	<-done
}

func main() { oracle.Main(loop) }
