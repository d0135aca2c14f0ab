/* SPDX-License-Identifier: BSD-3-Clause
 *
 * history.h: what was entered, kept by the supervisor, outside of the sandbox (store.h). A disk may
 * take its time, so a thread does the work: what is entered costs a copy, a history_request waits
 * for it HISTORY_PATIENCE_MS at most, and then gets an empty list and a warning in the log.
 *
 * The thread is started when there is something to write or to answer, and knows nothing of the kernel but this
 * structure's queue. It never fails: without it there is no history, and everything else goes on.
 */
#pragma once

#include <pthread.h>

#include "kernel/request.h"

struct kernel;

#define HISTORY_PATIENCE_MS 10000
#define HISTORY_DELAY_MS 100       /* lines are written together */
#define HISTORY_END_MS 1000        /* at the end of a kernel, for lines that are not written yet */
#define HISTORY_LAZY (1u << 20)    /* bytes that wait for a question where no file waits for them */
#define HISTORY_QUEUE (64u << 20)  /* bytes that wait for a disk; more is not kept */

struct job;

struct history {
    int off;           /* nothing is kept, and every list is empty */
    char *path;        /* NULL: this session only */
    int ready;         /* eventfd: an answer is there; -1 while there is no thread */
    pthread_t thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t more;
    struct job *first, *last; /* to do */
    size_t bytes;             /* of them */
    struct job *done;         /* answers */
    int ended;                /* the thread has left */
    /* the kernel's only */
    struct request_queue open; /* asked, not answered */
    int64_t write_due;         /* ms: when lines that wait must go; 0: none does */
    int full;                  /* that something was not kept has been said */
};

/* From --history: "shared", "session" or "off". */
int history_init(struct history *h, const char *kind, struct err *err);

void history_add(struct history *h, uint32_t line, struct bytes code); /* accepted JSON strings */
void history_set_source(struct history *h, uint32_t line, struct bytes code);
void history_set_output(struct history *h, uint32_t line, struct bytes text);
void history_next_session(struct history *h); /* a new interpreter counts from 1 */

void history_ask(struct kernel *k, struct request *r); /* an accepted history_request */
void history_run(struct kernel *k);                    /* `ready` can be read */
void history_tick(struct kernel *k, int64_t now);
int64_t history_deadline(const struct kernel *k); /* ms; 0: none */
void history_release(struct kernel *k);
