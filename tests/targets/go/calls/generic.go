package main

import "edgelat/targets/oracle"

type number interface{ ~uint64 | ~float64 }

// One source, two functions in the program: values of different shapes do not share code.
//
//go:noinline
func sum[T number](function *oracle.Function, values ...T) T {
	function.Enter()
	var total T
	for _, value := range values {
		total += value
	}
	function.Leave()
	return total
}

func generics(turn uint64) {
	oracle.Expect("sum of integers", turn+3, sum(ofIntegers, turn, 1, 2))
	oracle.Expect("sum of floats", turn+3, uint64(sum(ofFloats, float64(turn), 3)))
}
