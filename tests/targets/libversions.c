/* One name in two versions, with a function for each, as libraries keep symbols for old
 * programs. */
#include "oracle.h"

uint64_t versions_first, versions_second;

PROBED uint64_t transform_first(uint64_t x)
{
    oracle_add(&versions_first, 1);
    return oracle_mix(x);
}

PROBED uint64_t transform_second(uint64_t x)
{
    oracle_add(&versions_second, 1);
    return oracle_mix(x + 1);
}

/* Two versions of one function. */
PROBED uint64_t settle(uint64_t x)
{
    oracle_add(&versions_second, x & 1);
    return x;
}
uint64_t settle_again(uint64_t) __attribute__((alias("settle")));

__asm__(".symver transform_first,transform@LIB_1.0");
__asm__(".symver transform_second,transform@@LIB_2.0");
__asm__(".symver settle,settled@LIB_1.0");
__asm__(".symver settle_again,settled@@LIB_2.0");
