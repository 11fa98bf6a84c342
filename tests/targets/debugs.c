/* A debugger: `debugs PID ADDRESS` traces a process, and obeys its input, a word a line:
 *
 *   break     sets a breakpoint at the address, keeps the original bytes, and says `hit` at a hit
 *   leave     restores the original bytes and detaches from the process
 *
 * It says `traced` at its beginning and `left` at its end. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <elf.h>

#if defined(__x86_64__)
#define BREAKPOINT 0xccul
#define MASK 0xfful
#define BEHIND 1
#define PC(registers) ((registers).rip)
typedef struct user_regs_struct registers_of;
#elif defined(__aarch64__)
#define BREAKPOINT 0xd4200000ul
#define MASK 0xfffffffful
#define BEHIND 0
#define PC(registers) ((registers).pc)
typedef struct user_regs_struct registers_of;
#endif

static pid_t target;

static void must(int holds, const char *what)
{
    if (holds) return;
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* Passes its signals on until it stops for the awaited event or signal. */
static void until(int event, int signal)
{
    int status;
    for (;;) {
        must(waitpid(target, &status, __WALL) == target, "wait");
        must(WIFSTOPPED(status), "the target ended");
        if (status >> 16 == event && WSTOPSIG(status) == signal) return;
        must(!ptrace(PTRACE_CONT, target, NULL, status >> 16 ? 0L : (long)WSTOPSIG(status)), "go on");
    }
}

static void put(uintptr_t address, unsigned long value)
{
    errno = 0;
    unsigned long word = ptrace(PTRACE_PEEKTEXT, target, address, NULL);
    must(!errno, "read");
    must(!ptrace(PTRACE_POKETEXT, target, address, (word & ~MASK) | value), "write");
}

int main(int argc, char **argv)
{
    char line[64];
    unsigned long kept = 0;
    int broken = 0;
    if (argc < 3) return 2;
    target = atoi(argv[1]);
    uintptr_t address = strtoul(argv[2], NULL, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    must(!ptrace(PTRACE_SEIZE, target, NULL, NULL), "trace");
    puts("traced");
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "break\n")) {
            must(!ptrace(PTRACE_INTERRUPT, target, NULL, NULL), "stop");
            until(PTRACE_EVENT_STOP, SIGTRAP);
            errno = 0;
            kept = ptrace(PTRACE_PEEKTEXT, target, address, NULL) & MASK;
            must(!errno, "read");
            put(address, BREAKPOINT);
            must(!ptrace(PTRACE_CONT, target, NULL, NULL), "go on");
            until(0, SIGTRAP);
            broken = 1;
            puts("hit");
        } else if (!strcmp(line, "leave\n") && broken) {
            registers_of registers;
            struct iovec all = {&registers, sizeof registers};
            put(address, kept);
            must(!ptrace(PTRACE_GETREGSET, target, NT_PRSTATUS, &all), "registers");
            PC(registers) -= BEHIND;
            must(!ptrace(PTRACE_SETREGSET, target, NT_PRSTATUS, &all), "registers");
            must(!ptrace(PTRACE_DETACH, target, NULL, NULL), "let go");
            puts("left");
            return 0;
        }
    }
    return 0;
}
