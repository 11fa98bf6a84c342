/* A program that replaces itself: after `--calls` calls it reports {"event":"exec"} and executes
 * `--image` (default: itself) with `--generation` one less, from inside a probed function. With
 * `--main 1` the main thread executes, while the worker waits inside that function. */
#define _GNU_SOURCE
#include "oracle.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ORACLE(before_exec);
ORACLE(replaces);

static char **own;
static char numbers[2][24];
static char *image = "/proc/self/exe";
static char *arguments[] = {NULL, "--calls", numbers[0], "--generation", numbers[1], NULL};
static pthread_t main_thread;

static void execute(int signal)
{
    (void)signal;
    execv(image, arguments);
}

PROBED uint64_t before_exec(uint64_t x)
{
    ENTER(before_exec);
    uint64_t y = oracle_mix(x);
    LEAVE(before_exec);
    return y;
}

/* Returns only on failure. */
PROBED int replaces(void)
{
    ENTER(replaces);
    for (int i = 1; own[i] && own[i + 1]; i++)
        if (!strcmp(own[i], "--image")) image = own[i + 1];
    snprintf(numbers[0], sizeof numbers[0], "%llu", (unsigned long long)oracle_option("calls", 1000));
    snprintf(numbers[1], sizeof numbers[1], "%llu", (unsigned long long)oracle_option("generation", 1) - 1);
    arguments[0] = own[0];
    oracle_tell("exec");
    if (oracle_option("main", 0)) {
        pthread_kill(main_thread, SIGUSR2);
        for (;;) pause();
    }
    execute(0);
    LEAVE(replaces);
    return 1;
}

static void loop(int thread)
{
    (void)thread;
    for (uint64_t turn = 0; oracle_next(turn); turn++) EXPECT("before_exec", oracle_mix(turn), before_exec(turn));
    if (oracle_option("generation", 1)) EXPECT("exec", 0, replaces());
}

int main(int argc, char **argv)
{
    own = argv;
    main_thread = pthread_self();
    signal(SIGUSR2, execute);
    return oracle_main(argc, argv, loop);
}
