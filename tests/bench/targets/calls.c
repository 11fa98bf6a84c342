/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A target that waits for commands, and then reports the cost of its own calls.
 *
 *   calls CPU          stay on that CPU, so that rounds of different targets are comparable
 *   stdin:  "NAME N"   call the function N times
 *   stdout: "N NS"     calls made and nanoseconds of this thread's CPU time they took
 */
#define _GNU_SOURCE
#include "calls.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct {
	const char *name;
	timed_function *function;
} timed[] = {
	{ "starts_with_push", starts_with_push },
	{ "starts_with_sub", starts_with_sub },
	{ "starts_with_endbr64", starts_with_endbr64 },
	{ "ends_with_a_branch", ends_with_a_branch },
	{ "leaves_by_a_jump", leaves_by_a_jump },
};

static long long cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int argc, char **argv)
{
	char name[64];
	long calls;
	volatile long sink = 0;

	if (argc > 1) {
		cpu_set_t cpus;

		CPU_ZERO(&cpus);
		CPU_SET(atoi(argv[1]), &cpus);
		if (sched_setaffinity(0, sizeof(cpus), &cpus))
			perror("calls: sched_setaffinity");
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (scanf("%63s %ld", name, &calls) == 2) {
		timed_function *function = NULL;
		long long start;

		for (size_t i = 0; i < sizeof(timed) / sizeof(*timed); i++)
			if (!strcmp(timed[i].name, name))
				function = timed[i].function;
		if (!function) {
			fprintf(stderr, "calls: no function %s\n", name);
			return 2;
		}
		start = cpu_ns();
		for (long i = 0; i < calls; i++)
			sink += function(i);
		printf("%ld %lld\n", calls, cpu_ns() - start);
	}
	return 0;
}
