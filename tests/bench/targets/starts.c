/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Compiled without control-flow protection: the function's own work comes first. */
#include "calls.h"

long starts_with_push(long value)
{
	return opaque(value) + value; /* value outlives the call: a saved register is pushed */
}

long ends_with_a_branch(long value)
{
	long made = opaque(value);

	if (made == -1) /* never: what follows the branch only returns */
		opaque_fill(&made, value);
	return made + value;
}

long leaves_by_a_jump(long value)
{
	return opaque(value + 1); /* the frame is gone: `opaque` returns to the caller */
}

long starts_with_sub(long value)
{
	long cells[3]; /* on the stack, and nothing outlives the call: rsp is lowered, nothing pushed */

	(void)value;
	opaque_fill(cells, 7);
	return cells[0] + cells[1] + cells[2];
}
