/* SPDX-License-Identifier: BSD-3-Clause
 *
 * aside.h: questions about names (completion, inspection, whether code is complete) that are answered
 * while a cell runs. A thread of the interpreter answers them on a socket of its own (wall/aside.def);
 * it needs the GIL, so where the cell holds that, the supervisor answers in time from the names it was
 * last told (names.h).
 *
 *     queue --nothing runs--> the interpreter, as any request
 *       |
 *       '--a cell has kept it waiting for ASIDE_WAIT_MS--> the thread --answer--> reply
 *                                                            |
 *                                                            '--ASIDE_TIME_MS--> reply from names.h
 *
 * What is not the state after all cells that were sent before says so in content.metadata.husk:
 * {"source": "live" or "snapshot", "stale": false or true, "running": CELL, "cell": CELL}; a snapshot is
 * of the time after cell "cell".
 *
 * The thread is started only for clients that ask such things (frame LISTEN), also while a cell runs: an agent's interpreter has one thread, and its os.fork() no
 * warning. What it says is never trusted: it is checked as JSON, and its names mean nothing here.
 */
#pragma once

#include "kernel/request.h"
#include "wall/aside.h"

struct kernel;
struct shell;

#define ASIDE_WAIT_MS 50    /* a cell that ends by then is waited for: the answer knows what it did */
#define ASIDE_TIME_MS 400   /* clients wait a second (JupyterLab) */
#define ASIDE_NAMES_MS 100  /* of quiet after a cell, before its names are asked for */

struct aside {
    int socket;          /* -1: there is no interpreter */
    struct buf in, out;
    int wanted;          /* a client asks such things */
    int64_t listening;   /* 1: the thread is there; -1: it was called */
    struct request_queue open; /* asked, not answered; the oldest first */
    unsigned late;       /* questions that it owes an answer for which nobody waits any more */
    int64_t look;        /* ms: when a request in the queue has waited long enough; 0: none */
    int64_t names_due;   /* ms: when to ask for the names; 0: not */
    uint32_t cell;       /* the last one that ended */
    struct buf names;    /* an accepted JSON object, or empty: never told */
    uint32_t names_cell; /* the cell that it was after */
};

/* The interpreter's end of a new socket, for the caller to pass on and close; -1 with err set. */
int aside_open(struct kernel *k, struct err *err);
/* The interpreter is gone: what it was asked is answered with an error. */
void aside_close(struct kernel *k);

/* Before r joins the queue: makes sure that it does not wait there for ever. */
void aside_expect(struct kernel *k, struct shell *s, struct request *r);
void aside_cell_ended(struct kernel *k, uint32_t count);
/* After the idle of what was answered beside a cell: else that would be the last that a client hears of
 * the kernel's state. */
void aside_say_busy(struct kernel *k);

void aside_run(struct kernel *k); /* hears and feeds the thread */
void aside_tick(struct kernel *k, int64_t now);
int64_t aside_deadline(const struct kernel *k); /* ms; 0: none */
void aside_release(struct kernel *k);
