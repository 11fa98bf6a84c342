/* Threads that end inside a probed function. `--crowd N` of them are inside at the same time. */
#define _GNU_SOURCE
#include "oracle.h"

#include <pthread.h>
#include <stdlib.h>

ORACLE(dies_inside);
ORACLE(lives_on);

static pthread_barrier_t all_inside;

PROBED uint64_t lives_on(uint64_t x)
{
    ENTER(lives_on);
    uint64_t y = oracle_mix(x);
    LEAVE(lives_on);
    return y;
}

/* Returns only in the crowd's first member, and only if the test says so: a function that never
 * returns has no place for an exit probe. */
PROBED uint64_t dies_inside(uint64_t x)
{
    ENTER(dies_inside);
    lives_on(x);
    pthread_barrier_wait(&all_inside);
    if (x == 0 && oracle_option("survivor", 0)) {
        LEAVE(dies_inside);
        return 1;
    }
    UNWOUND(dies_inside);
    pthread_exit(NULL);
}

static void *victim(void *x)
{
    if (!dies_inside((uint64_t)(uintptr_t)x)) oracle_wrong("lived on", 0, 1);
    return NULL;
}

static void loop(int thread)
{
    unsigned crowd = (unsigned)oracle_option("crowd", 1);
    (void)thread;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    pthread_t *victims = calloc(crowd, sizeof *victims);
    if (!victims) abort();
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        pthread_barrier_init(&all_inside, NULL, crowd);
        for (unsigned i = 0; i < crowd; i++)
            if (pthread_create(&victims[i], &small, victim, (void *)(uintptr_t)i)) abort();
        for (unsigned i = 0; i < crowd; i++) pthread_join(victims[i], NULL);
        pthread_barrier_destroy(&all_inside);
        EXPECT("lives_on", oracle_mix(turn), lives_on(turn));
    }
    free(victims);
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
