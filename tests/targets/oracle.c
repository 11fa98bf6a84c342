/* See oracle.h. */
#define _GNU_SOURCE
#include "oracle.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

static struct oracle_function *first, **last = &first;
static int argument_count;
static char **arguments;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t resumed = PTHREAD_COND_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER; /* a worker parked or finished */
static int resting, stopping;
static unsigned workers, parked, finished;
static uint64_t turns_wanted; /* 0: until `stop` */
static int done = -1;         /* eventfd: all workers have finished */
static void (*job)(int thread);

static uint64_t wrongs;
static char first_wrong[160];

void oracle_register(struct oracle_function *function)
{
    *last = function;
    last = &function->next;
}

struct oracle_function *oracle_make(const char *name)
{
    struct oracle_function *function = calloc(1, sizeof *function);
    if (!function) abort();
    function->name = name;
    oracle_register(function);
    return function;
}

uint64_t oracle_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void oracle_record(struct oracle_function *function, uint64_t ns)
{
    uint64_t slot = __atomic_fetch_add(&function->recorded, 1, __ATOMIC_RELAXED);
    oracle_add(&function->sum_ns, ns);
    if (slot < function->room) function->durations[slot] = ns;
}

static const char *option_text(const char *name)
{
    for (int i = 1; i + 1 < argument_count; i++)
        if (!strncmp(arguments[i], "--", 2) && !strcmp(arguments[i] + 2, name)) return arguments[i + 1];
    return NULL;
}

uint64_t oracle_option(const char *name, uint64_t otherwise)
{
    const char *text = option_text(name);
    return text ? strtoull(text, NULL, 0) : otherwise;
}

static int flag(const char *name)
{
    for (int i = 1; i < argument_count; i++)
        if (!strncmp(arguments[i], "--", 2) && !strcmp(arguments[i] + 2, name)) return 1;
    return 0;
}

int oracle_resting(void) { return __atomic_load_n(&resting, __ATOMIC_ACQUIRE); }
int oracle_stopping(void) { return __atomic_load_n(&stopping, __ATOMIC_ACQUIRE); }

void oracle_rest_point(void)
{
    if (!oracle_resting()) return;
    pthread_mutex_lock(&mutex);
    parked++;
    pthread_cond_signal(&moved);
    while (resting) pthread_cond_wait(&resumed, &mutex);
    parked--;
    pthread_mutex_unlock(&mutex);
}

static __thread int rests_inside;

void oracle_rests_inside(void) { rests_inside = 1; }

int oracle_next(uint64_t turns)
{
    if (!rests_inside) oracle_rest_point();
    return !oracle_stopping() && (turns_wanted == 0 || turns < turns_wanted);
}

void oracle_wrong(const char *what, uint64_t expected, uint64_t found)
{
    if (__atomic_fetch_add(&wrongs, 1, __ATOMIC_RELAXED) == 0)
        snprintf(first_wrong, sizeof first_wrong, "%s: expected %#llx, found %#llx", what,
                 (unsigned long long)expected, (unsigned long long)found);
}

void oracle_child(void)
{
    for (struct oracle_function *f = first; f; f = f->next)
        f->calls = f->returned = f->unwound = f->sum_ns = f->recorded = 0;
    resting = stopping = 0;
    workers = parked = finished = 0;
    wrongs = 0;
    /* The parent's other threads may have held it at the fork. */
    pthread_mutex_init(&mutex, NULL);
}

/* A line that grows; reported in one write so that lines of several processes do not mix. */
struct line {
    char *text;
    size_t length, room;
};

__attribute__((format(printf, 2, 3))) static void put(struct line *line, const char *format, ...)
{
    for (;;) {
        va_list list;
        va_start(list, format);
        size_t left = line->room - line->length;
        int n = vsnprintf(line->text + line->length, left, format, list);
        va_end(list);
        if (n >= 0 && (size_t)n < left) {
            line->length += (size_t)n;
            return;
        }
        line->room = line->room * 2 + (size_t)n + 1;
        line->text = realloc(line->text, line->room);
        if (!line->text) abort();
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The nearest-rank quantile: the smallest duration that a share of at least q does not exceed. */
static unsigned long long quantile(const uint64_t *sorted, uint64_t n, unsigned permille)
{
    if (n == 0) return 0;
    uint64_t rank = (n * permille + 999) / 1000;
    return sorted[rank ? rank - 1 : 0];
}

void oracle_tell(const char *event)
{
    struct line line = {NULL, 0, 4096};
    line.text = malloc(line.room);
    if (!line.text) abort();
    put(&line, "{\"event\":\"%s\",\"pid\":%d,\"ok\":%s,\"wrong\":%llu,\"message\":\"%s\",\"functions\":[", event,
        (int)getpid(), wrongs ? "false" : "true", (unsigned long long)wrongs, first_wrong);
    for (struct oracle_function *f = first; f; f = f->next) {
        uint64_t calls = __atomic_load_n(&f->calls, __ATOMIC_RELAXED);
        uint64_t returned = __atomic_load_n(&f->returned, __ATOMIC_RELAXED);
        uint64_t unwound = __atomic_load_n(&f->unwound, __ATOMIC_RELAXED);
        put(&line,
            "%s{\"name\":\"%s\",\"calls\":%llu,\"completed\":%llu,\"unwound\":%llu,\"in_flight\":%lld,"
            "\"sum_ns\":%llu,\"recorded\":%llu",
            f == first ? "" : ",", f->name, (unsigned long long)calls, (unsigned long long)returned,
            (unsigned long long)unwound, (long long)(calls - returned - unwound),
            (unsigned long long)f->sum_ns, (unsigned long long)f->recorded);
        uint64_t n = f->recorded < f->room ? f->recorded : f->room;
        if (n) {
            qsort(f->durations, n, sizeof *f->durations, by_value);
            put(&line, ",\"p50_ns\":%llu,\"p90_ns\":%llu,\"p99_ns\":%llu,\"min_ns\":%llu,\"max_ns\":%llu",
                quantile(f->durations, n, 500), quantile(f->durations, n, 900), quantile(f->durations, n, 990),
                (unsigned long long)f->durations[0], (unsigned long long)f->durations[n - 1]);
        }
        put(&line, "}");
    }
    put(&line, "]}\n");
    for (size_t at = 0; at < line.length;) {
        ssize_t n = write(1, line.text + at, line.length - at);
        if (n < 0 && errno != EINTR) _exit(111); /* the test has gone */
        if (n > 0) at += (size_t)n;
    }
    free(line.text);
}

static void *worker(void *thread)
{
    job((int)(intptr_t)thread);
    pthread_mutex_lock(&mutex);
    finished++;
    pthread_cond_signal(&moved);
    int all = finished == workers;
    pthread_mutex_unlock(&mutex);
    uint64_t one = 1;
    if (all && write(done, &one, sizeof one) != sizeof one) abort();
    return NULL;
}

static void start_workers(void)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, oracle_option("stack", 8u << 20));
    workers = (unsigned)oracle_option("threads", 1);
    unsigned count = workers;
    for (unsigned i = 0; i < count; i++) {
        pthread_t thread;
        int error = pthread_create(&thread, &attributes, worker, (void *)(intptr_t)i);
        if (error) {
            fprintf(stderr, "cannot start thread %u: %s\n", i, strerror(error));
            exit(110);
        }
    }
}

static void rest(void)
{
    pthread_mutex_lock(&mutex);
    __atomic_store_n(&resting, 1, __ATOMIC_RELEASE);
    while (parked + finished < workers) pthread_cond_wait(&moved, &mutex);
    pthread_mutex_unlock(&mutex);
    oracle_tell("rest");
}

static void resume(void)
{
    pthread_mutex_lock(&mutex);
    __atomic_store_n(&resting, 0, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&resumed);
    pthread_mutex_unlock(&mutex);
}

/* Reads one line of stdin without buffering: forked children must not inherit half of the next one. */
static int read_command(char *text, size_t room)
{
    size_t n = 0;
    for (;;) {
        ssize_t got = read(0, text + n, 1);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        if (text[n] == '\n') break;
        if (n + 1 < room) n++;
    }
    text[n] = 0;
    return 1;
}

int oracle_main(int argc, char **argv, void (*work)(int thread))
{
    argument_count = argc;
    arguments = argv;
    job = work;
    turns_wanted = oracle_option("calls", 1000);
    done = eventfd(0, EFD_CLOEXEC);
    if (done < 0) abort();
    uint64_t room = oracle_option("room", 0);
    for (struct oracle_function *f = first; room && f; f = f->next) {
        f->durations = calloc(room, sizeof *f->durations);
        f->room = f->durations ? room : 0;
    }
    int stay = flag("stay"), started = 0, over = 0;
    char command[32];
    if (flag("at-once")) { /* started without `go` */
        started = 1;
        start_workers();
    } else {
        oracle_tell("ready");
    }
    for (;;) {
        struct pollfd waits[2] = {{0, POLLIN, 0}, {started && !over ? done : -1, POLLIN, 0}};
        if (flag("at-once")) waits[0].fd = -1;
        if (poll(waits, 2, -1) < 0) {
            if (errno == EINTR) continue;
            abort();
        }
        if (waits[1].revents) {
            over = 1;
            for (struct oracle_function *f = first; f; f = f->next)
                if (f->calls != f->returned + f->unwound) oracle_wrong(f->name, f->calls, f->returned + f->unwound);
            oracle_tell("end");
            if (!stay) break;
        }
        if (!waits[0].revents) continue;
        if (!read_command(command, sizeof command) || !strcmp(command, "end")) {
            if (over || !started) break;
            /* End of file during work: the test is gone or has no more commands. */
            pthread_mutex_lock(&mutex);
            __atomic_store_n(&stopping, 1, __ATOMIC_RELEASE);
            pthread_mutex_unlock(&mutex);
            resume();
            stay = 0;
            struct pollfd wait = {done, POLLIN, 0};
            while (poll(&wait, 1, -1) < 0 && errno == EINTR) {}
            oracle_tell("end");
            break;
        }
        if (!strcmp(command, "go") && !started) {
            started = 1;
            start_workers();
        } else if (!strcmp(command, "go")) {
            resume();
        } else if (!strcmp(command, "rest")) {
            rest();
        } else if (!strcmp(command, "tell")) {
            oracle_tell("told");
        } else if (!strcmp(command, "stop")) {
            __atomic_store_n(&stopping, 1, __ATOMIC_RELEASE);
            resume();
        } else {
            oracle_wrong("unknown command", 0, (unsigned char)command[0]);
        }
    }
    return wrongs ? 1 : 0;
}
