/* Deep recursion; rests at the bottom, with `--depth` frames open. */
#include "oracle.h"

ORACLE(deep);
ORACLE(left);
ORACLE(right);

PROBED uint64_t deep(uint64_t n)
{
    ENTER(deep);
    uint64_t value;
    if (n <= 1) {
        oracle_rest_point();
        value = 1;
    } else {
        value = deep(n - 1) + n;
    }
    LEAVE(deep);
    return value;
}

PROBED uint64_t right(uint64_t n);

/* A binary tree of calls: frames of two functions come and go at the same stack pointers. */
PROBED uint64_t left(uint64_t n)
{
    ENTER(left);
    uint64_t leaves = n == 0 ? 1 : left(n - 1) + right(n - 1);
    LEAVE(left);
    return leaves;
}

PROBED uint64_t right(uint64_t n)
{
    ENTER(right);
    uint64_t leaves = n == 0 ? 1 : right(n - 1) + left(n - 1);
    LEAVE(right);
    return leaves;
}

static void loop(int thread)
{
    uint64_t depth = oracle_option("depth", 1000);
    (void)thread;
    oracle_rests_inside();
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        EXPECT("deep", depth * (depth + 1) / 2, deep(depth));
        EXPECT("tree", 64, left(6));
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
