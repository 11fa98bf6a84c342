/* Plain C: a small function, one that calls others, recursion and mutual recursion, and `work` ->
 * `hold`, in which every second thread parks if the test requests rest. Every result is checked
 * against a second computation. */
#include "oracle.h"

ORACLE(add);
ORACLE(work);
ORACLE(hold);
ORACLE(descend);
ORACLE(even);
ORACLE(odd);

static __thread int parks_inside;

PROBED uint64_t add(uint64_t a, uint64_t b)
{
    ENTER(add);
    uint64_t sum = oracle_mix(a) + b;
    LEAVE(add);
    return sum;
}

PROBED uint64_t hold(uint64_t value)
{
    ENTER(hold);
    if (parks_inside) oracle_rest_point();
    uint64_t result = value ^ 0x5555;
    LEAVE(hold);
    return result;
}

PROBED uint64_t work(uint64_t seed)
{
    ENTER(work);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < 3; i++) sum = add(seed + i, sum);
    sum = hold(sum);
    LEAVE(work);
    return sum;
}

/* The sum 1 + 2 + ... + n, one frame for each term. */
PROBED uint64_t descend(uint64_t n)
{
    ENTER(descend);
    uint64_t sum = n == 0 ? 0 : n + descend(n - 1);
    LEAVE(descend);
    return sum;
}

PROBED uint64_t odd(uint64_t n);

PROBED uint64_t even(uint64_t n)
{
    ENTER(even);
    uint64_t answer = n == 0 ? 1 : odd(n - 1) & 1;
    LEAVE(even);
    return answer;
}

PROBED uint64_t odd(uint64_t n)
{
    ENTER(odd);
    uint64_t answer = n == 0 ? 0 : even(n - 1) & 1;
    LEAVE(odd);
    return answer;
}

static void loop(int thread)
{
    uint64_t depth = oracle_option("depth", 20);
    parks_inside = thread % 2 == 0;
    if (parks_inside) oracle_rests_inside();
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        uint64_t seed = turn * 7 + (uint64_t)thread, sum = 0;
        for (uint64_t i = 0; i < 3; i++) sum = oracle_mix(seed + i) + sum;
        EXPECT("work", sum ^ 0x5555, work(seed));
        if (turn % 64 == 0) {
            EXPECT("descend", depth * (depth + 1) / 2, descend(depth));
            EXPECT("even", depth % 2 == 0, even(depth));
        }
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
