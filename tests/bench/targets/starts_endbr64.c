/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Compiled with -fcf-protection=full, as Ubuntu, Fedora and others compile everything. */
#include "calls.h"

long starts_with_endbr64(long value)
{
	return opaque(value) + value;
}
