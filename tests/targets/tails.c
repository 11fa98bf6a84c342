/* Functions that leave by a jump: into the C library, into functions of their own program, in a
 * row, into one another, and through pointers. The oracle's clock is around the call, since no code
 * of a function runs after its jump. */
#define _GNU_SOURCE
#include "oracle.h"

#include <math.h>
#include <unistd.h>

ORACLE(sleeps_below);
ORACLE(hops);
ORACLE(chains);
ORACLE(either);
ORACLE(first_of_two);
ORACLE(second_of_two);
ORACLE(pointed);
ORACLE(ping);
ORACLE(pong);
ORACLE(lasts);

/* Most of them continue in it. It has its own callers, too. */
PROBED uint64_t lasts(uint64_t ns)
{
    uint64_t start = oracle_now();
    ENTER(lasts);
    uint64_t lasted = oracle_spin(ns);
    LEAVE(lasts);
    oracle_record(&of_lasts, oracle_now() - start);
    return lasted;
}

PROBED int sleeps_below(uint64_t ns)
{
    ENTER(sleeps_below);
    return usleep((useconds_t)(ns / 1000));
}

PROBED uint64_t hops(uint64_t ns)
{
    ENTER(hops);
    return lasts(ns);
}

PROBED static uint64_t second_link(uint64_t ns)
{
    return lasts(ns - 1);
}

PROBED static uint64_t first_link(uint64_t ns)
{
    return second_link(ns - 1);
}

PROBED uint64_t chains(uint64_t ns)
{
    ENTER(chains);
    return first_link(ns);
}

/* A jump on one path, a return on the other. */
PROBED uint64_t either(uint64_t ns)
{
    ENTER(either);
    if (ns & 1)
        return lasts(ns);
    return oracle_spin(ns);
}

PROBED uint64_t first_of_two(uint64_t ns)
{
    ENTER(first_of_two);
    return lasts(ns);
}

PROBED uint64_t second_of_two(uint64_t ns)
{
    ENTER(second_of_two);
    return lasts(ns + 1);
}

static uint64_t (*volatile pointer)(uint64_t) = lasts;
static volatile uint64_t asked;

PROBED uint64_t pointed(uint64_t ns)
{
    /* Before the locked addition, which bears no probe. */
    asked = ns;
    ENTER(pointed);
    return pointer(ns);
}

PROBED uint64_t pong(uint64_t n);

PROBED uint64_t ping(uint64_t n)
{
    ENTER(ping);
    LEAVE(ping);
    return n ? pong(n - 1) : 7;
}

PROBED uint64_t pong(uint64_t n)
{
    ENTER(pong);
    LEAVE(pong);
    return n ? ping(n - 1) : 7;
}

#define TIMED(function, ns, right)                                                                 \
    do {                                                                                           \
        uint64_t start = oracle_now(), result = (uint64_t)function(ns);                            \
        EXPECT("result of " #function, 1, right);                                                  \
        LEAVE(function);                                                                           \
        oracle_record(&of_##function, oracle_now() - start);                                       \
    } while (0)

static void loop(int thread)
{
    uint64_t random = (uint64_t)thread;
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        random = oracle_mix(random);
        double part = (double)(random >> 11) / 9007199254740992.0;
        uint64_t ns = (uint64_t)(1e5 * pow(30.0, part));
        switch (turn % 8) {
        case 0: TIMED(sleeps_below, ns, result == 0); break;
        case 1: TIMED(hops, ns, result >= ns); break;
        case 2: TIMED(chains, ns, result >= ns - 2); break;
        case 3: TIMED(either, ns, result >= ns); break;
        case 4: TIMED(first_of_two, ns, result >= ns); break;
        case 5: TIMED(second_of_two, ns, result >= ns); break;
        case 6: TIMED(pointed, ns, result >= ns); break;
        default: EXPECT("direct", 1, lasts(ns) >= ns); break;
        }
        EXPECT("ping and pong", 7, ping(turn % 6));
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
