/* SPDX-License-Identifier: BSD-3-Clause
 *
 * box.h: the supervisor's end of the wall to the broker (sandbox.def). It names options and
 * processes; what becomes of them is the broker's business.
 */
#pragma once

#include "wall/sandbox.h"

struct box {
    pid_t broker; /* 0: none */
    int socket;   /* non-blocking once the sandbox is asked for */
    enum sandbox_phase phase;
    struct buf packet;
};
#define BOX_EMPTY ((struct box){.socket = -1, .phase = SANDBOX_NEW})

/* Starts the broker. Must come before any thread. */
int box_start(const char *broker, const char *init, struct box *ret, struct err *err);

/* Asks for the sandbox; the answer is an event. Each option is "NAME=VALUE". */
int box_build(struct box *box, const struct strv *options, struct err *err);
/* Starts a process; fds become its descriptors 1 to 7 and stay the caller's. */
int box_spawn(struct box *box, uint32_t slot, const char *directory, const struct strv *argv,
              const struct strv *environment, const int fds[static SANDBOX_FDS],
              struct err *err);
int box_signal(struct box *box, uint32_t slot, int signal, struct err *err);
int box_sweep(struct box *box, struct err *err);

/* The next event: 1 with *ret (borrowed until the next call), 0 if none is there, -1 if the
 * broker is gone or broke a rule. */
int box_event(struct box *box, struct frame *ret, struct err *err);

/* Closes the socket, which takes the sandbox down, and waits for the broker. */
void box_end(struct box *box);
