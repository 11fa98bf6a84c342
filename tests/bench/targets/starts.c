/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Compiled without control-flow protection: the function's own work comes first. */
#include "calls.h"

long starts_with_push(long value)
{
	return opaque(value) + value; /* value outlives the call: a saved register is pushed */
}

long starts_with_sub(long value)
{
	long cells[3]; /* on the stack, and nothing outlives the call: rsp is lowered, nothing pushed */

	(void)value;
	opaque_fill(cells, 7);
	return cells[0] + cells[1] + cells[2];
}
