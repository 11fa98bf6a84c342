/* A program whose functions are in libraries: `shared_work` in a linked one, `plugin_*` in one that
 * it opens, at its start or with `--late 1` after the test said go. `--reopen N` closes and reopens
 * it every N turns, each time at another address; `--twin 1` has it twice in the address space.
 * With `--second N` it opens another library of the same name in the Nth turn, from the folder
 * `second`, reports {"event":"second"} and waits until the test parks it; `second_work` is its
 * function of the same name. */
#define _GNU_SOURCE
#include "oracle.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

ORACLE(shared_work);
ORACLE(plugin_work);
ORACLE(plugin_more);
ORACLE(second_work);

uint64_t shared_work(uint64_t x);

static uint64_t (*call_work)(uint64_t);
static uint64_t (*call_more)(uint64_t);
static char folder[4096];
static void *library;
static uint64_t (*twin_work)(uint64_t), (*second_work)(uint64_t);

static void open_plugin(void)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/plugin.so", folder);
    library = dlopen(path, RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(109);
    }
    *(void **)&call_work = dlsym(library, "plugin_work");
    *(void **)&call_more = dlsym(library, "plugin_more");
    if (!call_work || !call_more) exit(108);
}

static void open_second(void)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/second/plugin.so", folder);
    void *second = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (second) *(void **)&second_work = dlsym(second, "plugin_work");
    if (!second_work || second_work == call_work) exit(102);
    oracle_tell("second");
    while (!oracle_resting() && !oracle_stopping()) usleep(1000);
    oracle_rest_point();
}

static void loop(int thread)
{
    (void)thread;
    if (oracle_option("late", 0)) open_plugin();
    uint64_t reopen = oracle_option("reopen", 0), second = oracle_option("second", 0);
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        if (reopen && turn && turn % reopen == 0) {
            void *before = (void *)call_work;
            dlclose(library);
            /* As the old place is taken, the library gets another address. */
            void *place = (void *)((uintptr_t)before & -4096ul);
            if (mmap(place, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != place) exit(106);
            open_plugin();
            if ((void *)call_work == before) exit(105);
        }
        if (second && turn == second) open_second();
        if (second_work) {
            ENTER(second_work);
            EXPECT("second_work", turn * 3 + 1, second_work(turn));
            LEAVE(second_work);
        }
        ENTER(shared_work);
        EXPECT("shared_work", turn * 5 + 2, shared_work(turn));
        LEAVE(shared_work);
        ENTER(plugin_work);
        EXPECT("plugin_work", turn * 3 + 1, call_work(turn));
        LEAVE(plugin_work);
        if (twin_work) {
            ENTER(plugin_work);
            EXPECT("twin", turn * 3 + 1, twin_work(turn));
            LEAVE(plugin_work);
        }
        uint64_t n = turn % 8, sum = 0;
        for (uint64_t i = 0; i < n; i++) sum += i * 3 + 1;
        ENTER(plugin_more);
        EXPECT("plugin_more", sum, call_more(turn));
        LEAVE(plugin_more);
        oracle_add(&of_plugin_work.calls, n);
        oracle_add(&of_plugin_work.returned, n);
    }
}

static void open_twin(void)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/plugin.so", folder);
    void *twin = dlmopen(LM_ID_NEWLM, path, RTLD_NOW);
    if (!twin) exit(104);
    *(void **)&twin_work = dlsym(twin, "plugin_work");
    if (!twin_work || twin_work == call_work) exit(103);
}

int main(int argc, char **argv)
{
    ssize_t n = readlink("/proc/self/exe", folder, sizeof folder - 1);
    if (n <= 0) return 107;
    folder[n] = 0;
    *strrchr(folder, '/') = 0;
    int late = 0, twin = 0;
    for (int i = 1; i + 1 < argc; i++) {
        if (!strcmp(argv[i], "--late")) late = atoi(argv[i + 1]);
        if (!strcmp(argv[i], "--twin")) twin = atoi(argv[i + 1]);
    }
    if (!late) open_plugin();
    if (twin) open_twin();
    return oracle_main(argc, argv, loop);
}
