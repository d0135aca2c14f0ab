/* SPDX-License-Identifier: BSD-3-Clause
 *
 * front.h: the stream of frames between kernels and the rest of husk: `husk serve` and the command line
 * (front.def); both ends use it.
 *
 * In place of ZeroMQ: what a WebSocket or a command brings reaches the kernel with one write and one read, a command
 * does not load ZeroMQ, and a kernel that only husk speaks to has no threads and no port. Nothing is copied on the way out
 * unless the other side does not take it at once.
 */
#pragma once

#include "wall/frame.h"

#define FRONT_MESSAGE (640u << 20) /* bytes: more than what fits through the wall behind it */
#define FRONT_OUT_MAX (64u << 20)  /* bytes that wait for the server before cells wait, too */
#define FRONT_KEY_MAX 65536        /* bytes: a connection file is no longer */

enum front_sender { FRONT_BY_SERVER = 1, FRONT_BY_KERNEL = 2, FRONT_BY_CALLER = 4 };
enum front_phase { FRONT_KNOWN = 1, FRONT_STRANGER = 2 };

enum front_number {
#define FRAME(name, no, sender, max, min, many, when, meaning) FRONT_##name = no,
#include "kernel/front.def"
#undef FRAME
};

struct front {
    int socket;              /* -1: there is none */
    enum front_sender hears; /* what the other side is */
    enum front_phase phase;
    struct buf in, out;
    size_t in_used, out_used;
    int ended;               /* the other side is gone, and all that it said has been read */
    int deaf;                /* it takes no more; what it said before may still be there */
    int paused;              /* kernel: between PAUSE and RESUME */
};
#define FRONT_NONE ((struct front){.socket = -1})

/* Takes the socket. The other side is known. */
void front_open(struct front *f, int fd, enum front_sender hears);
void front_release(struct front *f);

/* Sends, or keeps what does not fit for front_flush(). Aborts without memory, as a reply must not be lost;
 * to one that is gone nothing is sent. */
void front_send(struct front *f, struct frame frame, const struct bytes *parts, size_t n);
/* A message on a channel (conn.h), to a client or on iopub to all, 0. */
void front_message(struct front *f, uint32_t client, uint32_t channel, const struct bytes part[static 4],
                   const struct bytes *buffers, size_t n);
/* The same with one buffer, the next `size` bytes of a file: they go from the page cache, without a copy here, and this waits until
 * they have gone. -1 with err set: the file cannot be read or has ended, and zeros went in place of what is missing.
 * The caller ignores SIGPIPE. */
int front_message_file(struct front *f, uint32_t client, uint32_t channel, const struct bytes part[static 4], int file,
                       size_t size, struct err *err);
void front_flush(struct front *f);
/* As front_flush, but waits for at most so long. */
void front_linger(struct front *f, int ms);
size_t front_waiting(const struct front *f); /* bytes that were kept */

/* Waits for a frame for at most so long; as front_next(). */
int front_await(struct front *f, int ms, struct frame *ret, struct err *err);
/* The next frame that has arrived; it is borrowed until the next call. 1, or 0 when none is complete (then
 * `ended` says whether any will be), or -1 with err set if a rule was broken. */
int front_next(struct front *f, struct frame *ret, struct err *err);
