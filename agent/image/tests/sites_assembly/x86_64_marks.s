# What the image says of its code. See sites_assembly.rs for the meaning of the labels.
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
# A descriptor of a restartable sequence: version and flags, start, length, where to go on after an interruption.
    .macro sequence start, end
    .pushsection __rseq_cs, "aw"
    .balign 32
    .long 0, 0
    .quad \start, \end - \start, \end
    .popsection
    .endm

# The image may run with a shadow stack, of which older kernels do not know when they emulate a call.
    .section .note.gnu.property, "a"
    .balign 8
    .long 4, 16, 5
    .asciz "GNU"
    .long 0xc0000002, 4, 2, 0
    .text

    function past_no_call
past_no_call.entry.s:
    mov $1, %edi
    call outside
past_no_call.ret:
    ret
    end past_no_call

    function begins_with_a_call
begins_with_a_call.refused.unsteppable:
    call outside
    ret
    end begins_with_a_call

# Not at the branch, which would be better were it not in the sequence.
    function before_a_sequence
before_a_sequence.entry.s:
    mov %rdx, %rax
1:  cmp %rsi, (%rdi)
    jne 2f
    mov %rax, (%rdi)
2:
before_a_sequence.ret:
    ret
    sequence 1b, 2b
    end before_a_sequence

    function begins_with_a_sequence
begins_with_a_sequence.refused.restartable:
1:  cmp %rsi, (%rdi)
    jne 2f
    mov %rdx, (%rdi)
2:  ret
    sequence 1b, 2b
    end begins_with_a_sequence

    function leaves_a_sequence
leaves_a_sequence.refused.restartable:
    push %rbx
    pop %rbx
1:  cmp %rsi, (%rdi)
    jne outside
    mov %rdx, (%rdi)
2:  ret
    sequence 1b, 2b
    end leaves_a_sequence
