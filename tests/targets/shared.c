/* The library that host is linked to. */
#include <stdint.h>

__attribute__((noinline)) uint64_t shared_work(uint64_t x)
{
    return x * 5 + 2;
}
