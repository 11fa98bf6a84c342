/* Calls functions of assembly whose symbols state no type or no size. */
#include "oracle.h"

uint64_t untyped_bare(uint64_t), untyped_sizeless(uint64_t), untyped_jumps(uint64_t);
extern uint64_t untyped_table[];

ORACLE(untyped_bare);
ORACLE(untyped_local);
ORACLE(untyped_sizeless);

PROBED uint64_t untyped_helper(uint64_t x)
{
    return oracle_mix(x);
}

static void loop(int thread)
{
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        uint64_t x = turn * 2 + (uint64_t)thread;
        ENTER(untyped_bare);
        EXPECT("bare", x & 1 ? x + 1 : x + 2, untyped_bare(x));
        LEAVE(untyped_bare);
        ENTER(untyped_sizeless);
        ENTER(untyped_local);
        EXPECT("sizeless", oracle_mix(x) + x, untyped_sizeless(x));
        LEAVE(untyped_local);
        LEAVE(untyped_sizeless);
        EXPECT("jumps", 1 + (x & 1), untyped_jumps(x));
        EXPECT("table", 0x0102030405060708u, untyped_table[1]);
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
