/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "calls.h"

long opaque(long value)
{
	return value ^ (value >> 3);
}

void opaque_fill(long *cells, long value)
{
	cells[0] = value;
	cells[1] = value >> 1;
	cells[2] = value ^ 5;
}
