/* Children in rapid succession, `--width N` of them at the same time (default 16). Each calls
 * `step` `--child-calls N` times (default 20) and ends. Their calls are added to their parent's,
 * through shared memory. With `--spawn 1` each executes /bin/true instead. */
#define _GNU_SOURCE
#include "oracle.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

ORACLE(step);
ORACLE(spawn);

static uint64_t *childrens;

PROBED uint64_t step(uint64_t x)
{
    ENTER(step);
    uint64_t y = oracle_mix(x);
    LEAVE(step);
    return y;
}

static pid_t born(void)
{
    if (oracle_option("spawn", 0)) {
        static char *const arguments[] = {"true", NULL};
        pid_t child;
        EXPECT("posix_spawn", 0, posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ));
        return child;
    }
    pid_t child = fork();
    if (child < 0) abort();
    if (child == 0) {
        oracle_child();
        uint64_t calls = oracle_option("child-calls", 20), right = 0;
        for (uint64_t i = 0; i < calls; i++) right += step(i) == oracle_mix(i);
        oracle_add(childrens, right);
        _exit(right == calls ? 0 : 1);
    }
    return child;
}

/* The fork itself is outside of the measured functions: a child would return from a call it never
 * made. */
PROBED uint64_t spawn(uint64_t x)
{
    ENTER(spawn);
    uint64_t y = step(x);
    LEAVE(spawn);
    return y;
}

static void reap(void)
{
    int status = -1;
    while (wait(&status) < 0 && errno == EINTR) {}
    EXPECT("child's end", 0, status);
}

static void loop(int thread)
{
    (void)thread;
    uint64_t width = oracle_option("width", 16), alive = 0;
    childrens = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (childrens == MAP_FAILED) abort();
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        EXPECT("spawn", oracle_mix(turn), spawn(turn));
        if (alive == width) {
            reap();
            alive--;
        }
        born();
        alive++;
    }
    while (alive--) reap();
    oracle_add(&of_step.calls, *childrens);
    oracle_add(&of_step.returned, *childrens);
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
