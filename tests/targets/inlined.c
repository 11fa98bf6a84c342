/* A function that the compiler inlined into two of its callers and that a third one calls, and a
 * function without code of its own. */
#include "oracle.h"

ORACLE(partly);
ORACLE(holds_first);
ORACLE(holds_second);
ORACLE(calls);

/* Calls of all its copies. */
uint64_t partly_calls;

__attribute__((always_inline)) static inline uint64_t wholly(uint64_t x)
{
    return oracle_mix(x) ^ oracle_mix(x + 1);
}

/* Inlined at each call, except through a pointer. */
__attribute__((always_inline)) inline uint64_t partly(uint64_t x)
{
    oracle_add(&partly_calls, 1);
    return oracle_mix(x) * 3;
}
extern uint64_t partly(uint64_t);

PROBED uint64_t holds_first(uint64_t x)
{
    ENTER(holds_first);
    uint64_t result = partly(x) + wholly(x);
    LEAVE(holds_first);
    return result;
}

PROBED uint64_t holds_second(uint64_t x)
{
    ENTER(holds_second);
    uint64_t result = partly(x + 1) - wholly(x);
    LEAVE(holds_second);
    return result;
}

static uint64_t (*volatile pointer)(uint64_t) = partly;

PROBED uint64_t calls(uint64_t x)
{
    ENTER(calls);
    ENTER(partly);
    uint64_t result = pointer(x);
    LEAVE(partly);
    LEAVE(calls);
    return result;
}

static void loop(int thread)
{
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        uint64_t x = turn * 2 + (uint64_t)thread;
        EXPECT("partly", oracle_mix(x) * 3, calls(x));
        EXPECT("both", oracle_mix(x) * 3 + oracle_mix(x + 1) * 3, holds_first(x) + holds_second(x));
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
