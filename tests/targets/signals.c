/* Signal handlers on alternate stacks below and above the interrupted stack. Inside the handler the
 * same functions are entered again; every fifth handler leaves by siglongjmp. */
#define _GNU_SOURCE
#include "oracle.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

ORACLE(interrupted);
ORACLE(in_handler);

enum { ALT = 256 << 10, STACK = 1 << 20 };

static char *region; /* [low alternate stack][thread stack][high alternate stack] */
static volatile uint64_t handled, asynchronous;
static volatile int leave;
static sigjmp_buf back;

PROBED uint64_t interrupted(uint64_t x, int depth);

PROBED uint64_t in_handler(uint64_t x)
{
    ENTER(in_handler);
    uint64_t y = interrupted(x, 1) + 1;
    LEAVE(in_handler);
    return y;
}

/* At depth 0 it raises the signal in its middle; the handler enters it again at depth 1. */
PROBED uint64_t interrupted(uint64_t x, int depth)
{
    ENTER(interrupted);
    if (depth == 0) raise(SIGUSR1);
    uint64_t y = oracle_mix(x);
    LEAVE(interrupted);
    return y;
}

static void on_signal(int signal)
{
    char here;
    uintptr_t sp = (uintptr_t)&here, base = (uintptr_t)region;
    int below = sp < base + ALT, above = sp >= base + ALT + STACK;
    EXPECT("on an alternate stack", 1, below || above);
    handled++;
    EXPECT("in_handler", oracle_mix(handled) + 1, in_handler(handled));
    if (signal == SIGUSR2) {
        asynchronous++;
    } else if (leave) {
        UNWOUND(interrupted);
        siglongjmp(back, 1);
    }
}

static void alternate(int high)
{
    stack_t stack = {.ss_sp = high ? region + ALT + STACK : region, .ss_size = ALT};
    if (sigaltstack(&stack, NULL)) abort();
}

static void *on_own_stack(void *unused)
{
    (void)unused;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_ONSTACK;
    sigaddset(&action.sa_mask, SIGUSR2);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);

    /* A second signal that comes at any instruction, also during the handling of a probe. */
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR2;
    event._sigev_un._tid = gettid();
    timer_t timer;
    if (timer_create(CLOCK_MONOTONIC, &event, &timer)) abort();
    struct itimerspec every = {{0, 1500000}, {0, 1500000}};
    alternate(0); /* the first signal may come before the first turn */
    timer_settime(timer, 0, &every, NULL);

    for (volatile uint64_t turn = 0; oracle_next(turn); turn++) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR2);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        alternate(turn % 2);
        leave = turn % 5 == 0;
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        if (sigsetjmp(back, 1) == 0) {
            uint64_t found = interrupted(turn, 0);
            EXPECT("interrupted", oracle_mix(turn), found);
            EXPECT("returned", 0, leave);
        } else {
            EXPECT("left", 1, leave);
        }
    }
    timer_delete(timer);
    EXPECT("timer signals came", 1, asynchronous > 0 || oracle_option("calls", 1000) < 1000);
    return NULL;
}

static void loop(int thread)
{
    (void)thread;
    region = mmap(NULL, 2 * ALT + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) abort();
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, region + ALT, STACK);
    pthread_t own;
    if (pthread_create(&own, &attributes, on_own_stack, NULL)) abort();
    pthread_join(own, NULL);
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
