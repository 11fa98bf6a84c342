/* as UID CAPABILITY,...|none COMMAND...: runs a command as a user and group that has exactly these capabilities, also if
 * it is 0; the bounding set stays. Capabilities are named as in capabilities(7), in small letters. */
#define _GNU_SOURCE /* setresuid */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NAME(capability, name) [capability] = name
static const char *const names[] = {
    NAME(CAP_DAC_OVERRIDE, "cap_dac_override"),
    NAME(CAP_DAC_READ_SEARCH, "cap_dac_read_search"),
    NAME(CAP_SYS_PTRACE, "cap_sys_ptrace"),
    NAME(CAP_SYS_ADMIN, "cap_sys_admin"),
    NAME(CAP_SYS_RESOURCE, "cap_sys_resource"),
    NAME(CAP_PERFMON, "cap_perfmon"),
    NAME(CAP_BPF, "cap_bpf"),
    NAME(CAP_CHECKPOINT_RESTORE, "cap_checkpoint_restore"),
};
#define NAMES (sizeof names / sizeof *names)

/* 125 as with env(1): the command was not run. */
static void die(const char *what)
{
    fprintf(stderr, "as: %s: %s\n", what, strerror(errno));
    exit(125);
}

static unsigned number_of(const char *name)
{
    for (unsigned capability = 0; capability < NAMES; capability++)
        if (names[capability] && !strcmp(names[capability], name)) return capability;
    errno = EINVAL;
    die(name);
    return 0;
}

int main(int argc, char **argv)
{
    errno = EINVAL;
    if (argc < 4) die("usage: as UID CAPABILITY,...|none COMMAND...");
    unsigned id = (unsigned)atoi(argv[1]);
    uint64_t wanted = 0;
    if (strcmp(argv[2], "none"))
        for (char *name = strtok(argv[2], ","); name; name = strtok(NULL, ",")) wanted |= 1ULL << number_of(name);

    /* Without these 0 would get everything at execve, and others would lose everything here. */
    if (prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_KEEP_CAPS, 0, 0, 0)) die("securebits");
    if (setgroups(0, NULL) || setresgid(id, id, id) || setresuid(id, id, id)) die("user and group");
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2];
    for (int half = 0; half < 2; half++)
        sets[half].permitted = sets[half].effective = sets[half].inheritable = (uint32_t)(wanted >> (32 * half));
    if (syscall(SYS_capset, &header, sets)) die("capset");
    for (unsigned capability = 0; capability < NAMES; capability++)
        if (wanted >> capability & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)) die("ambient");
    execvp(argv[3], argv + 3);
    die(argv[3]);
}
