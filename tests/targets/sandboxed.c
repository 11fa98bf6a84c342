/* A thread that forbids itself nearly all system calls before it works (seccomp): a probe that
 * issues another system call would kill the process. */
#define _GNU_SOURCE
#include "oracle.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

ORACLE(confined);
ORACLE(starts_with_nop5);

PROBED uint64_t confined(uint64_t x)
{
    ENTER(confined);
    uint64_t y = oracle_mix(x);
    LEAVE(confined);
    return y;
}

/* Starts with the nop that newer kernels turn into their own call. */
uint64_t starts_with_nop5(uint64_t x);
__asm__(".text\n"
        ".globl starts_with_nop5\n"
        ".type starts_with_nop5, @function\n"
        ".p2align 4\n"
        "starts_with_nop5:\n"
        ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n"
        "lea 7(%rdi), %rax\n"
        "ret\n"
        ".size starts_with_nop5, . - starts_with_nop5\n");

#define ALLOW(name)                                                                                \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void confine(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(write),
        ALLOW(futex),
        ALLOW(exit),
        ALLOW(munmap),
        ALLOW(madvise),
        ALLOW(rt_sigprocmask),
        ALLOW(rt_sigreturn),
        ALLOW(restart_syscall),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) abort();
}

static void loop(int thread)
{
    (void)thread;
    confine();
    for (uint64_t turn = 0; oracle_next(turn); turn++) {
        EXPECT("confined", oracle_mix(turn), confined(turn));
        ENTER(starts_with_nop5);
        EXPECT("starts_with_nop5", turn + 7, starts_with_nop5(turn));
        LEAVE(starts_with_nop5);
    }
}

int main(int argc, char **argv)
{
    return oracle_main(argc, argv, loop);
}
