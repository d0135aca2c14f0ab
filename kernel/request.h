/* SPDX-License-Identifier: BSD-3-Clause
 *
 * request.h: the table of open requests. A request is open from its verified arrival until its
 * idle; whatever the interpreter does, each gets one reply and one idle. Those for the
 * interpreter wait in a queue and are answered one after the other.
 */
#pragma once

#include "kernel/sockets.h"
#include "kernel/wire.h"

struct request_type;

struct request {
    struct request *next; /* in the queue */
    uint32_t slot;        /* its name on the other side of the wall; never 0 */
    enum channel channel;
    const struct request_type *type;
    struct frames frames; /* owned; msg borrows from them */
    struct wire_msg msg;
    /* execute_request only */
    int silent, store_history, allow_stdin, stop_on_error;
    uint32_t count;   /* the cell's number */
    char started[32]; /* date */
    int aborted;      /* an earlier cell failed: it will not run */
};

/* Takes the frames (and leaves *frames empty). NULL and errno without memory. */
struct request *request_new(uint32_t slot, enum channel channel, const struct request_type *type,
                            struct frames *frames, const struct wire_msg *msg);
void request_free(struct request *r);

static inline struct bytes
request_header(const struct request *r)
{
    return r->msg.part[WIRE_HEADER];
}
static inline struct bytes
request_content(const struct request *r)
{
    return r->msg.part[WIRE_CONTENT];
}

struct request_queue {
    struct request *first, *last;
};
void queue_put(struct request_queue *q, struct request *r);
struct request *queue_take(struct request_queue *q); /* NULL when empty */

/* Headers of requests, by slot, also of those that are done: a thread or a task may print when
 * its cell is over. The oldest are forgotten; unknown slots belong to the latest. */
#define PARENTS 256
struct parents {
    struct {
        uint32_t slot;
        struct buf header;
    } entry[PARENTS];
    uint32_t latest;
};
void parents_add(struct parents *p, uint32_t slot, struct bytes header);
struct bytes parents_find(const struct parents *p, uint32_t slot);
void parents_release(struct parents *p);
