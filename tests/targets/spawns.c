/* Children that share their parent's address space for a while, as every posix_spawn makes them:
 * the parent's text, probes included, is theirs too. `by_vfork` calls `step` in the child;
 * `spawning` starts another program. Counters are in shared memory, so both processes use the same
 * ones. */
#define _GNU_SOURCE
#include "oracle.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

ORACLE(step);
ORACLE(in_child);
ORACLE(by_vfork);
ORACLE(spawning);

static volatile uint64_t answer;
static volatile int done;

PROBED uint64_t step(uint64_t x)
{
    ENTER(step);
    uint64_t y = oracle_mix(x);
    LEAVE(step);
    return y;
}

PROBED uint64_t in_child(uint64_t x)
{
    ENTER(in_child);
    uint64_t y = oracle_mix(x);
    LEAVE(in_child);
    return y;
}

static void reap(pid_t child)
{
    int status = -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    EXPECT("child's end", 0, status);
}

/* Does not return twice: the child leaves by _exit. */
PROBED void by_vfork(uint64_t x)
{
    ENTER(by_vfork);
    pid_t child = vfork();
    if (child < 0) abort();
    if (child == 0) {
        usleep(50000); /* time for the agent to cover it */
        answer = in_child(x);
        _exit(0);
    }
    LEAVE(by_vfork);
    EXPECT("child's answer", oracle_mix(x), answer);
    reap(child);
}

PROBED void spawning(void)
{
    ENTER(spawning);
    static char *const arguments[] = {"true", NULL};
    pid_t child;
    EXPECT("posix_spawn", 0, posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ));
    reap(child);
    LEAVE(spawning);
}

static void loop(int thread)
{
    /* The second thread only computes while the first one's children share the memory. */
    for (uint64_t turn = 0; thread ? !done : oracle_next(turn); turn++) {
        uint64_t x = turn + (uint64_t)thread;
        EXPECT("step", oracle_mix(x), step(x));
        if (thread == 0 && turn % 100 == 0) by_vfork(x);
        if (thread == 0 && turn % 100 == 50) spawning();
        if (thread) usleep(200);
    }
    if (!thread) done = 1;
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
