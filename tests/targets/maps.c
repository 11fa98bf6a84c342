/* Maps --files files of its own as executable and continues to call `add`. The files are in
 * memory. */
#define _GNU_SOURCE
#include "oracle.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

ORACLE(add);

PROBED uint64_t add(uint64_t a, uint64_t b)
{
    ENTER(add);
    uint64_t sum = oracle_mix(a) + b;
    LEAVE(add);
    return sum;
}

static void map_one(uint64_t number)
{
    char name[64];
    snprintf(name, sizeof(name), "mapped-%llu.so", (unsigned long long)number);
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, 4096) ||
        mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED) {
        perror(name);
        exit(1);
    }
    close(fd);
}

static void loop(int thread)
{
    if (thread == 0)
        for (uint64_t i = 0; i < oracle_option("files", 20000); i++) map_one(i);
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        EXPECT("add", oracle_mix(turn) + 1, add(turn, 1));
        usleep(1000);
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
