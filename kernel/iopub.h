/* SPDX-License-Identifier: BSD-3-Clause
 *
 * iopub.h: what every client sees: status, streams, displays, results, errors, comms.
 *
 * - Streams are joined. A line after a quiet time goes out at once, a flood becomes few
 *   messages, nothing is dropped, and text of one request and stream is never reordered against
 *   another message of this channel. A message is cut at the end of a line where it can be:
 *   clients split text into lines and join it again (code_sandboxes), so a line that is not
 *   complete waits IOPUB_JOIN_MS for its rest. Never cut inside a UTF-8 character.
 * - A line that is written again and again after a carriage return is sent in its last state
 *   (progress.h), and updates of one display id that come faster than IOPUB_JOIN_MS are sent in the last one:
 *   the first at once, and never past another message.
 * - With a rate, text and messages are paced, so that no server on the way drops them: the channel
 *   is `blocked` while more went out than PACE_BURST allows. An idle begins anew, as Jupyter Server does.
 * - Every subscriber gets iopub_welcome before anything else (JEP 65).
 * - A subscriber that does not keep up makes the channel `blocked`: the caller then reads no
 *   more from the interpreter, and the cell waits. After IOPUB_PATIENCE_MS in which it has taken next to
 *   nothing such a subscriber is left behind: what
 *   does not fit into its queue is dropped for it alone, and when it is back a line on stderr
 *   says how much. It can never hang the kernel. While such a queue holds IOPUB_BYTES_MAX, large
 *   messages are dropped for everybody, because nothing else bounds the memory; status, errors
 *   and text of usual size still reach those who read.
 */
#pragma once

#include <stdatomic.h>

#include "kernel/front.h"
#include "kernel/wire.h"

#define IOPUB_PATIENCE_MS 1000
#define IOPUB_READS 512             /* messages, or */
#define IOPUB_READS_BYTES (4u << 20) /* bytes, that a client that reads takes in that time */
#define IOPUB_JOIN_MS 50            /* between two messages of a flood */
#define IOPUB_RETRY_MS 10           /* a blocked channel is tried again this often */
#define IOPUB_BACK_MS 100          /* who was left behind is looked for this often */
#define IOPUB_TEXT_MAX (1u << 20)   /* bytes of text in one stream message */
#define IOPUB_BYTES_MAX (256u << 20) /* on their way to all subscribers; more blocks */
#define IOPUB_SMALL (64u << 10)      /* bytes: a message up to this goes whatever is under way */

enum stream_name { STREAM_STDOUT, STREAM_STDERR, STREAM_NAMES };

/* Shares of the rate: what goes out at once, and what goes out from then on. Three seconds of it are less
 * than three seconds of the rate, which is what Jupyter Server looks at (iopub_data_rate_limit). */
#define PACE_BURST 0.3
#define PACE_SHARE 0.7
#define PACE_MESSAGES 1000 /* a second, with any rate (iopub_msg_rate_limit) */

#define UPDATES 16 /* display ids whose updates are joined at a time */

struct pending; /* a message that could not be sent yet */

struct update { /* the display id that was updated last, and what waits of it */
    struct buf id, parent, metadata, content;
    int waits;
    int64_t sent; /* ms: the last one */
};

struct pace {
    uint64_t rate; /* bytes of stream messages a second; 0: any */
    double bytes, messages; /* of which the channel is ahead */
    int64_t at;    /* ms: when that was so */
};

struct iopub {
    void *socket;      /* XPUB, borrowed; NULL: no ZeroMQ client has come yet */
    struct front *front; /* borrowed: the server's clients see it all, too */
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
    size_t blocked_messages, blocked_bytes; /* under way then */
    int leaving_behind;    /* 1: patience has ended for somebody */
    uint64_t dropped;      /* messages since then */
    uint64_t dropped_bytes;
    struct update updates[UPDATES];
    int64_t updates_due;   /* ms: when those that wait must go; 0: none waits */
    struct pace pace;
};

void iopub_init(struct iopub *io, void *socket, struct front *front, struct wire *wire);
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
