/* A process whose main thread ends at SIGUSR1 while the others continue to work. */
#define _GNU_SOURCE
#include "oracle.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

ORACLE(works_on);

PROBED uint64_t works_on(uint64_t x)
{
    ENTER(works_on);
    uint64_t y = oracle_mix(x);
    LEAVE(works_on);
    return y;
}

static void loop(int thread)
{
    (void)thread;
    for (uint64_t turn = 0; oracle_next(turn); turn++) EXPECT("works_on", oracle_mix(turn), works_on(turn));
}

static int words;

static void *speak(void *arguments)
{
    exit(oracle_main(words, arguments, loop));
}

int main(int argc, char **argv)
{
    sigset_t leave;
    pthread_t speaker;
    int signal;

    sigemptyset(&leave);
    sigaddset(&leave, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &leave, NULL);
    words = argc;
    if (pthread_create(&speaker, NULL, speak, argv)) abort();
    sigwait(&leave, &signal);
    pthread_exit(NULL);
}
