#include <stdint.h>

#include "_cgo_export.h"

__attribute__((noinline)) uint64_t c_work(uint64_t x)
{
    return goAnswer(x) + 1;
}
