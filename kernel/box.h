/* SPDX-License-Identifier: BSD-3-Clause
 *
 * box.h: the supervisor's end of the wall to the broker (sandbox.def). It names options and
 * processes; what becomes of them is the broker's business.
 */
#pragma once

#include "wall/sandbox.h"
#include "wall/usage.h"

struct box {
    pid_t broker; /* 0: none */
    int socket;   /* non-blocking once the sandbox is asked for */
    enum sandbox_phase phase;
    struct buf packet;
    int usage[USAGE_FILES]; /* came with BUILT, or -1 */
    int diff; /* came with DIFFED, until the next event; or -1 */
};
#define BOX_EMPTY ((struct box){.socket = -1, .phase = SANDBOX_NEW, .usage = {-1, -1, -1}, .diff = -1})

/* Starts the broker, which is the program `broker`: paths.h has them. Must come before any thread. */
int box_start(const char *broker, struct box *ret, struct err *err);
/* A port of the sandbox on the socket `fd`, which listens; the answer is EXPOSED with that slot. */
int box_expose(struct box *box, uint32_t slot, uint16_t port, int fd, struct err *err);
int box_unexpose(struct box *box, uint32_t slot, struct err *err);

/* Asks what changed; the answer is DIFFED with that slot, and box->diff. */
int box_diff(struct box *box, uint32_t slot, uint32_t limit, struct err *err);

/* Asks for the sandbox; the answer is an event. Each option is "NAME=VALUE". */
int box_build(struct box *box, const struct strv *options, struct err *err);
/* The same for `husk doctor`: the event is REPORT, and if it says so, the sandbox is there. */
int box_check(struct box *box, const struct strv *options, struct err *err);
/* Starts a process; fds become its descriptors 1 to 9 and stay the caller's. With BOX_STAYS, it and
 * what descends from it stay over box_sweep(). */
#define BOX_STAYS SANDBOX_STAYS
#define BOX_NAMED SANDBOX_NAMED /* argv[0] is executed, with argv[1] and what follows as its arguments */
int box_spawn(struct box *box, uint32_t slot, unsigned how, const char *directory,
              const struct strv *argv, const struct strv *environment, const int fds[static SANDBOX_FDS],
              struct err *err);
int box_signal(struct box *box, uint32_t slot, int signal, struct err *err);
int box_sweep(struct box *box, struct err *err);

/* The next event: 1 with *ret (borrowed until the next call), 0 if none is there, -1 if the
 * broker is gone or broke a rule. */
int box_event(struct box *box, struct frame *ret, struct err *err);

/* Takes the sandbox down and waits until it is; the broker may go on removing files. */
void box_end(struct box *box);
