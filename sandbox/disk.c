/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/disk.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include "sandbox/kin.h"
#include "sandbox/walk.h"

#define ENTRY_BYTES 1024     /* counted for each name: inodes are used up, too */
#define DISTURBED_MAX 20     /* walks in a row; then it counts as over: somebody moves it away */
#define FAR_BYTES (256 << 20) /* beyond half as much again: so much one write can do unseen */
#define STRUCK_BYTES 65536   /* no file grows beyond it: small ones are needed to go on at all */
#define CHANGE_BYTES (1 << 20) /* of free space, by anybody: then it is measured */

/*** Measuring ***/

static int
count(void *arg, const struct walk_entry *entry)
{
    *(int64_t *)arg += (int64_t)entry->st->st_blocks * 512 + ENTRY_BYTES;
    return 1;
}

int64_t
disk_measure(int dir)
{
    int64_t bytes = 0;

    return walk_tree(dir, count, &bytes) < 0 ? -1 : bytes;
}

/*** Processes ***/

/* -1: it lives, and we may not: root of a container without CAP_SYS_RESOURCE, and a sandbox that is
 * another user. */
static int
set_growth(pid_t pid, int may_grow)
{
    struct rlimit limit;

    if (prlimit(pid, RLIMIT_FSIZE, NULL, &limit) < 0)
        return errno == EPERM ? -1 : 0;
    limit.rlim_cur = may_grow || limit.rlim_max < STRUCK_BYTES ? limit.rlim_max : STRUCK_BYTES;
    (void)prlimit(pid, RLIMIT_FSIZE, &limit, NULL);
    return 0;
}

/* pid1 hands the limit on to those it starts later. */
static int
let_files_grow(pid_t pid1, int may_grow)
{
    size_t n;
    struct kin *ours = kin_list(KIN_HERE, pid1, &n);
    int r = 0;

    for (size_t i = 0; i < n; i++)
        r |= set_growth(ours[i].pid, may_grow);
    free(ours);
    return r;
}

static void
kill_all(pid_t pid1)
{
    size_t n;
    struct kin *ours = kin_list(KIN_HERE, pid1, &n);

    for (size_t i = 1; i < n; i++)
        kill(ours[i].pid, SIGKILL);
    free(ours);
}

/*** Looking ***/

void
disk_start(struct disk *d, const struct layers *layers, uint64_t limit)
{
    *d = DISK_EMPTY;
    if (layers->lock < 0 || !limit)
        return;
    d->dir = layers->lock;
    d->limit = limit;
    d->next = now_ms() + DISK_LOOK_MS;
}

void
disk_end(struct disk *d)
{
    measurer_end(&d->walker);
    *d = DISK_EMPTY;
}

int
disk_timeout(const struct disk *d, int64_t now)
{
    if (!d->limit)
        return -1;
    return d->next > now ? (int)(d->next - now) : 0;
}

static void
measure(void *with, void *into)
{
    const struct disk *d = with;
    int64_t bytes = walk_become_reader(d->pid1);

    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* a change of rights clears it */
    if (bytes == 0)
        bytes = disk_measure(d->dir);
    memcpy(into, &bytes, sizeof bytes);
}

static void
judge(struct disk *d, pid_t pid1, int64_t bytes)
{
    int over = bytes < 0 || (uint64_t)bytes > d->limit;
    int far = bytes >= 0 && (uint64_t)bytes > d->limit + d->limit / 2 + FAR_BYTES, stuck;

    d->disturbed = bytes < 0 ? d->disturbed + 1 : 0;
    if (bytes < 0 && d->disturbed < DISTURBED_MAX)
        return;
    /* Each time anew: a process may have raised it, or have begun since. */
    stuck = (over || d->struck) && let_files_grow(pid1, !over) < 0 && over;
    if (far || stuck) { /* what cannot be stopped ends */
        kill_all(pid1);
        d->killed = far ? 2 : 1;
    }
    d->struck = over;
}

static void
take_result(struct disk *d, pid_t pid1, int64_t now)
{
    int64_t bytes;
    enum measured r = measurer_take(&d->walker, &bytes, sizeof bytes);

    if (r == MEASURER_WORKS)
        return;
    /* A tree that takes long to walk is walked less often. */
    d->next = now + DISK_LOOK_MS + 10 * (now - d->walker.started);
    judge(d, pid1, r == MEASURER_SAID ? bytes : -1);
}

void
disk_tick(struct disk *d, pid_t pid1, int64_t now)
{
    struct statvfs space;
    uint64_t free;

    if (!d->limit || now < d->next)
        return;
    d->next = now + (d->walker.pid ? 20 : DISK_LOOK_MS);
    if (d->walker.pid) {
        take_result(d, pid1, now);
        return;
    }
    if (fstatvfs(d->dir, &space) < 0)
        return;
    free = (uint64_t)space.f_bfree * space.f_frsize;
    if (d->struck || d->disturbed || (free > d->free ? free - d->free : d->free - free) >= CHANGE_BYTES) {
        d->free = free;
        d->pid1 = pid1;
        measurer_start(&d->walker, now, measure, d, sizeof(int64_t));
        d->next = now + 20;
    }
}

void
disk_cause(struct disk *d, char *into, size_t size)
{
    char limit[24];

    if (d->killed)
        snprintf(into, size, "the private directories on disk were %sover their limit of %s",
                 d->killed == 2 ? "far " : "", size_format(d->limit, limit));
    d->killed = 0;
}
