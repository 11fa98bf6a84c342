/* Functions with known durations, log-uniform between 100 us and 10 ms: one computes, the other
 * sleeps. The oracle's clock is inside the function, next to the probes. */
#define _GNU_SOURCE
#include "oracle.h"

#include <math.h>
#include <time.h>

ORACLE(computes);
ORACLE(sleeps);

PROBED uint64_t computes(uint64_t ns)
{
    uint64_t start = oracle_now();
    ENTER(computes);
    uint64_t computed = oracle_spin(ns);
    LEAVE(computes);
    oracle_record(&of_computes, oracle_now() - start);
    return computed;
}

PROBED uint64_t sleeps(uint64_t ns)
{
    uint64_t start = oracle_now();
    ENTER(sleeps);
    struct timespec pause = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    while (nanosleep(&pause, &pause) != 0) {}
    LEAVE(sleeps);
    uint64_t took = oracle_now() - start;
    oracle_record(&of_sleeps, took);
    return took;
}

static void loop(int thread)
{
    uint64_t random = (uint64_t)thread;
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        random = oracle_mix(random);
        double part = (double)(random >> 11) / 9007199254740992.0;
        uint64_t ns = (uint64_t)(1e5 * pow(100.0, part));
        EXPECT("long enough", 1, (turn % 2 ? sleeps(ns) : computes(ns)) >= ns);
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
