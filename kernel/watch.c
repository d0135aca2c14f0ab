/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/watch.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

#include "base/log.h"
#include "kernel/exits.h"
#include "kernel/kernel.h"

/* The glue has it write the stack of all threads to descriptor 2; ignored where it does not. */
#define SIGNAL_ASK SIGURG

static void
tell(struct kernel *k, const char *text)
{
    const struct request *r = k->interp.running;

    log_info("%s", text);
    iopub_text(&k->iopub, STREAM_STDERR, r->slot, request_header(r), bytes_of("[husk: "));
    iopub_text(&k->iopub, STREAM_STDERR, r->slot, request_header(r), bytes_of(text));
    iopub_text(&k->iopub, STREAM_STDERR, r->slot, request_header(r), bytes_of("]\n"));
}

static void
signal_interp(struct kernel *k, int number)
{
    struct err err;

    if (box_signal(&k->box, k->interp.slot, number, &err) < 0)
        kernel_fail(k, EXIT_SYSTEM, &err);
}

static void
next(struct watch *w, enum watch_stage stage, int64_t at)
{
    w->stage = stage;
    w->at = at;
}

void
watch_start(struct kernel *k)
{
    struct watch *w = &k->interp.watch;

    *w = (struct watch){0};
    if (k->options.cell_timeout)
        next(w, WATCH_LIMIT, now_ms() + (int64_t)k->options.cell_timeout * 1000);
}

void
watch_interrupted(struct kernel *k)
{
    if (k->interp.watch.stage <= WATCH_LIMIT)
        next(&k->interp.watch, WATCH_ASK, now_ms() + WATCH_ASK_MS);
}

void
watch_stop(struct kernel *k)
{
    k->interp.watch = (struct watch){0};
}

static void
strike(struct kernel *k)
{
    char text[120];

    snprintf(text, sizeof text, "the cell is over its time limit of %llu s and is interrupted",
             (unsigned long long)k->options.cell_timeout);
    tell(k, text);
    k->interp.watch.limit_struck = 1;
    interp_interrupt(k);
}

static void
kill_it(struct kernel *k)
{
    err_set(&k->interp.broken, ETIME,
            "the cell was over its time limit of %llu s and did not hear two interrupts",
            (unsigned long long)k->options.cell_timeout);
    signal_interp(k, SIGKILL);
}

void
watch_tick(struct kernel *k, int64_t now)
{
    struct watch *w = &k->interp.watch;

    if (!w->at || now < w->at || !k->interp.running)
        return;
    switch (w->stage) {
    case WATCH_LIMIT:
        strike(k);
        next(w, WATCH_ASK, now + WATCH_ASK_MS);
        break;
    case WATCH_ASK:
        tell(k, "the cell has not heard the interrupt yet; it is here:");
        iopub_flush(&k->iopub, 0);
        signal_interp(k, SIGNAL_ASK);
        if (w->limit_struck)
            next(w, WATCH_AGAIN, now + WATCH_GRACE_MS);
        else if (k->options.cell_timeout)
            watch_start(k); /* the limit still holds */
        else
            next(w, WATCH_OFF, 0);
        break;
    case WATCH_AGAIN:
        interp_interrupt(k);
        next(w, WATCH_KILL, now + WATCH_GRACE_MS);
        break;
    case WATCH_KILL:
        kill_it(k);
        next(w, WATCH_OFF, 0);
        break;
    case WATCH_OFF:
        break;
    }
}
