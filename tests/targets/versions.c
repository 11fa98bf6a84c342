/* Calls both versions of a function of libversions.so: the old one half as often. */
#include "oracle.h"

uint64_t transform(uint64_t), transform_old(uint64_t), settled(uint64_t);
__asm__(".symver transform_old,transform@LIB_1.0");
extern uint64_t versions_first, versions_second;

ORACLE_NAMED(first, "transform@LIB_1.0");
ORACLE_NAMED(second, "transform@@LIB_2.0");

static void loop(int thread)
{
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        uint64_t x = turn * 2 + (uint64_t)thread;
        ENTER(second);
        EXPECT("new", oracle_mix(x + 1), transform(x));
        LEAVE(second);
        if (turn % 2) {
            ENTER(first);
            EXPECT("old", oracle_mix(x), transform_old(x));
            LEAVE(first);
        }
        EXPECT("settled", x & ~1ull, settled(x & ~1ull));
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
