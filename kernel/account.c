/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/account.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "kernel/kernel.h"

#define PROCESSES_MAX 4096
#define EXACT_MAX 16 /* processes whose shared memory is divided: that takes a walk through each */

struct family {
    pid_t pid[PROCESSES_MAX];
    size_t n;
    uint64_t ticks;  /* of the processors, with children that have ended */
    uint64_t memory; /* bytes */
};

/* The text of a file of proc(5), or "". */
static const char *
look(const char *path, char *into, size_t size)
{
    scoped(fd_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, into, size - 1);

    into[n > 0 ? n : 0] = 0;
    return into;
}

/*** The processes ***/

static void
add_children(struct family *f, pid_t pid, const char *thread)
{
    char path[96], text[16384], *at = text, *end;

    snprintf(path, sizeof path, "/proc/%d/task/%.16s/children", (int)pid, thread);
    look(path, text, sizeof text);
    for (long child; f->n < PROCESSES_MAX && (child = strtol(at, &end, 10)) > 0 && end != at; at = end)
        f->pid[f->n++] = (pid_t)child;
}

static void
add_children_of_threads(struct family *f, pid_t pid)
{
    char path[48];
    struct dirent *e;
    DIR *threads;

    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    threads = opendir(path);
    while (threads && (e = readdir(threads)))
        if (*e->d_name != '.')
            add_children(f, pid, e->d_name);
    if (threads)
        closedir(threads);
}

/* Fields of stat, counted from the state: 3 in proc(5). */
static void
count(struct family *f, pid_t pid, int exactly)
{
    unsigned long long utime, stime, pss = 0;
    long long cutime, cstime, resident;
    char path[48], text[4096], *at;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    at = strrchr(look(path, text, sizeof text), ')'); /* the name before it may hold anything */
    if (!at || sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %lld %lld %*d %*d "
                              "%*d %*d %*u %*u %lld", &utime, &stime, &cutime, &cstime, &resident) != 5)
        return;
    f->ticks += utime + stime + (uint64_t)(cutime + cstime);
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    if (exactly && (at = strstr(look(path, text, sizeof text), "\nPss:")))
        pss = strtoull(at + 5, NULL, 10) << 10;
    f->memory += pss ? pss : (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static const struct family *
look_at_family(void)
{
    static struct family f; /* no thread but this one asks */

    f.n = 1;
    f.pid[0] = getpid();
    f.ticks = f.memory = 0;
    for (size_t i = 0; i < f.n; i++) {
        add_children_of_threads(&f, f.pid[i]);
        count(&f, f.pid[i], i < EXACT_MAX);
    }
    return &f;
}

struct account_total
account_total(void)
{
    const struct family *f = look_at_family();

    return (struct account_total){f->ticks * 1000 / (uint64_t)sysconf(_SC_CLK_TCK), f->memory, f->n};
}

/*** The machine ***/

static void
look_at_host(uint64_t *busy, uint64_t *all)
{
    unsigned long long t[8] = {0}; /* user nice system idle iowait irq softirq steal */
    char text[512];

    *busy = *all = 0;
    if (sscanf(look("/proc/stat", text, sizeof text), "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0],
               &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]) < 4)
        return;
    for (size_t i = 0; i < countof(t); i++)
        *all += t[i];
    *busy = *all - t[3] - t[4];
}

/* Bytes of a row of /proc/meminfo; 0 if there is none. */
static uint64_t
row(const char *text, const char *name)
{
    const char *at = strstr(text, name);

    return at ? strtoull(at + strlen(name), NULL, 10) << 10 : 0;
}

static int
add_host_memory(struct buf *c)
{
    static const struct {
        const char *name, *row;
    } rows[] = {{"total", "MemTotal:"},     {"available", "MemAvailable:"}, {"free", "MemFree:"},
                {"active", "Active:"},      {"inactive", "Inactive:"},      {"buffers", "Buffers:"},
                {"cached", "\nCached:"},    {"shared", "Shmem:"},           {"slab", "Slab:"}};
    char text[8192];
    uint64_t total, used;

    look("/proc/meminfo", text, sizeof text);
    total = row(text, "MemTotal:");
    used = total - row(text, "MemAvailable:");
    if (buf_printf(c, ",\"host_virtual_memory\":{\"used\":%llu,\"percent\":%.1f", (unsigned long long)used,
                   total ? 100.0 * (double)used / (double)total : 0) < 0)
        return -1;
    for (size_t i = 0; i < countof(rows); i++)
        if (buf_printf(c, ",\"%s\":%llu", rows[i].name, (unsigned long long)row(text, rows[i].row)) < 0)
            return -1;
    return buf_text(c, "}");
}

/*** The answer ***/

static double
percent(uint64_t part, uint64_t before, double all)
{
    return all > 0 && part > before ? 100.0 * (double)(part - before) / all : 0;
}

static int
add_sandbox(const struct kernel *k, struct buf *c)
{
    struct usage u = usage_read(k->box.usage);

    if (buf_printf(c, ",\"husk\":{\"memory_limit\":%llu", (unsigned long long)k->options.memory) < 0 ||
        (u.peak && buf_printf(c, ",\"memory_peak\":%llu", (unsigned long long)u.peak) < 0))
        return -1;
    return buf_text(c, "}}");
}

void
answer_usage(struct kernel *k, struct request *r)
{
    scoped(buf_release) struct buf c = {0};
    struct account *a = &k->account;
    int64_t now = now_ms();
    const struct family *family;
    double ticks = (double)sysconf(_SC_CLK_TCK) * (double)(now - (a->asked ? a->asked : a->began)) / 1e3;
    char host[256] = "";
    uint64_t busy, all;

    gethostname(host, sizeof host - 1);
    family = look_at_family();
    look_at_host(&busy, &all);
    if (buf_text(&c, "{\"status\":\"ok\",\"hostname\":") < 0 || json_quote(bytes_of(host), &c) < 0 ||
        buf_printf(&c, ",\"pid\":%d,\"kernel_cpu\":%.1f,\"kernel_memory\":%llu,\"cpu_count\":%ld",
                   (int)getpid(), percent(family->ticks, a->ticks, ticks),
                   (unsigned long long)family->memory, sysconf(_SC_NPROCESSORS_ONLN)) < 0 ||
        (a->asked && buf_printf(&c, ",\"host_cpu_percent\":%.1f",
                                percent(busy, a->host_busy, (double)(all - a->host_all))) < 0) ||
        add_host_memory(&c) < 0 || add_sandbox(k, &c) < 0)
        abort();
    *a = (struct account){a->began, now, family->ticks, busy, all};
    reply_content(k, r, (struct bytes){c.data, c.len}, "ok");
}
