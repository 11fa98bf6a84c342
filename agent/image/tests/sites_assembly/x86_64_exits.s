# Where calls end. See sites_assembly.rs for the meaning of the labels.
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

    function all_kinds_of_returns
all_kinds_of_returns.entry.e:
    push %rbx
    pop %rbx
    cmp $1, %edi
    je 1f
    cmp $2, %edi
    je 2f
    call outside
all_kinds_of_returns.ret.1:
    ret
1:  call outside
all_kinds_of_returns.ret.2:
    repz ret
2:  call outside
all_kinds_of_returns.ret.3:
    ret $16
    end all_kinds_of_returns

# bnd ret
    function bound_return
bound_return.entry.e:
    push %rbx
    pop %rbx
bound_return.ret:
    .byte 0xf2, 0xc3
    end bound_return

    function far_return
far_return.refused.system_return:
    push %rbx
    pop %rbx
    lretq
    end far_return

    function interrupt_return
interrupt_return.refused.system_return:
    push %rbx
    pop %rbx
    iretq
    end interrupt_return

# Tail calls.
    function tail_call
tail_call.entry.e:
    push %rbx
    call outside
    pop %rbx
tail_call.tail:
    jmp outside
    end tail_call

    function conditional_tail_calls
conditional_tail_calls.entry.e:
    push %rbx
    pop %rbx
    cmp %rdi, %rsi
conditional_tail_calls.tail.1.c15:
    jg outside
conditional_tail_calls.tail.2.c2:
    jb outside
conditional_tail_calls.ret:
    ret
    end conditional_tail_calls

    function tail_call_in_frame
tail_call_in_frame.entry.e:
    push %rbp
    mov %rsp, %rbp
    push %rbx
    sub $24, %rsp
    call outside
    mov -8(%rbp), %rbx
    leave
tail_call_in_frame.tail:
    jmp outside
    end tail_call_in_frame

# With an array of variable length only the frame pointer knows.
    function tail_call_after_alloca
tail_call_after_alloca.entry.e:
    push %rbp
    mov %rsp, %rbp
    sub %rdi, %rsp
    and $-32, %rsp
    mov %rsp, %rdi
    call outside
    leave
tail_call_after_alloca.tail:
    jmp outside
    end tail_call_after_alloca

# What gcc makes of a stack that must be aligned.
    function tail_call_after_alignment
tail_call_after_alignment.entry.e:
    push %rbp
    mov %rsp, %rbp
    and $-64, %rsp
    sub $64, %rsp
    mov %rsp, %rdi
    call outside
    mov %rbp, %rsp
    pop %rbp
tail_call_after_alignment.tail:
    jmp outside
    end tail_call_after_alignment

# A loop whose exit leaves on a condition hits its probe at every turn.
    function conditional_exit_in_a_loop
conditional_exit_in_a_loop.refused.exit_in_loop:
    test %rdi, %rdi
    je 2f
1:  cmp %rsi, 8(%rdi)
    je outside
    mov (%rdi), %rdi
    test %rdi, %rdi
    jne 1b
2:  xor %eax, %eax
    ret
    end conditional_exit_in_a_loop

# The same where the exit itself jumps back when it does not leave.
    function exit_before_a_jump_back
exit_before_a_jump_back.refused.exit_in_loop:
    xor %eax, %eax
1:  mov (%rdi), %rdi
    cmp %rsi, (%rdi)
    jb 1b
    jg outside
    jmp 1b
    end exit_before_a_jump_back

# Through a table.
    function exit_in_a_loop_by_table
exit_in_a_loop_by_table.refused.exit_in_loop:
    push %rbx
    pop %rbx
1:  lea 9f(%rip), %rdx
    inc %rdi
    and $1, %edi
    movslq (%rdx,%rdi,4), %rax
    add %rdx, %rax
    jmp *%rax
2:  cmp %rsi, %rdi
    je outside
    jmp 1b
3:  ret
    .section .rodata
    .balign 4
9:  .long 2b - 9b
    .long 3b - 9b
    .long 0
    .text
    end exit_in_a_loop_by_table

# Loops before and behind it, none around it.
    function conditional_exit_between_loops
conditional_exit_between_loops.entry.s:
    mov %rdi, %rax
1:  dec %rax
    jne 1b
    test %rsi, %rsi
conditional_exit_between_loops.tail.c4:
    je outside
2:  dec %rsi
    jne 2b
conditional_exit_between_loops.ret:
    ret
    end conditional_exit_between_loops

# A loop that is left by exits without a condition.
    function plain_exits_of_a_loop
plain_exits_of_a_loop.entry.s:
    mov %rdi, %rax
1:  cmp %rax, %rsi
    je 2f
    dec %rax
    jne 1b
plain_exits_of_a_loop.ret:
    ret
2:
plain_exits_of_a_loop.tail:
    jmp outside
    end plain_exits_of_a_loop

# To what follows directly: newer kernels take it for a nop, and some overwrite that with a call. Nothing that is needed
# is below the stack pointer then.
    function tail_call_to_what_follows
tail_call_to_what_follows.entry.e:
    push %rbx
    pop %rbx
tail_call_to_what_follows.tail:
    .byte 0xe9, 0, 0, 0, 0
    end tail_call_to_what_follows

    function leaves_with_a_frame
leaves_with_a_frame.refused.unbalanced_stack:
    push %rbx
    test %rdi, %rdi
    je outside
    pop %rbx
    ret
    end leaves_with_a_frame

    function returns_elsewhere
returns_elsewhere.refused.unbalanced_stack:
    push %rdi
    ret
    end returns_elsewhere

    function unknown_stack
unknown_stack.refused.unbalanced_stack:
    mov %rsi, %rax
    mov (%rdi), %rsp
    jmp outside
    end unknown_stack

# With another stack, but a return: it ends the call that stands there.
    function switches_stack
switches_stack.entry.e:
    push %rbp
    mov %rsp, (%rdi)
    mov (%rsi), %rsp
    pop %rbp
switches_stack.ret:
    ret
    end switches_stack

# Indirect tail calls.
    function through_register
    mov %rdi, %rax
through_register.entry.e:
    push %rbx
    pop %rbx
through_register.tail:
    jmp *%rax
    end through_register

    function through_virtual_table
through_virtual_table.entry.s:
    mov (%rdi), %rax
through_virtual_table.tail:
    jmp *24(%rax)
    end through_virtual_table

    function through_virtual_table_loaded
through_virtual_table_loaded.entry.s:
    mov (%rdi), %rax
    mov 24(%rax), %rax
through_virtual_table_loaded.tail:
    jmp *%rax
    end through_virtual_table_loaded

    function through_global
through_global.entry.s:
    xor %eax, %eax
through_global.tail:
    jmp *pointer(%rip)
    end through_global

    function after_call
after_call.entry.e:
    push %rbx
    call outside
    pop %rbx
    mov %rax, %rdx
after_call.tail:
    jmp *%rdx
    end after_call

# longjmp: neither the stack nor the target is known.
    function jumps_long
jumps_long.refused.indirect_jump:
    mov 8(%rdi), %rsp
    mov 16(%rdi), %rdx
    xor %edx, %eax
    xor %eax, %edx
    jmp *%rdx
    end jumps_long

# A pointer made by arithmetic; every instruction is reached without it, so it leads out.
    function through_arithmetic
through_arithmetic.entry.s:
    mov (%rdi), %rax
    rol $17, %rax
through_arithmetic.tail:
    jmp *%rax
    end through_arithmetic

# The same, with code that only it can reach.
    function through_arithmetic_inside
through_arithmetic_inside.refused.indirect_jump:
    mov (%rdi), %rax
    rol $17, %rax
    jmp *%rax
    mov $1, %eax
    ret
    end through_arithmetic_inside

# No way out.
    function never_returns
never_returns.refused.no_exit:
    push %rbx
    call outside
    end never_returns

    function never_returns_trap
never_returns_trap.refused.no_exit:
    push %rbx
    ud2
    end never_returns_trap

    function never_returns_loop
never_returns_loop.refused.no_exit:
    push %rbx
1:  pause
    jmp 1b
    end never_returns_loop

    function returns_or_traps
returns_or_traps.entry.e:
    push %rbx
    test %rdi, %rdi
returns_or_traps.ahead.c4.a8:
    jne 1f
    pop %rbx
    ret
1:  call outside
    nop
    end returns_or_traps

# Aborts by a store to where nothing is mapped, and nothing follows.
    function aborts_at_the_end
aborts_at_the_end.entry.e:
    push %rbx
    test %rdi, %rdi
aborts_at_the_end.ahead.c4.a8:
    jne 1f
    pop %rbx
    ret
1:  movb $0, 1
    end aborts_at_the_end

# What follows is reached otherwise, with the stack at another height.
    function aborts_in_the_middle
aborts_in_the_middle.entry.e:
    push %rbx
    test %rdi, %rdi
    jne 1f
    call outside
    pop %rbx
aborts_in_the_middle.ahead:
    jmp 2f
1:  push %rdi
    mov %rax, 0
2:
    ret
    end aborts_in_the_middle

# The canary of the stack is at a small offset in a segment of its own.
    function reads_the_canary
reads_the_canary.refused.falls_through:
    push %rbx
    mov %fs:0x28, %rax
    end reads_the_canary

# Runs into what follows.
    function falls_through
falls_through.refused.falls_through:
    push %rbx
    pop %rbx
    end falls_through

    function falls_through_conditionally
falls_through_conditionally.refused.falls_through:
    push %rbx
    pop %rbx
    cmp %rdi, %rsi
    jb outside
    end falls_through_conditionally

# The call never returns, and the code behind it is another way's.
    function call_that_never_returns
    test %rdi, %rdi
call_that_never_returns.entry.e:
    jne 1f
    push %rax
    call outside
1:
call_that_never_returns.tail:
    jmp outside
    end call_that_never_returns

# Filling.
    function filled_with_zeros
filled_with_zeros.entry.e:
    push %rbx
    pop %rbx
filled_with_zeros.ret:
    ret
    .zero 7
    end filled_with_zeros

    function filled_with_traps
filled_with_traps.entry.e:
    push %rbx
    pop %rbx
filled_with_traps.tail:
    jmp outside
    .byte 0xcc, 0xcc, 0xcc
    end filled_with_traps

    function filled_with_nops
filled_with_nops.entry.e:
    push %rbx
    pop %rbx
filled_with_nops.ret:
    ret
    .byte 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, 0x90
    end filled_with_nops

# Decoding in doubt.
    function data_between
data_between.refused.undecodable:
    push %rbx
    pop %rbx
    ret
    .byte 0x06, 0x17, 0xc3
    end data_between

    function cut_short
cut_short.refused.undecodable:
    push %rbx
    pop %rbx
    ret
    .byte 0x48, 0x8b
    end cut_short

    function into_the_middle
into_the_middle.refused.jump_into_instruction:
    push %rbx
    pop %rbx
    test %edi, %edi
    jne 1f + 1
1:  mov $0xc3c3c3c3, %eax
    ret
    end into_the_middle

# What old C libraries do where one thread runs: jump past the LOCK prefix.
    function past_the_lock
    cmpl $0, %fs:0x18
past_the_lock.entry.e:
    je 1f
    lock
1:  cmpxchg %rsi, (%rdi)
past_the_lock.ret:
    ret
    end past_the_lock

    function data_of_its_own
data_of_its_own.refused.data_in_code:
    push %rbx
    pop %rbx
    mov 1f(%rip), %eax
    ret
1:  .long 0x90909090
    end data_of_its_own

    function address_of_its_own
address_of_its_own.refused.data_in_code:
    push %rbx
    pop %rbx
    lea 1f(%rip), %rax
    ret
1:  .long 0x90909090
    end address_of_its_own

    function calls_inside
calls_inside.refused.calls_inside:
    push %rbx
    call 1f
    pop %rbx
    ret
1:  mov $1, %eax
    ret
    end calls_inside

# Conditions on registers cannot be told from the flags.
    function leaves_on_register
leaves_on_register.refused.register_branch:
    push %rbx
    pop %rbx
    jrcxz 1f
    ret
    end leaves_on_register
1:  ret

    function stays_on_register
stays_on_register.entry.e:
    push %rbx
    pop %rbx
    jrcxz 1f
    mov $1, %eax
1:
stays_on_register.ret:
    ret
    end stays_on_register

# Transactions: the way of the abort stays inside.
    function transaction
transaction.entry.e:
    push %rbx
    pop %rbx
    xbegin 1f
    xend
    mov $1, %eax
transaction.ret.1:
    ret
1:  xor %eax, %eax
transaction.ret.2:
    ret
    end transaction

# A cold part, by symbol: jumps between the parts stay inside, returns of both count.
    function has_cold_part
has_cold_part.entry.e:
    push %rbx
    test %rdi, %rdi
    je has_cold_part.cold
    cmp $9, %rdi
    ja cold_part.middle
    call outside
    pop %rbx
has_cold_part.ret.1:
    ret
cold_part.back:
    pop %rbx
has_cold_part.tail:
    jmp outside
    end has_cold_part

    .section .text.unlikely, "ax", @progbits
    .type has_cold_part.cold, @function
has_cold_part.cold:
    call outside
    jmp cold_part.back
cold_part.middle:
    call outside
    pop %rbx
has_cold_part.ret.2:
    ret
    .size has_cold_part.cold, . - has_cold_part.cold

    .text
    .type outside, @function
    .globl outside
outside:
    mov $1, %eax
    ret
    .size outside, . - outside

    .data
    .globl pointer
    .hidden pointer
pointer: .quad 0
