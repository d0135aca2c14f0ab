/* SPDX-License-Identifier: BSD-3-Clause
 *
 * landlock.h: the second layer over the file system (landlock(7)). Its rules equal the mounts:
 * a directory descriptor that leaked, or a mistake in a mount, still opens nothing. Signals and
 * abstract sockets stay within the sandbox's processes where the kernel knows how.
 */
#pragma once

#include "sandbox/join.h"
#include "sandbox/mounts.h"

/* The rules of a view, as the parts of POLICY want them: 8 bytes of rights, then the path. */
int landlock_rules(const struct policy *policy, const struct mount_view *view, struct buf *ret,
                   size_t *nparts);

/* Binds the calling process, which needs no_new_privs. Rights that an older kernel does not
 * know are left out of the rules, not of the sandbox: the mounts still say no. A kernel without
 * Landlock is refused. */
int landlock_enter(const struct join_rule *rule, size_t nrules, struct err *err);

#define LANDLOCK_READ 1u  /* read, list, execute */
#define LANDLOCK_WRITE 2u /* and everything else */
#define LANDLOCK_USE 4u   /* read and write what is there, ioctl; make nothing */
