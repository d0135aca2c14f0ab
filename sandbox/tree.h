/* SPDX-License-Identifier: BSD-3-Clause
 *
 * tree.h: mount trees by descriptor: taken, given their attributes while nobody can see them,
 * attached.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* Names of the new mount calls, for C libraries that do not wrap them yet. */
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#define ATTR_RDONLY 0x1
#define ATTR_NOSUID 0x2
#define ATTR_NODEV 0x4
#define ATTR_NOEXEC 0x8
#define ATTR_IDMAP 0x100000
struct attributes {
    uint64_t set, clear, propagation, userns;
};

/* A detached copy of a mount; a descriptor, or -1 with errno. */
int tree_take(int fd, const char *path, unsigned flags);
int tree_set(int fd, const char *path, unsigned flags, struct attributes attr);
int tree_attach(int tree, int dir, const char *path);

/* A user namespace that exists only to name a mapping: `count` ids from `uid` and `gid` on disk
 * are seen as those from `as_uid` and `as_gid`. Returns its descriptor; *refused: 1 if no user
 * namespace could be made. */
int tree_mapping(uid_t uid, gid_t gid, uid_t as_uid, gid_t as_gid, unsigned count, int *refused,
                 struct err *err);
