//go:build !go1.21

package main

import "edgelat/targets/oracle"

// Up to Go 1.20 all instances have one name.
var (
	ofIntegers = oracle.New("main.sum[...]")
	ofFloats   = ofIntegers
)
