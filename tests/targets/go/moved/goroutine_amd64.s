// The register of Go's internal ABI; wrappers leave it as it is.
TEXT ·goroutine(SB), 4, $0-8
	MOVQ R14, ret+0(FP)
	RET
