/* A thousand functions, each with its own count and its own result. */
#include "oracle.h"

#include <stdio.h>
#include <stdlib.h>

enum { FUNCTIONS = 1000 };

#define ONE(n)                                                                                     \
    PROBED uint64_t many_##n(uint64_t x)                                                           \
    {                                                                                              \
        return x * (2 * n##u + 1) + n##u;                                                          \
    }
/* Leading ones keep the numbers free of octal: many_1000 to many_1999. */
#define TEN(p) ONE(p##0) ONE(p##1) ONE(p##2) ONE(p##3) ONE(p##4) ONE(p##5) ONE(p##6) ONE(p##7) ONE(p##8) ONE(p##9)
#define HUNDRED(p) TEN(p##0) TEN(p##1) TEN(p##2) TEN(p##3) TEN(p##4) TEN(p##5) TEN(p##6) TEN(p##7) TEN(p##8) TEN(p##9)
#define THOUSAND(p)                                                                                \
    HUNDRED(p##0) HUNDRED(p##1) HUNDRED(p##2) HUNDRED(p##3) HUNDRED(p##4)                          \
    HUNDRED(p##5) HUNDRED(p##6) HUNDRED(p##7) HUNDRED(p##8) HUNDRED(p##9)
THOUSAND(1)
#undef ONE
#define ONE(n) many_##n,
static uint64_t (*const functions[FUNCTIONS])(uint64_t) = {THOUSAND(1)};

static struct oracle_function *oracles[FUNCTIONS];

static void loop(int thread)
{
    (void)thread;
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        unsigned i = (unsigned)(turn % FUNCTIONS);
        uint64_t n = 1000 + i;
        oracle_add(&oracles[i]->calls, 1);
        EXPECT("many", turn * (2 * n + 1) + n, functions[i](turn));
        oracle_add(&oracles[i]->returned, 1);
    }
}

int main(int argc, char **argv)
{
    static char names[FUNCTIONS][16];
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        snprintf(names[i], sizeof names[i], "many_%u", 1000 + i);
        oracles[i] = oracle_make(names[i]);
    }
    return oracle_main(argc, argv, loop);
}
