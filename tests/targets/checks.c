/* A self-checking program: functions of the shapes that compilers make, each of which computes a
 * known result. Built in many ways (tests/tests/e2e/checks.rs), because compilers differ in the
 * code at the beginning and the end of functions, and below the stack pointer.
 *
 * The same functions compute the results once at the start of the program, before any probe, and
 * then again and again. Speaks the protocol of oracle.h. */
#include "oracle.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

#define CHECKED PROBED

struct pair { uint64_t a, b; };
struct large { uint64_t words[12]; };
typedef uint64_t (*operation)(uint64_t, uint64_t);

/* Leafs whose locals lie in the red zone. */
CHECKED uint64_t check_leaf(uint64_t a, uint64_t b)
{
    volatile uint64_t kept[8];
    for (unsigned i = 0; i < 8; i++) kept[i] = a + i * b;
    uint64_t sum = 0;
    for (unsigned i = 0; i < 8; i++) sum = sum * 31 + kept[i];
    return sum;
}
CHECKED double check_filter(double a, double b, long n)
{
    volatile double t = a;
    double c = fma(a, b, b);
    do t = t * c; while (--n);
    return t;
}
CHECKED uint64_t check_loop(uint64_t a, uint64_t n)
{
    while (n--) a = a * 6364136223846793005u + 1442695040888963407u;
    return a;
}
CHECKED uint64_t check_recursion(uint64_t a, uint64_t n)
{
    return n == 0 ? a : check_recursion(oracle_mix(a), n - 1) + n;
}
CHECKED struct pair check_pair(uint64_t a, uint64_t b) { return (struct pair){a ^ b, a + b}; }
CHECKED struct large check_large(uint64_t a, uint64_t b)
{
    struct large result;
    for (unsigned i = 0; i < 12; i++) result.words[i] = a * i + b;
    return result;
}
CHECKED uint64_t check_passed(struct large value)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < 12; i++) sum ^= value.words[i] << i;
    return sum;
}
CHECKED uint64_t check_variadic(unsigned count, ...)
{
    va_list list;
    va_start(list, count);
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; i++) sum = sum * 7 + va_arg(list, uint64_t);
    va_end(list);
    return sum;
}
CHECKED uint64_t check_floats(unsigned count, ...)
{
    va_list list;
    va_start(list, count);
    double sum = 0;
    for (unsigned i = 0; i < count; i++) sum = sum * 1.5 + va_arg(list, double);
    va_end(list);
    uint64_t bits;
    memcpy(&bits, &sum, 8);
    return bits;
}
CHECKED uint64_t check_switch(uint64_t a, uint64_t b)
{
    switch (a & 15) {
    case 0: return b + 1;
    case 1: return b * 3;
    case 2: return b ^ 0x55;
    case 3: return oracle_mix(b);
    case 4: return b >> 3;
    case 5: return b << 5;
    case 6: return b / 7;
    case 7: return b % 11;
    case 8: return ~b;
    case 9: return b * b;
    case 10: return b - 100;
    default: return a;
    }
}
CHECKED uint64_t check_tail(uint64_t a, uint64_t b) { return check_switch(a + 1, b + 2); }
CHECKED uint64_t check_either(uint64_t a, uint64_t b)
{
    if (a & 1) return check_leaf(a, b);
    return check_loop(a, b & 7);
}
CHECKED uint64_t check_indirect(operation what, uint64_t a, uint64_t b) { return what(a, b); }
CHECKED uint64_t check_text(const char *text, uint64_t a)
{
    char copy[96];
    memset(copy, (int)(a & 0x7f) | 1, sizeof copy);
    strcpy(copy, text);
    return strlen(copy) * 31 + (uint64_t)(unsigned char)copy[a % strlen(copy)] + (uint64_t)(memchr(copy, 'o', 96) != NULL);
}
CHECKED long double check_long(long double a, long double b) { return a * b + sqrtl(a); }
CHECKED float check_single(float a, float b) { return a > b ? a / b : b - a; }
CHECKED uint64_t check_vector(const float *from, unsigned n)
{
    float sums[8] = {0};
    for (unsigned i = 0; i + 8 <= n; i += 8)
        for (unsigned k = 0; k < 8; k++) sums[k] += from[i + k] * (float)(k + 1);
    float sum = 0;
    for (unsigned k = 0; k < 8; k++) sum += sums[k];
    uint32_t bits;
    memcpy(&bits, &sum, 4);
    return bits;
}
CHECKED uint64_t check_room(uint64_t a, uint64_t n)
{
    uint64_t room[n + 1];
    for (uint64_t i = 0; i <= n; i++) room[i] = a + i;
    uint64_t sum = 0;
    for (uint64_t i = 0; i <= n; i++) sum += room[n - i] * i;
    return sum;
}
CHECKED int64_t check_eight(int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f, int64_t g, int64_t h)
{
    return a - 2 * b + 3 * c - 4 * d + 5 * e - 6 * f + 7 * g - 8 * h;
}
CHECKED uint64_t check_atomic(uint64_t *word, uint64_t a)
{
    return __atomic_fetch_add(word, a, __ATOMIC_SEQ_CST) + __atomic_exchange_n(word, a, __ATOMIC_SEQ_CST);
}
CHECKED uint64_t check_bits(uint64_t a)
{
    return (uint64_t)__builtin_popcountll(a) * 1000 + (uint64_t)__builtin_ctzll(a | 1u << 31) * 10 +
           (uint64_t)__builtin_clzll(a | 1);
}
CHECKED uint64_t check_multiplied(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)(product >> 64) ^ (uint64_t)product / 3;
}
CHECKED void check_nothing(void) { __asm__ volatile("" ::: "memory"); }

enum { RESULTS = 25, KINDS = 16 };

static uint64_t of_double(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    return bits;
}

/* All results for one seed. */
static void compute(uint64_t seed, uint64_t *r)
{
    uint64_t a = oracle_mix(seed), b = oracle_mix(a), word = b;
    float numbers[64];
    for (unsigned i = 0; i < 64; i++) numbers[i] = (float)((a >> (i & 31)) & 0xff) * 0.25f;
    r[0] = check_leaf(a, b);
    r[1] = of_double(check_filter(2.0 + (double)seed, 0.5, 3));
    r[2] = check_loop(a, 20);
    r[3] = check_recursion(a, 12);
    struct pair pair = check_pair(a, b);
    r[4] = pair.a * 3 + pair.b;
    struct large large = check_large(a, b);
    r[5] = large.words[0] + large.words[11];
    r[6] = check_passed(large);
    r[7] = check_variadic(9, a, b, a, b, a, b, a, b, seed);
    r[8] = check_floats(10, 1.0, 2.0, 3.0, (double)seed, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0);
    r[9] = check_switch(seed, b);
    r[10] = check_tail(seed, b);
    r[11] = check_either(a, b);
    r[12] = check_indirect(check_leaf, a, b);
    r[13] = check_indirect(check_tail, seed, b);
    r[14] = check_text("the quick brown fox jumps over the lazy dog", a);
    r[15] = of_double((double)check_long(1.5L + seed, 2.5L));
    r[16] = of_double(check_single((float)seed, 3.5f));
    r[17] = check_vector(numbers, 64);
    r[18] = check_room(a, 10 + (seed & 15));
    r[19] = (uint64_t)check_eight(1, 2, 3, (int64_t)a, 5, 6, (int64_t)b, (int64_t)seed);
    r[20] = check_atomic(&word, a);
    r[21] = check_bits(a);
    r[22] = check_multiplied(a, b);
    check_nothing();
    r[23] = word;
    r[24] = check_either(a + 1, b);
}

static uint64_t known[KINDS][RESULTS];
ORACLE(results); /* computed and compared */

static void work(int thread)
{
    (void)thread;
    uint64_t found[RESULTS];
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        compute(turn % KINDS, found);
        for (unsigned i = 0; i < RESULTS; i++) {
            if (found[i] != known[turn % KINDS][i]) oracle_wrong("a result", known[turn % KINDS][i], found[i]);
        }
        oracle_add(&of_results.calls, RESULTS);
        oracle_add(&of_results.returned, RESULTS);
    }
}

int main(int argc, char **argv)
{
    for (uint64_t kind = 0; kind < KINDS; kind++) compute(kind, known[kind]);
    return oracle_main(argc, argv, work);
}
