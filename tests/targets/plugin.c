/* A library that a program opens or is linked to: the program counts calls of its functions. */
#include <stdint.h>

__attribute__((noinline)) uint64_t plugin_work(uint64_t x)
{
    return x * 3 + 1;
}

__attribute__((noinline)) uint64_t plugin_more(uint64_t x)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < x % 8; i++) sum += plugin_work(i);
    return sum;
}
