// Go that calls C that calls Go: C runs on the thread's own stack, and what it calls back on the goroutine's again.
package main

// #include <stdint.h>
// uint64_t c_work(uint64_t x);
import "C"

import "edgelat/targets/oracle"

var (
	ofCallsC  = oracle.New("main.callsC")
	ofAnswer  = oracle.New("main.answer")
	ofWork    = oracle.New("c_work")
	ofDescend = oracle.New("main.descend")
)

//go:noinline
func callsC(x uint64) uint64 {
	ofCallsC.Enter()
	// C cannot count in Go's memory: it is called once for each of these.
	ofWork.Enter()
	y := uint64(C.c_work(C.uint64_t(x)))
	ofWork.Leave()
	ofCallsC.Leave()
	return y
}

//go:noinline
func answer(x uint64) uint64 {
	ofAnswer.Enter()
	y := descend(x%30) ^ x
	ofAnswer.Leave()
	return y
}

// Grows the stack below C's frames.
//
//go:noinline
func descend(n uint64) uint64 {
	ofDescend.Enter()
	var room [500]byte
	for i := range room {
		room[i] = byte(n)
	}
	sum := uint64(room[n%500])
	if n > 0 {
		sum += descend(n - 1)
	}
	ofDescend.Leave()
	return sum
}

//export goAnswer
func goAnswer(x C.uint64_t) C.uint64_t { return C.uint64_t(answer(uint64(x))) }

func loop(worker int) {
	for turn := uint64(0); oracle.Next(turn, true); turn++ {
		done := make(chan struct{})
		go func() {
			n := turn % 30
			oracle.Expect("callsC", (n*(n+1)/2)^turn+1, callsC(turn))
			close(done)
		}()
		<-done
	}
}

func main() { oracle.Main(loop) }
