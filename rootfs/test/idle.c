/* idle COMMAND...: runs a command only if no other program wants to, not even at nice 19 (SCHED_IDLE, sched(7)).
 * By its number, because musl's function only says ENOSYS. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const int policy = 5, priority = 0; /* SCHED_IDLE, include/uapi/linux/sched.h */
    if (argc < 2) return 125;
    if (syscall(SYS_sched_setscheduler, 0, policy, &priority)) perror("idle: SCHED_IDLE");
    execvp(argv[1], argv + 1);
    perror(argv[1]);
    return 125;
}
