/* SPDX-License-Identifier: BSD-3-Clause
 *
 * build.h: from a policy to a sandbox whose pid 1 waits for orders.
 *
 * The order of the steps is the design: each may assume that those above it have been taken.
 * They run in a child of the broker that becomes pid 1 of the sandbox by exec. A step that
 * fails ends the build and is named; none is skipped with a warning. What can be done about it
 * is said by advice.h, from the step and its errno.
 */
#pragma once

#include "sandbox/level.h"
#include "sandbox/limits.h"
#include "sandbox/policy.h"

/* The broker's half, before. */
#define HOST_STEPS(X)                                                                          \
    X(prepare, EACH, "list what shall be visible; with root, take it for another user")        \
    X(namespaces, FULL, "a child with its own users, mounts, processes, network, IPC, names")  \
    X(child, ALONE | BARE, "a child; it and the broker take in whoever loses its parent")             \
    X(maps, FULL, "the one user inside, and who that is outside")                              \
    X(gate, EACH, "the child learns that it may go on")

/* What the child does, in order, once its user namespace has its maps. Meanwhile the broker puts it into its groups,
 * which may have to wait for every processor of the machine. */
#define BUILD_STEPS(X)                                                                         \
    X(session, EACH, "own session, no keys of the host")                                       \
    X(identity, FULL, "the user of the sandbox, no groups of the host; dies with the broker")  \
    X(user, ALONE, "never uid 0: with root, a user that nobody else is")                       \
    X(network, FULL, "own network: lo, and the sockets of what is allowed, nothing else")      \
    X(hostname, FULL, "own host name")                                                         \
    X(trees, FULL, "take what shall be visible, read-only unless said")                        \
    X(root, FULL, "an empty root in memory; or an image below a layer of its own")             \
    X(etc, FULL, "files of /etc that tell nothing about the host")                             \
    X(view, FULL, "attach what shall be visible")                                              \
    X(proc, FULL, "own /proc, masked")                                                         \
    X(dev, FULL, "own /dev: six devices, own terminals")                                       \
    X(pivot, FULL, "the old root is gone")                                                     \
    X(seal, FULL, "the root is read-only, if it is no image's")                                \
    X(groups, EACH, "the cgroups: from here on its memory and processes are counted")          \
    X(cgroup_namespace, FULL, "own view of cgroups")                                           \
    X(limits, EACH, "resource limits, counted in the user namespace if there is one")          \
    X(no_new_privs, WALLS, "no program can give privileges back")                               \
    X(capabilities, FULL, "none, and none to be had; in an image with many users those of packages") \
    X(no_capabilities, ALONE, "none; with no_new_privs no program gives any")                  \
    X(init, EACH, "husk-init from a sealed memfd, empty environment")

enum build_step {
#define X(name, levels, meaning) BUILD_##name,
    HOST_STEPS(X) BUILD_STEPS(X)
#undef X
    BUILD_COUNT
};

/* When each step was done; in memory that broker and child share until the child executes. */
struct build_times {
    int64_t start;            /* nanoseconds, CLOCK_MONOTONIC */
    int64_t end[BUILD_COUNT]; /* 0: not reached, or failed */
};

struct sandbox {
    pid_t pid;  /* of its pid 1, as the broker sees it; 0: none */
    int pidfd;  /* becomes readable when pid 1 is gone */
    int socket; /* to pid 1 */
    int sockets; /* where those of the network wait (loopback_take), or -1 */
    int alone;   /* no pid namespace: `pid` is husk-init, and no pid 1 */
    int64_t took; /* microseconds from start until pid 1 answered */
};
#define SANDBOX_EMPTY ((struct sandbox){.pidfd = -1, .socket = -1, .sockets = -1})

struct build_failure {
    char step[32];
    struct err err;
};

/* Who the sandbox will be on the host, where it has no users of its own: the user who runs husk, or with root and
 * walls one that nobody else is, which needs some capabilities; the working directory is then not shared, because
 * its files cannot belong to two. */
int build_choose_user(struct policy *policy, struct err *err);

/* A sealed memfd of the program that becomes pid 1. */
int build_init_program(const char *path, struct err *err);

/* Builds a sandbox and waits until its pid 1 is alive. On failure everything is undone and
 * *failure says which step and why. *times is filled in any case. */
int build_sandbox(const struct policy *policy, struct limits *limits, int program,
                  struct build_times *times, struct sandbox *ret, struct build_failure *failure);

/* Appends a line "name TAB microseconds TAB meaning" for each step that was done, in order;
 * microseconds are rounded up. */
int build_describe(const struct build_times *times, struct buf *ret);

/* Whether husk has root on the host, not only in some user namespace: then trees are id-mapped. */
int build_is_privileged(void);

/* Ends every process of the sandbox and waits for it: by killing pid 1, or where that is none by
 * letting husk-init end them, and then looking after what is left. */
void sandbox_end(struct sandbox *sandbox);
