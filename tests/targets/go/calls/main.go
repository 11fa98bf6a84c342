// Every way in which Go enters and leaves a function: frames that move because the stack grows or shrinks, goroutines that
// go on in other threads, panics, Goexit, closures, methods, instances of generic functions, assembly.
package main

import (
	"runtime"
	"syscall"

	"edgelat/targets/oracle"
)

var (
	ofAdd      = oracle.New("main.add")
	ofWork     = oracle.New("main.work")
	ofHold     = oracle.New("main.hold")
	ofEven     = oracle.New("main.even")
	ofOdd      = oracle.New("main.odd")
	ofDescend  = oracle.New("main.descend")
	ofBig      = oracle.New("main.big")
	ofHuge     = oracle.New("main.huge")
	ofYields   = oracle.New("main.yields")
	ofAsks     = oracle.New("main.asks")
	ofAnswers  = oracle.New("main.answers")
	ofBlocks   = oracle.New("main.blocks")
	ofPanics   = oracle.New("main.panics")
	ofFaults   = oracle.New("main.faults")
	ofPasses   = oracle.New("main.passes")
	ofRecovers = oracle.New("main.recovers")
	ofExits    = oracle.New("main.exits")
	ofLeaves   = oracle.New("main.leaves")
	ofClosure  = oracle.New("main.adder.func1")
	ofDeposit  = oracle.New("main.(*account).deposit")
	ofLength   = oracle.New("main.point.length")
	ofPromoted = oracle.New("main.(*inner).promoted")
	ofAssembly = oracle.New("main.rotate")
)

// Calls nothing and has no frame: no check of the stack, no branch to stand on.
//
//go:noinline
func add(a, b uint64) uint64 {
	ofAdd.Enter()
	sum := oracle.Mix(a) + b
	ofAdd.Leave()
	return sum
}

//go:noinline
func hold(value uint64, parks bool) uint64 {
	ofHold.Enter()
	if parks {
		oracle.RestPoint()
	}
	result := value ^ 0x5555
	ofHold.Leave()
	return result
}

//go:noinline
func work(seed uint64, parks bool) uint64 {
	ofWork.Enter()
	sum := uint64(0)
	for i := uint64(0); i < 3; i++ {
		sum = add(seed+i, sum)
	}
	sum = hold(sum, parks)
	ofWork.Leave()
	return sum
}

//go:noinline
func even(n uint64) bool {
	ofEven.Enter()
	answer := n == 0 || odd(n-1)
	ofEven.Leave()
	return answer
}

//go:noinline
func odd(n uint64) bool {
	ofOdd.Enter()
	answer := n != 0 && even(n-1)
	ofOdd.Leave()
	return answer
}

// The three forms of the check of the stack: a small frame, one above 128 bytes, and one above 4096. Each is entered by a
// goroutine whose stack is too small, so that the check fails, the stack moves, and the function begins again.

// The sum 1 + 2 + ... + n.
//
//go:noinline
func descend(n uint64) uint64 {
	ofDescend.Enter()
	sum := n
	if n > 0 {
		sum += descend(n - 1)
	}
	ofDescend.Leave()
	return sum
}

//go:noinline
func big(n uint64) uint64 {
	ofBig.Enter()
	var room [1500]byte
	fill(room[:], byte(n))
	sum := uint64(room[n%1500])
	if n > 0 {
		sum += big(n - 1)
	}
	sum += uint64(room[(n*7)%1500])
	ofBig.Leave()
	return sum
}

//go:noinline
func huge(n uint64) uint64 {
	ofHuge.Enter()
	var room [20000]byte
	fill(room[:], byte(n))
	sum := uint64(room[n%20000])
	if n > 0 {
		sum += huge(n - 1)
	}
	sum += uint64(room[(n*7)%20000])
	ofHuge.Leave()
	return sum
}

//go:noinline
func fill(room []byte, value byte) {
	for i := range room {
		room[i] = value
	}
}

// Comes back in another thread as often as not.
//
//go:noinline
func yields(x uint64) uint64 {
	ofYields.Enter()
	runtime.Gosched()
	x = oracle.Mix(x)
	runtime.Gosched()
	ofYields.Leave()
	return x
}

type question struct {
	value  uint64
	answer chan uint64
}

//go:noinline
func asks(peer chan question, x uint64) uint64 {
	ofAsks.Enter()
	answer := make(chan uint64)
	peer <- question{x, answer}
	y := <-answer
	ofAsks.Leave()
	return y
}

//go:noinline
func answers(q question) {
	ofAnswers.Enter()
	q.answer <- oracle.Mix(q.value)
	ofAnswers.Leave()
}

// A goroutine that keeps its thread, in a system call that blocks.
//
//go:noinline
func blocks() uint64 {
	ofBlocks.Enter()
	runtime.LockOSThread()
	pause := syscall.NsecToTimespec(50_000)
	err := syscall.Nanosleep(&pause, nil)
	runtime.UnlockOSThread()
	ofBlocks.Leave()
	if err != nil && err != syscall.EINTR {
		return 1
	}
	return 0
}

//go:noinline
func panics(x uint64) uint64 {
	ofPanics.Enter()
	if x%3 == 0 {
		ofPanics.Unwound()
		ofPasses.Unwound()
		panic(x)
	}
	y := oracle.Mix(x)
	ofPanics.Leave()
	return y
}

var nowhere *uint64

// A panic that begins as a signal.
//
//go:noinline
func faults(x uint64) uint64 {
	ofFaults.Enter()
	if x%3 == 1 {
		ofFaults.Unwound()
		ofPasses.Unwound()
		return *nowhere
	}
	y := oracle.Mix(x)
	ofFaults.Leave()
	return y
}

//go:noinline
func passes(x uint64) uint64 {
	ofPasses.Enter()
	y := panics(x) + faults(x)
	ofPasses.Leave()
	return y
}

// Returns in every case, where it recovers not through the end of its source.
//
//go:noinline
func recovers(x uint64) (y uint64) {
	ofRecovers.Enter()
	defer ofRecovers.Leave()
	defer func() {
		if recover() != nil {
			y = 1
		}
	}()
	return passes(x)
}

// Two frames that Goexit leaves open.
//
//go:noinline
func exits(x uint64) uint64 {
	ofExits.Enter()
	if x%2 == 0 {
		ofExits.Unwound()
		ofLeaves.Unwound()
		runtime.Goexit()
	}
	y := oracle.Mix(x)
	ofExits.Leave()
	return y
}

//go:noinline
func leaves(x uint64) uint64 {
	ofLeaves.Enter()
	y := exits(x) + 1
	ofLeaves.Leave()
	return y
}

//go:noinline
func adder(a uint64) func(uint64) uint64 {
	return func(b uint64) uint64 {
		ofClosure.Enter()
		a += b
		ofClosure.Leave()
		return a
	}
}

type account struct{ balance uint64 }

//go:noinline
func (a *account) deposit(amount uint64) uint64 {
	ofDeposit.Enter()
	a.balance += amount
	ofDeposit.Leave()
	return a.balance
}

type point struct{ x, y uint64 }

//go:noinline
func (p point) length() uint64 {
	ofLength.Enter()
	sum := p.x + p.y
	ofLength.Leave()
	return sum
}

type measured interface{ length() uint64 }

type inner struct{ factor uint64 }

//go:noinline
func (i *inner) promoted(x uint64) uint64 {
	ofPromoted.Enter()
	y := i.factor * x
	ofPromoted.Leave()
	return y
}

// Called through an interface, its method `promoted` is a wrapper that the compiler makes.
type embedding struct {
	name string
	*inner
}

type promoter interface{ promoted(uint64) uint64 }

// What the compiler must not see through.
var (
	lengths  measured
	promotes promoter
)

// In assembly: the body is called by a wrapper of the same name.
func rotate(x uint64) uint64

func fresh(job func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		job()
	}()
	<-done
}

func loop(worker int) {
	depth := oracle.Option("depth", 40)
	unrecovered := oracle.Option("unrecovered", 0) // from this turn nobody recovers
	peer, gone := make(chan question), make(chan struct{})
	go func() {
		defer close(gone)
		for q := range peer {
			answers(q)
		}
	}()
	// Its last answer is out before it has left the function.
	defer func() {
		close(peer)
		<-gone
	}()
	own := account{}
	sum := adder(0)
	parks := worker%2 == 0 // inside of its functions
	for turn := uint64(0); oracle.Next(turn, !parks); turn++ {
		seed := turn*7 + uint64(worker)
		expected := uint64(0)
		for i := uint64(0); i < 3; i++ {
			expected = oracle.Mix(seed+i) + expected
		}
		oracle.Expect("work", expected^0x5555, work(seed, parks))
		oracle.Expect("deposit", (turn+1)*3, own.deposit(3))
		oracle.Expect("closure", turn+1, sum(1))
		oracle.Expect("length", 12, lengths.length())
		oracle.Expect("promoted", 5*turn, promotes.promoted(turn))
		oracle.Expect("rotate", seed<<13|seed>>51, rotate(seed))
		generics(turn)
		oracle.Expect("yields", oracle.Mix(turn), yields(turn))
		oracle.Expect("asks", oracle.Mix(turn), asks(peer, turn))
		recovered := uint64(1)
		if turn%3 == 2 {
			recovered = 2 * oracle.Mix(turn)
		}
		oracle.Expect("recovers", recovered, recovers(turn))
		fresh(func() { oracle.Expect("leaves", oracle.Mix(turn)+1, leaves(turn)) })
		if turn%8 == 0 {
			oracle.Expect("even", 1-depth%2, truth(even(depth)))
			fresh(func() { oracle.Expect("descend", depth*(depth+1)/2, descend(depth)) })
			fresh(func() { oracle.Expect("big", 2*10*11/2, big(10)) })
			fresh(func() { oracle.Expect("huge", 2*4*5/2, huge(4)) })
			oracle.Expect("blocks", 0, blocks())
		}
		if unrecovered > 0 && turn == unrecovered {
			faults(1)
		}
		// Shrinks the stacks of others too.
		if turn%64 == 63 {
			runtime.GC()
		}
	}
}

func truth(answer bool) uint64 {
	if answer {
		return 1
	}
	return 0
}

func main() {
	lengths = point{5, 7}
	promotes = &embedding{"five", &inner{5}}
	oracle.Main(loop)
}
