/* A program that takes more and more memory while it works, until it is ended. */
#include "oracle.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE (256u << 10)

ORACLE(turn);

PROBED char *turn(void)
{
    ENTER(turn);
    char *piece = malloc(PIECE);
    if (piece) memset(piece, 1, PIECE);
    LEAVE(turn);
    return piece;
}

static void work(int thread)
{
    (void)thread;
    for (uint64_t turns = 0; oracle_next(turns); turns++) {
        turn();
        usleep(1000);
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, work);
}
