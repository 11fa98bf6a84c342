# Jumps through tables. See sites_assembly.rs for the meaning of the labels.
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
    .macro relative name, targets:vararg
    .section .rodata
    .balign 4
\name:
    .irp target, \targets
    .long \target - \name
    .endr
    .text
    .endm
    .text

# gcc's and clang's table of distances, in a leaf.
    function switch_in_leaf
    cmp $3, %edi
switch_in_leaf.entry.e:
    ja 4f
    lea table_leaf(%rip), %rdx
    mov %edi, %edi
    movslq (%rdx,%rdi,4), %rax
    add %rdx, %rax
    jmp *%rax
leaf_a:
    mov $10, %eax
switch_in_leaf.ret.1:
    ret
leaf_b:
    mov $20, %eax
switch_in_leaf.ret.2:
    ret
leaf_c:
switch_in_leaf.tail:
    jmp outside
4:  xor %eax, %eax
switch_in_leaf.ret.3:
    ret
    end switch_in_leaf
    relative table_leaf, leaf_a, leaf_b, leaf_c, leaf_a

# With the prefix that CET asks for.
    function switch_untracked
    endbr64
    cmp $2, %edi
switch_untracked.entry.e:
    ja 4f
    lea table_untracked(%rip), %rdx
    mov %edi, %edi
    movslq (%rdx,%rdi,4), %rax
    add %rdx, %rax
    notrack jmp *%rax
untracked_a:
    mov $10, %eax
switch_untracked.ret.1:
    ret
untracked_b:
    mov $20, %eax
switch_untracked.ret.2:
    ret
4:  xor %eax, %eax
switch_untracked.ret.3:
    ret
    end switch_untracked
    relative table_untracked, untracked_a, untracked_b, untracked_a

# With a frame.
    function switch_in_frame
switch_in_frame.entry.e:
    push %rbx
    sub $16, %rsp
    mov %rdi, %rbx
    call outside
    lea table_frame(%rip), %rdx
    and $1, %ebx
    movslq (%rdx,%rbx,4), %rax
    add %rdx, %rax
    jmp *%rax
frame_a:
    add $16, %rsp
    pop %rbx
switch_in_frame.ret:
    ret
frame_b:
    add $16, %rsp
    pop %rbx
switch_in_frame.tail:
    jmp outside
    end switch_in_frame
    relative table_frame, frame_a, frame_b

# The address of the table is found outside the loop.
    function switch_in_loop
switch_in_loop.entry.e:
    push %rbx
    lea table_loop(%rip), %rbx
1:  movzbl (%rdi), %eax
    inc %rdi
    and $1, %eax
    movslq (%rbx,%rax,4), %rax
    add %rbx, %rax
    jmp *%rax
loop_a:
    inc %esi
    jmp 1b
loop_b:
    mov %esi, %eax
    pop %rbx
switch_in_loop.ret:
    ret
    end switch_in_loop
    relative table_loop, loop_a, loop_b

# One of the cases goes on with the first instruction, and only the table says so.
    function table_leads_to_first
table_leads_to_first.refused.loops_to_entry:
    movzbl (%rdi), %eax
    inc %rdi
    and $1, %eax
    lea table_first(%rip), %rdx
    movslq (%rdx,%rax,4), %rax
    add %rdx, %rax
    jmp *%rax
first_b:
    mov $20, %eax
    ret
    end table_leads_to_first
    relative table_first, first_b, table_leads_to_first

# The same with the landing pad before it, which is passed once.
    function table_leads_to_second
table_leads_to_second.entry.s:
    endbr64
second_a:
    movzbl (%rdi), %eax
    inc %rdi
    and $1, %eax
    lea table_second(%rip), %rdx
    movslq (%rdx,%rax,4), %rax
    add %rdx, %rax
    notrack jmp *%rax
second_b:
    mov $20, %eax
table_leads_to_second.ret:
    ret
    end table_leads_to_second
    relative table_second, second_b, second_a

# A table that cannot be read (its address is not known), with nothing on the stack: it may lead to the entry.
    function unknown_table_in_leaf
unknown_table_in_leaf.refused.indirect_jump:
    mov (%rsi), %rdx
    rol $5, %rdx
    movslq (%rdx,%rdi,4), %rax
    add %rdx, %rax
    jmp *%rax
    mov $10, %eax
    ret
    mov $20, %eax
    ret
    end unknown_table_in_leaf

# The same with a frame: it stays inside, and what it may reach has exits.
    function unknown_table_in_frame
unknown_table_in_frame.entry.e:
    push %rbx
    rol $5, %rsi
    movslq (%rsi,%rdi,4), %rax
    add %rsi, %rax
    jmp *%rax
    pop %rbx
unknown_table_in_frame.ret.1:
    ret
    mov $20, %eax
    pop %rbx
unknown_table_in_frame.ret.2:
    ret
    end unknown_table_in_frame

# Arrays of pointers to functions, and of labels: the linker leaves the addresses in the file, although the loader
# fills them in.
    function array_of_pointers
array_of_pointers.entry.s:
    mov %edi, %edi
    lea pointers(%rip), %rdx
array_of_pointers.tail:
    jmp *(%rdx,%rdi,8)
    end array_of_pointers

    function array_of_labels
array_of_labels.entry.s:
    lea labels(%rip), %rdx
    jmp *(%rdx,%rdi,8)
label_a:
    mov $10, %eax
array_of_labels.ret.1:
    ret
label_b:
    mov $20, %eax
array_of_labels.ret.2:
    ret
    end array_of_labels

# Without them, nothing tells one from the other.
    function array_of_nothing
array_of_nothing.refused.indirect_jump:
    lea zeros(%rip), %rdx
    jmp *(%rdx,%rdi,8)
    mov $10, %eax
    ret
    end array_of_nothing

    .section .data.rel.ro, "aw"
zeros: .quad 0, 0
pointers: .quad outside, outside
labels: .quad label_a, label_b

# An entry that leads behind the function: a case that cannot happen.
    .text
    function table_leads_behind
    cmp $2, %edi
table_leads_behind.entry.e:
    ja 4f
    lea table_behind(%rip), %rdx
    movslq (%rdx,%rdi,4), %rax
    add %rdx, %rax
    jmp *%rax
behind_a:
    mov $10, %eax
table_leads_behind.ret.1:
    ret
behind_b:
    mov $20, %eax
table_leads_behind.ret.2:
    ret
4:  xor %eax, %eax
table_leads_behind.ret.3:
    ret
    end table_leads_behind
behind_end:
    relative table_behind, behind_a, behind_end, behind_b

    .text
    .type outside, @function
    .globl outside
    .hidden outside
outside:
    mov $1, %eax
    ret
    .size outside, . - outside
