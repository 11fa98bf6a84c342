/* A single-threaded program at fixed addresses that calls its function repeatedly while it
 * listens. */
#include "oracle.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

ORACLE(paced);

PROBED uint64_t paced(uint64_t x)
{
    ENTER(paced);
    uint64_t y = oracle_mix(x);
    LEAVE(paced);
    return y;
}

int main(void)
{
    char line[64] = "";
    struct pollfd heard = {STDIN_FILENO, POLLIN, 0};
    setvbuf(stdin, NULL, _IONBF, 0);
    oracle_tell("ready");
    for (uint64_t turn = 0; strcmp(line, "stop\n"); turn++) {
        if (paced(turn) != oracle_mix(turn)) return 1;
        if (poll(&heard, 1, 1) > 0 && !fgets(line, sizeof line, stdin)) break;
    }
    oracle_tell("end");
    return 0;
}
