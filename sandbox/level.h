/* SPDX-License-Identifier: BSD-3-Clause
 *
 * level.h: the rungs of the ladder. One is asked for; never another one than that is built.
 */
#pragma once

enum containment {
    LEVEL_FULL,     /* namespaces, mounts, Landlock, system call filter */
    LEVEL_LANDLOCK, /* without the first two, for places that refuse them */
    LEVEL_NONE,     /* without any of them: whoever asks for it says so twice (policy.c) */
};
#define LEVEL_NAMES {[LEVEL_FULL] = "full", [LEVEL_LANDLOCK] = "landlock", [LEVEL_NONE] = "none"}

/* Which levels take a step (build.h, join.h). A step of the level that fails ends the build: there
 * is no way from one column into the other. */
#define FULL (1u << LEVEL_FULL)
#define ALONE (1u << LEVEL_LANDLOCK) /* no namespaces: what a process can do to itself */
#define BARE (1u << LEVEL_NONE)      /* what keeps nothing from anybody: processes and their limits */
#define WALLS (FULL | ALONE)
#define EACH (FULL | ALONE | BARE)
