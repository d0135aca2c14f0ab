/* SPDX-License-Identifier: BSD-3-Clause
 *
 * interp.h: the wall between supervisor and interpreter; the rows are in interp.def.
 *
 * The interpreter finds its end of the stream socket and of the shared memory (ring.h) at
 * fixed descriptor numbers. It answers one request at a time: after a request it is BUSY until
 * its REPLY. Text does not travel in frames but through the ring; see ring.h for how the order
 * of text, of what children write and of frames is kept.
 */
#pragma once

#include "wall/frame.h"

#define INTERP_VERSION 1        /* in HELLO; bumped when a row changes its meaning */
#define INTERP_FD_SOCKET 3      /* stream socket of frames */
#define INTERP_FD_RING 4        /* memfd, shared and writable */
#define INTERP_FD_PROGRESS 5    /* memfd, read-only for the interpreter */
#define INTERP_FD_PIPES 6       /* and 7: read ends of the pipes of 1 and 2, for epoll(7) */

#define WALL_MESSAGE (256u << 20) /* bytes: the largest cell, display or comm message */

enum interp_sender { INTERP_BY_KERNEL = 1, INTERP_BY_INTERP = 2 };
enum interp_phase {
    INTERP_BOOT = 1, /* from start until HELLO */
    INTERP_IDLE = 2,
    INTERP_BUSY = 4, /* from a request until its REPLY */
};

enum interp_number {
#define FRAME(name, handler, no, sender, max, min, many, when, meaning) FRAME_##name = no,
#include "wall/interp.def"
#undef FRAME
};

extern const struct frame_rule interp_rules[FRAME_LIMIT];

/* Bits of EXECUTE's value. */
#define EXECUTE_SILENT (1u << 31)
#define EXECUTE_STORE (1u << 30)
#define EXECUTE_COUNT ((1u << 30) - 1)
