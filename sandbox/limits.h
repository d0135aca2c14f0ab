/* SPDX-License-Identifier: BSD-3-Clause
 *
 * limits.h: memory and process limits of a sandbox, by what the machine has: a cgroup v2 that
 * may be divided, cgroup v1 controllers, else resource limits of each process, and a look at all
 * of them now and then (memory.h). Which kind is in
 * force is known and shown; a limit that was promised and cannot be set is an error.
 */
#pragma once

#include "sandbox/policy.h"
#include "wall/usage.h"

enum limits_kind {
    LIMITS_CGROUP2,
    LIMITS_CGROUP1,
    LIMITS_SAMPLED, /* of each process, and memory.h looks at all of them */
    LIMITS_ENGINE, /* a container's, whose groups cannot be seen from here */
};

enum { GROUP_MEMORY, GROUP_PIDS, GROUP_CPU, LIMITS_GROUPS }; /* v1 has one each, v2 one for all */

struct limits {
    enum limits_kind kind;
    char path[LIMITS_GROUPS][512]; /* of the groups made */
    int group[LIMITS_GROUPS];      /* directory descriptors, or -1 */
    uint64_t memory;               /* bytes */
    uint64_t pids; /* 0: no limit */
    uint64_t cpus; /* thousandths; 0: no limit */
    uint64_t disk; /* bytes; 0: no limit. Looked at by disk.c. */
    uint64_t oom_kills; /* seen so far */
    char why[ERR_TEXT]; /* no cgroup v2 was made, if there is something to say about it */
};
#define LIMITS_EMPTY ((struct limits){.group = {-1, -1, -1}})

/* Makes the groups. Groups that an earlier broker left are removed on the way. scope_program:
 * husk-scope, see scope.h. */
int limits_make(const struct policy *policy, const char *scope_program, struct limits *ret, struct err *err);
/* The groups that somebody else made for the process `pid`: they are read, and not removed. */
void limits_adopt(const struct policy *policy, pid_t pid, struct limits *ret);
/* Puts a process into them. It and all its children are counted from here on. */
int limits_enter(const struct limits *limits, pid_t pid, struct err *err);
/* Removes the groups; their processes must be gone. */
void limits_release(struct limits *limits);

/* Opens what tells the use of it (wall/usage.h); /dev/null for what is not counted. */
int limits_open_usage(const struct limits *limits, int fds[static USAGE_FILES], struct err *err);

/* "memory 2 GiB (enforced by cgroup v1), 1024 processes" */
void limits_describe(const struct limits *limits, char *into, size_t size);
/* How memory is limited, for programs: "enforced" or "sampled". */
const char *limits_kind_name(const struct limits *limits);
/* The limit, the most that was in use, what to change. */
#define LIMITS_MEMORY_CAUSE "the memory limit of %s was reached (peak %s; option --memory)"
/* If a limit struck since the last call, one sentence that says so; else "". Sets *peak to the
 * most memory that was in use, 0 where that is not counted. */
void limits_cause(struct limits *limits, int wait_status, char *into, size_t size, uint64_t *peak);

/* The resource limits (setrlimit(2)) of a process: how many *ret has. */
struct limits_resource {
    const char *name; /* for people */
    int resource;
    uint64_t soft, hard;
};
#define LIMITS_RESOURCES 9
size_t limits_resources(const struct policy *policy, enum limits_kind kind,
                        struct limits_resource ret[static LIMITS_RESOURCES]);

/* Resource limits of the calling process: all kinds. */
int limits_process(const struct policy *policy, enum limits_kind kind, struct err *err);
