/* SPDX-License-Identifier: BSD-3-Clause
 *
 * join.h: how a process of a built sandbox begins: a fork of pid 1 gives up what is left to
 * give up and executes. The same for the interpreter, for commands and for file operations.
 */
#pragma once

#include <linux/filter.h>
#include <stdint.h>

#include "base/base.h"
#include "base/err.h"
#include "sandbox/level.h"

/* Nothing is ever skipped. Only tests/mutations.sh compiles with the name of a step, to see that a
 * probe notices when it is missing; what it makes runs nowhere but in a throw-away namespace. */
#ifdef HUSK_SKIP_STEP
#define STEP_IS_SKIPPED(name) (strcmp(name, HUSK_SKIP_STEP) == 0)
#else
#define STEP_IS_SKIPPED(name) 0
#endif

#define JOIN_STEPS(X)                                                                          \
    X(signals, EACH, "default actions, nothing blocked, own session")                          \
    X(end, ALONE | BARE, "the first of those that must end with husk-init; it finds the others")      \
    X(descriptors, EACH, "0 is /dev/null, 1 to 9 as given, nothing else")                      \
    X(directory, EACH, "the working directory")                                                \
    X(landlock, WALLS, "files: only what is mounted, as it is mounted; or what is granted")     \
    X(seccomp, WALLS, "system calls; it forbids what was used above")                           \
    X(forks, ALONE, "starting a process: husk-init is asked, or nobody could end them all")    \
    X(execute, EACH, "the program")

/* One line of the Landlock rules. */
struct join_rule {
    uint64_t rights;
    char *path;
};

/* The third program: what is pretended, if anything; at LEVEL_LANDLOCK what is asked (forks.h). */
#define JOIN_LAST 2

/* What every process of this sandbox is bound by. */
struct join_policy {
    struct sock_fprog filter[3]; /* which calls; which arguments; JOIN_LAST */
    struct join_rule *rule;
    size_t nrules;
    enum containment level;
};

struct join {
    const struct join_policy *policy;
    const char *directory;
    const char *program;
    char *const *argv;
    char *const *environment;
    const int *fds; /* become 1 to 9; SANDBOX_FDS of them */
    int report;     /* a socket where a failing step is told; closed by exec */
};

/* What a failing step leaves in the report. */
struct join_failure {
    char step[32];
    struct err err;
};

/* In a fresh fork of pid 1. Does not return. */
void join_run(struct join *join) __attribute__((noreturn));
