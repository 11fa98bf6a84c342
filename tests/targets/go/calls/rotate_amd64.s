#include "textflag.h"

// func rotate(x uint64) uint64
TEXT ·rotate(SB), NOSPLIT, $0-16
	MOVQ ·ofAssembly(SB), AX
	LOCK
	INCQ (16)(AX)
	MOVQ x+0(FP), CX
	ROLQ $13, CX
	MOVQ CX, ret+8(FP)
	LOCK
	INCQ (24)(AX)
	RET
