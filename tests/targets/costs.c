/* Functions with nearly free calls, so that the cost of probes shows in the caller's CPU time.
 *
 *   costs SHAPE [THREADS [CHILDREN]]
 *
 * Each thread calls the functions of SHAPE in batches with pauses between, and ten times a second
 * the program prints the number of turns so far and their CPU time of the threads: "turns
 * nanoseconds". The first byte of its standard input starts it, a second byte makes it fork
 * CHILDREN, which only live. It ends with that input. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

#define FUNCTION(name, body)                                                                       \
    ".globl " name "\n.type " name ", %function\n.p2align 4\n" name ":\n" body                    \
    ".size " name ", . - " name "\n"

/* An instruction that the kernel emulates and that ends no call, one that it single-steps, a
 * branch, a branch that is never taken if the argument is 0, and its destination: the end of calls
 * there is unknown, so the branch has a probe. */
#if defined(__x86_64__)
#define EMULATED "push %rax\npop %rax\n"
#define STEPPED "mov $1, %eax\n"
#define ON "jmp landing\n"
#define NEVER "test %edi, %edi\njs nowhere\n"
#define NOWHERE "jrcxz landing\nret\n"
#elif defined(__aarch64__)
#define EMULATED "b 1f\n1: nop\n"
#define STEPPED "mov x1, #1\n"
#define ON "b landing\n"
#define NEVER "tst x0, x0\nb.mi nowhere\n"
#define NOWHERE "cbz x0, landing\nret\n"
#endif

__asm__(
    ".text\n"
    /* The kernel emulates `ret` on aarch64 and single-steps it on x86-64. */
    FUNCTION("returns", EMULATED "ret\n")
    FUNCTION("steps", STEPPED "ret\n")
    FUNCTION("jumps_on", EMULATED ON)
    /* Twelve exits that are never taken: cheap hits, but many. */
    FUNCTION("looks_out", EMULATED NEVER NEVER NEVER NEVER NEVER NEVER NEVER NEVER NEVER NEVER NEVER NEVER ON)
    /* It ends in another function. */
    FUNCTION("outer", EMULATED STEPPED FUNCTION("inner", EMULATED ON))
    FUNCTION("nowhere", NOWHERE)
    FUNCTION("landing", "ret\n"));

long returns(long), steps(long), jumps_on(long), looks_out(long), outer(long), inner(long);

static __thread jmp_buf back;
static volatile uint64_t sink;

/* Never returns. */
__attribute__((noipa)) void leaves(long n)
{
    sink += (uint64_t)n;
    if (n >= 0)
        longjmp(back, 1);
    sink += 2;
}

static void turn_returns(void) { returns(0); }
static void turn_steps(void) { steps(0); }
static void turn_jumps(void) { jumps_on(0); }
static void turn_looks(void) { looks_out(0); }
static void turn_leaves(void)
{
    if (setjmp(back) == 0)
        leaves(1);
}
static void turn_shares(void)
{
    outer(0);
    for (int i = 0; i < 4; i++)
        inner(0);
}

static const struct shape {
    const char *name;
    void (*turn)(void);
} shapes[] = {
    {"returns", turn_returns}, {"steps", turn_steps}, {"jumps_on", turn_jumps},
    {"looks_out", turn_looks}, {"leaves", turn_leaves}, {"shares", turn_shares},
};

static const struct shape *shape;
static uint64_t turns, spent;

static uint64_t thread_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void *work(void *unused)
{
    enum { BATCH = 100 };
    for (;;) {
        uint64_t begun = thread_time();
        for (int i = 0; i < BATCH; i++)
            shape->turn();
        __atomic_fetch_add(&spent, thread_time() - begun, __ATOMIC_RELAXED);
        __atomic_fetch_add(&turns, BATCH, __ATOMIC_RELAXED);
        usleep(1000);
    }
    return unused;
}

static void fork_children(int children)
{
    for (int i = 0; i < children; i++)
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;)
                pause();
        }
}

int main(int argc, char **argv)
{
    int threads = argc > 2 ? atoi(argv[2]) : 1, children = argc > 3 ? atoi(argv[3]) : 0;
    pthread_t thread;
    char byte;

    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        if (argc > 1 && strcmp(argv[1], shapes[i].name) == 0)
            shape = &shapes[i];
    if (!shape)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("0 0");
    if (read(STDIN_FILENO, &byte, 1) != 1)
        return 0;
    for (int i = 0; i < threads; i++)
        if (pthread_create(&thread, NULL, work, NULL))
            return 1;
    for (;;) {
        fd_set set;
        struct timeval tenth = {0, 100000};
        FD_ZERO(&set);
        FD_SET(STDIN_FILENO, &set);
        if (select(1, &set, NULL, NULL, &tenth) != 0) {
            if (read(STDIN_FILENO, &byte, 1) != 1)
                return 0;
            fork_children(children);
        }
        printf("%lu %lu\n", __atomic_load_n(&turns, __ATOMIC_RELAXED),
               __atomic_load_n(&spent, __ATOMIC_RELAXED));
    }
}
