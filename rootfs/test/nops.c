/* Instructions that do nothing, each in a leaf function that keeps a number below the stack pointer (x86-64).
 *
 * Prints where they stand in the file, waits for a line, calls each function often and says what stands there then
 * and how many results were wrong:
 *
 *     at nopl5 1a45
 *     ready
 *     nopl5 overwritten 999
 *
 * A probe may put one byte there, `int3`. What differs more was overwritten by the kernel. */
#include <stdio.h>
#include <string.h>

#define CALLS 1000

/* Name, number of bytes, the bytes. */
#define FORMS(X)                                                                                   \
    X(nopl3, 3, "0x0f, 0x1f, 0x00")                                                                \
    X(nopl5, 5, "0x0f, 0x1f, 0x44, 0x00, 0x00")                                                    \
    X(nopl5_8, 5, "0x0f, 0x1f, 0x44, 0x00, 0x08") /* by clang, for code to be put there */         \
    X(nopw5, 5, "0x66, 0x0f, 0x1f, 0x40, 0x00")                                                    \
    X(nopa5, 5, "0x67, 0x0f, 0x1f, 0x40, 0x00")                                                    \
    X(nop5, 5, "0x67, 0x67, 0x67, 0x67, 0x90")                                                     \
    X(lea5, 5, "0x48, 0x8d, 0x74, 0x26, 0x00") /* lea 0(%rsi), %rsi */                             \
    X(mov5, 5, "0x67, 0x67, 0x48, 0x89, 0xf6") /* mov %rsi, %rsi */                                \
    X(jmp5, 5, "0xe9, 0x00, 0x00, 0x00, 0x00") /* jmp to what follows */                           \
    X(nopw6, 6, "0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00")                                              \
    X(nopw10, 10, "0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00")                    \
    X(nop1, 1, "0x90")                                                                             \
    X(jmp2, 2, "0xeb, 0x00")                                                                       \
    X(lea_used, 5, "0x48, 0x8d, 0x74, 0x24, 0x08") /* lea 8(%rsp), %rsi */                         \
    X(mov_used, 5, "0xb8, 0x01, 0x00, 0x00, 0x00") /* mov $1, %eax */

#define LEAF(name, length, bytes)                                                                  \
    unsigned long leaf_##name(unsigned long);                                                      \
    extern const unsigned char at_##name[];                                                        \
    __asm__(".text\n.balign 64\n"                                                                  \
            "leaf_" #name ": mov %rdi, -8(%rsp)\n"                                                 \
            "at_" #name ": .byte " bytes "\n"                                                      \
            "mov -8(%rsp), %rax\n"                                                                 \
            "ret\n");
FORMS(LEAF)

static const struct form {
    const char *name;
    unsigned long (*call)(unsigned long);
    const unsigned char *at;
    unsigned long length;
} forms[] = {
#define FORM(name, length, bytes) {#name, leaf_##name, at_##name, length},
    FORMS(FORM)
};

/* Address of the file header, set by the linker. */
extern const unsigned char __executable_start[];

int main(void)
{
    const unsigned long count = sizeof forms / sizeof *forms;
    unsigned char before[sizeof forms / sizeof *forms][16];
    for (unsigned long i = 0; i < count; i++) {
        memcpy(before[i], forms[i].at, forms[i].length);
        printf("at %s %lx\n", forms[i].name, (unsigned long)(forms[i].at - __executable_start));
    }
    puts("ready");
    fflush(stdout);
    getchar();
    for (unsigned long i = 0; i < count; i++) {
        unsigned wrong = 0;
        for (unsigned long turn = 1; turn <= CALLS; turn++)
            wrong += forms[i].call(turn) != turn;
        /* The first byte is the probe's. */
        int same = memcmp(before[i] + 1, forms[i].at + 1, forms[i].length - 1) == 0 &&
            (forms[i].at[0] == before[i][0] || forms[i].at[0] == 0xcc);
        printf("%s %s %u\n", forms[i].name, same ? "left" : "overwritten", wrong);
    }
    return 0;
}
