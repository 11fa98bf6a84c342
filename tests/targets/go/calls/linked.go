//go:build linked

package main

// Linked by gcc because of it, as programs that use the network are.
import _ "runtime/cgo"
