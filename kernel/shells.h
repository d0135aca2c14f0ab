/* SPDX-License-Identifier: BSD-3-Clause
 *
 * shells.h: what runs requests inside the interpreter, side by side: the main shell, its
 * subshells (JEP 91), and the debugger. Each has a queue and takes one request at a time from it.
 *
 * The exception to "one at a time": while the running cell awaits (frame AWAITS), comm messages
 * are given at once, beside it and past the cells that wait. A cell that waits for what a widget
 * answers would wait for ever otherwise.
 *
 * A shell that is deleted takes no more requests. What waited in it is answered as aborted; what
 * runs goes on to its end and is answered then. Subshells outlive the interpreter: clients know
 * them by their ids, so a new interpreter gets them too.
 */
#pragma once

#include "kernel/request.h"
#include "kernel/watch.h"

#define SUBSHELLS 256          /* at a time, for each is a thread: the sandbox limits those too */
#define SHELL_ID 37            /* bytes: a UUID and its NUL */
#define INPUT_RETRY_MS 20      /* while the client's stdin is not connected */
#define INPUT_PATIENCE_MS 10000 /* then the cell is told that there is nobody to ask */

struct input {            /* a question to the user that is open */
    int open;
    char msg_id[64];      /* of our input_request */
    struct buf content;   /* of the last one */
    int64_t retry;        /* ms: when to try again; 0: it was sent */
    int64_t give_up;      /* ms */
};

struct shell {
    struct shell *next;          /* main, debugger, subshells in the order of their creation */
    uint32_t number;
    char id[SHELL_ID];           /* of a subshell */
    struct request_queue queue;
    struct request *running;     /* owned; NULL: it is idle */
    struct request_queue guests; /* comm messages that were given while `running` awaits */
    int awaits;                  /* the running cell does */
    int deleted;                 /* by the client; it goes when nothing runs in it */
    int opened;                  /* this interpreter knows it; the main one needs no telling */
    struct watch watch;          /* the time of the running cell */
    struct input input;
};

struct kernel;
/* The main shell and the debugger's, in k; nothing is allocated. */
void shells_init(struct kernel *k);
void shells_release(struct kernel *k);

/* The shell that a request on the shell channel is for; NULL if there is none of its subshell_id,
 * with err set. */
struct shell *shells_of_header(struct kernel *k, struct bytes header, struct err *err);
/* The shell to which the request `slot` was given, with the request; NULL: none. */
struct shell *shells_of_slot(struct kernel *k, uint32_t slot, struct request **ret);
/* Whether anything was given and not answered yet. */
int shells_busy(const struct kernel *k);
/* Whether anything waits. */
int shells_waiting(const struct kernel *k);

/* The request was answered, or is about to be: it is no longer given. */
void shell_forget(struct shell *s, struct request *r);
/* Removes shells that were deleted and in which nothing runs. */
void shells_sweep(struct kernel *k);

/* Answers of requests.def. */
void answer_create_subshell(struct kernel *k, struct request *r);
void answer_delete_subshell(struct kernel *k, struct request *r);
void answer_list_subshell(struct kernel *k, struct request *r);
