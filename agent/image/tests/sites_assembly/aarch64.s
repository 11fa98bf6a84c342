// AArch64. See sites_assembly.rs for the meaning of the labels.
    .macro function name
    .globl \name
    .hidden \name
    .type \name, %function
    .balign 16
\name:
    .endm
    .macro end name
    .size \name, . - \name
    .endm
    .text

// Entries.
// Not at the branch, where calls of the other function begin.
    function up_to_another_function
up_to_another_function.entry.s:
    mov x1, #7
    .globl within_it
    .hidden within_it
    .type within_it, %function
within_it:
within_it.entry.e:
    cbz x1, 1f
1:
up_to_another_function.ret:
within_it.ret:
    ret
    end within_it
    end up_to_another_function

    function first_stores
    stp x29, x30, [sp, #-32]!
    mov x29, sp
first_stores.entry.e.a32:
    bl outside
    ldp x29, x30, [sp], #32
first_stores.ret:
    ret
    end first_stores

    function past_moves
    mov x2, x0
    mov x3, sp
    cmp x1, #1
past_moves.entry.e:
    b.ne 1f
    mov x0, #1
past_moves.ret.1:
    ret
1:  mov x0, #2
past_moves.ret.2:
    ret
    end past_moves

    function onto_adrp
    mov x2, x0
onto_adrp.entry.e:
    adrp x1, data
    ldr x0, [x1, :lo12:data]
onto_adrp.ret:
    ret
    end onto_adrp

    function past_landing_pad
    bti c
past_landing_pad.entry.s:
    mov x0, #1
past_landing_pad.ret:
    ret
    end past_landing_pad

    function signs_and_authenticates
    paciasp
    stp x29, x30, [sp, #-16]!
signs_and_authenticates.entry.e.a16:
    bl outside
    ldp x29, x30, [sp], #16
    autiasp
signs_and_authenticates.ret:
    ret
    end signs_and_authenticates

    function authenticated_return
authenticated_return.refused.authenticated_return:
    paciasp
    stp x29, x30, [sp, #-16]!
    bl outside
    ldp x29, x30, [sp], #16
    retaa
    end authenticated_return

    function loops_to_first
loops_to_first.refused.loops_to_entry:
    subs x0, x0, #1
    b.ne loops_to_first
    ret
    end loops_to_first

    function loops_to_second
loops_to_second.entry.s:
    mov x1, x0
1:  subs x1, x1, #1
    b.ne 1b
loops_to_second.ret:
    ret
    end loops_to_second

    function recursion
recursion.entry.e:
    cbz x0, 1f
    stp x29, x30, [sp, #-16]!
    sub x0, x0, #1
    bl recursion
    ldp x29, x30, [sp], #16
1:
recursion.ret:
    ret
    end recursion

    function only_returns
only_returns.refused.empty:
    ret
    end only_returns

    function only_jumps
only_jumps.refused.empty:
    b outside
    end only_jumps

    function literal_first
    ldr x1, literal
    mov x0, x1
literal_first.entry.e:
    cbz x0, 1f
    mov x0, #2
1:
literal_first.ret:
    ret
    end literal_first

    function system_call
system_call.entry.s:
    mov x8, #172
    svc #0
    cbz x0, 1f
1:
system_call.ret:
    ret
    end system_call

// Exclusive sequences: a probe inside would make the store fail for ever.
    function exclusive
exclusive.entry.s:
    mov x3, x0
1:  ldxr x1, [x3]
    add x1, x1, #1
    stxr w2, x1, [x3]
    cbnz w2, 1b
exclusive.ret:
    ret
    end exclusive

    function exclusive_first
exclusive_first.refused.loops_to_entry:
1:  ldxr x1, [x0]
    stxr w2, x1, [x0]
    cbnz w2, 1b
    ret
    end exclusive_first

    function leaves_an_exclusive_sequence
leaves_an_exclusive_sequence.refused.unsteppable:
    mov x3, x0
1:  ldaxr x1, [x3]
    cmp x1, #7
    b.eq outside
    stlxr w2, x1, [x3]
    cbnz w2, 1b
    ret
    end leaves_an_exclusive_sequence

// Exits.
    function tail_call
    stp x29, x30, [sp, #-16]!
tail_call.entry.e.a16:
    bl outside
    ldp x29, x30, [sp], #16
tail_call.tail:
    b outside
    end tail_call

    function conditional_tail_call
conditional_tail_call.entry.s:
    cmp x0, x1
conditional_tail_call.tail.1.c12:
    b.gt outside
conditional_tail_call.tail.2.c3:
    b.lo outside
conditional_tail_call.ret:
    ret
    end conditional_tail_call

    function leaves_on_register
leaves_on_register.refused.register_branch:
    add x1, x0, #1
    cbz x0, outside
    ret
    end leaves_on_register

    function leaves_on_bit
leaves_on_bit.refused.register_branch:
    add x1, x0, #1
    tbnz x0, #3, outside
    ret
    end leaves_on_bit

// A loop whose exit leaves on a condition hits its probe at every turn.
    function conditional_exit_in_a_loop
conditional_exit_in_a_loop.refused.exit_in_loop:
    cmp x0, #0
    b.eq 2f
1:  ldr x2, [x0, #8]
    cmp x2, x1
    b.eq outside
    ldr x0, [x0]
    cbnz x0, 1b
2:  mov x0, #0
    ret
    end conditional_exit_in_a_loop

    function conditional_exit_between_loops
conditional_exit_between_loops.entry.s:
    mov x2, x0
1:  subs x2, x2, #1
    b.ne 1b
    cmp x1, #0
conditional_exit_between_loops.tail.c0:
    b.eq outside
2:  subs x1, x1, #1
    b.ne 2b
conditional_exit_between_loops.ret:
    ret
    end conditional_exit_between_loops

    function leaves_with_a_frame
leaves_with_a_frame.refused.unbalanced_stack:
    sub sp, sp, #32
    cmp x0, #1
    b.eq outside
    add sp, sp, #32
    ret
    end leaves_with_a_frame

    function large_frame
large_frame.entry.s:
    mov x12, #0x1010
    sub sp, sp, x12
    stp x29, x30, [sp]
    mov x29, sp
    bl outside
    ldp x29, x30, [sp]
    mov x12, #0x1010
    add sp, sp, x12
large_frame.tail:
    b outside
    end large_frame

    function variable_frame
variable_frame.entry.s:
    stp x29, x30, [sp, #-16]!
    mov x29, sp
    sub sp, sp, x0
    and x1, x0, #-16
    bl outside
    mov sp, x29
    ldp x29, x30, [sp], #16
variable_frame.tail:
    b outside
    end variable_frame

    function through_register
through_register.entry.s:
    mov x16, x0
through_register.tail:
    br x16
    end through_register

    function through_virtual_table
through_virtual_table.entry.s:
    ldr x1, [x0]
    ldr x1, [x1, #24]
through_virtual_table.tail:
    br x1
    end through_virtual_table

    function jumps_long
jumps_long.refused.indirect_jump:
    ldr x1, [x0]
    mov sp, x1
    ldr x30, [x0, #8]
    eor x30, x30, x2
    br x30
    end jumps_long

    function never_returns
never_returns.refused.no_exit:
    stp x29, x30, [sp, #-16]!
    bl outside
    end never_returns

    function never_returns_trap
never_returns_trap.refused.no_exit:
    mov x0, #1
    brk #1000
    end never_returns_trap

// Aborts by a store to where nothing is mapped, and nothing follows.
    function aborts_at_the_end
aborts_at_the_end.entry.s:
    mov x1, x0
    mov x0, #1
aborts_at_the_end.tail.c0:
    b.eq outside
    strb wzr, [x0]
    end aborts_at_the_end

// Nobody knows what the register holds.
    function stores_at_the_end
stores_at_the_end.refused.falls_through:
    mov x1, x0
    strb wzr, [x0, #8]
    end stores_at_the_end

    function falls_through
falls_through.refused.falls_through:
    mov x0, #1
    end falls_through

    function filled
filled.entry.s:
    mov x0, #1
filled.ret:
    ret
    nop
    .inst 0
    end filled

    function data_of_its_own
data_of_its_own.refused.data_in_code:
    mov x1, x0
    ldr w0, 1f
    ret
1:  .inst 0xd65f03c0
    end data_of_its_own

    function calls_inside
calls_inside.refused.calls_inside:
    mov x1, x30
    bl 1f
    mov x30, x1
    ret
1:  mov x0, #1
    ret
    end calls_inside

// gcc's table of bytes: distances in instructions from a label in the code.
    function table_of_bytes
    cmp w0, #2
table_of_bytes.entry.e:
    b.hi 4f
    adrp x1, bytes
    add x1, x1, :lo12:bytes
    ldrb w1, [x1, w0, uxtw]
    adr x2, 1f
    add x1, x2, w1, sxtb #2
    br x1
1:
bytes_a:
    mov w0, #10
table_of_bytes.ret.1:
    ret
bytes_b:
    mov w0, #20
table_of_bytes.tail:
    b outside
4:  mov w0, #0
table_of_bytes.ret.2:
    ret
    end table_of_bytes
    .section .rodata
bytes: .byte (bytes_a - bytes_a) / 4, (bytes_b - bytes_a) / 4, (bytes_a - bytes_a) / 4, 0x7f
    .text

// clang's table of words: distances in bytes from the table.
    function table_of_words
    cmp w0, #1
table_of_words.entry.e:
    b.hi 4f
    adrp x8, words
    add x8, x8, :lo12:words
    ldrsw x9, [x8, x0, lsl #2]
    add x9, x9, x8
    br x9
words_a:
    mov w0, #10
table_of_words.ret.1:
    ret
words_b:
    mov w0, #20
table_of_words.ret.2:
    ret
4:  mov w0, #0
table_of_words.ret.3:
    ret
    end table_of_words
    .section .rodata
    .balign 4
words: .word words_a - words, words_b - words, 0
    .text

// The cases of a loop: one leads to the first instruction, and only the table says so.
    function table_leads_to_first
table_leads_to_first.refused.loops_to_entry:
    ldrb w1, [x0], #1
    adrp x2, first
    add x2, x2, :lo12:first
    and w1, w1, #1
    ldrsw x3, [x2, w1, uxtw #2]
    add x3, x2, x3
    br x3
first_b:
    mov w0, #20
    ret
    end table_leads_to_first
    .section .rodata
    .balign 4
first: .word first_b - first, table_leads_to_first - first, 0
    .text

    function outside
outside.entry.s:
    mov w0, #1
outside.ret:
    ret
    end outside

    .type literal, %object
literal: .xword 1
    .data
    .hidden data
data: .xword 0
