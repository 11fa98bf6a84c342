/* C whose frames are unwound: every third turn leaves `outer` -> `passes` -> `cleans` like the end
 * of a thread by pthread_cancel, through the clean-up of each. `passes` has none. */
#include "oracle.h"

#include <setjmp.h>
#include <stdlib.h>
#include <unwind.h>

ORACLE(outer);
ORACLE(passes);
ORACLE(cleans);

static __thread jmp_buf back;
static __thread uint64_t cleaned;
static __thread struct _Unwind_Exception exception;

static inline void clean(uint64_t *x)
{
    cleaned += *x;
}

/* Called at each frame; unwinding ends at the frame that has the jmp_buf. */
static _Unwind_Reason_Code stop(int version, _Unwind_Action actions, _Unwind_Exception_Class class,
                                struct _Unwind_Exception *of, struct _Unwind_Context *context, void *end)
{
    (void)version, (void)actions, (void)class, (void)of;
    if (_Unwind_GetCFA(context) >= (uintptr_t)end) longjmp(back, 1);
    return _URC_NO_REASON;
}

PROBED uint64_t cleans(uint64_t x, void *end)
{
    uint64_t one __attribute__((cleanup(clean))) = 1;
    ENTER(cleans);
    if (x % 3 == 0) {
        UNWOUND(cleans);
        UNWOUND(passes);
        UNWOUND(outer);
        _Unwind_ForcedUnwind(&exception, stop, end);
        abort();
    }
    uint64_t y = oracle_mix(x);
    LEAVE(cleans);
    return y;
}

PROBED uint64_t passes(uint64_t x, void *end)
{
    ENTER(passes);
    uint64_t y = cleans(x, end) + 1;
    LEAVE(passes);
    return y;
}

PROBED uint64_t outer(uint64_t x, void *end)
{
    char room[1200];
    uint64_t ten __attribute__((cleanup(clean))) = 10;
    ENTER(outer);
    __asm__ volatile("" : : "r"(room) : "memory");
    uint64_t y = passes(x, end) + 1;
    LEAVE(outer);
    return y;
}

static void loop(int thread)
{
    for (volatile uint64_t turn = 0; oracle_next(turn); turn++) {
        uint64_t x = turn + (uint64_t)thread;
        cleaned = 0;
        if (setjmp(back) == 0) EXPECT("outer", oracle_mix(x) + 2, outer(x, __builtin_frame_address(0)));
        EXPECT("cleaned", 11, cleaned);
    }
}

#if !defined(__GLIBC__)
/* gcc's unwinder asks glibc for the tables of the code at an address (struct dl_find_object of dlfcn.h). */
struct found {
    unsigned long long flags;
    void *start, *end, *map, *tables;
};

extern const char __GNU_EH_FRAME_HDR[] __attribute__((weak));

int _dl_find_object(void *address, struct found *found)
{
    (void)address;
    *found = (struct found){.end = (void *)~0UL, .tables = (void *)__GNU_EH_FRAME_HDR};
    return __GNU_EH_FRAME_HDR ? 0 : -1;
}
#endif

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
