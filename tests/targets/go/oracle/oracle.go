// Package oracle is tests/targets/oracle.h for targets that are written in Go: a target counts the calls of its own
// functions, knows how each ended, checks the results of its own work, and tells all that over the same protocol. What
// that header calls a thread is a goroutine here.
package oracle

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	_ "unsafe" // for go:linkname
)

// Function is one function of the target. Its counters are single atomic words: adding to them calls nothing, so that a
// function that calls nothing else is a leaf to the compiler. Assembly knows that they stand at 16 and 24.
type Function struct {
	name      string
	calls     atomic.Uint64
	returned  atomic.Uint64
	unwound   atomic.Uint64
	sum       atomic.Uint64
	mutex     sync.Mutex
	durations []uint64
}

var (
	functions []*Function

	mutex     sync.Mutex
	resumed   = sync.NewCond(&mutex) // the rest is over
	moved     = sync.NewCond(&mutex) // a worker parked or finished
	resting   atomic.Bool
	stopping  atomic.Bool
	workers   = 1
	parked    int
	finished  int
	turns     uint64
	wrongs    atomic.Uint64
	firstOnce sync.Once
	first     string
)

// New announces a function of the target; name is the one in the program's table of functions.
func New(name string) *Function {
	function := &Function{name: name}
	functions = append(functions, function)
	return function
}

// Enter counts a call that begins.
func (f *Function) Enter() { f.calls.Add(1) }

// Leave counts a call that is about to return.
func (f *Function) Leave() { f.returned.Add(1) }

// Unwound counts a call that a panic or Goexit ends.
func (f *Function) Unwound() { f.unwound.Add(1) }

// Record adds the duration of a call.
func (f *Function) Record(nanoseconds uint64) {
	f.sum.Add(nanoseconds)
	f.mutex.Lock()
	f.durations = append(f.durations, nanoseconds)
	f.mutex.Unlock()
}

// Now is CLOCK_MONOTONIC in nanoseconds.
func Now() uint64 { return uint64(nanotime()) }

//go:linkname nanotime runtime.nanotime
func nanotime() int64

// Option is the value of `--name VALUE`, or otherwise.
func Option(name string, otherwise uint64) uint64 {
	for i, argument := range os.Args {
		if argument == "--"+name && i+1 < len(os.Args) {
			if value, err := strconv.ParseUint(os.Args[i+1], 0, 64); err == nil {
				return value
			}
		}
	}
	return otherwise
}

func flag(name string) bool {
	for _, argument := range os.Args {
		if argument == "--"+name {
			return true
		}
	}
	return false
}

// Mix is one round of splitmix64: a step that a test of results can repeat. Inlined wherever it is called.
func Mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Expect notes that the target's own work went wrong where found is not as expected.
func Expect(what string, expected, found uint64) {
	if expected != found {
		wrongs.Add(1)
		firstOnce.Do(func() { first = fmt.Sprintf("%s: expected %#x, found %#x", what, expected, found) })
	}
}

// RestPoint parks the caller where it stands while the test wants rest.
func RestPoint() {
	if !resting.Load() {
		return
	}
	mutex.Lock()
	parked++
	moved.Signal()
	for resting.Load() {
		resumed.Wait()
	}
	parked--
	mutex.Unlock()
}

// Next says whether a worker that has done so many turns shall do another. It parks here while the test wants rest, if
// the worker does not come to a RestPoint inside of its functions in every turn.
func Next(done uint64, parks bool) bool {
	if parks {
		RestPoint()
	}
	return !stopping.Load() && (turns == 0 || done < turns)
}

type told struct {
	Name      string  `json:"name"`
	Calls     uint64  `json:"calls"`
	Completed uint64  `json:"completed"`
	Unwound   uint64  `json:"unwound"`
	InFlight  int64   `json:"in_flight"`
	Sum       uint64  `json:"sum_ns"`
	Recorded  int     `json:"recorded"`
	P50       *uint64 `json:"p50_ns,omitempty"`
	P90       *uint64 `json:"p90_ns,omitempty"`
	P99       *uint64 `json:"p99_ns,omitempty"`
}

// The nearest-rank quantile: the smallest duration that at least so many of a thousand are not above.
func quantile(sorted []uint64, permille int) *uint64 {
	if len(sorted) == 0 {
		return nil
	}
	rank := (len(sorted)*permille + 999) / 1000
	if rank > 0 {
		rank--
	}
	return &sorted[rank]
}

func tell(event string) {
	list := []told{}
	for _, f := range functions {
		calls, returned, unwound := f.calls.Load(), f.returned.Load(), f.unwound.Load()
		f.mutex.Lock()
		sorted := append([]uint64(nil), f.durations...)
		f.mutex.Unlock()
		sort.Slice(sorted, func(i, j int) bool { return sorted[i] < sorted[j] })
		list = append(list, told{
			f.name, calls, returned, unwound, int64(calls - returned - unwound), f.sum.Load(), len(sorted),
			quantile(sorted, 500), quantile(sorted, 900), quantile(sorted, 990),
		})
	}
	message := ""
	if wrongs.Load() > 0 {
		firstOnce.Do(func() {})
		message = first
	}
	line, err := json.Marshal(struct {
		Event     string `json:"event"`
		Pid       int    `json:"pid"`
		Ok        bool   `json:"ok"`
		Wrong     uint64 `json:"wrong"`
		Message   string `json:"message"`
		Functions []told `json:"functions"`
	}{event, os.Getpid(), wrongs.Load() == 0, wrongs.Load(), message, list})
	if err == nil {
		_, err = os.Stdout.Write(append(line, '\n'))
	}
	if err != nil {
		os.Exit(111) // the test has gone
	}
}

func rest() {
	mutex.Lock()
	resting.Store(true)
	for parked+finished < workers {
		moved.Wait()
	}
	mutex.Unlock()
	tell("rest")
}

func resume() {
	mutex.Lock()
	resting.Store(false)
	resumed.Broadcast()
	mutex.Unlock()
}

// Main runs work(0), work(1)... on `--threads` goroutines under the protocol, and ends the program.
func Main(work func(worker int)) {
	workers = int(Option("threads", 1))
	turns = Option("calls", 1000)
	commands := make(chan string)
	done := make(chan struct{})
	start := func() {
		for i := 0; i < workers; i++ {
			go func(worker int) {
				work(worker)
				mutex.Lock()
				finished++
				moved.Signal()
				if finished == workers {
					close(done)
				}
				mutex.Unlock()
			}(i)
		}
	}
	started, over, stay := false, false, flag("stay")
	if flag("at-once") { // nobody says go
		started = true
		start()
	} else {
		go func() {
			for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
				commands <- strings.TrimSpace(lines.Text())
			}
			commands <- "end"
		}()
		tell("ready")
	}
	for !over || stay {
		waited := done
		if over {
			waited = nil
		}
		select {
		case <-waited:
			over = true
			for _, f := range functions {
				Expect(f.name, f.calls.Load(), f.returned.Load()+f.unwound.Load())
			}
			tell("end")
		case command := <-commands:
			switch command {
			case "go":
				if started {
					resume()
				} else {
					started = true
					start()
				}
			case "rest":
				rest()
			case "tell":
				tell("told")
			case "exec": // whatever stands now where this program was started from; at rest, so that the figures stand
				fmt.Fprintln(os.Stderr, syscall.Exec(os.Args[0], os.Args, os.Environ()))
				os.Exit(112)
			case "stop":
				stopping.Store(true)
				resume()
			case "end":
				if over || !started {
					stay, over = false, true
					break
				}
				// End of file in mid-work: the test is gone or has no more to say.
				stopping.Store(true)
				resume()
				stay = false
			default:
				Expect("unknown command", 0, 1)
			}
		}
	}
	if wrongs.Load() > 0 {
		os.Exit(1)
	}
	os.Exit(0)
}
