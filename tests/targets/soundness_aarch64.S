/* Runs one function of the soundness oracle with all registers given, and keeps what it leaves. */
#include "soundness.h"

    .text
    /* void sound_run(void (*function)(void)) */
    .globl sound_run
    .type sound_run, %function
sound_run:
    stp x29, x30, [sp, #-160]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    adrp x30, sound_in
    add x30, x30, :lo12:sound_in
    mov x16, sp
    str x16, [x30, #HOST_AT]
    mov x16, x0
    add x17, x30, #VECTORS_AT
    ldp q0, q1, [x17]
    ldp q2, q3, [x17, #32]
    ldp q4, q5, [x17, #64]
    ldp q6, q7, [x17, #96]
    ldp q8, q9, [x17, #128]
    ldp q10, q11, [x17, #160]
    ldp q12, q13, [x17, #192]
    ldp q14, q15, [x17, #224]
    ldp q16, q17, [x17, #256]
    ldp q18, q19, [x17, #288]
    ldp q20, q21, [x17, #320]
    ldp q22, q23, [x17, #352]
    ldp q24, q25, [x17, #384]
    ldp q26, q27, [x17, #416]
    ldp q28, q29, [x17, #448]
    ldp q30, q31, [x17, #480]
    msr fpsr, xzr
    msr fpcr, xzr
    ldr x17, [x30, #FLAGS_AT]
    msr nzcv, x17
    ldr x17, [x30, #248]
    mov sp, x17
    ldp x0, x1, [x30]
    ldp x2, x3, [x30, #16]
    ldp x4, x5, [x30, #32]
    ldp x6, x7, [x30, #48]
    ldp x8, x9, [x30, #64]
    ldp x10, x11, [x30, #80]
    ldp x12, x13, [x30, #96]
    ldp x14, x15, [x30, #112]
    ldp x17, x18, [x30, #136]
    ldp x19, x20, [x30, #152]
    ldp x21, x22, [x30, #168]
    ldp x23, x24, [x30, #184]
    ldp x25, x26, [x30, #200]
    ldp x27, x28, [x30, #216]
    ldr x29, [x30, #232]
    adr x30, sound_back
    br x16
    /* Where the functions return to. x30 has led here and says nothing. */
    .globl sound_back
sound_back:
    adrp x30, sound_out
    add x30, x30, :lo12:sound_out
    stp x0, x1, [x30]
    stp x2, x3, [x30, #16]
    stp x4, x5, [x30, #32]
    stp x6, x7, [x30, #48]
    stp x8, x9, [x30, #64]
    stp x10, x11, [x30, #80]
    stp x12, x13, [x30, #96]
    stp x14, x15, [x30, #112]
    stp x16, x17, [x30, #128]
    stp x18, x19, [x30, #144]
    stp x20, x21, [x30, #160]
    stp x22, x23, [x30, #176]
    stp x24, x25, [x30, #192]
    stp x26, x27, [x30, #208]
    stp x28, x29, [x30, #224]
    mov x16, sp
    str x16, [x30, #248]
    mrs x17, nzcv
    str x17, [x30, #FLAGS_AT]
    add x17, x30, #VECTORS_AT
    stp q0, q1, [x17]
    stp q2, q3, [x17, #32]
    stp q4, q5, [x17, #64]
    stp q6, q7, [x17, #96]
    stp q8, q9, [x17, #128]
    stp q10, q11, [x17, #160]
    stp q12, q13, [x17, #192]
    stp q14, q15, [x17, #224]
    stp q16, q17, [x17, #256]
    stp q18, q19, [x17, #288]
    stp q20, q21, [x17, #320]
    stp q22, q23, [x17, #352]
    stp q24, q25, [x17, #384]
    stp q26, q27, [x17, #416]
    stp q28, q29, [x17, #448]
    stp q30, q31, [x17, #480]
    mrs x16, fpsr
    mrs x18, fpcr
    add x17, x17, #512
    stp x16, x18, [x17]
    msr fpcr, xzr
    adrp x30, sound_in
    add x30, x30, :lo12:sound_in
    ldr x16, [x30, #HOST_AT]
    mov sp, x16
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    ldp x29, x30, [sp], #160
    ret
    .size sound_run, . - sound_run

    /* Where jumps out of functions lead. */
    .globl sound_return
    .type sound_return, %function
sound_return:
    ret
    .size sound_return, . - sound_return
    .section .note.GNU-stack, "", %progbits
