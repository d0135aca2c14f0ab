/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/scope.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/base.h"

#define LEAF "husk-leaf"     /* not of limits.c, whose names have a number */
#define TRIES 20             /* something may start in the group while it is emptied */
#define PATIENCE_MS 10000    /* for systemd */

/* One line of /proc/PID/cgroup, "4:memory:/user" or "0::/user". */
int
scope_of(const char *process, const char *controller, const char *mounted, char *into, size_t size)
{
    scoped(buf_release) struct buf text = {0};
    char *line, *rest, file[40];

    snprintf(file, sizeof file, "/proc/%.20s/cgroup", process);
    if (file_read(AT_FDCWD, file, 1 << 16, &text) < 0 || !buf_string(&text))
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

int
scope_own(const char *controller, const char *mounted, char *into, size_t size)
{
    return scope_of("self", controller, mounted, into, size);
}

static int
open_group(const char *path)
{
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Only what the group hands down counts: try, and look. */
static int
hands_down(int group, int cpu)
{
    scoped(buf_release) struct buf have = {0};

    (void)file_write(group, "cgroup.subtree_control", cpu ? "+memory +pids +cpu" : "+memory +pids");
    return file_read(group, "cgroup.subtree_control", 4096, &have) == 0 && buf_string(&have) &&
           strstr((char *)have.data, "memory") && strstr((char *)have.data, "pids") &&
           (!cpu || strstr((char *)have.data, "cpu"));
}

static int
is_delegated(int group)
{
    static const char *const names[] = {"user.delegate", "trusted.delegate"};
    char value[8];

    for (size_t i = 0; i < countof(names); i++)
        if (fgetxattr(group, names[i], value, sizeof value) > 0 && *value == '1')
            return 1;
    return 0;
}

static int
systemd_runs(void)
{
    return access("/run/systemd/system", F_OK) == 0; /* sd_booted(3) */
}

/* Of a leaf that a broker made, the group above it. */
static void
leave_leaf(char *path)
{
    char *name = strrchr(path, '/');

    if (name && strcmp(name, "/" LEAF) == 0)
        *name = 0;
}

/* Moves all that is in it into the leaf, until it hands down. */
static int
divide(int group, int cpu)
{
    scoped(fd_close) int leaf = -1;

    if (mkdirat(group, LEAF, 0755) < 0 && errno != EEXIST)
        return -1;
    leaf = openat(group, LEAF, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; leaf >= 0 && i < TRIES; i++) {
        scoped(buf_release) struct buf pids = {0};
        char *pid, *rest;
        if (hands_down(group, cpu))
            return 0;
        if (file_read(group, "cgroup.procs", 1 << 20, &pids) < 0 || !buf_string(&pids))
            return -1;
        rest = (char *)pids.data;
        while ((pid = strsep(&rest, "\n")))
            if (*pid)
                (void)file_write(leaf, "cgroup.procs", pid); /* it may have ended */
    }
    return -1;
}

/* The group that this process is in, divided if that is ours to do. */
static int
use_own(const char *mounted, int cpu, int made_for_us, char path[static SCOPE_PATH])
{
    scoped(fd_close) int group = -1;
    int ours;

    if (scope_own("", mounted, path, SCOPE_PATH) < 0)
        return -1;
    leave_leaf(path);
    group = open_group(path);
    if (group < 0)
        return -1;
    ours = made_for_us || is_delegated(group) || (!systemd_runs() && strcmp(path, mounted) == 0);
    return hands_down(group, cpu) || (ours && divide(group, cpu) == 0) ? 0 : -1;
}

/*** systemd ***/

static void __attribute__((noreturn))
run_program(const char *program, const char *name, int out)
{
    char pid[24];

    snprintf(pid, sizeof pid, "%d", (int)getppid());
    if (dup2(out, 1) >= 0)
        execl(program, program, pid, name, (char *)NULL);
    dprintf(out, "%s: %s", program, strerror(errno));
    _exit(1);
}

/* What it printed; nothing is good news. */
static int
hear_program(int from, char why[static ERR_TEXT])
{
    struct pollfd wait = {.fd = from, .events = POLLIN};
    int64_t end = now_ms() + PATIENCE_MS;
    size_t len = 0;
    ssize_t n = -1;

    while (now_ms() < end && len < ERR_TEXT - 1) {
        if (poll(&wait, 1, (int)(end - now_ms())) <= 0)
            continue;
        n = read(from, why + len, ERR_TEXT - 1 - len);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    why[len] = 0;
    if (n != 0 && !len)
        snprintf(why, ERR_TEXT, "systemd does not answer");
    return *why ? -1 : 0;
}

static int
ask_systemd(const char *program, const char *id, char why[static ERR_TEXT])
{
    char name[256];
    int ends[2], r;
    pid_t pid;

    snprintf(name, sizeof name, "husk-%d-%s.scope", (int)getpid(), id);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    pid = fork();
    if (pid == 0)
        run_program(program, name, ends[1]);
    fd_close(&ends[1]);
    r = pid < 0 ? -1 : hear_program(ends[0], why);
    fd_close(&ends[0]);
    pid_end(&pid);
    return r;
}

int
scope_find(const char *program, const char *id, int cpu, char parent[static SCOPE_PATH], char why[static ERR_TEXT])
{
    static const char *const mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};

    *why = 0;
    for (size_t i = 0; i < countof(mounts); i++) {
        scoped(buf_release) struct buf have = {0};
        scoped(fd_close) int root = open_group(mounts[i]);
        if (root < 0 || file_read(root, "cgroup.controllers", 4096, &have) < 0 || !buf_string(&have) ||
            !strstr((char *)have.data, "memory"))
            continue;
        if (use_own(mounts[i], cpu, 0, parent) == 0)
            return 0;
        if (systemd_runs() && ask_systemd(program, id, why) == 0 && use_own(mounts[i], cpu, 1, parent) == 0)
            return 0;
    }
    return -1;
}
