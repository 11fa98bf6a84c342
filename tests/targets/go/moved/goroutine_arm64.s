// The register of Go's internal ABI; wrappers leave it as it is.
TEXT ·goroutine(SB), 4, $0-8
	MOVD g, ret+0(FP)
	RET
