/* Functions of assembly that states less than compilers do: no type, no size, neither, and data between them. All take a
 * number and give a number; untyped.c knows the results. */
        .text

        /* A table that any code would look like: returns. */
        .globl untyped_table
untyped_table:
#if defined(__x86_64__)
        .quad 0xc3c3c3c3c3c3c3c3, 0x0102030405060708

        /* As assemblers without types have it; called from elsewhere. */
        .globl untyped_bare
untyped_bare:
        push %rbx
        mov %rdi, %rbx
        test $1, %bl
        jz even
        lea 1(%rbx), %rax
        pop %rbx
        ret
        /* A place inside of it, and what fills the space up to there. */
        .p2align 4
even:   lea 2(%rbx), %rax
        pop %rbx
        ret

        /* A local one that only this file calls, and that calls back. */
untyped_local:
        push %rbx
        mov %rdi, %rbx
        call untyped_helper
        add %rbx, %rax
        pop %rbx
        ret

        .globl untyped_sizeless
        .type untyped_sizeless, @function
untyped_sizeless:
        push %rbx
        mov %rdi, %rbx
        call untyped_local
        pop %rbx
        ret

        /* Where it goes on is in a table: nothing tells where it ends. */
        .globl untyped_jumps
        .type untyped_jumps, @function
untyped_jumps:
        lea untyped_ways(%rip), %rax
        and $1, %edi
        jmp *(%rax, %rdi, 8)
1:      mov $1, %eax
        ret
2:      mov $2, %eax
        ret
        .data
untyped_ways:
        .quad 1b, 2b
#elif defined(__aarch64__)
        .quad 0xd65f03c0d65f03c0, 0x0102030405060708

        .globl untyped_bare
untyped_bare:
        tst x0, #1
        b.eq even
        add x0, x0, #1
        ret
        .p2align 4
even:   add x0, x0, #2
        ret

untyped_local:
        stp x29, x30, [sp, #-32]!
        str x19, [sp, #16]
        mov x19, x0
        bl untyped_helper
        add x0, x0, x19
        ldr x19, [sp, #16]
        ldp x29, x30, [sp], #32
        ret

        .globl untyped_sizeless
        .type untyped_sizeless, @function
untyped_sizeless:
        stp x29, x30, [sp, #-16]!
        bl untyped_local
        ldp x29, x30, [sp], #16
        ret

        .globl untyped_jumps
        .type untyped_jumps, @function
untyped_jumps:
        adrp x1, untyped_ways
        add x1, x1, :lo12:untyped_ways
        and x0, x0, #1
        ldr x1, [x1, x0, lsl #3]
        br x1
1:      mov x0, #1
        ret
2:      mov x0, #2
        ret
        .data
untyped_ways:
        .quad 1b, 2b
#endif
        .section .note.GNU-stack, "", @progbits
