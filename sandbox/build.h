/* SPDX-License-Identifier: BSD-3-Clause
 *
 * build.h: from a policy to a sandbox whose pid 1 waits for orders.
 *
 * The order of the steps is the design: each may assume that those above it have been taken.
 * They run in a child of the broker that becomes pid 1 of the sandbox by exec. A step that
 * fails ends the build and is named; none is skipped with a warning.
 */
#pragma once

#include "sandbox/limits.h"
#include "sandbox/policy.h"

/* What the child does, in order, once its user namespace has its maps and its limits count. */
#define BUILD_STEPS(X)                                                                         \
    X(session, "own session, dies with the broker")                                            \
    X(identity, "the user of the sandbox, no groups of the host")                              \
    X(cgroup_namespace, "own view of cgroups")                                                 \
    X(loopback, "own network with lo and nothing else")                                        \
    X(hostname, "own host name")                                                               \
    X(trees, "take what shall be visible, read-only unless said")                              \
    X(private_mounts, "nothing flows in or out of the mount namespace")                        \
    X(root, "an empty root in memory")                                                         \
    X(etc, "files of /etc that tell nothing about the host")                                   \
    X(view, "attach what shall be visible")                                                    \
    X(proc, "own /proc, masked")                                                               \
    X(dev, "own /dev: six devices, own terminals")                                             \
    X(pivot, "the old root is gone")                                                           \
    X(seal, "the root is read-only")                                                           \
    X(limits, "resource limits, counted in the user namespace")                                \
    X(no_new_privs, "no program can give privileges back")                                     \
    X(capabilities, "none, and none to be had")                                                \
    X(init, "pid 1 from a sealed memfd, empty environment")

struct sandbox {
    pid_t pid;  /* of its pid 1, as the broker sees it; 0: none */
    int pidfd;  /* becomes readable when pid 1 is gone */
    int socket; /* to pid 1 */
    int64_t took; /* microseconds from start until pid 1 answered */
};
#define SANDBOX_EMPTY ((struct sandbox){.pidfd = -1, .socket = -1})

struct build_failure {
    char step[32];
    struct err err;
    char advice[256]; /* what the user can do; may be empty */
};

/* A sealed memfd of the program that becomes pid 1. */
int build_init_program(const char *path, struct err *err);

/* Builds a sandbox and waits until its pid 1 is alive. On failure everything is undone and
 * *failure says which step, why and what can be done. */
int build_sandbox(const struct policy *policy, struct limits *limits, int program,
                  struct sandbox *ret, struct build_failure *failure);

/* Kills pid 1, and with it every process of the sandbox; waits for it. */
void sandbox_end(struct sandbox *sandbox);
