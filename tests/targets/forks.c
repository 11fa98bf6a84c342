/* A parent that forks children which go on calling. Two functions fork: `loop` outside of any probed
 * function, and `forking` inside of itself, so that the child returns from a call it never made.
 *
 * With `--wait 1` a child tells {"event":"child"} and waits until the test says `go` again (the parent
 * hands that on); otherwise it goes on calling at once. Each child tells {"event":"child-end"}. With `--chain 1` each
 * child has a child of its own, which does the same. */
#include "oracle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

ORACLE(step);
ORACLE(forking);

static int gate[2];

PROBED uint64_t step(uint64_t x)
{
    ENTER(step);
    uint64_t y = oracle_mix(x);
    LEAVE(step);
    return y;
}

PROBED pid_t forking(void)
{
    ENTER(forking);
    pid_t child = fork();
    if (child == 0) oracle_child();
    else LEAVE(forking);
    return child;
}

static void steps(uint64_t count)
{
    uint64_t x = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t y = step(x);
        EXPECT("step", oracle_mix(x), y);
        x = y;
    }
}

static void wait_for_child(void)
{
    int status = -1;
    while (wait(&status) < 0 && errno == EINTR) {}
    EXPECT("child's end", 0, status);
}

/* The child's whole life after the fork. */
static void child(uint64_t chain)
{
    uint64_t turns = oracle_option("child-calls", 1000);
    if (chain) {
        pid_t pid = fork();
        if (pid < 0) abort();
        if (pid == 0) {
            oracle_child();
            chain = 0;
        }
    }
    oracle_tell("child");
    if (oracle_option("wait", 0)) {
        char byte;
        while (read(gate[0], &byte, 1) < 0 && errno == EINTR) {}
    }
    steps(turns);
    if (chain) wait_for_child();
    oracle_tell("child-end");
    _exit(0);
}

static void loop(int thread)
{
    (void)thread;
    uint64_t children = oracle_option("children", 2), chain = oracle_option("chain", 0);
    if (pipe(gate)) abort();
    steps(oracle_option("calls", 1000));
    for (uint64_t i = 0; i < children; i++) {
        pid_t pid = i % 2 ? forking() : fork();
        if (pid < 0) abort();
        if (pid == 0) {
            oracle_child();
            child(chain);
        }
    }
    steps(oracle_option("calls", 1000));
    if (oracle_option("wait", 0)) {
        /* The test parks us when it is ready, and its `go` opens the gate for the children. */
        while (!oracle_resting() && !oracle_stopping()) usleep(1000);
        oracle_rest_point();
        for (uint64_t i = 0; i < children * (1 + chain); i++)
            if (write(gate[1], "x", 1) != 1) abort();
    }
    for (uint64_t i = 0; i < children; i++) wait_for_child();
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
