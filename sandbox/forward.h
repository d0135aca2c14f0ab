/* SPDX-License-Identifier: BSD-3-Clause
 *
 * forward.h: bytes from one socket to another, without looking at them: splice(2) by way of a
 * pipe. One direction. What the receiver does not take waits in the pipe, and then nothing more
 * is read: so the sender feels it. An end of file is passed on as one.
 */
#pragma once

#include "base/base.h"

/* Bytes that may wait, if the kernel grants it; else 64 KiB or less. A quarter of it costs a third
 * of the throughput. */
#define FORWARD_PIPE (1 << 20)

/* Both sockets are borrowed and do not block. FORWARD_EMPTY to start. */
struct forward {
    int from, to;
    int pipe[2];  /* only while something waits; else -1 */
    size_t held;  /* bytes in the pipe */
    int ended;    /* `from` has ended, and `to` was told */
};
#define FORWARD_EMPTY ((struct forward){.from = -1, .to = -1, .pipe = {-1, -1}})

/* Moves what can be moved now, up to a share that is fair to others. 0, or -1 with errno if one
 * of the two sockets has failed. */
int forward_run(struct forward *forward);
/* What it waits for. */
int forward_wants_from(const struct forward *forward);
int forward_wants_to(const struct forward *forward);
void forward_release(struct forward *forward);
