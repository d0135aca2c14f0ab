/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a sandbox costs, asked of the broker as the supervisor asks it: without Python, ZeroMQ or a
 * client, so that nothing but the sandbox is measured. For bench.py, which shows what this prints.
 *
 *    sandbox times LIBEXEC STATE N    builds N, and starts N processes in one
 *    sandbox cycles LIBEXEC STATE N   makes and ends N; fails if anything has grown
 *    sandbox idle LIBEXEC STATE N     what the kernel and the processes of N idle ones take
 *    sandbox calls LIBEXEC STATE N    N system calls outside, and N inside
 *    sandbox loop N                   the N calls; prints nanoseconds for each
 *
 * LIBEXEC holds the programs of husk; STATE is an empty directory for what lies on disk.
 * A figure is a line NAME TAB NUMBER.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kernel/box.h"
#include "kernel/paths.h"

#define ANSWER_MS 20000
#define LOOP "/mnt/husk-bench" /* this program, as it is seen inside */
#define GROWTH_KB 16 /* of kernel memory a cycle: others work here too; a lost task is 20 and more */
#define WARM_UP 100 /* cycles that may fill caches of the kernel and of libc */
#define SETTLE_S 3 /* the kernel frees namespaces and groups behind everybody's back */

static const char *libexec, *state;
static char self[4096];

static void __attribute__((noreturn))
fail(const char *what, const struct err *err)
{
    fprintf(stderr, "sandbox: %s: %s\n", what, err->text);
    exit(1);
}

static int64_t
read_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t
now_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

static int
compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static void
show(const char *name, double value)
{
    printf("%s\t%.6g\n", name, value);
    fflush(stdout);
}

static void
show_times(const char *name, int64_t *value, size_t n)
{
    const struct {
        const char *name;
        size_t at;
    } rows[] = {{"least", 0}, {"p50", n / 2}, {"p90", n * 9 / 10}};
    char row[128];

    qsort(value, n, sizeof *value, compare);
    for (size_t i = 0; i < countof(rows); i++) {
        snprintf(row, sizeof row, "%s, %s, us", name, rows[i].name);
        show(row, (double)value[rows[i].at]);
    }
}

/*** Where husk is: for box.c, in place of kernel/paths.c, which looks beside its own program ***/

static const char *
path_of(const char *name, char into[static 4200])
{
    snprintf(into, 4200, "%s/%s", libexec, name);
    return into;
}

#define PATH_OF(what, name)                                                                    \
    const char *paths_##what(void)                                                             \
    {                                                                                          \
        static char path[4200];                                                                \
        return path_of(name, path);                                                            \
    }
PATH_OF(broker, "husk-sandbox")
PATH_OF(init, "husk-init")
PATH_OF(network, "husk-network")
PATH_OF(ports, "husk-ports")
PATH_OF(scope, "husk-scope")

/*** One sandbox ***/

static struct frame
await(struct box *box, enum sandbox_number wanted)
{
    struct frame f;
    struct err err = {0};

    for (;;) {
        struct pollfd readable = {.fd = box->socket, .events = POLLIN};
        int r = box_event(box, &f, &err);
        if (r < 0 || (r == 0 && poll(&readable, 1, ANSWER_MS) == 0))
            fail("wait for the broker", &err);
        if (r > 0 && f.number == SANDBOX_FAILED) {
            struct bytes why = frame_part(&f, 1);
            err_set(&err, (int)f.value, "%.*s", (int)why.len, why.data);
            fail("refused", &err);
        }
        if (r > 0 && f.number == wanted)
            return f;
    }
}

/* Returns the microseconds that the broker says it took. */
static uint32_t
build(struct box *box)
{
    scoped(strv_release) struct strv o = {0};
    struct err err = {0};

    if (strv_add(&o, "id=bench") < 0 || strv_add(&o, "profile=strict") < 0 ||
        strv_add(&o, "home=/home/user") < 0 || strv_add(&o, "workdir=/workspace") < 0 ||
        strv_addf(&o, "layers=%s", state) < 0 || strv_addf(&o, "state=%s", state) < 0 ||
        strv_addf(&o, "hide=%s", state) < 0 ||
        strv_add(&o, "memory=1g") < 0 || strv_addf(&o, "mount=%s:%s:ro", self, LOOP) < 0)
        err_errno(&err, "list options");
    *box = BOX_EMPTY;
    if (err.code || box_start(paths_broker(), box, &err) < 0 || box_build(box, &o, &err) < 0)
        fail("start the broker", &err);
    return await(box, SANDBOX_BUILT).value;
}

/* Until it executes; its descriptors are `out`. */
static void
spawn(struct box *box, uint32_t slot, char *const *words, int out)
{
    scoped(strv_release) struct strv argv = {0}, environment = {0};
    int fds[SANDBOX_FDS];
    struct err err = {0};

    for (size_t i = 0; i < countof(fds); i++)
        fds[i] = out;
    for (; *words; words++)
        if (strv_add(&argv, *words) < 0)
            err_errno(&err, "list arguments");
    if (err.code || box_spawn(box, slot, 0, "/", &argv, &environment, fds, &err) < 0)
        fail("start a process", &err);
    await(box, SANDBOX_SPAWNED);
}

static int
open_null(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        perror("sandbox: /dev/null");
        exit(1);
    }
    return fd;
}

/*** What it takes ***/

static void
measure_times(size_t n)
{
    int64_t *built = calloc(n, sizeof *built), *whole = calloc(n, sizeof *whole);
    int64_t *joined = calloc(n, sizeof *joined), *ended = calloc(n, sizeof *ended);
    char *const nothing[] = {(char *)"/bin/true", NULL};
    struct box box = BOX_EMPTY;
    int null = open_null();

    if (!built || !whole || !joined || !ended)
        abort();
    for (size_t i = 0; i < n; i++) {
        int64_t start = now_ns();
        built[i] = build(&box);
        whole[i] = (now_ns() - start) / 1000;
        start = now_ns();
        box_end(&box);
        ended[i] = (now_ns() - start) / 1000;
    }
    build(&box);
    for (size_t i = 0; i < n; i++) {
        int64_t start = now_ns();
        spawn(&box, (uint32_t)i + 1, nothing, null);
        joined[i] = (now_ns() - start) / 1000;
        await(&box, SANDBOX_EXITED);
    }
    box_end(&box);
    show_times("build", built, n);
    show_times("build with the start of the broker", whole, n);
    show_times("join", joined, n);
    show_times("end", ended, n);
}

/* By the time of its processor: who else works here does not matter. */
static void
loop(size_t n)
{
    int64_t start = 0;

    for (int warm = 0; warm < 2; warm++) {
        start = read_ns(CLOCK_PROCESS_CPUTIME_ID);
        for (size_t i = 0; i < n; i++)
            syscall(SYS_getpid);
    }
    printf("%.4f\n", (double)(read_ns(CLOCK_PROCESS_CPUTIME_ID) - start) / (double)n);
}

/* What the loop says in the pipe, once it has ended. */
static double
read_figure(int fd)
{
    char text[64];
    ssize_t n = read(fd, text, sizeof text - 1);

    text[n > 0 ? n : 0] = 0;
    return atof(text);
}

static void
measure_calls(size_t n)
{
    char number[32];
    char *const inside[] = {(char *)LOOP, (char *)"loop", number, NULL};
    char *const outside[] = {self, (char *)"loop", number, NULL};
    struct box box = BOX_EMPTY;
    double with, without;
    int ends[2];
    pid_t pid;

    snprintf(number, sizeof number, "%zu", n);
    if (pipe2(ends, O_CLOEXEC) < 0 || (pid = fork()) < 0)
        exit(1);
    if (pid == 0) {
        dup2(ends[1], 1);
        execv(outside[0], outside);
        _exit(127);
    }
    waitpid(pid, NULL, 0);
    without = read_figure(ends[0]);
    build(&box);
    spawn(&box, 1, inside, ends[1]);
    await(&box, SANDBOX_EXITED);
    with = read_figure(ends[0]);
    box_end(&box);
    show("getpid outside, ns", without);
    show("getpid inside, ns", with);
}

/*** What is left ***/

/* Kilobytes of the kernel's own memory; of the whole machine, there is no other number. */
static int64_t
kernel_memory(void)
{
    static const char *const rows[] = {"SUnreclaim:", "KernelStack:", "PageTables:",
                                       "SecPageTables:", "Percpu:"};
    scoped(buf_release) struct buf text = {0};
    int64_t sum = 0;

    if (file_read(AT_FDCWD, "/proc/meminfo", 1 << 16, &text) < 0 || !buf_string(&text))
        exit(1);
    for (size_t i = 0; i < countof(rows); i++) {
        const char *at = strstr((char *)text.data, rows[i]);
        sum += at ? atoll(at + strlen(rows[i])) : 0;
    }
    return sum;
}

static int64_t
count_lines(const char *path)
{
    scoped(buf_release) struct buf text = {0};
    int64_t n = 0;

    if (file_read(AT_FDCWD, path, 64 << 20, &text) < 0)
        exit(1);
    for (size_t i = 0; i < text.len; i++)
        n += text.data[i] == '\n';
    return n;
}

/* Entries of a directory; -1: there is none. */
static int64_t
count_entries(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *d;
    int64_t n = 0;

    if (!dir)
        return -1;
    while ((d = readdir(dir)))
        n += !is_dots(d->d_name);
    closedir(dir);
    return n;
}

/* Groups with husk's prefix and the name of these sandboxes, below a directory. */
static int64_t
count_groups(const char *path, int depth)
{
    DIR *dir = opendir(path);
    struct dirent *d;
    char below[4096];
    int64_t n = 0;

    while (dir && (d = readdir(dir))) {
        size_t len = strlen(d->d_name);
        if (d->d_type != DT_DIR || is_dots(d->d_name))
            continue;
        n += strncmp(d->d_name, "husk-", 5) == 0 && len > 6 &&
             strcmp(d->d_name + len - 6, "-bench") == 0;
        if (depth && snprintf(below, sizeof below, "%s/%s", path, d->d_name) < (int)sizeof below)
            n += count_groups(below, depth - 1);
    }
    if (dir)
        closedir(dir);
    return n;
}

/* Whoever loses its parent becomes our child (PR_SET_CHILD_SUBREAPER): nobody can hide. */
static int64_t
count_children(void)
{
    char path[64];
    scoped(buf_release) struct buf text = {0};
    int64_t n = 0;

    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    if (file_read(AT_FDCWD, path, 1 << 20, &text) < 0)
        exit(1);
    for (size_t i = 0; i < text.len; i++)
        n += text.data[i] == ' ';
    return n;
}

/* Kilobytes that are ours alone; not the resident size of statm, which is counted loosely. */
static int64_t
own_memory(void)
{
    scoped(buf_release) struct buf text = {0};
    const char *at;

    if (file_read(AT_FDCWD, "/proc/self/smaps_rollup", 1 << 16, &text) < 0 || !buf_string(&text) ||
        !(at = strstr((char *)text.data, "Anonymous:")))
        exit(1);
    return atoll(at + strlen("Anonymous:"));
}

/* What must be after the cycles as it was before. */
enum { FDS, MEMORY, MOUNTS, GROUPS, PROCESSES, FILES, KERNEL, COUNTS };
static const char *const counted[COUNTS] = {
    "fds", "own memory, KB", "mounts", "cgroups", "processes", "directories on disk",
    "kernel memory, KB"};

static void
count(int64_t ret[COUNTS])
{
    ret[FDS] = count_entries("/proc/self/fd");
    ret[MEMORY] = own_memory();
    ret[MOUNTS] = count_lines("/proc/self/mountinfo");
    ret[GROUPS] = count_groups("/sys/fs/cgroup", 8);
    ret[PROCESSES] = count_children();
    ret[FILES] = count_entries(state);
    ret[KERNEL] = kernel_memory();
}

static void
cycle(size_t n)
{
    char *const nothing[] = {(char *)"/bin/true", NULL};
    int null = open_null();

    for (size_t i = 0; i < n; i++) {
        struct box box;
        build(&box);
        spawn(&box, 1, nothing, null);
        box_end(&box);
    }
    close(null);
    sleep(SETTLE_S);
}

static void
measure_cycles(size_t n)
{
    int64_t before[COUNTS], after[COUNTS];
    char name[64];
    int bad = 0;

    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    cycle(WARM_UP);
    count(before); /* counting takes memory, once */
    count(before);
    cycle(n);
    count(after);
    for (int i = 0; i < COUNTS; i++) {
        int64_t growth = after[i] - before[i];
        /* The machine's other processes take and give there, too. */
        int64_t allowed = i == KERNEL ? (int64_t)n * GROWTH_KB : 0;
        snprintf(name, sizeof name, "growth of %s", counted[i]);
        show(name, (double)growth);
        if (growth > allowed) {
            fprintf(stderr, "sandbox: %zu cycles left %s: %lld before, %lld after\n", n, counted[i],
                    (long long)before[i], (long long)after[i]);
            bad = 1;
        }
    }
    if (bad)
        exit(1);
}

static void
measure_idle(size_t n)
{
    struct box *box = calloc(n, sizeof *box);
    int64_t before, after;

    if (!box)
        abort();
    cycle(20);
    before = kernel_memory();
    for (size_t i = 0; i < n; i++)
        build(&box[i]);
    sleep(1);
    after = kernel_memory();
    for (size_t i = 0; i < n; i++)
        box_end(&box[i]);
    show("kernel memory, KB", (double)(after - before) / (double)n);
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*measure)(size_t n);
    } figures[] = {{"times", measure_times}, {"cycles", measure_cycles},
                   {"idle", measure_idle}, {"calls", measure_calls}};
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);

    self[len > 0 ? len : 0] = 0;
    if (argc == 3 && strcmp(argv[1], "loop") == 0) {
        loop((size_t)atoll(argv[2]));
        return 0;
    }
    for (size_t i = 0; argc == 5 && i < countof(figures); i++) {
        if (strcmp(argv[1], figures[i].name) != 0 || atoll(argv[4]) < 1)
            continue;
        libexec = argv[2];
        state = argv[3];
        figures[i].measure((size_t)atoll(argv[4]));
        return 0;
    }
    fprintf(stderr, "usage: sandbox times|cycles|idle|calls LIBEXEC STATE N\n");
    return 64;
}
