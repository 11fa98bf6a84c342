#include "textflag.h"

// func rotate(x uint64) uint64
TEXT ·rotate(SB), NOSPLIT|NOFRAME, $0-16
	MOVD ·ofAssembly(SB), R0
	ADD  $16, R0, R1
up:
	LDAXR (R1), R2
	ADD   $1, R2
	STLXR R2, (R1), R3
	CBNZ  R3, up
	MOVD x+0(FP), R4
	ROR  $51, R4, R4
	MOVD R4, ret+8(FP)
	ADD  $24, R0, R1
down:
	LDAXR (R1), R2
	ADD   $1, R2
	STLXR R2, (R1), R3
	CBNZ  R3, down
	RET
