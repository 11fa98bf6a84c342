/* longjmp over probed frames. Every third turn leaves `outer` -> `middle` -> `inner` by longjmp; with
 * `--shift 1` the stack pointer of the frames moves from turn to turn. */
#include "oracle.h"

#include <alloca.h>
#include <setjmp.h>
#include <string.h>

ORACLE(outer);
ORACLE(middle);
ORACLE(inner);

static __thread jmp_buf back;

PROBED uint64_t inner(uint64_t x)
{
    ENTER(inner);
    if (x % 3 == 0) {
        UNWOUND(inner);
        UNWOUND(middle);
        UNWOUND(outer);
        longjmp(back, 1);
    }
    uint64_t y = oracle_mix(x);
    LEAVE(inner);
    return y;
}

PROBED uint64_t middle(uint64_t x)
{
    ENTER(middle);
    uint64_t y = inner(x) + 1;
    LEAVE(middle);
    return y;
}

PROBED uint64_t outer(uint64_t x)
{
    ENTER(outer);
    uint64_t y = middle(x) + 1;
    LEAVE(outer);
    return y;
}

PROBED uint64_t shifted(uint64_t x, uint64_t bytes)
{
    char *room = alloca(bytes + 16);
    memset(room, (int)x, bytes + 16);
    __asm__ volatile("" : : "r"(room) : "memory");
    uint64_t y = outer(x);
    __asm__ volatile("" : : "r"(room) : "memory");
    return y;
}

static void loop(int thread)
{
    uint64_t shift = oracle_option("shift", 0);
    for (volatile uint64_t turn = 0; oracle_next(turn); turn++) {
        if (setjmp(back) == 0) {
            uint64_t x = turn + (uint64_t)thread;
            uint64_t found = shifted(x, shift ? 16 * (turn % 512) : 0);
            EXPECT("outer", oracle_mix(x) + 2, found);
            EXPECT("returned", 1, x % 3 != 0);
        } else {
            EXPECT("jumped", 0, (turn + (uint64_t)thread) % 3);
        }
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
