// Hashes with a package that checks its own text when the program starts under GODEBUG=fips140=on (Go 1.24 and later).
package main

import (
	"crypto/sha256"
	"encoding/binary"

	"edgelat/targets/oracle"
)

var ofSums = oracle.New("main.sums")

//go:noinline
func sums(x uint64) uint64 {
	ofSums.Enter()
	var text [8]byte
	binary.BigEndian.PutUint64(text[:], x)
	digest := sha256.Sum256(text[:])
	ofSums.Leave()
	return binary.BigEndian.Uint64(digest[:])
}

func loop(worker int) {
	for turn := uint64(0); oracle.Next(turn, true); turn++ {
		// The digest of eight zeros.
		if turn == 0 {
			oracle.Expect("sums", 0xaf5570f5a1810b7a, sums(0))
		} else {
			sums(turn)
		}
	}
}

func main() { oracle.Main(loop) }
