/* SPDX-License-Identifier: BSD-3-Clause
 *
 * landlock.h: the second layer over the file system (landlock(7)). Its rules equal the mounts:
 * a directory descriptor that leaked, or a mistake in a mount, still opens nothing. Signals and
 * abstract sockets stay within the sandbox's processes where the kernel knows how.
 *
 * With containment landlock it is the first layer and the only one (grants.h makes the rules): then
 * TCP is refused, too, and a kernel that cannot scope signals (ABI 6, Linux 6.12) is no place for
 * it. Landlock also refuses ptrace(2) of every process outside, and with it their /proc/PID/environ,
 * mem and fd.
 */
#pragma once

#include "sandbox/join.h"
#include "sandbox/mounts.h"

/* The rules of a view, as the parts of POLICY want them: 8 bytes of rights, then the path. */
int landlock_rules(const struct policy *policy, const struct mount_view *view, struct buf *ret,
                   size_t *nparts);

/* Appends one rule in that form. */
int landlock_add(struct buf *rules, size_t *nparts, uint64_t rights, const char *path);

/* Binds the calling process, which needs no_new_privs. Rights that an older kernel does not
 * know are left out of the rules, not of the sandbox: the mounts still say no. A kernel without
 * Landlock is refused; with `alone`, where no mount says no, one that lacks any right of ABI 6. */
int landlock_enter(const struct join_rule *rule, size_t nrules, int alone, struct err *err);

#define LANDLOCK_READ 1u  /* read, list, execute */
#define LANDLOCK_WRITE 2u /* and everything else */
#define LANDLOCK_CHANGE 3u /* as WRITE, but no devices: neither made nor driven */
#define LANDLOCK_USE 4u   /* read and write what is there, ioctl; make nothing */
#define LANDLOCK_LIST 16u /* the names of a directory, and of those below it */
#define LANDLOCK_SHARED_MEMORY 32u /* make, use and remove files by name; no names are told */
#define LANDLOCK_PLAIN 8u /* a flag: the path is followed through no symbolic link */
