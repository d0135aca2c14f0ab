/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/kin.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

#define PAUSE_NS 1000000

/* From PID/stat of proc(5): "pid (any name) state ppid ..."; fields 20 and 22 are threads and start. */
static int
read_one(int proc, pid_t pid, struct kin *ret)
{
    char path[32], text[512], *end;
    scoped(fd_close) int fd = -1;
    struct kin k = {.pid = pid};
    ssize_t n;

    snprintf(path, sizeof path, "%s%d/stat", proc < 0 ? "/proc/" : "", (int)pid);
    fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    end = strrchr(text, ')');
    if (!end || sscanf(end + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
                                "%*d %u %*d %llu", &k.parent, &k.threads, &k.began) != 3)
        return -1; /* gone */
    *ret = k;
    return 0;
}

static struct kin *
list_all(int from, size_t *ret_n)
{
    int fd = openat(from, from < 0 ? "/proc" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *proc = fd < 0 ? NULL : fdopendir(fd);
    struct kin *all = NULL;
    size_t n = 0, room = 0;
    struct dirent *d;

    while (proc && (d = readdir(proc))) {
        if (*d->d_name < '1' || *d->d_name > '9')
            continue;
        if (n == room) {
            struct kin *bigger = realloc(all, (room = room ? 2 * room : 256) * sizeof *all);
            if (!bigger)
                break;
            all = bigger;
        }
        n += read_one(from, atoi(d->d_name), &all[n]) == 0;
    }
    if (proc)
        closedir(proc);
    *ret_n = n;
    return all;
}

static void
swap(struct kin *a, struct kin *b)
{
    struct kin kept = *a;

    *a = *b;
    *b = kept;
}

/* Ours move to the front, each after its parent, until none is found. A parent is never younger
 * than its child: one that is has got the number of a parent that has ended since that was read. */
struct kin *
kin_list(int proc, pid_t top, size_t *ret_n)
{
    size_t n, ours = 0;
    struct kin *all = list_all(proc, &n);

    for (size_t i = 0; i < n && ours == 0; i++)
        if (all[i].pid == top)
            swap(&all[ours++], &all[i]);
    for (size_t p = 0; p < ours; p++)
        for (size_t i = ours; i < n; i++)
            if (all[i].parent == all[p].pid && all[i].began >= all[p].began)
                swap(&all[ours++], &all[i]);
    *ret_n = ours;
    return all;
}

/* The descriptor is taken before the look: if what has it began when that was read, it is the one,
 * and the signal reaches nobody else. A zombie may be no more than a first thread that has ended:
 * the others go on. */
static void
kill_one(const struct kin *k)
{
    scoped(fd_close) int process = (int)syscall(SYS_pidfd_open, k->pid, 0);
    struct kin now;

    if (process >= 0 && read_one(KIN_HERE, k->pid, &now) == 0 && now.began == k->began)
        (void)syscall(SYS_pidfd_send_signal, process, SIGKILL, NULL, 0);
}

/* The directory of a process in proc(5) stands for it, also where numbers are those of a namespace that we are
 * not in. */
int
kin_kill_listed(int proc, const struct kin *k)
{
    char path[32];
    scoped(fd_close) int process = -1;
    struct kin now;

    snprintf(path, sizeof path, "%s%d", proc < 0 ? "/proc/" : "", (int)k->pid);
    process = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (process < 0 || read_one(proc, k->pid, &now) < 0 || now.began != k->began)
        return -1;
    return (int)syscall(SYS_pidfd_send_signal, process, SIGKILL, NULL, 0);
}

int
kin_check(struct err *err)
{
    scoped(fd_close) int process = (int)syscall(SYS_pidfd_open, getpid(), 0);
    struct kin self;

    if (process < 0 || syscall(SYS_pidfd_send_signal, process, 0, NULL, 0) < 0)
        return err_errno(err, "signal a process by descriptor");
    if (read_one(KIN_HERE, getpid(), &self) < 0 || self.parent != getppid())
        return err_set(err, ENOENT, "'/proc' does not show the processes of here");
    return 0;
}

/* Whether it, or the parent that stands before it in the list, is spared. */
static int
is_spared(const struct kin *list, size_t i, const pid_t *spared, size_t nspared)
{
    for (size_t k = 0; k < nspared; k++)
        if (list[i].pid == spared[k])
            return 1;
    for (size_t k = 1; k < i; k++)
        if (list[k].pid == list[i].parent)
            return list[k].spared;
    return 0;
}

size_t
kin_kill(const pid_t *spared, size_t nspared)
{
    size_t n, killed = 0;
    struct kin *ours = kin_list(KIN_HERE, getpid(), &n);

    for (size_t i = 1; i < n; i++) {
        ours[i].spared = nspared && is_spared(ours, i, spared, nspared);
        if (ours[i].spared)
            continue;
        kill_one(&ours[i]);
        killed++;
    }
    free(ours);
    return killed;
}

void
kin_end(int ms)
{
    const struct timespec pause = {.tv_nsec = PAUSE_NS};
    int64_t end = now_ms() + ms;

    while (ms < 0 || now_ms() < end) {
        pid_t pid;
        (void)kin_kill(NULL, 0);
        while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (pid < 0 && errno == ECHILD)
            return;
        nanosleep(&pause, NULL);
    }
}
