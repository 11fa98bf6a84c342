/* Functions with exactly the instructions that matter to a probe, x86-64. All take a number in rdi and
 * give a number in rax; shapes.c knows the results. `.L` labels do not reach the symbol table. */

        .macro function name
        .globl \name
        .type \name, @function
        .p2align 4
\name:
        .endm
        .macro ends name
        .size \name, . - \name
        .endm

        .text

/* ---- how a function may start ---- */
function starts_with_push
        push %rbp
        mov %rsp, %rbp
        lea 1(%rdi), %rax
        pop %rbp
        ret
ends starts_with_push

function starts_with_push_r12
        push %r12
        lea 2(%rdi), %rax
        pop %r12
        ret
ends starts_with_push_r12

function starts_with_endbr64
        endbr64
        lea 3(%rdi), %rax
        ret
ends starts_with_endbr64

function starts_with_endbr64_push
        endbr64
        push %rbx
        lea 4(%rdi), %rax
        pop %rbx
        ret
ends starts_with_endbr64_push

function starts_with_sub
        sub $24, %rsp
        mov %rdi, 8(%rsp)
        mov 8(%rsp), %rax
        add $5, %rax
        add $24, %rsp
        ret
ends starts_with_sub

function starts_with_nop
        nop
        lea 6(%rdi), %rax
        ret
ends starts_with_nop

function starts_with_nop5
        .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
        lea 7(%rdi), %rax
        ret
ends starts_with_nop5

/* A leaf that keeps a number below the stack pointer, with a nop of five bytes before it is read again. Kernels take no
 * probe on the first instruction, because of its prefix. */
function keeps_below_the_stack
        .byte 0x3e
        mov %rdi, -8(%rsp)
        .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
        mov -8(%rsp), %rax
        add $37, %rax
        ret
ends keeps_below_the_stack

function starts_with_test
        test %rdi, %rdi
        je 1f
        lea 8(%rdi), %rax
        ret
1:      mov $8, %eax
        ret
ends starts_with_test

/* mov, mov, then push: the entry may slide two instructions. */
function slides_to_push
        mov %rdi, %rdx
        xor %eax, %eax
        push %rbx
        lea 9(%rdx), %rax
        pop %rbx
        ret
ends slides_to_push

/* As above, but a loop leads back to the push: entering there must not count. */
function loops_to_the_slide
        mov %rdi, %rdx
        mov $3, %ecx
1:      push %rcx
        lea 1(%rdx), %rdx
        pop %rcx
        sub $1, %ecx
        jne 1b
        lea 10(%rdx), %rax
        ret
ends loops_to_the_slide

/* ---- how a function may end ---- */
function ends_with_rep_ret
        push %rbx
        lea 11(%rdi), %rax
        pop %rbx
        rep ret
ends ends_with_rep_ret

function ends_with_ret_imm
        push %rbx
        lea 12(%rdi), %rax
        pop %rbx
        ret $0
ends ends_with_ret_imm

function ends_in_four_places
        push %rbx
        mov %rdi, %rax
        and $3, %eax
        je 1f
        cmp $1, %eax
        je 2f
        cmp $2, %eax
        je 3f
        lea 13(%rdi), %rax
        pop %rbx
        ret
1:      lea 14(%rdi), %rax
        pop %rbx
        ret
2:      lea 15(%rdi), %rax
        pop %rbx
        ret
3:      lea 16(%rdi), %rax
        pop %rbx
        ret
ends ends_in_four_places

/* Nobody measures this one. */
        .p2align 4
.Lhundred_more:
        lea 100(%rdi), %rax
        ret

/* The first emulated instruction stands where the stack pointer has moved. */
function lowers_the_stack_first
        sub $24, %rsp
        mov %rdi, 8(%rsp)
        call .Lhundred_more
        add $24, %rsp
        ret
ends lowers_the_stack_first

/* A branch that leads to a return when it is taken, one that does when it is not, and a jump. */
function returns_behind_branches
        push %rbx
        sub $16, %rsp
        lea 40(%rdi), %rax
        test $1, %dil
        jne 1f
        test $2, %dil
        je 2f
        inc %rax
        add $16, %rsp
        pop %rbx
        ret
1:      add $16, %rsp
        pop %rbx
        ret
2:      call .Lhundred_more
        jmp 1b
ends returns_behind_branches

/* Never comes back to its caller by itself: it ends the call by a jump to where the test stands. */
function never_returns
        push %rbp
        mov %rsp, %rbp
        mov %rsi, %rsp
        jmp *%rdx
        ud2
ends never_returns

/* ---- tail calls ---- */
function tail_callee
        push %rbx
        lea 100(%rdi), %rax
        pop %rbx
        ret
ends tail_callee

function tail_direct
        push %rbx
        add $1, %rdi
        pop %rbx
        jmp tail_callee
ends tail_direct

/* Tail calls when rdi is even, returns when it is odd. */
function tail_conditional
        push %rbx
        mov %rdi, %rax
        pop %rbx
        test $1, %dil
        je tail_callee
        add $17, %rax
        ret
ends tail_conditional

function tail_indirect
        push %rbx
        lea tail_callee(%rip), %rax
        add $2, %rdi
        pop %rbx
        jmp *%rax
ends tail_indirect

function tail_indirect_memory
        push %rbx
        add $3, %rdi
        pop %rbx
        jmp *tail_pointer(%rip)
ends tail_indirect_memory

/* Only a jump: entry and exit are the same instruction. */
/* The jump that leaves is passed at every turn. */
function leaves_a_loop_on_a_condition
        mov %rsi, %rax
1:      dec %rax
        je tail_callee
        inc %rdi
        jmp 1b
ends leaves_a_loop_on_a_condition

function tail_only
        jmp tail_callee
ends tail_only

/* A tail call from inside of a loop that also returns. */
function tail_or_return
        push %rbx
        mov %rdi, %rax
        pop %rbx
        cmp $50, %rdi
        ja 1f
        add $18, %rax
        ret
1:      sub $50, %rdi
        jmp tail_callee
ends tail_or_return

/* ---- loops that lead to the entry ---- */
/* The whole function is the loop: 3 turns are one call. */
function loops_to_entry
        add $1, %rdi
        sub $1, %rsi
        jne loops_to_entry
        lea 19(%rdi), %rax
        ret
ends loops_to_entry

/* The loop leads to the second instruction. */
function loops_past_push
        push %rbx
1:      add $1, %rdi
        sub $1, %rsi
        jne 1b
        lea 20(%rdi), %rax
        pop %rbx
        ret
ends loops_past_push

/* Jumps to its own start as a tail call of itself: each turn pushes and pops. */
function tail_calls_itself
        push %rbx
        lea 1(%rdi), %rdi
        pop %rbx
        sub $1, %rsi
        je 1f
        jmp tail_calls_itself
1:      lea 21(%rdi), %rax
        ret
ends tail_calls_itself

/* ---- jump tables ---- */
function jump_table
        push %rbx
        mov %rdi, %rax
        and $3, %eax
        lea .Ltable(%rip), %rdx
        movslq (%rdx,%rax,4), %rax
        add %rdx, %rax
        notrack jmp *%rax
.Lcase0: lea 22(%rdi), %rax
        pop %rbx
        ret
.Lcase1: lea 23(%rdi), %rax
        pop %rbx
        ret
.Lcase2: lea 24(%rdi), %rax
        jmp .Lcase_end
.Lcase3: lea 25(%rdi), %rax
.Lcase_end:
        pop %rbx
        ret
ends jump_table

/* The table stands inside of the function: its bytes are no instructions. */
function table_in_text
        push %rbx
        mov %rdi, %rax
        and $1, %eax
        lea .Linner(%rip), %rdx
        movslq (%rdx,%rax,4), %rax
        add %rdx, %rax
        jmp *%rax
.Linner:
        .long .Linner0 - .Linner
        .long .Linner1 - .Linner
.Linner0: lea 26(%rdi), %rax
        pop %rbx
        ret
.Linner1: lea 27(%rdi), %rax
        pop %rbx
        ret
ends table_in_text

/* ---- cold parts ---- */
/* For numbers divisible by four it jumps to its cold part, which jumps back. */
function jumps_back_from_cold
        push %rbx
        mov %rdi, %rax
        test $3, %dil
        je jumps_back_from_cold.cold
.Lwarm: add $28, %rax
        pop %rbx
        ret
ends jumps_back_from_cold

/* As above, but the cold part returns by itself. */
function returns_from_cold
        push %rbx
        mov %rdi, %rax
        test $3, %dil
        je returns_from_cold.cold
        add $30, %rax
        pop %rbx
        ret
ends returns_from_cold

/* Runs over its end into the next function, as hand-written code does. */
function falls_through
        push %rbx
        add $1, %rdi
        pop %rbx
ends falls_through
        .globl fallen_into
        .type fallen_into, @function
fallen_into:
        push %rbx
        lea 32(%rdi), %rax
        pop %rbx
        ret
ends fallen_into

        .section .text.unlikely, "ax", @progbits
        .type jumps_back_from_cold.cold, @function
jumps_back_from_cold.cold:
        add $1000, %rax
        jmp .Lwarm
ends jumps_back_from_cold.cold

        .type returns_from_cold.cold, @function
returns_from_cold.cold:
        add $2000, %rax
        pop %rbx
        ret
ends returns_from_cold.cold

        .section .rodata
        .p2align 2
.Ltable:
        .long .Lcase0 - .Ltable
        .long .Lcase1 - .Ltable
        .long .Lcase2 - .Ltable
        .long .Lcase3 - .Ltable

        .section .data.rel.ro, "aw", @progbits
        .p2align 3
tail_pointer:
        .quad tail_callee

        .section .note.GNU-stack, "", @progbits
