/* Functions that call each other a fixed number of times: the calls inside a call are known
 * exactly. */
#include "oracle.h"

ORACLE(top);
ORACLE(middle);
ORACLE(leaf);

PROBED uint64_t leaf(uint64_t n)
{
    ENTER(leaf);
    uint64_t value = oracle_mix(n);
    LEAVE(leaf);
    return value;
}

/* Eight leaves. */
PROBED uint64_t middle(uint64_t n)
{
    ENTER(middle);
    uint64_t value = n;
    for (int i = 0; i < 8; i++)
        value = leaf(value);
    LEAVE(middle);
    return value;
}

/* Seventeen leaves in all, and two of the others. */
PROBED uint64_t top(uint64_t n)
{
    ENTER(top);
    uint64_t value = leaf(middle(middle(n)));
    LEAVE(top);
    return value;
}

static void loop(int thread)
{
    for (uint64_t turn = 0; oracle_next(turn); turn++)
        if (!top(turn + (uint64_t)thread))
            oracle_wrong("top", 1, 0);
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
