/* SPDX-License-Identifier: BSD-3-Clause
 *
 * timeline.h: everything an interpreter emits, in the order in which it emitted it: text from
 * the ring, bytes from the pipes of its descriptors 1 and 2, frames from its socket. The
 * reader's half of wall/ring.h, where the order is explained.
 */
#pragma once

#include "wall/interp.h"
#include "wall/ring.h"

/* What the owner of a timeline does with what comes. */
struct timeline_sink {
    void *self;
    /* Text of stream 0 or 1. slot 0: not said (a child process, C code). */
    void (*text)(void *self, int stream, uint32_t slot, struct bytes text);
    /* A frame that kept the rules. -1 with err set if its meaning breaks one. */
    int (*frame)(void *self, const struct frame *frame, struct err *err);
    /* The phase the interpreter is in just now. */
    enum interp_phase (*phase)(void *self);
    /* True if no more should be taken: a client is slow. */
    int (*full)(void *self);
};

struct timeline {
    struct timeline_sink sink;
    int socket;  /* to the interpreter, non-blocking */
    int side;    /* the second one, which is only written to; non-blocking */
    int pipe[2]; /* read ends, non-blocking; -1 at their end */
    const struct ring *ring;
    const uint8_t *ring_data;
    struct progress *progress;
    uint64_t tail;       /* bytes of the ring taken; the truth of progress->tail */
    uint32_t bell;       /* last number given */
    struct buf held[2];  /* bytes of the pipes, not emitted yet */
    uint64_t emitted[2]; /* bytes of the pipes emitted */
    uint64_t drained[2]; /* bytes of the pipes taken */
    struct buf in;       /* bytes of frames */
    size_t in_used;      /* of them, handled */
    int64_t look_again;  /* ms: text is flowing, look without being asked; 0: armed */
    int ended;           /* the socket's other end is closed */
    struct buf scratch;
};

/* What the interpreter needs for its half, to be passed on and closed by the caller. */
struct timeline_ends {
    int fd[9]; /* become descriptors 1 to 9: pipes, socket, ring, progress, read ends, the socket
                  beside (interp.h); the last, that of aside.def, is the caller's to fill */
};

int timeline_open(struct timeline *t, struct timeline_sink sink, struct timeline_ends *ret,
                  struct err *err);
void timeline_close(struct timeline *t);

/* Takes what is there and hands it to the sink, in order. Returns 0, or -1 with err set if the
 * interpreter broke a rule. */
int timeline_run(struct timeline *t, struct err *err);

/* As timeline_run, for an interpreter that is dead: takes everything that it left. */
void timeline_finish(struct timeline *t);

#define TIMELINE_LOOK_MS 5 /* while text flows */
