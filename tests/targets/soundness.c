/* The soundness oracle: small functions with one probed instruction each (made by
 * tests/src/soundness), run without probes and again with them.
 *
 * Each is called with known registers, flags, vector registers, stack and memory. The result or the
 * signal is kept; a probe must change none of it. Values that vary between runs without any probe,
 * such as a time stamp, are not compared. Every function runs several times with its probe, because
 * Linux 6.18 rewrites some instructions after the first hit.
 *
 * Below the stack pointer is the red zone. A function that has executed instructions may keep data
 * there, and all of it is compared; at its very first instruction there is no data yet, so that
 * only the instruction's own writes count.
 *
 * Speaks the protocol of oracle.h. It also prints `{"differs":...}` for the first differences of
 * each row, and at the end `{"group":...}` for each kind of instruction. */
#define _GNU_SOURCE
#include "oracle.h"
#include "soundness.h"

#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#define SCRATCH ((uint8_t *)0x10000000) /* below 4 GiB: some operands have 32 bits */
#define SCRATCH_BYTES 16384
#define STACK_BYTES 16384
#define ROOM (1 << 20)
#define WINDOW 512 /* bytes on either side of the stack pointer that are kept */
#define TOLD 3 /* differences of one row that are reported */

/* Layout of the assembly. */
struct row {
    void (*function)(void);
    const char *name, *group;
    uint32_t inputs, live;
};
extern const struct row sound_rows[], sound_rows_end[];
extern void sound_run(void (*function)(void));
extern char sound_back[];

struct state {
    uint64_t general[GENERAL], flags, host, target;
    uint8_t vectors[VECTORS] __attribute__((aligned(64)));
} __attribute__((aligned(64)));
_Static_assert(offsetof(struct state, flags) == FLAGS_AT, "");
_Static_assert(offsetof(struct state, target) == TARGET_AT, "");
_Static_assert(offsetof(struct state, vectors) == VECTORS_AT, "");
struct state sound_in, sound_out;
int sound_xsave;
uint8_t sound_data[16384] __attribute__((aligned(4096)));

/* Result of a run. A field is a word with a name; memory elsewhere is a checksum. */
enum { FLAGS = GENERAL, SIGNAL, CODE, ADDRESS, AT, MEMORY, WORDS };
struct result {
    uint64_t words[WORDS];
    uint8_t vectors[VECTORS];
    uint8_t stack[2 * WINDOW];
};
/* Result of a row without a probe, and its varying parts. */
struct reference {
    struct result result;
    uint8_t word_varies[WORDS], vectors_vary, stack_varies;
};

static uint8_t *stack; /* the one the functions run on */
static uint8_t image[SCRATCH_BYTES + STACK_BYTES + sizeof sound_data];
static sigjmp_buf out_of_fault;
static struct result now;
static unsigned told, wrong; /* differences of this run, and of all */
static uint64_t runs;
static volatile int inside; /* a row runs */

static uint8_t *stack_pointer(void) { return stack + STACK_BYTES / 2; }

#ifdef __x86_64__
static const uint64_t flags_of[8] = {0x202, 0x202 | 0x8d5, 0x202 | 0x401, 0x202 | 0x40, 0x202 | 0x80, 0x202 | 0x800, 0x202 | 4, 0x202 | 0x880};
#define STACK_REGISTER 4

static void give(unsigned input)
{
    uint64_t at = (uintptr_t)SCRATCH, mixed = input;
    uint64_t *r = sound_in.general;
    static const uint64_t small[8] = {0x8877665544332211u, 7, ~15ull, 1, 0, 3, 9, 2};
    for (int i = 8; i < 16; i++) r[i] = mixed = oracle_mix(mixed + i);
    r[0] = small[input];                       /* rax */
    r[1] = input % 3 ? 3 - input % 3 : 5;      /* rcx: counts of string operations, an index */
    r[2] = input == 0 ? 0x1234 : input == 1 ? 0 : ~0ull; /* rdx */
    r[3] = at + 0x800;                         /* rbx */
    r[5] = at + 0x2800;                        /* rbp */
    r[6] = at + 0x2000;                        /* rsi */
    r[7] = at + 0x1000;                        /* rdi */
    r[12] = at + 0x1800;
    r[13] = at + 0x1400;
    r[14] = 2;
    r[15] = at + 0x2400;
    sound_in.flags = flags_of[input];
    uint8_t *v = sound_in.vectors;
    memset(v, 0, VECTORS);
    *(uint16_t *)v = 0x37f;      /* control word */
    *(uint16_t *)(v + 2) = 4 << 11; /* four registers of eight are full */
    v[4] = 0xf0;
    *(uint32_t *)(v + 24) = 0x1f80; /* mxcsr */
    for (int i = 0; i < 4; i++) {
        long double number = 1.25L * (i + 1) - input;
        memcpy(v + 32 + 16 * i, &number, 10);
    }
    for (int i = 0; i < 16; i++) {
        double low = 3.5 * i - 7 * (double)input;
        float high[2] = {(float)i + 0.5f, -2.0f * (float)i};
        memcpy(v + 160 + 16 * i, &low, 8);
        memcpy(v + 168 + 16 * i, high, 8);
        for (int k = 0; k < 16; k++) v[576 + 16 * i + k] = (uint8_t)(i * 16 + k + input);
    }
    if (sound_xsave) v[512] = 7;
    *(uint64_t *)stack_pointer() = (uintptr_t)sound_back;
}

static int has_xsave(void)
{
    uint32_t a = 1, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return (c & (1u << 27 | 1u << 28)) == (1u << 27 | 1u << 28); /* OSXSAVE, AVX */
}

/* The processor keeps the address of an x87 instruction, and a single-stepped copy runs elsewhere;
 * only a debugger of x87 faults reads that. The header of xsave marks the parts in their initial
 * state. */
static void forget_places(uint8_t *vectors)
{
    memset(vectors + 8, 0, 8);
    memset(vectors + 512, 0, 64);
    memset(vectors + 464, 0, 48); /* the kernel's own words in a signal's frame */
    if (!sound_xsave) memset(vectors + 512, 0, VECTORS - 512);
}

static void keep_fault(ucontext_t *context)
{
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    greg_t *r = context->uc_mcontext.gregs;
    for (int i = 0; i < 16; i++) sound_out.general[i] = (uint64_t)r[order[i]];
    sound_out.flags = (uint64_t)r[REG_EFL] & ~0x10000ull; /* RF: set by the fault itself */
    now.words[AT] = (uint64_t)r[REG_RIP];
    memset(sound_out.vectors, 0, VECTORS);
    memcpy(sound_out.vectors, context->uc_mcontext.fpregs, 464);
}
#else
static const uint64_t flags_of[8] = {0, 0xfu << 28, 0x2u << 28, 0x4u << 28, 0x8u << 28, 0x1u << 28, 0x6u << 28, 0x9u << 28};
#define STACK_REGISTER 31

static void give(unsigned input)
{
    uint64_t at = (uintptr_t)SCRATCH, mixed = input;
    uint64_t *r = sound_in.general;
    for (int i = 0; i < 31; i++) r[i] = mixed = oracle_mix(mixed + i);
    static const uint64_t small[8] = {0, 7, 1ull << 63, 1ull << 37, 8, 1, 9, 16};
    r[0] = small[input];
    r[1] = at + SCRATCH_BYTES / 2;
    r[2] = small[7 - input];
    r[16] = 0; /* leads to the function */
    r[18] = 0;
    r[30] = 0; /* leads back */
    sound_in.flags = flags_of[input];
    double *v = (double *)sound_in.vectors;
    for (int i = 0; i < 64; i++) v[i] = 3.5 * i - 7 * (double)input;
}

static int has_xsave(void) { return 0; }
static void forget_places(uint8_t *vectors) { (void)vectors; }

static void keep_fault(ucontext_t *context)
{
    mcontext_t *m = &context->uc_mcontext;
    for (int i = 0; i < 31; i++) sound_out.general[i] = m->regs[i];
    sound_out.general[31] = m->sp;
    sound_out.flags = m->pstate & 0xf0000000u;
    now.words[AT] = m->pc;
    memset(sound_out.vectors, 0, VECTORS);
    /* The first record is that of the vector registers: magic, size, fpsr, fpcr, v0 to v31. */
    uint8_t *record = (uint8_t *)m->__reserved;
    memcpy(sound_out.vectors, record + 16, 512);
    memcpy(sound_out.vectors + 512, record + 8, 8);
}
#endif

static void on_fault(int signal, siginfo_t *info, void *context)
{
    if (!inside) _exit(112); /* not the fault of a row */
    inside = 0;
    now.words[SIGNAL] = (uint64_t)signal;
    now.words[CODE] = (uint64_t)(uint32_t)info->si_code;
    /* Linux on arm64 reports the address of the stepped copy for an undefined instruction. */
    now.words[ADDRESS] = signal == SIGILL ? 0 : (uintptr_t)info->si_addr;
    keep_fault(context);
    siglongjmp(out_of_fault, 1);
}

/* A function that never returns is as good as a faulting one, if it does so every time. */
static void on_tick(int signal, siginfo_t *info, void *context)
{
    static uint64_t seen;
    if (seen == runs && inside) on_fault(signal, info, context);
    seen = runs;
}

static uint64_t checksum(uint64_t sum, const uint8_t *bytes, size_t count)
{
    const uint64_t *words = (const uint64_t *)bytes;
    for (size_t i = 0; i < count / 8; i++) sum = (sum ^ words[i]) * 0x9e3779b97f4a7c15u ^ sum >> 29;
    return sum;
}

static void run(const struct row *row, unsigned input)
{
    memcpy(SCRATCH, image, SCRATCH_BYTES);
    memcpy(stack, image + SCRATCH_BYTES, STACK_BYTES);
    memcpy(sound_data, image + SCRATCH_BYTES + STACK_BYTES, sizeof sound_data);
    give(input);
    sound_in.general[STACK_REGISTER] = (uintptr_t)stack_pointer();
    memset(&sound_out, 0, sizeof sound_out);
    memset(&now, 0, sizeof now);
    runs++;
    if (!sigsetjmp(out_of_fault, 1)) {
        inside = 1;
        sound_run(row->function);
    }
    inside = 0;
    forget_places(sound_out.vectors);
    memcpy(now.words, sound_out.general, sizeof sound_out.general);
    now.words[FLAGS] = sound_out.flags;
    memcpy(now.vectors, sound_out.vectors, VECTORS);
    memcpy(now.stack, stack_pointer() - WINDOW, 2 * WINDOW);
    now.words[MEMORY] = checksum(checksum(1, SCRATCH, SCRATCH_BYTES), sound_data, sizeof sound_data);
}

/* Runs a row without a probe until its constant parts are known. */
static void refer(const struct row *row, unsigned input, struct reference *reference)
{
    run(row, input);
    reference->result = now;
    for (int again = 0; again < 3; again++) {
        run(row, input);
        for (int i = 0; i < WORDS; i++) reference->word_varies[i] |= now.words[i] != reference->result.words[i];
        reference->vectors_vary |= !!memcmp(now.vectors, reference->result.vectors, VECTORS);
        reference->stack_varies |= !!memcmp(now.stack, reference->result.stack, 2 * WINDOW);
    }
    /* A time stamp is one number in two registers, of which the upper seldom moves. */
    reference->word_varies[2] |= reference->word_varies[0];
    /* The address of the last x87 instruction is stored with the other data of these, and a thread
     * switch changes it. */
    reference->word_varies[MEMORY] |= strstr(row->name, "_Fnstenv_") || strstr(row->name, "_Fnsave_");
}

static void differs(const struct row *row, unsigned input, const char *what, int at, uint64_t expected, uint64_t found)
{
    wrong++;
    oracle_wrong(row->name, expected, found);
    if (told++ < TOLD)
        printf("{\"differs\":\"%s\",\"input\":%u,\"what\":\"%s\",\"at\":%d,\"expected\":\"%llx\",\"found\":\"%llx\"}\n",
               row->name, input, what, at, (unsigned long long)expected, (unsigned long long)found);
}

/* Runs it with a probe; returns the number of fields that differ from the run without. */
static unsigned compare(const struct row *row, unsigned input, const struct reference *reference)
{
    static const char *names[] = {"flags", "signal", "signal's code", "signal's address", "signal's instruction", "memory"};
    unsigned before = wrong;
    told = 0;
    run(row, input);
    const struct result *was = &reference->result;
    for (int i = 0; i < WORDS; i++)
        if (now.words[i] != was->words[i] && !reference->word_varies[i])
            differs(row, input, i < GENERAL ? "register" : names[i - GENERAL], i, was->words[i], now.words[i]);
    for (int i = 0; i < VECTORS && !reference->vectors_vary; i++)
        if (now.vectors[i] != was->vectors[i]) differs(row, input, "vectors", i, was->vectors[i], now.vectors[i]);
    const uint8_t *first = image + SCRATCH_BYTES + STACK_BYTES / 2 - WINDOW;
    for (int i = 0; i < 2 * WINDOW && !reference->stack_varies; i++) {
        /* No earlier instruction could have kept data below the stack pointer. */
        int counts = row->live || i >= WINDOW || was->stack[i] != first[i];
        if (counts && now.stack[i] != was->stack[i])
            differs(row, input, "stack", i - WINDOW, was->stack[i], now.stack[i]);
    }
    return wrong - before;
}

static void tell_groups(unsigned count, const unsigned *differences, struct oracle_function **functions)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned rows = 0, found = 0;
        uint64_t calls = 0, faults = 0;
        for (unsigned k = 0; k < count; k++) {
            if (strcmp(sound_rows[k].group, sound_rows[i].group)) continue;
            if (k < i) goto told_before;
            rows++;
            found += !!differences[k];
            calls += functions[k]->calls;
            faults += functions[k]->unwound;
        }
        printf("{\"group\":\"%s\",\"rows\":%u,\"calls\":%llu,\"faults\":%llu,\"rows_that_differ\":%u}\n", sound_rows[i].group,
               rows, (unsigned long long)calls, (unsigned long long)faults, found);
    told_before:;
    }
}

/* Bit tests reach 32 MiB past the data, with the address of the scratch memory as a bit number. The
 * heap would grow into that area or not, depending on the kernel; so it stays small, and malloc()
 * maps memory. */
static void keep_heap_small(void)
{
    uintptr_t end = ((uintptr_t)sbrk(0) + 0xffff) & ~(uintptr_t)0xffff;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    if (mmap((void *)end, 64 << 20, PROT_NONE, flags, -1, 0) == MAP_FAILED) abort();
}

static void prepare(void)
{
    keep_heap_small();
    cpu_set_t here; /* some instructions name the processor */
    CPU_ZERO(&here);
    CPU_SET((unsigned)sched_getcpu(), &here);
    if (sched_setaffinity(0, sizeof here, &here)) abort();
    void *scratch = mmap(SCRATCH, SCRATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    /* Accesses beyond it fault. */
    stack = mmap(NULL, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (scratch != SCRATCH || stack == MAP_FAILED) abort();
    stack += ROOM / 2;
    if (mprotect(stack, STACK_BYTES, PROT_READ | PROT_WRITE)) abort();
    for (size_t i = 0; i < sizeof image / 8; i++) ((uint64_t *)image)[i] = oracle_mix(i);
    sound_xsave = has_xsave();
    static uint8_t other[65536];
    stack_t alternate = {.ss_sp = other, .ss_size = sizeof other};
    if (sigaltstack(&alternate, NULL)) abort();
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, NULL);
    action.sa_sigaction = on_tick;
    action.sa_flags |= SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    struct itimerval every = {{5, 0}, {5, 0}};
    setitimer(ITIMER_REAL, &every, NULL);
}

int main(int argc, char **argv)
{
    unsigned times = argc > 2 && !strcmp(argv[1], "--times") ? (unsigned)atoi(argv[2]) : 4;
    unsigned count = (unsigned)(sound_rows_end - sound_rows);
    setvbuf(stdout, NULL, _IOLBF, 0);
    prepare();
    struct oracle_function **functions = calloc(count, sizeof *functions);
    unsigned *differences = calloc(count, sizeof *differences);
    struct reference **references = calloc(count, sizeof *references);
    for (unsigned i = 0; i < count; i++) {
        functions[i] = oracle_make(sound_rows[i].name);
        references[i] = calloc(sound_rows[i].inputs, sizeof **references);
        for (unsigned input = 0; input < sound_rows[i].inputs; input++) refer(&sound_rows[i], input, &references[i][input]);
    }
    char line[16];
    oracle_tell("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 1;
    for (unsigned time = 0; time < times; time++)
        for (unsigned i = 0; i < count; i++)
            for (unsigned input = 0; input < sound_rows[i].inputs; input++) {
                differences[i] += compare(&sound_rows[i], input, &references[i][input]);
                oracle_add(&functions[i]->calls, 1);
                oracle_add(now.words[SIGNAL] ? &functions[i]->unwound : &functions[i]->returned, 1);
            }
    tell_groups(count, differences, functions);
    fflush(stdout);
    oracle_tell("end");
    return wrong ? 1 : 0;
}
