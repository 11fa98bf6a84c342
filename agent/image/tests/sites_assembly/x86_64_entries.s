# Where the entry goes. See sites_assembly.rs for the meaning of the labels.
    .macro function name
    .globl \name
    .hidden \name
    .type \name, @function
    .balign 16
\name:
    .endm
    .macro end name
    .size \name, . - \name
    .endm
    .text

# Not at the push, where calls of the other function begin.
    function up_to_another_function
up_to_another_function.entry.s:
    mov $7, %esi
    .globl within_it
    .hidden within_it
    .type within_it, @function
within_it:
within_it.entry.e:
    push %rbx
    pop %rbx
up_to_another_function.ret:
within_it.ret:
    ret
    end within_it
    end up_to_another_function

    function first_is_push
first_is_push.entry.e:
    push %rbp
    mov %rsp, %rbp
    pop %rbp
first_is_push.ret:
    ret
    end first_is_push

    function past_endbr
    endbr64
past_endbr.entry.e:
    push %r15
    pop %r15
past_endbr.ret:
    ret
    end past_endbr

    function past_moves
    endbr64
    mov %rdi, %rax
    xor %edx, %edx
    mov %rsp, %rcx
    lea 16(%rsp), %r8
    movups %xmm0, -24(%rsp)
past_moves.entry.e:
    push %rbx
    pop %rbx
past_moves.ret:
    ret
    end past_moves

# A branch is emulated, and runs whether it is taken or not.
    function onto_a_branch
    test %rdi, %rdi
onto_a_branch.entry.e:
    je 1f
    mov (%rdi), %eax
onto_a_branch.ret.1:
    ret
1:  xor %eax, %eax
onto_a_branch.ret.2:
    ret
    end onto_a_branch

    function onto_a_call
    mov $1, %edi
onto_a_call.entry.e:
    call outside
onto_a_call.ret:
    ret
    end onto_a_call

    function onto_a_jump
    mov $1, %eax
onto_a_jump.entry.e:
    jmp 1f
    nop
    nop
1:
onto_a_jump.ret:
    ret
    end onto_a_jump

    function onto_a_nop
    mov $1, %eax
onto_a_nop.entry.e:
    nop
onto_a_nop.ret:
    ret
    end onto_a_nop

# Some kernels overwrite a nop of five bytes with a call, which writes below the stack pointer: the entry is never
# there, wherever the nop stands.
    function nop_of_five_in_a_leaf
nop_of_five_in_a_leaf.refused.unsteppable:
    vmovsd %xmm0, -8(%rsp)
    nopl 0(%rax,%rax,1)
    vmovsd -8(%rsp), %xmm0
    ret
    end nop_of_five_in_a_leaf

    function past_a_nop_of_five
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
past_a_nop_of_five.entry.s:
    mov %rdi, -8(%rsp)
    mov -8(%rsp), %rax
past_a_nop_of_five.ret:
    ret
    end past_a_nop_of_five

    function past_patchable_space
    endbr64
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x08
past_patchable_space.entry.e:
    push %rbx
    pop %rbx
past_patchable_space.ret:
    ret
    end past_patchable_space

# The landing pad is worse than any other instruction, but sound.
    function pad_and_nop
pad_and_nop.entry.s:
    endbr64
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
pad_and_nop.ret:
    ret
    end pad_and_nop

    function only_a_nop_of_five
only_a_nop_of_five.refused.unsteppable:
    .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
    ret
    end only_a_nop_of_five

    function only_a_jump_to_what_follows
only_a_jump_to_what_follows.refused.unsteppable:
    .byte 0xe9, 0, 0, 0, 0
    ret
    end only_a_jump_to_what_follows

# Each of these is five bytes that do nothing, which newer kernels take for a nop as well.
    function past_all_that_do_nothing
    .byte 0x48, 0x8d, 0x74, 0x26, 0x00
    .byte 0x67, 0x67, 0x48, 0x89, 0xf6
    .byte 0x66, 0x0f, 0x1f, 0x40, 0x00
    .byte 0x67, 0x67, 0x67, 0x67, 0x90
past_all_that_do_nothing.entry.s:
    lea (%rdi,%rsi), %rax
past_all_that_do_nothing.ret:
    ret
    end past_all_that_do_nothing

# Nothing emulated before the return: the first instruction, but not the landing pad.
    function leaf
leaf.entry.s:
    lea (%rdi,%rsi), %rax
leaf.ret:
    ret
    end leaf

    function leaf_with_endbr
    endbr64
leaf_with_endbr.entry.s:
    lea (%rdi,%rsi), %rax
leaf_with_endbr.ret:
    ret
    end leaf_with_endbr

    function only_endbr
only_endbr.entry.s:
    endbr64
only_endbr.ret:
    ret
    end only_endbr

# It is known how far the stack pointer has moved.
    function stack_changes_first
    sub $24, %rsp
stack_changes_first.entry.e.a24:
    call outside
    add $24, %rsp
stack_changes_first.ret:
    ret
    end stack_changes_first

    function stack_through_a_register
stack_through_a_register.entry.s:
    mov %rdi, %rax
    xchg %rax, %rsp
    xchg %rax, %rsp
    push %rbx
    pop %rbx
stack_through_a_register.ret:
    ret
    end stack_through_a_register

# Things that the entry does not slide over.
    function string_operation
string_operation.entry.s:
    mov %rdx, %rcx
    rep movsb
    push %rbx
    pop %rbx
string_operation.ret:
    ret
    end string_operation

    function system_call
system_call.entry.s:
    mov $39, %eax
    syscall
    cmp $-4095, %rax
system_call.ahead:
    jae 1f
1:
    ret
    end system_call

    function processor_id
processor_id.entry.s:
    mov %rbx, %r8
    xor %eax, %eax
    cpuid
    mov %r8, %rbx
processor_id.ahead:
    jmp 1f
1:
    ret
    end processor_id

    function indirect_call
indirect_call.entry.s:
    mov (%rdi), %rax
    call *8(%rax)
    push %rbx
    pop %rbx
indirect_call.ret:
    ret
    end indirect_call

# Loops. A branch to the first instruction makes every turn look like a call.
    function loops_to_first
loops_to_first.refused.loops_to_entry:
    dec %rdi
    jne loops_to_first
    ret
    end loops_to_first

    function loops_to_first_after_endbr
loops_to_first_after_endbr.entry.s:
    endbr64
1:  dec %rdi
    jne 1b
loops_to_first_after_endbr.ret:
    ret
    end loops_to_first_after_endbr

    function loops_to_second
loops_to_second.entry.s:
    mov %rdi, %rax
1:  dec %rax
    jne 1b
loops_to_second.ret:
    ret
    end loops_to_second

# The emulated instruction itself is in a loop.
    function loop_around_a_branch
loop_around_a_branch.entry.s:
    xor %eax, %eax
1:  test %rdi, %rdi
    je 2f
    dec %rdi
    jmp 1b
2:
loop_around_a_branch.ret:
    ret
    end loop_around_a_branch

    function jumps_to_itself_as_a_tail_call
jumps_to_itself_as_a_tail_call.refused.loops_to_entry:
    push %rbx
    pop %rbx
    test %rdi, %rdi
    jne jumps_to_itself_as_a_tail_call
    ret
    end jumps_to_itself_as_a_tail_call

# Recursion by call is not a loop.
    function recursion
    test %rdi, %rdi
recursion.entry.e:
    je 1f
    dec %rdi
    call recursion
1:
recursion.ret:
    ret
    end recursion

# Leaves at once.
    function only_returns
only_returns.refused.empty:
    ret
    end only_returns

    function only_jumps
only_jumps.refused.empty:
    jmp outside
    end only_jumps

# What is emulated leaves the function, so it is an exit, and the entry must be another instruction.
    function conditional_exit_first
conditional_exit_first.entry.s:
    test %rdi, %rdi
conditional_exit_first.tail.c4:
    je outside
    mov (%rdi), %eax
conditional_exit_first.ret:
    ret
    end conditional_exit_first

    function sets_up_and_jumps
sets_up_and_jumps.entry.s:
    mov $1, %esi
sets_up_and_jumps.tail:
    jmp outside
    end sets_up_and_jumps

# The kernel cannot step over any of them: prefix, vector, xchg that looks like a nop.
    function unsteppable
unsteppable.refused.unsteppable:
    lock incl (%rdi)
    ret
    end unsteppable

    function vectors_are_not_sites
vectors_are_not_sites.refused.unsteppable:
    vpxor %xmm0, %xmm0, %xmm0
    vmovdqu %xmm0, (%rdi)
    vzeroupper
    ret
    end vectors_are_not_sites

    function past_vectors
    vpxor %xmm0, %xmm0, %xmm0
    vmovdqu %xmm0, (%rdi)
past_vectors.entry.s:
    mov %rdi, %rax
past_vectors.ret:
    ret
    end past_vectors

    function not_a_nop
not_a_nop.refused.unsteppable:
    .byte 0x49, 0x90
    ret
    end not_a_nop

# A long set-up is part of the measured time.
    function long_set_up
long_set_up.entry.s:
    .rept 40
    add %rdi, %rax
    .endr
    push %rbx
    pop %rbx
long_set_up.ret:
    ret
    end long_set_up

# A jump over 8 bytes may be overwritten by kernels that take it for their own.
    function jump_over_eight
jump_over_eight.entry.s:
    mov %rdi, %rax
    jmp 1f
    .byte 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0
1:
jump_over_eight.ret:
    ret
    end jump_over_eight
