/* SPDX-License-Identifier: BSD-3-Clause
 *
 * process.h: how a program of husk hears signals, and how it starts another that shall know
 * nothing of that. Source: signalfd(2), posix_spawn(3).
 */
#pragma once

#include <fcntl.h>
#include <sys/types.h>

#include "base/base.h"
#include "base/err.h"

/* SIGINT, SIGTERM and SIGHUP are to be read from the descriptor (not blocking) and come in no other
 * way; a write to nobody is EPIPE. To be called before there is a thread, for those inherit the mask. */
int process_signals(int *ret, struct err *err);

/* What a child finds at `as`: the open descriptor `fd`, or the file `path`, opened with `flags`
 * (and mode 0600 if that makes it). A list ends with a row whose `as` is -1. */
struct process_fd {
    int as;
    int fd;
    const char *path;
    int flags;
};
#define PROCESS_NO_INPUT {.as = 0, .path = "/dev/null", .flags = O_RDONLY}
#define PROCESS_NO_OUTPUT {.as = 1, .path = "/dev/null", .flags = O_WRONLY}
#define PROCESS_END {.as = -1}

enum process_session { PROCESS_OURS, PROCESS_OF_ITS_OWN }; /* setsid(2): signals of our terminal are ours */

/* argv[0] is the path of the program, or a name that is looked up in PATH. No signal is blocked for it, and SIGPIPE not ignored. What
 * is not listed and has no FD_CLOEXEC it inherits. On failure *ret is untouched; errno as well as err. */
int process_spawn(char *const argv[], char *const environment[], const struct process_fd *fds,
                  enum process_session session, pid_t *ret, struct err *err);

/* Appends what is written at the other end of `fd`, until its end. -1: it is not over after `ms` milliseconds,
 * or longer than `max` bytes. */
int process_hear(int fd, int64_t ms, size_t max, struct buf *ret);
