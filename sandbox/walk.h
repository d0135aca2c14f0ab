/* SPDX-License-Identifier: BSD-3-Clause
 *
 * walk.h: walks a tree that others are changing, however deep it is and whatever they do to it. It
 * goes down by descriptor and up by "..", and an inode that is not the one it came from ends the walk.
 * One directory is open at a time, no link is followed, and no path is opened.
 */
#pragma once

#include <sys/stat.h>

#include "base/base.h"

struct walk_entry {
    int dir;                /* the directory that it lies in */
    const char *name;       /* there */
    struct bytes path;      /* from the top, "a/b/c"; ends in NUL, which is not counted */
    const struct stat *st;
};

/* 1: go into it, if it is a directory; 0: do not; -1: end the walk. */
typedef int walk_visit(void *arg, const struct walk_entry *entry);

/* Visits all that lies below `dir`, a directory before what is in it. -1 if a visitor ended it, without
 * memory, or if the tree changed on the way. */
int walk_tree(int dir, walk_visit *visit, void *arg);

/* The calling process may from now on read all that belongs to the sandbox whose pid 1 that is, also
 * what a cell closed to itself: an ordinary user goes into its user namespace, which is a child of ours, or
 * where it has none makes one; root may anyway. For a process of its own: there is no way back. */
int walk_become_reader(pid_t pid1);
