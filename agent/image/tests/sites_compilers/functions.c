/* Functions of many shapes. The names say what the test expects:
 *   tail_*    an indirect jump is a tail call
 *   never_*   no way out
 *   spin_*    may loop to its entry
 *   others    can be probed, and an indirect jump stays inside
 */
typedef unsigned long size;
typedef long (*function)(long, long);
struct object { const struct table { function first, second; } *table; long value; };

extern long outside(long, long);
extern void fails(const char *) __attribute__((noreturn, cold));
extern void consume(void *);
extern long global;
extern function hook;

long leaf(long a, long b) { return a * 3 + b; }
long calls(long a, long b) { return outside(a, b) + 1; }
long many_saved(long a, long b)
{
    long s = 0;
    for (long i = 0; i < a; i++)
        s += outside(i, b) * outside(s, i) + outside(b, a);
    return s;
}
long direct_tail(long a, long b) { return outside(b, a); }
long frame_then_tail(long a, long b) { outside(a, 1); outside(b, 2); return outside(a, b); }
long conditional_tail(long a, long b) { return a > b ? outside(a, b) : a; }
long conditional_tail_store(long a, long b) { global = a; if (b) return outside(a, b); return 7; }

long tail_pointer(long a, long b, function f) { return f(b, a); }
long tail_hook(long a, long b) { return hook(b, a); }
long tail_virtual(struct object *o, long b) { return o->table->second((long)o, b); }
long tail_virtual_after_call(struct object *o, long b) { outside(b, b); return o->table->first((long)o, b); }
static const function functions[] = { leaf, calls, many_saved, direct_tail };
long tail_array(long i, long b) { return functions[i & 3](i, b); }

long switch_leaf(long a)
{
    switch (a) {
    case 0: return 11; case 1: return global + 5; case 2: global = 1; return 3; case 3: return a ^ global;
    case 4: global--; return 9; case 5: return global << 3; case 6: return 77 - global; case 7: global = 99; return 2;
    default: return -1;
    }
}
long switch_calls(long a, long b)
{
    long r;
    switch (a) {
    case 0: r = outside(1, b); break; case 1: r = outside(b, 2) * 3; break; case 2: r = b ^ 99; break;
    case 3: r = outside(b, b) - outside(a, 5); break; case 5: return 8; case 6: r = global; break;
    case 7: r = outside(global, 3); global = b; break;
    default: r = 0;
    }
    return outside(r, a) + r;
}
long switch_tails(long a, long b)
{
    switch (a) {
    case 0: return outside(1, b); case 1: return outside(b, 2); case 2: return b ^ 99; case 3: return outside(b, b);
    case 4: return calls(a, b); case 5: return 8; case 6: return outside(7, b);
    default: return 0;
    }
}
long switch_in_loop(const unsigned char *p)
{
    long s = 0;
    for (;;) {
        switch (*p++) {
        case 0: return s; case 1: s += 3; continue; case 2: s ^= 0x55; break; case 3: s <<= 1; break;
        case 4: s -= *p++; break; case 5: s = -s; continue; case 6: s += global; break; case 7: s >>= 2; break;
        default: s++;
        }
        s += 2;
    }
}
/* A loop whose head may be the first instruction. */
long spin_switch(const unsigned char *p, long s)
{
    for (;;) {
        switch (*p++ & 7) {
        case 0: return s; case 1: s += 3; continue; case 2: s ^= 0x55; continue; case 3: s <<= 1; continue;
        case 4: s -= 9; continue; case 5: s = -s; continue; case 6: s += 5; continue; case 7: s >>= 2; continue;
        }
    }
}
long interpreter(const unsigned char *p)
{
    static const void *const labels[] = { &&stop, &&add, &&twice, &&call };
    long s = 0;
    goto *labels[*p++ & 3];
add: s += *p++; goto *labels[*p++ & 3];
twice: s <<= 1; goto *labels[*p++ & 3];
call: s = outside(s, global); goto *labels[*p++ & 3];
stop: return s;
}
long cold_path(long a, long b)
{
    if (__builtin_expect(a < 0, 0)) { outside(a, 99); fails("negative"); }
    if (__builtin_expect(b == 12345, 0)) { outside(b, 1); outside(b, 2); global = outside(a, b); }
    return outside(a, b) * 2;
}
long variable_array(size n, long b) { char a[n]; consume(a); return a[b] + a[0]; }
long variable_array_tail(size n, long b) { { char a[n]; consume(a); global = a[b]; } return outside(n, b); }
long large_frame(long b) { char a[70000]; consume(a); return a[b]; }
long aligned_frame(long b) { char a[256] __attribute__((aligned(64))); consume(a); return a[b]; }
long aligned_frame_tail(long a, long b)
{
    { long v[16] __attribute__((aligned(64))); consume(v); global = v[b & 15]; }
    return outside(a, b);
}
long recursion(long a) { return a < 2 ? a : recursion(a - 1) + recursion(a - 2); }
long two_exits(long a) { if (a > 5) return global; outside(a, a); if (a < -5) return 2 * global; return outside(2, a); }
double floating(double a, double b) { return a > b ? a * b : (double)global / b; }
long sum(const long *p, size n) { long s = 0; for (size i = 0; i < n; i++) s += p[i]; return s; }
void copy(char *d, const char *s, size n) { while (n--) *d++ = *s++; }
long many_arguments(long a, long b, long c, long d, long e, long f, long g, long h) { return a + b * c - d + e * f - g + h; }
long passes_many(long a, long b) { return many_arguments(a, b, a, b, a, b, outside(a, b), b) + 1; }
long locked(long *p) { return __atomic_fetch_add(p, 1, 5) + 1; }
long compare_and_swap(long *p, long a, long b) { __atomic_compare_exchange_n(p, &a, b, 0, 5, 5); return a; }
void spin_lock(int *p) { while (__atomic_exchange_n(p, 1, 2)) ; }
long spin_length(const char *s) { long n = 0; do n++; while (s[n]); return n; }
void never_fails(long a) { outside(a, a); fails("always"); }
void never_loops(void) { for (;;) outside(1, 2); }
