# Jumps through tables of addresses, in a position-dependent executable. See sites_assembly.rs for the labels.
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

    function absolute_switch
    cmp $2, %edi
absolute_switch.entry.e:
    ja 4f
    mov %edi, %edi
    jmp *table(,%rdi,8)
case_a:
    mov $10, %eax
absolute_switch.ret.1:
    ret
case_b:
    mov $20, %eax
absolute_switch.ret.2:
    ret
4:  xor %eax, %eax
absolute_switch.ret.3:
    ret
    end absolute_switch

    function absolute_switch_loaded
    cmp $2, %edi
absolute_switch_loaded.entry.e:
    ja 4f
    mov %edi, %edi
    mov table_loaded(,%rdi,8), %rax
    jmp *%rax
loaded_a:
    mov $10, %eax
absolute_switch_loaded.ret.1:
    ret
4:  xor %eax, %eax
absolute_switch_loaded.ret.2:
    ret
    end absolute_switch_loaded

# Function pointers: the file says where they lead.
    function absolute_pointers
absolute_pointers.entry.s:
    mov %edi, %edi
absolute_pointers.tail:
    jmp *pointers(,%rdi,8)
    nop
    mov $3, %eax
    ret
    end absolute_pointers

    function outside
outside.entry.s:
    mov $1, %eax
outside.ret:
    ret
    end outside

    .section .rodata
    .balign 8
table: .quad case_a, case_b, case_a
table_loaded: .quad loaded_a, 4096
pointers: .quad outside, outside
