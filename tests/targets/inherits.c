/* A parent that forks one child after the other. Each inherits the breakpoints in `step` and calls
 * it until its text is as it was before any probe. The parent records that time as a duration of
 * `inherited`, in nanoseconds from right before the fork. A child that waited for PATIENCE_NS gives
 * up, and is reported as wrong.
 *
 *   --children N    number of children
 *   --pause-us N    pause between two of them */
#include "oracle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_NS 20000000000u

ORACLE(step);
ORACLE(inherited);

/* All of its code and nothing else, with names for both ends. */
extern const char __start_text_of_step[], __stop_text_of_step[];

__attribute__((section("text_of_step"))) PROBED uint64_t step(uint64_t x)
{
    ENTER(step);
    uint64_t y = oracle_mix(x);
    LEAVE(step);
    return y;
}

static char *before;
static size_t length;

static int changed(void)
{
    __asm__ volatile("" ::: "memory");
    return memcmp(before, __start_text_of_step, length) != 0;
}

/* The whole life of a child: reports its measurement, 0 if it found no breakpoint. */
static void child(int out, uint64_t begun)
{
    uint64_t x = begun, waited = 0;
    while (changed() && waited < PATIENCE_NS) {
        x = step(x);
        waited = oracle_now() - begun;
    }
    if (write(out, &waited, sizeof waited) != sizeof waited) abort();
    _exit(0);
}

static void loop(int thread)
{
    (void)thread;
    uint64_t children = oracle_option("children", 10), pause = oracle_option("pause-us", 100000);
    int line[2];
    if (pipe(line)) abort();
    step(1);
    for (uint64_t i = 0; i < children; i++) {
        usleep((useconds_t)pause);
        uint64_t begun = oracle_now(), waited = 0;
        pid_t pid = fork();
        if (pid < 0) abort();
        if (pid == 0) child(line[1], begun);
        if (read(line[0], &waited, sizeof waited) != sizeof waited) abort();
        int status = -1;
        while (wait(&status) < 0 && errno == EINTR) {}
        EXPECT("child's end", 0, status);
        if (waited >= PATIENCE_NS) oracle_wrong("child without breakpoints", 0, waited);
        if (waited) oracle_record(&of_inherited, waited);
    }
}

int main(int argc, char **argv)
{
    length = (size_t)(__stop_text_of_step - __start_text_of_step);
    before = malloc(length);
    if (!before) abort();
    memcpy(before, __start_text_of_step, length);
    return oracle_main(argc, argv, loop);
}
