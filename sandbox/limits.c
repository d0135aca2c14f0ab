/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/limits.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sandbox/scope.h"

/* Groups are named husk-PID-ID, for people. */
#define GROUP_PREFIX "husk-"
#define CPU_PERIOD_US 100000 /* what the kernel counts the CPU limit by, and its own default */

/* A group belongs to whoever holds the lock on its directory, also where brokers cannot see each
 * other's processes (two containers with one /sys/fs/cgroup). */
static int
open_locked(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
        fd_close(&fd);
    return fd;
}

/* What brokers that were killed left. */
static void
sweep_stale(const char *parent)
{
    DIR *dir = opendir(parent);
    struct dirent *d;

    if (!dir)
        return;
    while ((d = readdir(dir)))
        if (strncmp(d->d_name, GROUP_PREFIX, strlen(GROUP_PREFIX)) == 0) {
            scoped(fd_close) int fd = open_locked(dirfd(dir), d->d_name);
            if (fd >= 0)
                unlinkat(dirfd(dir), d->d_name, AT_REMOVEDIR); /* fails, rightly, if in use */
        }
    closedir(dir);
}

static int
make_group(struct limits *l, int index, const char *parent, const char *id)
{
    char *path = l->path[index];
    int len = snprintf(path, sizeof l->path[index], "%s/" GROUP_PREFIX "%d-%s", parent, (int)getpid(), id);

    if (len >= (int)sizeof l->path[index])
        return -1;
    sweep_stale(parent);
    /* Somebody may sweep it away before it is locked; then once more. */
    for (int tries = 0; tries < 10; tries++) {
        int fd;
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
            return -1;
        fd = open_locked(AT_FDCWD, path);
        if (fd >= 0 && access(path, F_OK) == 0) {
            l->group[index] = fd;
            return 0;
        }
        fd_close(&fd);
    }
    return -1;
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
write_cpu_max(int dir, uint64_t cpus)
{
    char text[64];

    snprintf(text, sizeof text, "%llu %d", (unsigned long long)cpus * (CPU_PERIOD_US / 1000),
             CPU_PERIOD_US);
    return file_write(dir, "cpu.max", text);
}

static int
make_cgroup2(struct limits *l, const struct policy *p, const char *scope_program)
{
    char parent[SCOPE_PATH];

    if (scope_find(scope_program, p->id, p->cpus != 0, parent, l->why) < 0)
        return -1;
    if (make_group(l, GROUP_MEMORY, parent, p->id) < 0 ||
        write_number(l->group[GROUP_MEMORY], "memory.max", p->memory) < 0 ||
        write_number(l->group[GROUP_MEMORY], "pids.max", p->pids) < 0 ||
        (p->cpus && write_cpu_max(l->group[GROUP_MEMORY], p->cpus) < 0)) {
        snprintf(l->why, sizeof l->why, "'%s': %s", parent, strerror(errno));
        limits_release(l);
        return -1;
    }
    (void)file_write(l->group[GROUP_MEMORY], "memory.swap.max", "0"); /* absent without swap */
    l->kind = LIMITS_CGROUP2;
    return 0;
}

static int
make_cgroup1(struct limits *l, const struct policy *p)
{
    char parent[400];

    if (scope_own("memory", "/sys/fs/cgroup/memory", parent, sizeof parent) < 0 ||
        make_group(l, GROUP_MEMORY, parent, p->id) < 0 ||
        write_number(l->group[GROUP_MEMORY], "memory.limit_in_bytes", p->memory) < 0 ||
        scope_own("pids", "/sys/fs/cgroup/pids", parent, sizeof parent) < 0 ||
        make_group(l, GROUP_PIDS, parent, p->id) < 0 ||
        write_number(l->group[GROUP_PIDS], "pids.max", p->pids) < 0 ||
        (p->cpus && (scope_own("cpu", "/sys/fs/cgroup/cpu", parent, sizeof parent) < 0 ||
                     make_group(l, GROUP_CPU, parent, p->id) < 0 ||
                     write_number(l->group[GROUP_CPU], "cpu.cfs_period_us", CPU_PERIOD_US) < 0 ||
                     write_number(l->group[GROUP_CPU], "cpu.cfs_quota_us",
                                  p->cpus * (CPU_PERIOD_US / 1000)) < 0))) {
        limits_release(l);
        return -1;
    }
    (void)write_number(l->group[GROUP_MEMORY], "memory.memsw.limit_in_bytes", p->memory); /* likewise */
    l->kind = LIMITS_CGROUP1;
    return 0;
}

int
limits_make(const struct policy *p, const char *scope_program, struct limits *ret, struct err *err)
{
    struct limits l = LIMITS_EMPTY;

    if (make_cgroup2(&l, p, scope_program) < 0 && make_cgroup1(&l, p) < 0)
        l.kind = LIMITS_SAMPLED;
    if (l.kind == LIMITS_SAMPLED && p->cpus)
        return err_set(err, ENOTSUP, "a CPU limit needs a cgroup, and none with a CPU controller may "
                                     "be made here%s%s; try: systemd-run --user --scope -p Delegate=yes",
                       *l.why ? ": " : "", l.why);
    l.memory = p->memory;
    l.pids = p->level == LEVEL_NONE && l.kind == LIMITS_SAMPLED ? 0 : p->pids; /* nobody counts them then */
    l.cpus = p->cpus;
    l.disk = p->layers ? p->disk : 0;
    *ret = l;
    return 0;
}

static int
open_with(const char *path, const char *file)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0 && faccessat(fd, file, F_OK, 0) < 0)
        fd_close(&fd);
    return fd;
}

void
limits_adopt(const struct policy *p, pid_t pid, struct limits *ret)
{
    static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    struct limits l = LIMITS_EMPTY;
    char process[24], path[SCOPE_PATH];

    snprintf(process, sizeof process, "%d", (int)pid);
    l.kind = LIMITS_ENGINE;
    for (size_t i = 0; l.group[GROUP_MEMORY] < 0 && i < countof(mounts); i++)
        if (scope_of(process, "", mounts[i], path, sizeof path) == 0 &&
            (l.group[GROUP_MEMORY] = open_with(path, "memory.max")) >= 0)
            l.kind = LIMITS_CGROUP2;
    if (l.group[GROUP_MEMORY] < 0 &&
        scope_of(process, "memory", "/sys/fs/cgroup/memory", path, sizeof path) == 0 &&
        (l.group[GROUP_MEMORY] = open_with(path, "memory.limit_in_bytes")) >= 0) {
        l.kind = LIMITS_CGROUP1;
        if (scope_of(process, "cpu", "/sys/fs/cgroup/cpu", path, sizeof path) == 0)
            l.group[GROUP_CPU] = open_with(path, "cpu.stat");
    }
    l.memory = p->memory;
    l.pids = p->pids;
    l.cpus = p->cpus;
    l.disk = p->profile != PROFILE_IMAGE ? p->disk : 0;
    *ret = l;
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
        [LIMITS_CGROUP2] = "enforced by cgroup v2", [LIMITS_CGROUP1] = "enforced by cgroup v1",
        [LIMITS_SAMPLED] = "sampled, and of each process: no cgroup may be made here",
        [LIMITS_ENGINE] = "enforced by the container engine"};
    char memory[24], disk[24], pids[40] = "", cpus[40] = "", on_disk[64] = "";

    if (l->pids)
        snprintf(pids, sizeof pids, ", %llu processes", (unsigned long long)l->pids);

    if (l->cpus)
        snprintf(cpus, sizeof cpus, ", %g CPUs", (double)l->cpus / 1000);
    if (l->disk)
        snprintf(on_disk, sizeof on_disk, ", disk %s (sampled)", size_format(l->disk, disk));
    snprintf(into, size, "memory %s (%s)%s%s%s", size_format(l->memory, memory), kinds[l->kind], pids, cpus,
             on_disk);
}

const char *
limits_kind_name(const struct limits *l)
{
    return l->kind == LIMITS_SAMPLED ? "sampled" : "enforced";
}

static int
open_or_null(int dir, const char *name, int flags)
{
    int fd = dir < 0 ? -1 : openat(dir, name, flags | O_CLOEXEC);

    if (fd < 0 && dir >= 0 && flags == O_RDWR) /* cannot be reset on this kernel */
        fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? open("/dev/null", O_RDONLY | O_CLOEXEC) : fd;
}

int
limits_open_usage(const struct limits *l, int fds[static USAGE_FILES], struct err *err)
{
    int one = l->kind == LIMITS_CGROUP2;

    fds[USAGE_PEAK] = open_or_null(l->group[GROUP_MEMORY],
                                   one ? "memory.peak" : "memory.max_usage_in_bytes", O_RDWR);
    fds[USAGE_CPU] = open_or_null(l->cpus ? l->group[one ? 0 : GROUP_CPU] : -1, "cpu.stat", O_RDONLY);
    fds[USAGE_OOM] = open_or_null(l->group[GROUP_MEMORY], one ? "memory.events" : "memory.oom_control",
                                  O_RDONLY);
    return fds[USAGE_PEAK] < 0 || fds[USAGE_CPU] < 0 || fds[USAGE_OOM] < 0 ? err_errno(err, "open '/dev/null'") : 0;
}

static uint64_t
count_oom_kills(const struct limits *l)
{
    scoped(buf_release) struct buf text = {0};
    const char *file = l->kind == LIMITS_CGROUP2 ? "memory.events" : "memory.oom_control";
    const char *at;

    if (l->group[GROUP_MEMORY] < 0 || file_read(l->group[GROUP_MEMORY], file, 4096, &text) < 0 || !buf_string(&text))
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
    *peak = l->group[GROUP_MEMORY] < 0 ? 0
                            : read_number(l->group[GROUP_MEMORY], l->kind == LIMITS_CGROUP2
                                                           ? "memory.peak"
                                                           : "memory.max_usage_in_bytes");
    if (kills > l->oom_kills && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        snprintf(into, size, LIMITS_MEMORY_CAUSE,
                 size_format(l->memory, limit), size_format(*peak ? *peak : l->memory, most));
    else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        snprintf(into, size,
                 "signal %d (SIGSYS): it made a system call of another ABI than this machine's own, "
                 "which no sandboxed process may use, or was sent that signal",
                 SIGSYS);
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

size_t
limits_resources(const struct policy *p, enum limits_kind kind,
                 struct limits_resource ret[static LIMITS_RESOURCES])
{
    const struct limits_resource all[LIMITS_RESOURCES] = {
        /* 1, not 0: a core handler behind a pipe is not stopped by 0 (core(5)). */
        {"core", RLIMIT_CORE, 1, 1},
        {"processes", RLIMIT_NPROC, p->pids, p->pids},
        {"open files", RLIMIT_NOFILE, p->files < 1024 ? p->files : 1024, p->files},
        {"locked memory", RLIMIT_MEMLOCK, 8 << 20, 8 << 20},
        {"message queues", RLIMIT_MSGQUEUE, 819200, 819200},
        {"real-time priority", RLIMIT_RTPRIO, 0, 0},
        {"pending signals", RLIMIT_SIGPENDING, 4096, 4096},
        {"data", RLIMIT_DATA, p->memory, p->memory},
        /* Of one file. A working directory that is shared is not the sandbox's to be counted. */
        {"file size", RLIMIT_FSIZE, p->disk, p->disk},
    };
    size_t n = 0;

    for (size_t i = 0; i < countof(all); i++) {
        int resource = all[i].resource;
        /* Without a user namespace these would count all that the user runs. Instead of processes
         * forks.h counts, or the container's group. */
        if ((resource == RLIMIT_NPROC && policy_has_user(p)) ||
            ((resource == RLIMIT_SIGPENDING || resource == RLIMIT_MSGQUEUE) && p->container) ||
            (resource == RLIMIT_DATA && kind != LIMITS_SAMPLED) ||
            (resource == RLIMIT_FSIZE && (!p->disk || !p->private_workdir)))
            continue;
        ret[n++] = all[i];
    }
    return n;
}

int
limits_process(const struct policy *p, enum limits_kind kind, struct err *err)
{
    struct limits_resource r[LIMITS_RESOURCES];
    size_t n = limits_resources(p, kind, r);

    for (size_t i = 0; i < n; i++)
        if (limit(r[i].resource, r[i].soft, r[i].hard) < 0)
            return err_errno(err, "limit %s", r[i].name);
    return 0;
}
