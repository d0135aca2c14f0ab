/* SPDX-License-Identifier: BSD-3-Clause
 *
 * kernel.h: the state of one kernel, and who does what with it.
 *
 *   kernel.c    starts and stops it; the one loop, one thread
 *   dispatch.c  messages in: accepts, answers at once or queues (requests.def)
 *   reply.c     messages out: replies, errors, busy and idle
 *   interp.c    the interpreter: starts, feeds, hears, interrupts, replaces it
 */
#pragma once

#include "kernel/box.h"
#include "kernel/history.h"
#include "kernel/iopub.h"
#include "kernel/options.h"
#include "kernel/python.h"
#include "kernel/request.h"
#include "kernel/sockets.h"
#include "kernel/timeline.h"
#include "kernel/watch.h"
#include "kernel/wire.h"

/* Starting and stopping again without ever getting as far as HELLO: then the kernel gives up. */
#define INTERP_TRIES 3

enum interp_state {
    INTERP_NONE,     /* the sandbox is not built yet */
    INTERP_SWEEPING, /* what the last one left behind is being killed */
    INTERP_STARTING, /* started, no HELLO yet */
    INTERP_READY,    /* waits for a request */
    INTERP_RUNNING,  /* has one */
    INTERP_DEAD,     /* gone; its successor is on the way */
};

struct interp {
    enum interp_state state;
    uint32_t slot;          /* its name for the broker: counts the interpreters */
    struct timeline timeline;
    struct buf out;         /* frames for it that did not fit into the socket yet */
    size_t out_used;
    struct request *running; /* owned, in INTERP_RUNNING */
    int failures;           /* in a row, before HELLO */
    int gone;               /* its process has ended */
    int64_t hung_up;        /* ms: it closed its socket; when it is ended if it lives on; or 0 */
    struct err broken;      /* why it was killed by us, if it was */
    struct watch watch;     /* the time of the running cell */
    struct buf last_words;  /* what it printed before HELLO: why it did not start */
};

struct input {            /* a question to the user that is open */
    int open;
    char msg_id[64];      /* of our input_request */
};

struct kernel {
    struct options options;
    struct conn conn;
    struct wire *wire;
    struct sockets sockets;
    struct iopub iopub;
    struct box box;
    struct python python;
    struct interp interp;
    struct input input;
    struct request_queue queue;
    struct parents parents;
    struct history history;
    uint32_t next_slot;
    uint32_t next_count;    /* number of the next cell */
    char sandbox_text[1024]; /* what limits are in force, for people */
    char directory[4096];   /* the working directory */
    int signals;            /* signalfd */
    int parent;             /* pidfd of the client that started us, or -1 */
    int64_t ending;         /* ms: when to stop waiting for the interpreter; 0: not ending */
    int keep_after_leave;   /* exit(keep_kernel=True) */
    int leave;              /* the cell asked to end the kernel */
    int done;               /* leave the loop */
    int exit_code;
};

/* kernel.c */
int kernel_run(struct kernel *k, struct err *err); /* returns an exit code */
void kernel_end(struct kernel *k);                 /* begins an orderly end */
void kernel_fail(struct kernel *k, int exit_code, const struct err *err); /* ends now, says why */

/* dispatch.c */
struct request_type {
    const char *name;
    const char *reply; /* NULL: none */
    int (*check)(struct request *r, struct err *err);
    int frame; /* of interp.def; 0: answered at once */
    void (*answer)(struct kernel *k, struct request *r);
};
void dispatch_socket(struct kernel *k, enum channel channel);
void dispatch_stdin(struct kernel *k);
/* Takes what has arrived on shell by now, and marks the cells among it and in the queue that
 * an error just aborted (stop_on_error: by order of arrival, not by a timer). */
void dispatch_abort_arrived(struct kernel *k);

/* reply.c: each also publishes idle and frees the request. */
void reply_begin(struct kernel *k, struct request *r); /* busy */
void reply_content(struct kernel *k, struct request *r, struct bytes content,
                   const char *status);
void reply_error(struct kernel *k, struct request *r, const char *ename, const char *evalue);
void reply_aborted(struct kernel *k, struct request *r);
void reply_none(struct kernel *k, struct request *r);

/* interp.c */
void interp_feed(struct kernel *k);     /* gives it the next request, if it waits for one */
void interp_start(struct kernel *k);    /* in a built sandbox */
void interp_run(struct kernel *k);      /* hears what it says */
void interp_flush(struct kernel *k);    /* goes on sending what did not fit */
void interp_event(struct kernel *k, const struct frame *event);
void interp_interrupt(struct kernel *k);
void interp_shutdown(struct kernel *k);
void interp_answer_input(struct kernel *k, struct bytes text, int refused);
void interp_release(struct kernel *k);
