/* SPDX-License-Identifier: BSD-3-Clause
 *
 * operations.h: sandbox_request, and husk-agent's other end. Parameters are checked here against
 * wall/operations.def; what the agent does is passed to it as the bytes they are, and what it
 * says is checked to be JSON and passed on. It lives in the sandbox, so nothing that it says is
 * believed, and no operation waits for ever: one that does not answer a ping is ended, and every
 * operation that it had gets its error.
 *
 * The agent is started with the first operation, and again when it has ended.
 */
#pragma once

#include "kernel/request.h"
#include "wall/sandbox.h"

struct kernel;

#define AGENT_SLOTS 0x80000000u /* as a process of the sandbox: slots from here on */
#define AGENT_QUIET_MS 5000     /* with operations open: then it is pinged, then ended */
#define AGENT_OPEN_MAX 4096     /* operations */
#define AGENT_OUT_MAX (256u << 20) /* bytes on their way to it */

struct agent {
    uint32_t slot; /* 0: never started */
    int socket;    /* -1: it does not run */
    struct buf in, out;
    size_t out_used;
    struct request_queue open; /* asked, not answered */
    unsigned count;
    struct parents parents; /* of events */
    int64_t heard; /* ms: when it last said something */
    int64_t asked; /* ms: when it was pinged; 0: no ping is out */
    int failed;    /* starts in a row that came to nothing */
};

/* The two ways in which one ends: errno of op_errors.def, or a JSON object. */
void operations_refuse(struct kernel *k, struct request *r, int number, const char *text);
void operations_answer(struct kernel *k, struct request *r, struct bytes json, const struct bytes *buffers,
                       size_t n);

/* Answers, or passes on. */
void operations_request(struct kernel *k, struct request *r);
/* Who asked over a connection of callers.h has hung up: what waits for it alone ends (agent.h). */
void operations_gone(struct kernel *k, uint32_t caller);
/* The sandbox is there. */
void operations_start(struct kernel *k);
void operations_event(struct kernel *k, const struct frame *event); /* of its process */
void operations_run(struct kernel *k); /* hears and feeds it */
void operations_tick(struct kernel *k, int64_t now);
int64_t operations_deadline(const struct kernel *k); /* ms; 0: none */
void operations_release(struct kernel *k);
