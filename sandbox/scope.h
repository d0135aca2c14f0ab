/* SPDX-License-Identifier: BSD-3-Clause
 *
 * scope.h: a cgroup v2 in which groups with limits may be made. A group hands controllers down only while
 * it holds no process itself (cgroups(7), "no internal processes"), so the group that this process is in is
 * divided: all that is in it moves into one leaf. That is done only to a group which is husk's own to divide:
 *
 *   - one that already hands them down, or whose leaf an earlier broker made: nothing is to be done;
 *   - one that systemd has delegated (Delegate=yes, seen by its attribute user.delegate or trusted.delegate);
 *   - where no systemd runs: the root of a cgroup namespace, which a container has for itself;
 *   - else a scope of this broker's own, which systemd makes when husk-scope asks for it: the user's
 *     systemd, or if root runs husk the machine's. It goes when the broker and the sandbox are gone.
 *
 * Ref: cgroups(7), systemd's "Control Group APIs and Delegation", org.freedesktop.systemd1(5).
 */
#pragma once

#include <stddef.h>

#include "base/err.h"

#define SCOPE_PATH 400

/* Sets parent to the directory of such a group, with the controllers memory and pids, and cpu if asked. -1: there is none; why
 * says in one sentence what systemd said, "" if it was not asked. May move this process. */
int scope_find(const char *program, const char *id, int cpu, char parent[static SCOPE_PATH], char why[static ERR_TEXT]);

/* Where a process, or this one ("self"), is: MOUNTED and its path in the hierarchy of that controller; v2 has none ("").
 * -1 with errno. */
int scope_of(const char *process, const char *controller, const char *mounted, char *into, size_t size);
int scope_own(const char *controller, const char *mounted, char *into, size_t size);
