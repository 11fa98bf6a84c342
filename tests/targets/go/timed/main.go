// Functions with known durations, log-uniform between 100 us and 10 ms: one that computes, one that sleeps, so that other
// goroutines use its thread meanwhile. The oracle's clock stands inside of the function, next to where the probes stand.
package main

import (
	"math"
	"time"

	"edgelat/targets/oracle"
)

var (
	ofComputes = oracle.New("main.computes")
	ofSleeps   = oracle.New("main.sleeps")
)

//go:noinline
func computes(duration uint64) uint64 {
	start := oracle.Now()
	ofComputes.Enter()
	now := start
	for now-start < duration {
		now = oracle.Now()
	}
	ofComputes.Leave()
	ofComputes.Record(oracle.Now() - start)
	return now - start
}

//go:noinline
func sleeps(duration uint64) uint64 {
	start := oracle.Now()
	ofSleeps.Enter()
	time.Sleep(time.Duration(duration))
	ofSleeps.Leave()
	took := oracle.Now() - start
	ofSleeps.Record(took)
	return took
}

func loop(worker int) {
	random := uint64(worker)
	for turn := uint64(0); oracle.Next(turn, true); turn++ {
		random = oracle.Mix(random)
		part := float64(random>>11) / (1 << 53)
		duration := uint64(1e5 * math.Pow(100, part))
		took := uint64(0)
		if turn%2 == 0 {
			took = computes(duration)
		} else {
			took = sleeps(duration)
		}
		if took < duration {
			oracle.Expect("long enough", duration, took)
		}
	}
}

func main() { oracle.Main(loop) }
