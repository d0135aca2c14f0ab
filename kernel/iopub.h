/* SPDX-License-Identifier: BSD-3-Clause
 *
 * iopub.h: what every client sees: status, streams, displays, results, errors, comms.
 *
 * - Streams are joined. A line after a quiet time goes out at once, a flood becomes few
 *   messages, nothing is dropped, and text of one request and stream is never reordered against
 *   another message of this channel. A message is cut at the end of a line where it can be:
 *   clients split text into lines and join it again (code_sandboxes), so a line that is not
 *   complete waits IOPUB_JOIN_MS for its rest. Never cut inside a UTF-8 character.
 * - Every subscriber gets iopub_welcome before anything else (JEP 65).
 * - A subscriber that does not keep up makes the channel `blocked`: the caller then reads no
 *   more from the interpreter. After IOPUB_PATIENCE_MS such a subscriber is left behind: what
 *   does not fit into its queue is dropped for it alone, and when it is back a line on stderr
 *   says how much. It can never hang the kernel. While such a queue holds IOPUB_BYTES_MAX, large
 *   messages are dropped for everybody, because nothing else bounds the memory; status, errors
 *   and text of usual size still reach those who read.
 */
#pragma once

#include <stdatomic.h>

#include "kernel/wire.h"

#define IOPUB_PATIENCE_MS 1000
#define IOPUB_JOIN_MS 50            /* between two messages of a flood */
#define IOPUB_RETRY_MS 10           /* a blocked channel is tried again this often */
#define IOPUB_TEXT_MAX (1u << 20)   /* bytes of text in one stream message */
#define IOPUB_BYTES_MAX (256u << 20) /* on their way to all subscribers; more blocks */
#define IOPUB_SMALL (64u << 10)      /* bytes: a message up to this goes whatever is under way */

enum stream_name { STREAM_STDOUT, STREAM_STDERR, STREAM_NAMES };

struct pending; /* a message that could not be sent yet */

struct iopub {
    void *socket;      /* XPUB, borrowed */
    struct wire *wire; /* borrowed */
    char topic[64];    /* "kernel.SESSION." */
    /* joined text, of one request and stream at a time */
    struct buf text;
    struct buf parent; /* header of that request */
    enum stream_name stream;
    int64_t last_sent; /* ms: when a stream message last went out */
    int64_t due;       /* ms: when the text must go; 0: none waits */
    int64_t now;       /* ms: the time of this turn of the loop; asking for each line costs */
    uint32_t slot;     /* the request that the text belongs to, 0: none */
    int announced; /* 1: `starting` has been said */
    struct buf cut[STREAM_NAMES]; /* bytes of a character that is not complete yet */
    /* messages that wait for a slow subscriber */
    struct pending *first, *last;
    int64_t blocked_since; /* ms; 0: not blocked */
    int leaving_behind;    /* 1: patience has ended for somebody */
    uint64_t dropped;      /* messages since then */
};

void iopub_init(struct iopub *io, void *socket, struct wire *wire);
void iopub_release(struct iopub *io);

/* Text of a stream, any bytes. `slot` and `parent`: its request and the header of it, or 0 and
 * empty. */
void iopub_text(struct iopub *io, enum stream_name stream, uint32_t slot, struct bytes parent,
                struct bytes text);
/* Sends text that waits; also the rest of an incomplete character if `complete`. */
void iopub_flush(struct iopub *io, int complete);

/* Sends one message, after the text that came before it. Everything is copied. */
void iopub_publish(struct iopub *io, const char *type, struct bytes parent, struct bytes metadata,
                   struct bytes content, const struct bytes *buffers, size_t nbuffers);
void iopub_status(struct iopub *io, const char *state, struct bytes parent);

/* Subscriptions: takes them, and welcomes; the first one hears `starting` after its welcome, as
 * nobody could have heard it before. Call when the socket is readable. */
void iopub_subscriptions(struct iopub *io);
/* Tries again what waits. */
void iopub_retry(struct iopub *io);
int iopub_blocked(const struct iopub *io);
/* When iopub_tick() wants to be called, in ms of CLOCK_MONOTONIC; 0: never. */
int64_t iopub_deadline(const struct iopub *io, int64_t now);
void iopub_tick(struct iopub *io, int64_t now);
