/* Coroutines that move between threads: each yields inside its functions, and any free thread
 * resumes it, so that one call begins on one thread and ends on another. Frames of different
 * coroutines are open at the same time and end in any order. */
#define _GNU_SOURCE
#include "oracle.h"

#include <pthread.h>
#include <stdlib.h>
#include <ucontext.h>

ORACLE(co_outer);
ORACLE(co_inner);

enum { COROUTINES = 32, STACK = 64 << 10 };

struct coroutine {
    ucontext_t here, *scheduler;
    uint64_t seed, turns, migrations;
    pthread_t last;
    int finished;
};

static struct coroutine all[COROUTINES];
static struct coroutine *queue[COROUTINES];
static unsigned queued, unfinished = COROUTINES;
static int prepared;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Leaves the coroutine; it continues on the thread that resumes it. Reads nothing thread-local
 * afterwards: the compiler may have kept its address. */
static void yield(struct coroutine *c)
{
    swapcontext(&c->here, c->scheduler);
}

PROBED uint64_t co_inner(struct coroutine *c, uint64_t x)
{
    ENTER(co_inner);
    uint64_t a = oracle_mix(x);
    yield(c);
    a += oracle_mix(x + 1);
    LEAVE(co_inner);
    return a;
}

PROBED uint64_t co_outer(struct coroutine *c, uint64_t x)
{
    ENTER(co_outer);
    uint64_t sum = co_inner(c, x);
    yield(c);
    sum += co_inner(c, x + 1);
    LEAVE(co_outer);
    return sum;
}

static void body(unsigned low, unsigned high)
{
    struct coroutine *c = (struct coroutine *)(((uintptr_t)high << 32) | low);
    for (; oracle_next(c->turns); c->turns++) {
        uint64_t x = c->seed + c->turns;
        uint64_t expected = oracle_mix(x) + 2 * oracle_mix(x + 1) + oracle_mix(x + 2);
        EXPECT("coroutine", expected, co_outer(c, x));
    }
    c->finished = 1;
    yield(c);
}

static void prepare(void)
{
    for (unsigned i = 0; i < COROUTINES; i++) {
        struct coroutine *c = &all[i];
        getcontext(&c->here);
        c->seed = i * 1000003u;
        c->here.uc_stack.ss_sp = malloc(STACK);
        c->here.uc_stack.ss_size = STACK;
        if (!c->here.uc_stack.ss_sp) abort();
        uintptr_t p = (uintptr_t)c;
        makecontext(&c->here, (void (*)(void))body, 2, (unsigned)p, (unsigned)(p >> 32));
        queue[queued++] = c;
    }
}

static void loop(int thread)
{
    ucontext_t scheduler;
    uint64_t random = (uint64_t)thread + 1;
    pthread_mutex_lock(&mutex);
    if (!prepared) {
        prepared = 1;
        prepare();
    }
    while (unfinished) {
        if (queued == 0) { /* all are running elsewhere */
            pthread_mutex_unlock(&mutex);
            sched_yield();
            pthread_mutex_lock(&mutex);
            continue;
        }
        random = oracle_mix(random);
        unsigned pick = (unsigned)(random % queued);
        struct coroutine *c = queue[pick];
        queue[pick] = queue[--queued];
        pthread_mutex_unlock(&mutex);

        /* The scheduler parks, so that at rest every coroutine stands at a yield. */
        oracle_rest_point();
        if (c->last != pthread_self()) c->migrations++;
        c->last = pthread_self();
        c->scheduler = &scheduler;
        swapcontext(&scheduler, &c->here);

        pthread_mutex_lock(&mutex);
        if (c->finished) {
            unfinished--;
            if (oracle_option("threads", 1) > 1 && c->turns > 100)
                EXPECT("coroutine migrated", 1, c->migrations > 1);
        } else {
            queue[queued++] = c;
        }
    }
    pthread_mutex_unlock(&mutex);
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
