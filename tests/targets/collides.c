/* Two threads whose numbers share one of 4,096 places: while one waits inside a function, the other
 * calls one. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "oracle.h"

ORACLE(waits);
ORACLE(leaf);

enum { IDLE, ASKED, OVER };

static atomic_int state;
static uint64_t wanted;

/* The same computation as in edgelat's programs. */
static uint64_t place(void)
{
    return (uint64_t)gettid() * 0x9e3779b97f4a7c15 >> 32 & 4095;
}

PROBED uint64_t leaf(uint64_t n)
{
    ENTER(leaf);
    uint64_t value = oracle_mix(n);
    LEAVE(leaf);
    return value;
}

/* Non-null if its place was the wanted one. */
static void *other(void *unused)
{
    (void)unused;
    if (place() != wanted)
        return NULL;
    atomic_store(&state, IDLE);
    for (int now; (now = atomic_load(&state)) != OVER;)
        if (now == ASKED) {
            leaf(1);
            atomic_store(&state, IDLE);
        }
    return &state;
}

PROBED uint64_t waits(void)
{
    ENTER(waits);
    atomic_store(&state, ASKED);
    while (atomic_load(&state) != IDLE)
        ;
    LEAVE(waits);
    return 0;
}

static void loop(int thread)
{
    pthread_t partner;
    (void)thread;
    wanted = place();
    do {
        atomic_store(&state, OVER);
        if (pthread_create(&partner, NULL, other, NULL))
            oracle_wrong("threads", 1, 0);
        usleep(1);
        /* A thread that stays sets the state. */
        for (int i = 0; i < 1000 && atomic_load(&state) == OVER && pthread_tryjoin_np(partner, NULL); i++)
            usleep(1);
    } while (atomic_load(&state) == OVER);
    for (uint64_t turn = 0; oracle_next(turn); turn++)
        waits();
    atomic_store(&state, OVER);
    pthread_join(partner, NULL);
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
