/* Functions that share instructions, because the range of one is part of another's. Each call is
 * counted for all functions whose beginning it passes; each returns in its own way. x86-64. */
#include "oracle.h"

#define BEGIN(name) ".globl " name "\n.type " name ", @function\n" name ":\n"
#define END(name) ".size " name ", . - " name "\n"
#define ALIGN ".p2align 4\n"

__asm__(
    ".text\n"
    /* One return for two functions. The outer one runs into the inner one, but skips its beginning
     * for odd numbers. */
    ALIGN BEGIN("outer")
    "push %rbx\n"
    "lea 1(%rdi), %rax\n"
    "pop %rbx\n"
    "test $1, %dil\n"
    "jne .Louter_end\n"
    BEGIN("inner")
    "push %rbx\n"
    "lea 2(%rdi), %rax\n"
    "pop %rbx\n"
    ".Louter_end: ret\n"
    END("inner") END("outer")

    /* One return and one conditional jump out for three functions. */
    ALIGN BEGIN("first")
    "push %rbx\n"
    "lea 3(%rdi), %rsi\n"
    "pop %rbx\n"
    BEGIN("second")
    "push %rbx\n"
    "lea 4(%rdi), %rsi\n"
    "pop %rbx\n"
    BEGIN("third")
    "push %rbx\n"
    "lea 5(%rdi), %rsi\n"
    "pop %rbx\n"
    "test $3, %dil\n"
    "je landing\n"
    "mov %rsi, %rax\n"
    "ret\n"
    END("third") END("second") END("first")

    /* Two functions that begin at one instruction and end apart. */
    ALIGN BEGIN("whole") BEGIN("part")
    "push %rbx\n"
    "lea 6(%rdi), %rax\n"
    "pop %rbx\n"
    "test $1, %dil\n"
    "jne .Lwhole_end\n"
    "ret\n"
    END("part")
    ".Lwhole_end: add $100, %rax\n"
    "ret\n"
    END("whole")

    /* The instruction that one function's entry would skip leads to the beginning of another's
     * calls. */
    ALIGN BEGIN("slides")
    "mov $7, %esi\n"
    BEGIN("slid_to")
    "push %rbx\n"
    "lea (%rdi,%rsi), %rax\n"
    "pop %rbx\n"
    "ret\n"
    END("slid_to") END("slides")

    /* The jump out of one function is the beginning of the other, which continues behind the
     * first's end. */
    ALIGN BEGIN("before")
    "push %rbx\n"
    "lea 8(%rdi), %rax\n"
    "pop %rbx\n"
    BEGIN("across")
    "jmp .Lacross\n"
    END("before")
    ".skip 20, 0xcc\n"
    ".Lacross: add $9, %rax\n"
    "push %rbx\n"
    "pop %rbx\n"
    "ret\n"
    END("across")

    ALIGN BEGIN("landing") "lea -1(%rsi), %rax\nret\n" END("landing"));

typedef uint64_t function(uint64_t x, uint64_t y);
function outer, inner, first, second, third, whole, part, slides, slid_to, before;

/* Takes its number in the register for results of the others. */
static uint64_t across(uint64_t x)
{
    uint64_t result = x;
    __asm__ volatile("call across" : "+a"(result) : : "memory", "cc");
    return result;
}

ORACLE(outer);
ORACLE(inner);
ORACLE(first);
ORACLE(second);
ORACLE(third);
ORACLE(whole);
ORACLE(part);
ORACLE(slides);
ORACLE(slid_to);
ORACLE(before);
ORACLE(across);

#define CALLED(id) ENTER(id), LEAVE(id)

static void loop(int thread)
{
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        uint64_t x = turn % 96 + (uint64_t)thread, even = x % 2 == 0, last = x % 4 == 0 ? 1 : 0;

        EXPECT("outer", x + 1 + even, outer(x, 0));
        CALLED(outer);
        if (even)
            CALLED(inner);
        EXPECT("inner", x + 2, inner(x, 0));
        EXPECT("inner", x + 2, inner(x, 0));
        CALLED(inner), CALLED(inner);

        EXPECT("first", x + 5 - last, first(x, 0));
        CALLED(first), CALLED(second), CALLED(third);
        EXPECT("second", x + 5 - last, second(x, 0));
        CALLED(second), CALLED(third);
        EXPECT("third", x + 5 - last, third(x, 0));
        CALLED(third);

        EXPECT("whole", x + (even ? 6 : 106), whole(x, 0));
        EXPECT("part", x + (even ? 6 : 106), part(x, 0));
        for (int i = 0; i < 2; i++)
            CALLED(whole), CALLED(part);

        EXPECT("slides", x + 7, slides(x, 0));
        CALLED(slides), CALLED(slid_to);
        EXPECT("slid_to", x + 70, slid_to(x, 70));
        EXPECT("slid_to", x + 71, slid_to(x, 71));
        CALLED(slid_to), CALLED(slid_to);

        EXPECT("before", x + 17, before(x, 0));
        CALLED(before), CALLED(across);
        EXPECT("across", x + 9, across(x));
        CALLED(across);
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
