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

#define JOIN_STEPS(X)                                                                          \
    X(signals, "default actions, nothing blocked, own session")                                \
    X(descriptors, "0 is /dev/null, 1 to 7 as given, nothing else")                            \
    X(directory, "the working directory")                                                      \
    X(landlock, "files, once more: only what is mounted, as it is mounted")                    \
    X(seccomp, "system calls; last, because it forbids what was used above")                   \
    X(execute, "the program")

/* One line of the Landlock rules. */
struct join_rule {
    uint64_t rights;
    char *path;
};

/* What every process of this sandbox is bound by. */
struct join_policy {
    struct sock_fprog filter[2]; /* which calls; which arguments */
    struct join_rule *rule;
    size_t nrules;
};

struct join {
    const struct join_policy *policy;
    const char *directory;
    char *const *argv;
    char *const *environment;
    const int *fds; /* become 1 to 7; SANDBOX_FDS of them */
    int report;     /* where a failing step is told; closed by exec */
};

/* What a failing step leaves in the report. */
struct join_failure {
    char step[32];
    struct err err;
};

/* In a fresh fork of pid 1. Does not return. */
void join_run(struct join *join) __attribute__((noreturn));
