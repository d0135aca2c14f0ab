/* SPDX-License-Identifier: BSD-3-Clause
 *
 * request.h: the table of open requests. A request is open from its verified arrival until its
 * idle; whatever the interpreter does, each gets one reply and one idle. Those for the
 * interpreter wait in the queue of a shell (shells.h).
 */
#pragma once

#include "kernel/sockets.h"
#include "kernel/wire.h"

struct request_type;

/* What a cell took. */
struct cost {
    int64_t wall_us;      /* 0: not measured */
    int64_t cpu_us;       /* as the interpreter says, with children that have ended */
    int64_t throttled_us; /* of waiting for --cpus */
    uint64_t peak;        /* bytes of memory: of the whole sandbox where that is counted, else of
                             the interpreter, as it says */
    uint64_t oom_kills;   /* processes that the memory limit ended meanwhile */
};

struct request {
    struct request *next; /* in the queue */
    uint32_t slot;        /* its name on the other side of the wall; never 0 */
    enum channel channel;
    const struct request_type *type;
    struct frames frames; /* owned, buffers perhaps not yet (frames_keep()); msg borrows from them */
    struct wire_msg msg;
    /* execute_request only */
    int silent, store_history, allow_stdin, stop_on_error;
    uint32_t count;   /* the cell's number */
    char started[32]; /* date of its busy, not of its arrival: clients measure cells by it */
    int aborted;      /* an earlier cell failed: it will not run */
    int64_t began;    /* microseconds of CLOCK_MONOTONIC, when the interpreter got it; 0: not yet */
    struct cost cost; /* when it is over */
    int64_t waits_until; /* ms: questions about names, see aside.h; 0: others */
    uint64_t oom_kills; /* cells and sandbox_request: of the sandbox, when it was asked */
};

/* Takes the frames (and leaves *frames empty). NULL and errno without memory. */
struct request *request_new(uint32_t slot, enum channel channel, const struct request_type *type,
                            struct frames *frames, const struct wire_msg *msg);
void request_free(struct request *r);
/* Its buffers have gone where they were to go. */
void request_forget_buffers(struct request *r);

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
/* Whoever keeps a request puts it into a queue: what it borrows is copied then. */
void queue_put(struct request_queue *q, struct request *r);
struct request *queue_take(struct request_queue *q); /* NULL when empty */
struct request *queue_take_slot(struct request_queue *q, uint32_t slot); /* NULL: not in it */

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
/* If it is the `latest`, what no request said to be its own belongs to it. */
void parents_add(struct parents *p, uint32_t slot, struct bytes header, int latest);
struct bytes parents_find(const struct parents *p, uint32_t slot);
void parents_release(struct parents *p);
