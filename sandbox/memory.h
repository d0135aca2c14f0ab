/* SPDX-License-Identifier: BSD-3-Clause
 *
 * memory.h: the memory limit of a sandbox that no cgroup counts. All its processes and its file systems in
 * memory are looked at together, and what is over it is ended:
 *
 *     looked at, the oftener the nearer the limit is and while it grows
 *         over, were everything counted whole: measured, what is shared divided among who shares it
 *             over, twice in a row: the process with the largest share is killed
 *             far over: every process is killed
 *
 * An interpreter, or another process that husk itself started, is killed only if it has more than half of
 * everything: else the largest of those that cells and commands have started.
 *
 * What no process has mapped is not seen: memory behind descriptors (memfd, pipes, sockets), System V segments that
 * nobody is attached to.
 */
#pragma once

#include "sandbox/build.h"
#include "sandbox/kin.h"
#include "sandbox/measurer.h"
#include "wall/usage.h"

#define MEMORY_LOOK_MS 250 /* between two looks, while nothing grows */
#define MEMORY_OWN 16      /* processes that husk itself has started */
#define MEMORY_TREES 8     /* file systems in memory */

struct memory {
    uint64_t limit;  /* bytes; 0: nothing is looked at */
    int proc;        /* the sandbox's own proc(5), or KIN_HERE */
    pid_t pid1;      /* its number there */
    int tree[MEMORY_TREES];
    size_t ntrees;
    int files[USAGE_FILES]; /* what is told to the supervisor, as cgroups tell it; -1: nothing */
    struct {
        uint32_t slot;
        pid_t pid; /* in `proc`; 0: free */
        int killed;
    } own[MEMORY_OWN];
    int64_t next;    /* ms: the next look */
    int64_t pause;   /* ms between looks */
    uint64_t before; /* bytes, at the last look */
    uint64_t peak;   /* bytes */
    uint64_t kills;
    int over;        /* measurements in a row */
    struct kin victim; /* the last one */
    int64_t struck;  /* ms: when that was */
    struct measurer measurer;
};
#define MEMORY_EMPTY ((struct memory){.proc = KIN_HERE, .files = {-1, -1, -1}, .measurer = MEASURER_NONE})

/* Begins to look after a sandbox that was built, if no cgroup counts its memory. Before a process runs in it. */
int memory_start(const struct policy *policy, const struct limits *limits, const struct sandbox *sandbox,
                 struct memory *ret, struct err *err);
void memory_end(struct memory *m);

/* ms until memory_tick() has something to do; -1: never. */
int memory_timeout(const struct memory *m, int64_t now);
void memory_tick(struct memory *m, int64_t now);

/* What pid 1 says of the processes that husk has it start. Of one that ended: if it was this that ended it, one
 * sentence; else *into stays. *peak is the most that was seen, if anything is looked at. */
void memory_spawned(struct memory *m, uint32_t slot, pid_t pid);
void memory_exited(struct memory *m, uint32_t slot, char *into, size_t size, uint64_t *peak);

/* Takes the place of those files of limits_open_usage() that would tell nothing. */
int memory_open_usage(const struct memory *m, int fds[static USAGE_FILES], struct err *err);
