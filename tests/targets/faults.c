/* Faults while all its threads call 64 functions: at turn `--fault` the first thread touches an
 * unmapped address, and at turn `--abort` it aborts. With `--handled` it reports the calls until
 * the fault and continues; otherwise it dies, with `--megabytes` of memory for the kernel's core
 * file. */
#define _GNU_SOURCE
#include "oracle.h"

#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define EIGHT(x, n) x(n##0) x(n##1) x(n##2) x(n##3) x(n##4) x(n##5) x(n##6) x(n##7)
#define ALL(x) EIGHT(x, 0) EIGHT(x, 1) EIGHT(x, 2) EIGHT(x, 3) EIGHT(x, 4) EIGHT(x, 5) EIGHT(x, 6) EIGHT(x, 7)

#define DEFINE(n)                                                                                  \
    ORACLE(step##n);                                                                               \
    PROBED uint64_t step##n(uint64_t x)                                                            \
    {                                                                                              \
        ENTER(step##n);                                                                            \
        uint64_t y = oracle_mix(x + 0x##n);                                                        \
        LEAVE(step##n);                                                                            \
        return y;                                                                                  \
    }
ALL(DEFINE)

#define NAME(n) step##n,
static uint64_t (*const steps[])(uint64_t) = {ALL(NAME)};
#define VALUE(n) 0x##n,
static const uint64_t values[] = {ALL(VALUE)};

static sigjmp_buf back;
static volatile int *nothing;

static void on_fault(int signal)
{
    (void)signal;
    oracle_tell("fault");
    siglongjmp(back, 1);
}

static void turn_of_all(uint64_t turn)
{
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        EXPECT("step", oracle_mix(turn + values[i]), steps[i](turn));
}

static void loop(int thread)
{
    uint64_t fault = thread == 0 ? oracle_option("fault", 0) : 0;
    uint64_t end = thread == 0 ? oracle_option("abort", 0) : 0;
    for (volatile uint64_t turn = 0; oracle_next(turn); turn++) {
        turn_of_all(turn);
        if (end && turn == end) abort();
        if (fault && turn == fault && sigsetjmp(back, 1) == 0) *nothing = 1;
    }
}

int main(int argc, char **argv)
{
    size_t bytes = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--handled")) signal(SIGSEGV, on_fault);
        if (!strcmp(argv[i], "--megabytes") && i + 1 < argc) bytes = strtoul(argv[i + 1], NULL, 10) << 20;
    }
    if (bytes) {
        char *memory = malloc(bytes);
        if (!memory) abort();
        memset(memory, 0x5a, bytes);
    }
    return oracle_main(argc, argv, loop);
}
