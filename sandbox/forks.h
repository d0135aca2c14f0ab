/* SPDX-License-Identifier: BSD-3-Clause
 *
 * forks.h: who may start processes, where no pid namespace ends them all at once.
 *
 * Processes that fork faster than /proc can be read are never all found. So every process of such
 * a sandbox has a system call filter that asks for each fork, vfork and clone (seccomp_unotify(2),
 * the rows ASK of syscalls.def), and husk-init holds the other end:
 *
 *     while it lives           it answers: go on; or EAGAIN beyond the limit of processes
 *     while it ends them all   it does not answer: whoever forks waits, and can be killed
 *     when it is gone          the kernel answers ENOSYS, to everybody and for ever
 *
 * Nothing is decided by arguments, which a thread could change meanwhile. A process cannot get rid
 * of its filter, nor hang another listener into it.
 */
#pragma once

#include <linux/filter.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define FORKS_GRANTS 1024  /* let through in the same second; more than that wait for it to pass */
#define FORKS_LISTENERS 256 /* one for each process that husk-init started, and its descendants */

/* A thread that was let through: its child may be there already, or not yet. */
struct forks_grant {
    pid_t thread;
    int64_t at; /* milliseconds */
};

struct forks {
    int listener[FORKS_LISTENERS];
    size_t n;
    uint64_t limit;     /* processes and threads; 0: a cgroup counts them */
    uint64_t alive;     /* at most so many: as counted, and what was granted since */
    struct forks_grant grant[FORKS_GRANTS];
    size_t ngrants;
    int64_t full_until; /* milliseconds: until then nobody is counted again */
};

/* In the process that is to be bound: enters the filter and sends its other end over `socket`. */
int forks_bind(const struct sock_fprog *filter, int socket, struct err *err);

/* One message of such a process: as recv(2), and *listener becomes what came with it, or -1. */
ssize_t forks_hear(int socket, void *into, size_t size, int *listener);

/* Keeps a listener until nobody is bound by it. -1: there are too many; then it is closed. */
int forks_keep(struct forks *forks, int listener);

/* What to wait for; returns how many. Then what came of it. */
size_t forks_list(const struct forks *forks, struct pollfd wait[static FORKS_LISTENERS]);
void forks_answer(struct forks *forks, const struct pollfd *wait);
