/* A hundred functions, each on its own page: probes on all of them make a hundred pages private. */
#include "oracle.h"

#include <stdio.h>

enum { FUNCTIONS = 100 };

#define ONE(n)                                                                                     \
    __attribute__((aligned(4096))) PROBED uint64_t page_##n(uint64_t x)                            \
    {                                                                                              \
        return x * (2 * n##u + 1) + n##u;                                                          \
    }
/* Leading ones keep the numbers free of octal: page_100 to page_199. */
#define TEN(p) ONE(p##0) ONE(p##1) ONE(p##2) ONE(p##3) ONE(p##4) ONE(p##5) ONE(p##6) ONE(p##7) ONE(p##8) ONE(p##9)
#define HUNDRED(p) TEN(p##0) TEN(p##1) TEN(p##2) TEN(p##3) TEN(p##4) TEN(p##5) TEN(p##6) TEN(p##7) TEN(p##8) TEN(p##9)
HUNDRED(1)
#undef ONE
#define ONE(n) page_##n,
static uint64_t (*const functions[FUNCTIONS])(uint64_t) = {HUNDRED(1)};

static struct oracle_function *oracles[FUNCTIONS];

static void loop(int thread)
{
    (void)thread;
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        unsigned i = (unsigned)(turn % FUNCTIONS);
        uint64_t n = 100 + i;
        oracle_add(&oracles[i]->calls, 1);
        EXPECT("page", turn * (2 * n + 1) + n, functions[i](turn));
        oracle_add(&oracles[i]->returned, 1);
    }
}

int main(int argc, char **argv)
{
    static char names[FUNCTIONS][16];
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        snprintf(names[i], sizeof names[i], "page_%u", 100 + i);
        oracles[i] = oracle_make(names[i]);
    }
    return oracle_main(argc, argv, loop);
}
