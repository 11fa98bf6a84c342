/* A program that is hard to measure: `restless FOLDER SEED [WRONG]`. It calls `work` a thousand
 * times a second, checks each result, and in between, at random, forks children that do the same,
 * executes itself from a thread other than the main one, starts another program by vfork, or maps
 * some thousand files of FOLDER as executable. It says {"event":"ready"} once, in its first image.
 * SIGTERM ends it: status 0 if each result was right, in its children too, otherwise 3. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FILES = 2000, CHILDREN = 8, WRONG = 3 };

extern char **environ;
static volatile sig_atomic_t asked;
static uint64_t state, wrong;
static char *folder;

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t at_random(uint64_t below)
{
    state += 0x9e3779b97f4a7c15u;
    return mix(state) % below;
}

__attribute__((noipa)) uint64_t work(uint64_t x)
{
    volatile uint64_t kept[16];
    for (int i = 0; i < 16; i++) kept[i] = mix(x + i);
    uint64_t sum = 0;
    for (int i = 0; i < 16; i++) sum += kept[i];
    return sum;
}

static void check(uint64_t x)
{
    uint64_t sum = 0;
    for (int i = 0; i < 16; i++) sum += mix(x + i);
    wrong += work(x) != sum;
}

static void doze(long ns) { nanosleep(&(struct timespec){0, ns}, NULL); }

static void *execute(void *unused)
{
    (void)unused;
    static char seed[24], wrongs[24];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)state);
    snprintf(wrongs, sizeof wrongs, "%llu", (unsigned long long)wrong);
    execv("/proc/self/exe", (char *[]){"restless", folder, seed, wrongs, NULL});
    abort();
}

static void execute_from_a_thread(void)
{
    /* A request to end waits for the new image, and an earlier one is not forgotten. */
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    if (asked) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        return;
    }
    pthread_t thread;
    if (pthread_create(&thread, NULL, execute, NULL)) abort();
    for (;;) pause();
}

static void fork_children(void)
{
    pid_t children[CHILDREN];
    uint64_t born = 1 + at_random(CHILDREN);
    for (uint64_t i = 0; i < born; i++) {
        children[i] = fork();
        if (children[i] < 0) abort();
        if (children[i] == 0) {
            wrong = 0;
            for (uint64_t calls = at_random(200), x = 0; x < calls; x++) check(x);
            doze((long)at_random(5000000));
            _exit(wrong ? WRONG : 0);
        }
    }
    for (uint64_t i = 0; i < born; i++) {
        int status = -1;
        while (waitpid(children[i], &status, 0) < 0) {}
        wrong += status != 0;
    }
}

static void start_another_program(void)
{
    pid_t child;
    int status = -1;
    if (posix_spawn(&child, "/bin/true", NULL, NULL, (char *[]){"true", NULL}, environ)) abort();
    while (waitpid(child, &status, 0) < 0) {}
    wrong += status != 0;
}

static void map_files(void)
{
    static void *mapped[FILES];
    for (int i = 0; i < FILES; i++) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%d", folder, i);
        int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0700);
        if (fd < 0 || ftruncate(fd, 4096)) abort();
        mapped[i] = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
        close(fd);
        if (mapped[i] == MAP_FAILED) abort();
    }
    doze((long)at_random(400000000));
    for (int i = 0; i < FILES; i++) munmap(mapped[i], 4096);
}

static void on_term(int signal)
{
    (void)signal;
    asked = 1;
}

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    folder = argv[1];
    state = strtoull(argv[2], NULL, 10);
    signal(SIGTERM, on_term);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (argc > 3) {
        wrong = strtoull(argv[3], NULL, 10);
    } else {
        printf("{\"event\":\"ready\",\"pid\":%d,\"functions\":[]}\n", (int)getpid());
        fflush(stdout);
    }
    while (!asked) {
        for (int i = 0; i < 50 && !asked; i++) {
            check(at_random(1u << 20));
            doze(1000000);
        }
        switch (at_random(8)) {
        case 0: map_files(); break;
        case 1: execute_from_a_thread(); break;
        case 2: case 3: fork_children(); break;
        case 4: start_another_program(); break;
        }
    }
    return wrong ? WRONG : 0;
}
