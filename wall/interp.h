/* SPDX-License-Identifier: BSD-3-Clause
 *
 * interp.h: the wall between supervisor and interpreter; the rows are in interp.def.
 *
 * The interpreter finds its ends of three stream sockets and of the shared memory (ring.h) at
 * fixed descriptor numbers. Each of its shells (kernel/shells.h) answers one request at a time: after
 * a request the interpreter is BUSY until there is a REPLY to each.
 *
 * Its main thread reads the first socket: what is for the main shell, and which other shells there
 * are. What is for those comes through the second one, which a thread of their own reads from when the
 * first of them is opened until the last is closed; so no cell that keeps the main thread keeps
 * them. As there is no thread before, SIGWINCH asks a main thread that is running a cell to look at its
 * socket. All that the interpreter says goes through the first one; only what it is asked beside its
 * requests (aside.def) it answers through a third one.
 *
 * Text does not travel in frames but through the ring; see ring.h for how the order of text, of what
 * children write and of frames is kept.
 */
#pragma once

#include "wall/frame.h"

#define INTERP_VERSION 2        /* in HELLO; bumped when a row changes its meaning */
#define INTERP_FD_SOCKET 3      /* stream socket of frames */
#define INTERP_FD_RING 4        /* memfd, shared and writable */
#define INTERP_FD_PROGRESS 5    /* memfd, read-only for the interpreter */
#define INTERP_FD_PIPES 6       /* and 7: read ends of the pipes of 1 and 2, for epoll(7) */
#define INTERP_FD_SIDE 8        /* stream socket of frames for the shells beside the main one */
#define INTERP_FD_ASIDE 9       /* stream socket of aside.def */

#define WALL_MESSAGE (256u << 20) /* bytes: the largest cell, display or comm message */
#define WALL_PARTS 8192           /* of what an interpreter says: empty ones cost it 4 bytes, and us many more */

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

/* Numbers of shells. */
enum { MAIN_SHELL = 0, DEBUGGER_SHELL = 1, FIRST_SUBSHELL = 2 };

/* Bits of EXECUTE's value. */
#define EXECUTE_SILENT (1u << 31)
#define EXECUTE_STORE (1u << 30)
#define EXECUTE_COUNT ((1u << 30) - 1)
