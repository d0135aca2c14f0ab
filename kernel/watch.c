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
tell(struct kernel *k, const struct shell *s, const char *text)
{
    const struct request *r = s->running;

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
watch_start(struct kernel *k, struct shell *s)
{
    struct watch *w = &s->watch;

    *w = (struct watch){0};
    if (k->options.cell_timeout)
        next(w, WATCH_LIMIT, now_ms() + (int64_t)k->options.cell_timeout * 1000);
}

void
watch_interrupted(struct shell *s)
{
    if (s->watch.stage <= WATCH_LIMIT)
        next(&s->watch, WATCH_ASK, now_ms() + WATCH_ASK_MS);
}

void
watch_stop(struct shell *s)
{
    s->watch = (struct watch){0};
}

static void
strike(struct kernel *k, struct shell *s)
{
    char text[120];

    snprintf(text, sizeof text, "the cell is over its time limit of %llu s and is interrupted",
             (unsigned long long)k->options.cell_timeout);
    tell(k, s, text);
    s->watch.limit_struck = 1;
    interp_interrupt_shell(k, s);
}

static void
kill_it(struct kernel *k, const struct watch *w)
{
    if (w->limit_struck)
        err_set(&k->interp.broken, ETIME,
                "the cell was over its time limit of %llu s and did not hear two interrupts",
                (unsigned long long)k->options.cell_timeout);
    else
        err_set(&k->interp.broken, ETIME, "the cell went on for %llu s after an interrupt",
                (unsigned long long)k->options.interrupt_timeout);
    signal_interp(k, SIGKILL);
}

/* ms between the stages that lead to the end. */
static int64_t
grace(const struct kernel *k, const struct watch *w)
{
    int64_t all = (int64_t)k->options.interrupt_timeout * 1000 - WATCH_ASK_MS;

    return w->limit_struck ? WATCH_GRACE_MS : all > 0 ? all / 2 : 0;
}

static void
tick(struct kernel *k, struct shell *s, int64_t now)
{
    struct watch *w = &s->watch;

    if (!w->at || now < w->at || !s->running)
        return;
    switch (w->stage) {
    case WATCH_LIMIT:
        strike(k, s);
        next(w, WATCH_ASK, now + WATCH_ASK_MS);
        break;
    case WATCH_ASK:
        tell(k, s, "the cell has not heard the interrupt yet; it is here:");
        iopub_flush(&k->iopub, 0);
        signal_interp(k, SIGNAL_ASK);
        if (w->limit_struck || k->options.interrupt_timeout)
            next(w, WATCH_AGAIN, now + grace(k, w));
        else if (k->options.cell_timeout)
            watch_start(k, s); /* the limit still holds */
        else
            next(w, WATCH_OFF, 0);
        break;
    case WATCH_AGAIN:
        interp_interrupt_shell(k, s);
        next(w, WATCH_KILL, now + grace(k, w));
        break;
    case WATCH_KILL:
        kill_it(k, w);
        next(w, WATCH_OFF, 0);
        break;
    case WATCH_OFF:
        break;
    }
}

void
watch_tick(struct kernel *k, int64_t now)
{
    for (struct shell *s = &k->main; s; s = s->next)
        tick(k, s, now);
}

int64_t
watch_deadline(const struct kernel *k)
{
    int64_t at = 0;

    for (const struct shell *s = &k->main; s; s = s->next)
        if (s->watch.at && (!at || s->watch.at < at))
            at = s->watch.at;
    return at;
}
