/* SPDX-License-Identifier: BSD-3-Clause
 *
 * kin.h: the descendants of a process, found in /proc. Where a sandbox has no pid namespace that
 * takes its processes along, they are ended one by one.
 *
 * None gets out of sight: husk-init, and above it the broker, are child subreapers
 * (PR_SET_CHILD_SUBREAPER), so whoever loses its parent becomes a child of theirs, whatever session
 * it is in. None multiplies meanwhile: forks.h. Nothing is ever sent to a process that is not a
 * descendant: never kill(-1), which would reach every process of the user.
 */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

struct kin {
    pid_t pid, parent;
    unsigned threads;
    unsigned long long began; /* clock ticks since the machine was started */
    int spared;               /* by kin_kill() */
};

/* `top`, then all its descendants, each after its parent, as the proc(5) whose directory is `proc` lists and numbers
 * them. Caller frees. One whose parent ends while it is read may be missing. */
#define KIN_HERE (-1) /* /proc */
struct kin *kin_list(int proc, pid_t top, size_t *ret_n);

/* Kills one of such a list, and nobody who has its number by now. -1: it is gone, or we may not. */
int kin_kill_listed(int proc, const struct kin *one);

/* Whether this system lets kin_end() do its work. */
int kin_check(struct err *err);

/* Kills the descendants of the calling process, but for those in `spared` and theirs, and reaps
 * nobody. How many there were: 0 is the end of it, if none multiplies. */
size_t kin_kill(const pid_t *spared, size_t nspared);

/* Ends all children of the calling process and theirs, and reaps them. Returns when there is none,
 * or after `ms`, if that is not negative. */
void kin_end(int ms);
