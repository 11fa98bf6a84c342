//go:build go1.21

package main

import "edgelat/targets/oracle"

var (
	ofIntegers = oracle.New("main.sum[go.shape.uint64]")
	ofFloats   = oracle.New("main.sum[go.shape.float64]")
)
