/* A parent that forks children which continue to call. Two functions fork: `loop` outside of any
 * probed function, and `forking` inside itself, so that the child returns from a call it never
 * made.
 *
 * With `--wait 1` a child reports {"event":"child"} and waits until the test says `go` again (the
 * parent passes that on); otherwise it continues at once. Each child reports {"event":"child-end"}.
 * With `--chain 1` each child has a child of its own, which does the same.
 *
 * `lives` is the time with children, from before the fork until each was waited for; `shortest` the
 * shortest life of a child, by its own clock from its first instruction to its last. */
#include "oracle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

ORACLE(step);
ORACLE(forking);
ORACLE(lives);
ORACLE(shortest);

#define CHILDREN 1024

static int gate[2];
static uint64_t begun[CHILDREN];
static pid_t pids[CHILDREN];
/* Shared by all. */
static uint64_t *least;

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
    pid_t pid;
    while ((pid = wait(&status)) < 0 && errno == EINTR) {}
    EXPECT("child's end", 0, status);
    for (uint64_t i = 0; i < CHILDREN; i++)
        if (pids[i] == pid) oracle_record(&of_lives, oracle_now() - begun[i]);
}

/* The child's whole life after the fork. */
static void child(uint64_t chain)
{
    uint64_t turns = oracle_option("child-calls", 1000), start = oracle_now();
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
    uint64_t lived = oracle_now() - start, known = __atomic_load_n(least, __ATOMIC_RELAXED);
    while (lived < known &&
           !__atomic_compare_exchange_n(least, &known, lived, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    _exit(0);
}

static void loop(int thread)
{
    (void)thread;
    uint64_t children = oracle_option("children", 2), chain = oracle_option("chain", 0);
    if (pipe(gate)) abort();
    least = mmap(NULL, sizeof(*least), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (least == MAP_FAILED || children > CHILDREN) abort();
    *least = UINT64_MAX;
    steps(oracle_option("calls", 1000));
    for (uint64_t i = 0; i < children; i++) {
        begun[i] = oracle_now();
        pid_t pid = i % 2 ? forking() : fork();
        pids[i] = pid;
        if (pid < 0) abort();
        if (pid == 0) {
            oracle_child();
            child(chain);
        }
    }
    steps(oracle_option("calls", 1000));
    if (oracle_option("wait", 0)) {
        /* The test parks this when it is ready, and its `go` opens the gate for the children. */
        while (!oracle_resting() && !oracle_stopping()) usleep(1000);
        oracle_rest_point();
        for (uint64_t i = 0; i < children * (1 + chain); i++)
            if (write(gate[1], "x", 1) != 1) abort();
    }
    for (uint64_t i = 0; i < children; i++) wait_for_child();
    if (children) oracle_record(&of_shortest, *least);
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
