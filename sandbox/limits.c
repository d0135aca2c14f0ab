/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/limits.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Groups are named husk-PID-ID: the broker's pid tells whether somebody still owns it. */
#define GROUP_PREFIX "husk-"

/* One line of /proc/self/cgroup, "4:memory:/user" or "0::/user": where this process is. */
static int
own_group(const char *controller, const char *mounted, char *into, size_t size)
{
    scoped(buf_release) struct buf text = {0};
    char *line, *rest;

    if (file_read(AT_FDCWD, "/proc/self/cgroup", 1 << 16, &text) < 0 || !buf_string(&text))
        return -1;
    rest = (char *)text.data;
    while ((line = strsep(&rest, "\n"))) {
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        names++;
        if (*controller ? strcmp(names, controller) != 0 : *names != 0)
            continue;
        return snprintf(into, size, "%s%s", mounted, strcmp(path, "/") == 0 ? "" : path) <
                       (int)size ? 0 : -1;
    }
    errno = ENOENT;
    return -1;
}

static void
sweep_stale(const char *parent)
{
    DIR *dir = opendir(parent);
    struct dirent *d;

    if (!dir)
        return;
    while ((d = readdir(dir))) {
        int pid;
        if (sscanf(d->d_name, GROUP_PREFIX "%d-", &pid) == 1 && pid > 0 &&
            kill(pid, 0) < 0 && errno == ESRCH)
            unlinkat(dirfd(dir), d->d_name, AT_REMOVEDIR); /* fails, rightly, if in use */
    }
    closedir(dir);
}

static int
make_group(struct limits *l, int index, const char *parent, const char *id)
{
    int len = snprintf(l->path[index], sizeof l->path[index], "%s/" GROUP_PREFIX "%d-%s", parent,
                       (int)getpid(), id);

    if (len >= (int)sizeof l->path[index])
        return -1;
    sweep_stale(parent);
    if (mkdir(l->path[index], 0755) < 0)
        return -1;
    l->group[index] = open(l->path[index], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return l->group[index] < 0 ? -1 : 0;
}

static int
write_number(int dir, const char *name, uint64_t value)
{
    char text[32];

    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    return file_write(dir, name, text);
}

static uint64_t
read_number(int dir, const char *name)
{
    scoped(buf_release) struct buf text = {0};

    if (file_read(dir, name, 4096, &text) < 0 || !buf_string(&text))
        return 0;
    return strtoull((char *)text.data, NULL, 10);
}

static int
make_cgroup2(struct limits *l, const struct policy *p)
{
    static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    char parent[400], controllers[480];

    for (size_t i = 0; i < countof(mounts); i++) {
        scoped(buf_release) struct buf have = {0};
        snprintf(controllers, sizeof controllers, "%s/cgroup.controllers", mounts[i]);
        if (access(controllers, F_OK) < 0 || own_group("", mounts[i], parent, sizeof parent) < 0)
            continue;
        /* Only what the parent hands down counts: try, and look. */
        snprintf(controllers, sizeof controllers, "%s/cgroup.subtree_control", parent);
        (void)file_write(AT_FDCWD, controllers, "+memory +pids");
        if (file_read(AT_FDCWD, controllers, 4096, &have) < 0 || !buf_string(&have) ||
            !strstr((char *)have.data, "memory") || !strstr((char *)have.data, "pids"))
            continue;
        if (make_group(l, 0, parent, p->id) < 0 ||
            write_number(l->group[0], "memory.max", p->memory) < 0 ||
            write_number(l->group[0], "pids.max", p->pids) < 0) {
            limits_release(l);
            continue;
        }
        (void)file_write(l->group[0], "memory.swap.max", "0"); /* absent without swap */
        l->kind = LIMITS_CGROUP2;
        return 0;
    }
    return -1;
}

static int
make_cgroup1(struct limits *l, const struct policy *p)
{
    char parent[400];

    if (own_group("memory", "/sys/fs/cgroup/memory", parent, sizeof parent) < 0 ||
        make_group(l, 0, parent, p->id) < 0 ||
        write_number(l->group[0], "memory.limit_in_bytes", p->memory) < 0 ||
        own_group("pids", "/sys/fs/cgroup/pids", parent, sizeof parent) < 0 ||
        make_group(l, 1, parent, p->id) < 0 ||
        write_number(l->group[1], "pids.max", p->pids) < 0) {
        limits_release(l);
        return -1;
    }
    (void)write_number(l->group[0], "memory.memsw.limit_in_bytes", p->memory); /* likewise */
    l->kind = LIMITS_CGROUP1;
    return 0;
}

int
limits_make(const struct policy *p, struct limits *ret, struct err *err)
{
    struct limits l = LIMITS_EMPTY;

    if (make_cgroup2(&l, p) < 0 && make_cgroup1(&l, p) < 0)
        l.kind = LIMITS_PROCESS;
    l.memory = p->memory;
    l.pids = p->pids;
    *ret = l;
    return 0;
}

int
limits_enter(const struct limits *l, pid_t pid, struct err *err)
{
    for (int i = 0; i < LIMITS_GROUPS; i++)
        if (l->group[i] >= 0 && write_number(l->group[i], "cgroup.procs", (uint64_t)pid) < 0)
            return err_errno(err, "enter '%s'", l->path[i]);
    return 0;
}

void
limits_release(struct limits *l)
{
    struct timespec pause = {.tv_nsec = 2000000};

    for (int i = 0; i < LIMITS_GROUPS; i++) {
        if (l->group[i] < 0)
            continue;
        fd_close(&l->group[i]);
        /* The last process may still be on its way out: at most half a second. */
        for (int tries = 0; rmdir(l->path[i]) < 0 && errno == EBUSY && tries < 250; tries++)
            nanosleep(&pause, NULL);
    }
}

void
limits_describe(const struct limits *l, char *into, size_t size)
{
    static const char *const kinds[] = {
        [LIMITS_CGROUP2] = "cgroup v2", [LIMITS_CGROUP1] = "cgroup v1",
        [LIMITS_PROCESS] = "each process: no cgroup may be made here"};
    char memory[24];

    snprintf(into, size, "memory %s (%s), %llu processes", size_format(l->memory, memory),
             kinds[l->kind], (unsigned long long)l->pids);
}

static uint64_t
count_oom_kills(const struct limits *l)
{
    scoped(buf_release) struct buf text = {0};
    const char *file = l->kind == LIMITS_CGROUP2 ? "memory.events" : "memory.oom_control";
    const char *at;

    if (l->group[0] < 0 || file_read(l->group[0], file, 4096, &text) < 0 || !buf_string(&text))
        return 0;
    at = strstr((char *)text.data, "oom_kill ");
    return at ? strtoull(at + 9, NULL, 10) : 0;
}

void
limits_cause(struct limits *l, int status, char *into, size_t size, uint64_t *peak)
{
    uint64_t kills = count_oom_kills(l);
    char limit[24], most[24];

    *into = 0;
    *peak = l->group[0] < 0 ? 0
                            : read_number(l->group[0], l->kind == LIMITS_CGROUP2
                                                           ? "memory.peak"
                                                           : "memory.max_usage_in_bytes");
    if (kills > l->oom_kills && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        snprintf(into, size, "the memory limit of %s was reached (peak %s)",
                 size_format(l->memory, limit), size_format(*peak ? *peak : l->memory, most));
    else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        snprintf(into, size, "it made a system call that no sandboxed process may make");
    l->oom_kills = kills;
}

static int
limit(int resource, uint64_t soft, uint64_t hard)
{
    struct rlimit now, want;

    if (getrlimit(resource, &now) < 0)
        return -1;
    /* What husk itself was given is the most it can give. */
    want.rlim_max = hard < now.rlim_max ? hard : now.rlim_max;
    want.rlim_cur = soft < want.rlim_max ? soft : want.rlim_max;
    return setrlimit(resource, &want);
}

int
limits_process(const struct policy *p, enum limits_kind kind, struct err *err)
{
    const struct {
        const char *name;
        int resource;
        uint64_t soft, hard;
    } all[] = {
        /* 1, not 0: a core handler behind a pipe is not stopped by 0 (core(5)). */
        {"core", RLIMIT_CORE, 1, 1},
        {"processes", RLIMIT_NPROC, p->pids, p->pids},
        {"open files", RLIMIT_NOFILE, p->files < 1024 ? p->files : 1024, p->files},
        {"locked memory", RLIMIT_MEMLOCK, 8 << 20, 8 << 20},
        {"message queues", RLIMIT_MSGQUEUE, 819200, 819200},
        {"real-time priority", RLIMIT_RTPRIO, 0, 0},
        {"pending signals", RLIMIT_SIGPENDING, 4096, 4096},
        {"data", RLIMIT_DATA, p->memory, p->memory},
    };

    for (size_t i = 0; i < countof(all); i++) {
        if (all[i].resource == RLIMIT_DATA && kind != LIMITS_PROCESS)
            continue;
        if (limit(all[i].resource, all[i].soft, all[i].hard) < 0)
            return err_errno(err, "limit %s", all[i].name);
    }
    return 0;
}
