/* Does the kernel arm every probe of an event that holds several?
 *
 *     events TRACING
 *
 * TRACING is where tracefs is mounted. Defines an event with a probe on each of three functions of its own, counts hits of
 * this process with a perf event, as an agent would, and says of each function
 *
 *     first 1500 of 1500
 *     second 0 of 500
 *
 * how many of its calls were counted. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* `nop` and `ret` are words that x86-64 and aarch64 share. */
#define FUNCTION(name)                                                                             \
    void name(void);                                                                               \
    __asm__(".text\n.balign 16\n" #name ": nop\nret\n")
FUNCTION(first);
FUNCTION(second);
FUNCTION(third);

static const struct function {
    const char *name;
    void (*call)(void);
    unsigned calls;
} functions[] = {{"first", first, 1500}, {"second", second, 500}, {"third", third, 100}};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

/* Address of the file header, set by the linker. */
extern const unsigned char __executable_start[];

static int failed(const char *what)
{
    perror(what);
    return 1;
}

int main(int argc, char **argv)
{
    char path[4096], line[512];
    if (argc != 2 || chdir(argv[1])) return failed("events TRACING");
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0) return failed("/proc/self/exe");
    path[length] = 0;

    int definitions = open("uprobe_events", O_WRONLY | O_APPEND);
    for (int i = 0; i < FUNCTIONS; i++) {
        unsigned long at = (const unsigned char *)functions[i].call - __executable_start;
        int size = snprintf(line, sizeof line, "p:events/three %s:0x%lx\n", path, at);
        if (write(definitions, line, size) != size) return failed("uprobe_events");
    }
    FILE *number = fopen("events/events/three/id", "r");
    if (!number || fscanf(number, "%511s", line) != 1) return failed("id");

    struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT, .size = sizeof attr};
    attr.config = strtoull(line, NULL, 10);
    int event = syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
    if (event < 0) return failed("perf_event_open");
    uint64_t before = 0, now;
    for (int i = 0; i < FUNCTIONS; i++, before = now) {
        for (unsigned call = 0; call < functions[i].calls; call++)
            functions[i].call();
        if (read(event, &now, sizeof now) != sizeof now) return failed("read");
        printf("%s %llu of %u\n", functions[i].name, (unsigned long long)(now - before), functions[i].calls);
    }
    close(event);
    static const char gone[] = "-:events/three\n";
    return write(definitions, gone, sizeof gone - 1) == sizeof gone - 1 ? 0 : failed("uprobe_events");
}
