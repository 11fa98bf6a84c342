/* Runs one function of the soundness oracle with all registers given, and keeps what it leaves. */
#include "soundness.h"

    .text
    /* void sound_run(void (*function)(void)) */
    .globl sound_run
    .type sound_run, @function
sound_run:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, sound_in+HOST_AT(%rip)
    mov %rdi, sound_in+TARGET_AT(%rip)
    cmpl $0, sound_xsave(%rip)
    je 1f
    mov $7, %eax
    xor %edx, %edx
    xrstor64 sound_in+VECTORS_AT(%rip)
    jmp 2f
1:  fxrstor64 sound_in+VECTORS_AT(%rip)
2:  pushq sound_in+FLAGS_AT(%rip)
    popfq
    mov sound_in+0(%rip), %rax
    mov sound_in+8(%rip), %rcx
    mov sound_in+16(%rip), %rdx
    mov sound_in+24(%rip), %rbx
    mov sound_in+32(%rip), %rsp
    mov sound_in+40(%rip), %rbp
    mov sound_in+48(%rip), %rsi
    mov sound_in+56(%rip), %rdi
    mov sound_in+64(%rip), %r8
    mov sound_in+72(%rip), %r9
    mov sound_in+80(%rip), %r10
    mov sound_in+88(%rip), %r11
    mov sound_in+96(%rip), %r12
    mov sound_in+104(%rip), %r13
    mov sound_in+112(%rip), %r14
    mov sound_in+120(%rip), %r15
    jmp *sound_in+TARGET_AT(%rip)
    /* Where the functions return to: on their stack stands this address. */
    .globl sound_back
sound_back:
    mov %rax, sound_out+0(%rip)
    mov %rcx, sound_out+8(%rip)
    mov %rdx, sound_out+16(%rip)
    mov %rbx, sound_out+24(%rip)
    mov %rsp, sound_out+32(%rip)
    mov %rbp, sound_out+40(%rip)
    mov %rsi, sound_out+48(%rip)
    mov %rdi, sound_out+56(%rip)
    mov %r8, sound_out+64(%rip)
    mov %r9, sound_out+72(%rip)
    mov %r10, sound_out+80(%rip)
    mov %r11, sound_out+88(%rip)
    mov %r12, sound_out+96(%rip)
    mov %r13, sound_out+104(%rip)
    mov %r14, sound_out+112(%rip)
    mov %r15, sound_out+120(%rip)
    mov sound_in+HOST_AT(%rip), %rsp
    pushfq
    popq sound_out+FLAGS_AT(%rip)
    cld
    cmpl $0, sound_xsave(%rip)
    je 1f
    mov $7, %eax
    xor %edx, %edx
    xsave64 sound_out+VECTORS_AT(%rip)
    vzeroupper
    jmp 2f
1:  fxsave64 sound_out+VECTORS_AT(%rip)
2:  fninit
    ldmxcsr sound_mxcsr(%rip)
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
    .size sound_run, . - sound_run

    /* Where jumps out of functions lead. */
    .globl sound_return
    .type sound_return, @function
sound_return:
    ret
    .size sound_return, . - sound_return

    .section .rodata
    .p2align 2
sound_mxcsr:
    .long 0x1f80
    .section .data.rel.ro, "aw"
    .p2align 3
    .globl sound_pointer
sound_pointer:
    .quad sound_return
    .section .note.GNU-stack, "", @progbits
