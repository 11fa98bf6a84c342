/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* 1 + 100 + 1,000 + 10,000 functions in groups that one glob each selects: group1_*, group100_*, ... */
#include <stdio.h>
#include <unistd.h>

__attribute__((noinline, noipa)) static long opaque(long value)
{
	return value ^ (value >> 3);
}

#define ONE(name) long name(long value) { return opaque(value) + value; }
#define TEN(name)                                                                                                      \
	ONE(name##0) ONE(name##1) ONE(name##2) ONE(name##3) ONE(name##4)                                               \
	ONE(name##5) ONE(name##6) ONE(name##7) ONE(name##8) ONE(name##9)
#define HUNDRED(name)                                                                                                  \
	TEN(name##0) TEN(name##1) TEN(name##2) TEN(name##3) TEN(name##4)                                               \
	TEN(name##5) TEN(name##6) TEN(name##7) TEN(name##8) TEN(name##9)
#define THOUSAND(name)                                                                                                 \
	HUNDRED(name##0) HUNDRED(name##1) HUNDRED(name##2) HUNDRED(name##3) HUNDRED(name##4)                           \
	HUNDRED(name##5) HUNDRED(name##6) HUNDRED(name##7) HUNDRED(name##8) HUNDRED(name##9)

ONE(group1_0)
HUNDRED(group100_)
THOUSAND(group1000_)
THOUSAND(group10000_0) THOUSAND(group10000_1) THOUSAND(group10000_2) THOUSAND(group10000_3) THOUSAND(group10000_4)
THOUSAND(group10000_5) THOUSAND(group10000_6) THOUSAND(group10000_7) THOUSAND(group10000_8) THOUSAND(group10000_9)

int main(void)
{
	char byte;

	/* Alive until the bench closes the pipe. */
	while (read(0, &byte, 1) == 1)
		;
	printf("%ld\n", group1_0(1));
	return 0;
}
