/* Changes its own code before any measurement, like live patches, hooking agents and programs that
 * move their code to huge pages. Each function has its own pages and counts the runs of its own
 * code. */
#define _GNU_SOURCE
#include "oracle.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

/* The largest page of the tested kernels. */
#define PAGE 16384

#define DEFINE(id)                                                                                 \
    ORACLE(id);                                                                                    \
    __attribute__((aligned(2 * PAGE))) PROBED uint64_t id(uint64_t x)                              \
    {                                                                                              \
        ENTER(id);                                                                                 \
        uint64_t y = oracle_mix(x);                                                                \
        if (x == UINT64_MAX) oracle_rest_point();                                                  \
        LEAVE(id);                                                                                 \
        return y;                                                                                  \
    }

DEFINE(untouched)  /* as in the file */
DEFINE(jumps)      /* begins with a jump to another function */
DEFINE(nudged)     /* its landing pad is another instruction that does as little */
DEFINE(trapped)    /* begins with a breakpoint of the program's own */
DEFINE(writable)   /* may be written to */
DEFINE(moved)      /* a copy in anonymous memory */
DEFINE(after)      /* as in the file again */

/* Replaces the functions that no longer run. */
__attribute__((aligned(2 * PAGE))) PROBED uint64_t instead(uint64_t x)
{
    return oracle_mix(x);
}

static void permit(void *code, int permissions)
{
    if (mprotect((void *)((uintptr_t)code & ~(uintptr_t)(PAGE - 1)), PAGE, permissions)) abort();
}

static void patch(void *code, const void *bytes, size_t length)
{
    permit(code, PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(code, bytes, length);
    __builtin___clear_cache((char *)code, (char *)code + length);
    permit(code, PROT_READ | PROT_EXEC);
}

static void on_trap(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    ucontext_t *at = context;
#if defined(__x86_64__)
    at->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)instead;
#else
    at->uc_mcontext.pc = (uintptr_t)instead;
#endif
}

/* Moves code to another address and back, as anonymous memory. */
static void move(char *code)
{
    char *page = (char *)((uintptr_t)code & ~(uintptr_t)(PAGE - 1));
    char *copy = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) abort();
    memcpy(copy, page, PAGE);
    if (mprotect(copy, PAGE, PROT_READ | PROT_EXEC)) abort();
    __builtin___clear_cache(copy, copy + PAGE);
    if (mremap(copy, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page) == MAP_FAILED) abort();
}

static void change_code(void)
{
#if defined(__x86_64__)
    uint8_t jump[5] = {0xe9};
    int32_t distance = (int32_t)((char *)instead - ((char *)jumps + sizeof jump));
    memcpy(jump + 1, &distance, sizeof distance);
    static const uint8_t breakpoint[] = {0xcc}, nudge[] = {0xeb, 0x02, 0x90, 0x90};
#else
    int32_t distance = (int32_t)((char *)instead - (char *)jumps) / 4;
    uint32_t jump[] = {0x14000000u | ((uint32_t)distance & 0x3ffffffu)};
    static const uint32_t breakpoint[] = {0xd4200000u}, nudge[] = {0xd503201fu}; /* brk #0, nop */
#endif
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    if (sigaction(SIGTRAP, &action, NULL)) abort();
    patch((void *)jumps, jump, sizeof jump);
    patch((void *)trapped, breakpoint, sizeof breakpoint);
    patch((void *)nudged, nudge, sizeof nudge);
    permit((void *)writable, PROT_READ | PROT_WRITE | PROT_EXEC);
    move((char *)moved);
}

static void loop(int thread)
{
    uint64_t (*const all[])(uint64_t) = {untouched, jumps, nudged, trapped, writable, moved, after};
    for (uint64_t turn = 0; oracle_next(turn); turn++)
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            EXPECT("mix", oracle_mix(turn + (uint64_t)thread), all[i](turn + (uint64_t)thread));
}

int main(int argc, char **argv)
{
    change_code();
    return oracle_main(argc, argv, loop);
}
