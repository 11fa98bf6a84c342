/* Calls every function of code.S and some compiled ones of interesting shape, and knows their
 * results. The oracle counts at the call, so that the functions consist only of their shape. */
#include "oracle.h"

#include <stdio.h>
#include <stdlib.h>

typedef uint64_t function(uint64_t, uint64_t);

#define CODE(X)                                                                                    \
    X(starts_with_push, x + 1)                                                                     \
    X(starts_with_push_r12, x + 2)                                                                 \
    X(starts_with_endbr64, x + 3)                                                                  \
    X(starts_with_endbr64_push, x + 4)                                                             \
    X(starts_with_sub, x + 5)                                                                      \
    X(starts_with_nop, x + 6)                                                                      \
    X(starts_with_nop5, x + 7)                                                                     \
    X(keeps_below_the_stack, x + 37)                                                               \
    X(starts_with_test, x + 8)                                                                     \
    X(slides_to_push, x + 9)                                                                       \
    X(loops_to_the_slide, x + 13)                                                                  \
    X(ends_with_rep_ret, x + 11)                                                                   \
    X(ends_with_ret_imm, x + 12)                                                                   \
    X(ends_in_four_places, x + (x % 4 ? x % 4 + 14 - 4 * (x % 4 == 3) : 14))        \
    X(lowers_the_stack_first, x + 100)                                                             \
    X(returns_behind_branches, x % 2 ? x + 40 : x % 4 ? x + 41 : x + 100)                          \
    X(tail_direct, x + 101)                                                                        \
    X(tail_conditional, x % 2 ? x + 17 : x + 100)                                                  \
    X(tail_indirect, x + 102)                                                                      \
    X(tail_indirect_memory, x + 103)                                                               \
    X(leaves_a_loop_on_a_condition, x + y + 99)                                                    \
    X(tail_only, x + 100)                                                                          \
    X(tail_or_return, x > 50 ? x + 50 : x + 18)                                                    \
    X(loops_to_entry, x + y + 19)                                                                  \
    X(loops_past_push, x + y + 20)                                                                 \
    X(tail_calls_itself, x + y + 21)                                                               \
    X(jump_table, x + 22 + x % 4)                                                                  \
    X(table_in_text, x + 26 + x % 2)                                                               \
    X(jumps_back_from_cold, x + 28 + (x % 4 ? 0 : 1000))                                           \
    X(returns_from_cold, x % 4 ? x + 30 : x + 2000)                                                \
    X(falls_through, x + 33)                                                                       \
    X(fallen_into, x + 32)                                                                         \
    X(compiled_switch, compiled_switch_expected(x))                                                \
    X(compiled_cold, x % 8 ? x + 34 : x + 35)                                                      \
    X(compiled_tail, oracle_mix(x + 1))                                                            \
    X(compiled_loop, x + y)                                                                        \
    X(compiled_large_frame, x + 36)

#define DECLARE(name, result) function name;
CODE(DECLARE)
function tail_callee;

static volatile uint64_t rare;

PROBED __attribute__((cold)) static void happens_rarely(uint64_t x)
{
    rare = x;
}

/* Keeps the cases separate. */
#define OPAQUE __asm__ volatile("")
/* Compiles to a jump table. */
PROBED uint64_t compiled_switch(uint64_t x, uint64_t y)
{
    (void)y;
    uint64_t z = x;
    switch (x % 8) {
    case 0: OPAQUE; z += 1; break;
    case 1: OPAQUE; z ^= 0x10; break;
    case 2: OPAQUE; z *= 3; break;
    case 3: OPAQUE; return z - 7;
    case 4: OPAQUE; z = ~z; break;
    case 5: OPAQUE; z >>= 1; break;
    case 6: OPAQUE; return z * z;
    default: OPAQUE; z -= 2; break;
    }
    return z;
}

static uint64_t compiled_switch_expected(uint64_t x)
{
    uint64_t of[8] = {x + 1, x ^ 0x10, x * 3, x - 7, ~x, x >> 1, x * x, x - 2};
    return of[x % 8];
}

/* gcc puts the unlikely branch into a .cold part that jumps back. */
PROBED uint64_t compiled_cold(uint64_t x, uint64_t y)
{
    (void)y;
    uint64_t z = x + 34;
    if (__builtin_expect(x % 8 == 0, 0)) {
        happens_rarely(x);
        z++;
    }
    __asm__ volatile("" : "+r"(z));
    return z;
}

PROBED static uint64_t mixes(uint64_t x)
{
    return oracle_mix(x);
}

/* A sibling call: the compiler makes it a jump. */
PROBED uint64_t compiled_tail(uint64_t x, uint64_t y)
{
    (void)y;
    return mixes(x + 1);
}

PROBED uint64_t compiled_loop(uint64_t x, uint64_t y)
{
    do {
        __asm__ volatile("" : "+r"(x));
        x++;
    } while (--y);
    return x;
}

PROBED uint64_t compiled_large_frame(uint64_t x, uint64_t y)
{
    (void)y;
    volatile char room[20000];
    room[x % sizeof room] = 1;
    return x + 35 + (uint64_t)room[x % sizeof room];
}

#define COUNT(name, result) static struct oracle_function *of_##name;
CODE(COUNT)
COUNT(tail_callee, 0)

static void loop(int thread)
{
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        uint64_t x = turn % 97 + (uint64_t)thread, y = turn % 5 + 1;
#define RUN(name, result)                                                                          \
    oracle_add(&of_##name->calls, 1);                                                          \
    EXPECT(#name, result, name(x, y));                                                             \
    oracle_add(&of_##name->returned, 1);
        CODE(RUN)
        /* Number of calls handed over to tail_callee: direct, twice indirect, from a loop, only,
         * and by case. */
        uint64_t handed = 5 + (x % 2 == 0) + (x > 50);
        oracle_add(&of_tail_callee->calls, handed);
        oracle_add(&of_tail_callee->returned, handed);
        oracle_add(&of_fallen_into->calls, 1); /* by falls_through */
        oracle_add(&of_fallen_into->returned, 1);
    }
}

int main(int argc, char **argv)
{
#define MAKE(name, result) of_##name = oracle_make(#name);
    CODE(MAKE)
    MAKE(tail_callee, 0)
    return oracle_main(argc, argv, loop);
}
