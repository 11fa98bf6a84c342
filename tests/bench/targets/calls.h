/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The timed functions, none in the file of its caller, so that none is inlined and each can be
 * compiled with the options for the instruction it is named after. The bench reads that instruction
 * from the finished program and stops if the compiler chose another one.
 */
#pragma once

typedef long timed_function(long);

timed_function starts_with_push;
timed_function starts_with_sub;
timed_function ends_with_a_branch;
timed_function leaves_by_a_jump;
timed_function starts_with_endbr64;

/* Opaque to the callers, so that they need a stack frame around its call. */
long opaque(long value);
void opaque_fill(long *cells, long value);
