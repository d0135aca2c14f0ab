/* SPDX-License-Identifier: BSD-3-Clause
 *
 * sandbox.h: the wall between supervisor, broker, pid 1 and husk-network; the rows are in sandbox.def.
 */
#pragma once

#include "wall/frame.h"

#define SANDBOX_FD 3          /* broker and pid 1 find their socket here */
#define SANDBOX_PACKET 200000 /* bytes: no frame of this wall is longer */
/* Bits of SPAWN's value. */
#define SANDBOX_STAYS 1 /* SWEEP spares it and what descends from it */
#define SANDBOX_NAMED 2 /* the first argument is the program; its own arguments begin with the second */
#define SANDBOX_FDS 9         /* descriptors with SPAWN: they become 1 to 9 of the process */

enum sandbox_sender { SANDBOX_BY_KERNEL = 1, SANDBOX_BY_BROKER = 2, SANDBOX_BY_INIT = 4, SANDBOX_BY_NETWORK = 8 };
enum sandbox_phase { SANDBOX_NEW = 1, SANDBOX_READY = 2 };

enum sandbox_number {
#define FRAME(name, no, sender, max, min, many, fds, when, meaning) SANDBOX_##name = no,
#include "wall/sandbox.def"
#undef FRAME
};

extern const struct frame_rule sandbox_rules[FRAME_LIMIT];

/* Sends one frame as one datagram; waits while the socket is full. */
int packet_send(int fd, struct frame frame, const struct bytes *parts, size_t nparts,
                const int *fds, size_t nfds, struct err *err);

/* Receives one frame. `buf` is reused and holds what *ret borrows. Returns 1, 0 at the end of
 * the stream (or when nothing is there and the socket does not block: err->code EAGAIN), -1 on
 * a broken rule. The descriptors that the row announces are put in fds and belong to the
 * caller; too many or too few break a rule and are closed. */
int packet_recv(int fd, struct buf *buf, unsigned sender, unsigned phase, struct frame *ret,
                int fds[static SANDBOX_FDS], struct err *err);
