/* The judge inside each target.
 *
 * A target is a program whose functions are probed, and also the judge of the probes' reports: it
 * counts every call of its functions, knows how each call ended, times the calls itself and checks
 * the results of its own work. `oracle_main` talks to the test over stdin and stdout, one command or
 * one JSON object a line:
 *
 *   target -> {"event":"ready","pid":N}         nothing has been called yet
 *   test   -> go                                the workload starts (or continues after a rest)
 *   test   -> rest                              every thread parks, inside or outside of its functions
 *   target -> {"event":"rest",...}              ... with the figures at rest
 *   test   -> tell                              requests the current figures without a rest
 *   target -> {"event":"told",...}
 *   test   -> stop                              workers leave their loops at the next turn
 *   target -> {"event":"end",...}               all workers have finished; then the program ends,
 *   test   -> end                               or with --stay waits for this line (or end of file)
 *
 * Counters are single atomic words, so that a signal handler, a coroutine on its second thread and a
 * forked child can all use them. */
#ifndef ORACLE_H
#define ORACLE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One function of the target. */
struct oracle_function {
    const char *name;      /* as the symbol table has it, demangled */
    uint64_t calls;        /* entered */
    uint64_t returned;     /* left through its own return */
    uint64_t unwound;      /* left by an exception, a longjmp, or the end of its thread */
    uint64_t sum_ns;       /* of the durations below */
    uint64_t recorded;     /* how many durations were offered */
    uint64_t *durations;   /* the first `room` of them */
    uint64_t room;
    struct oracle_function *next;
};

/* Declares the function `id` of the target and announces it before main. */
#define ORACLE(id) ORACLE_NAMED(id, #id)
#define ORACLE_NAMED(id, text)                                                                     \
    static struct oracle_function of_##id;                                                         \
    __attribute__((constructor)) static void oracle_announce_##id(void)                            \
    {                                                                                              \
        of_##id.name = text;                                                                   \
        oracle_register(&of_##id);                                                             \
    }                                                                                              \
    struct oracle_swallow_semicolon

#define ENTER(id) oracle_add(&of_##id.calls, 1)
#define LEAVE(id) oracle_add(&of_##id.returned, 1)
#define UNWOUND(id) oracle_add(&of_##id.unwound, 1)

/* A function that the compiler neither inlines nor clones nor reasons about from its callers. */
#if defined(__clang__)
#define PROBED __attribute__((noinline))
#else
#define PROBED __attribute__((noipa))
#endif

static inline void oracle_add(uint64_t *counter, uint64_t n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Adds a function to the reported ones. */
void oracle_register(struct oracle_function *function);
/* For a language without constructors: makes, registers and returns a function. Never freed. */
struct oracle_function *oracle_make(const char *name);

/* Adds one duration in nanoseconds. */
void oracle_record(struct oracle_function *function, uint64_t ns);
/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t oracle_now(void);

/* Computes for `ns` nanoseconds; returns the actual time. Inlined: the caller keeps its exits. */
__attribute__((always_inline)) static inline uint64_t oracle_spin(uint64_t ns)
{
    uint64_t start = oracle_now(), now;
    do now = oracle_now();
    while (now - start < ns);
    return now - start;
}

/* The value of option `--name VALUE`, or `otherwise`. */
uint64_t oracle_option(const char *name, uint64_t otherwise);

/* True if a worker that has done `turns` turns shall do another. Parks it here, outside of all
 * functions, if the test requested rest. */
int oracle_next(uint64_t turns);
/* Parks the caller in place, inside its function, if the test requested rest. */
void oracle_rest_point(void);
/* Announces that the calling thread comes to a rest point inside its functions in every turn:
 * `oracle_next` does not park it then. */
void oracle_rests_inside(void);
/* True while the test wants rest. */
int oracle_resting(void);
/* True if workers shall leave their loops. */
int oracle_stopping(void);

/* Notes that the target's own work went wrong. The first message is reported at the end. */
void oracle_wrong(const char *what, uint64_t expected, uint64_t found);
#define EXPECT(what, expected, found)                                                              \
    do {                                                                                           \
        uint64_t expect_e = (uint64_t)(expected), expect_f = (uint64_t)(found);                    \
        if (__builtin_expect(expect_e != expect_f, 0)) oracle_wrong(what, expect_e, expect_f);     \
    } while (0)

/* In a forked child: all counters restart from zero and no other thread is a worker. */
void oracle_child(void);
/* Prints `{"event":EVENT,...}` with all figures in one write. */
void oracle_tell(const char *event);

/* Runs `work(thread)` on `--threads` threads (default 1) under the protocol above. Returns the exit
 * status: 0 if nothing went wrong. */
int oracle_main(int argc, char **argv, void (*work)(int thread));

/* A cheap mixing step that a test of results can repeat: one round of splitmix64. */
static inline uint64_t oracle_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

#ifdef __cplusplus
}
#endif
#endif
