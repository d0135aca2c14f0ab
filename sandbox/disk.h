/* SPDX-License-Identifier: BSD-3-Clause
 *
 * disk.h: the disk limit of a sandbox: its private directories together. No file system gives an
 * ordinary user a quota for a directory, so it is looked at, and what is over it is stopped:
 *
 *     free space changed --> measured --> over: large files may not grow (RLIMIT_FSIZE: EFBIG)
 *                                         far over: every process is killed
 *                                         under again: they may grow again
 *
 * Measuring is done by a process of its own (measurer.h, walk.h).
 */
#pragma once

#include "sandbox/layers.h"
#include "sandbox/measurer.h"

#define DISK_LOOK_MS 500 /* between two looks at the free space */

struct disk {
    uint64_t limit;  /* bytes; 0: none */
    int dir;         /* the layer, borrowed, or -1 */
    int64_t next;    /* ms: the next look */
    uint64_t free;   /* bytes of the file system, at the last look */
    pid_t pid1;      /* of the sandbox, at the last look */
    struct measurer walker;
    int disturbed;   /* walks in a row that were ended by a change */
    int struck;      /* large files may not grow */
    int killed;      /* every process was ended, since the last disk_cause(): 2: far over; 1: over, and
                        nothing less could be done */
};
#define DISK_EMPTY ((struct disk){.dir = -1, .walker = MEASURER_NONE})

void disk_start(struct disk *d, const struct layers *layers, uint64_t limit);
void disk_end(struct disk *d);

/* ms until disk_tick() has something to do; -1: never. */
int disk_timeout(const struct disk *d, int64_t now);

/* Looks, measures, and takes or gives back what the files of all processes below `pid1` may grow. */
void disk_tick(struct disk *d, pid_t pid1, int64_t now);

/* If it was this that ended a process, one sentence that says so; else *into stays. */
void disk_cause(struct disk *d, char *into, size_t size);

/* Bytes that the tree at `dir` uses, with 1 KiB for each entry; -1 if it changed on the way. */
int64_t disk_measure(int dir);
