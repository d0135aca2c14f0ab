/* SPDX-License-Identifier: BSD-3-Clause
 *
 * subordinate.h: the users that the administrator has given to an ordinary user (/etc/subuid,
 * /etc/subgid), as the users 1 to 65535 of an image. The user is its root.
 *
 * Only newuidmap and newgidmap, which are set-uid, may write such maps, and only they judge what
 * is in those files. Whether it works is found by doing it.
 */
#pragma once

#include <sys/types.h>

#include "base/err.h"

struct subordinate {
    unsigned count; /* of each; 0: none */
    unsigned uid;   /* the first of them */
    unsigned gid;
};

/* Leaves `count` 0 if a user namespace with these maps cannot be had. */
void subordinate_find(struct subordinate *ret);
/* Writes the maps of a child in a user namespace of its own. */
int subordinate_map(const struct subordinate *ids, pid_t pid, struct err *err);
/* Makes the calling process, which has one thread, the root of such a namespace: so it may remove
 * what its users made. 0, or -1 if it cannot. */
int subordinate_enter(const struct subordinate *ids);
