/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/starts.h"

#include <stdlib.h>

#include "base/json.h"
#include "serve/calls.h"

struct start {
    struct exchange *x;
    struct served *k;
    void (*then)(struct exchange *x, struct served *k);
};

static void
forget(struct exchange *x)
{
    struct start *st = x->of;

    served_forget_wait(st->k, st);
    free(st);
}

static struct start *
wait_for(struct exchange *x, struct served *k, void (*fn)(void *of, struct served *k),
         void (*then)(struct exchange *x, struct served *k))
{
    struct start *st = malloc(sizeof *st);

    if (!st)
        abort();
    *st = (struct start){x, k, then};
    x->of = st;
    x->gone = forget;
    served_wait(k, fn, st);
    return st;
}

static void
set_tags(struct served *k)
{
    scoped(buf_release) struct buf params = {0};

    if (!k->tags.len)
        return;
    if (buf_text(&params, "{\"tags\":") < 0 || buf_add(&params, k->tags.data, k->tags.len) < 0 ||
        buf_text(&params, "}") < 0)
        abort();
    (void)call_operation(k, "sandbox.set", (struct bytes){params.data, params.len}, NULL, 0, NULL, NULL, NULL);
}

static void
on_started(void *of, struct served *k)
{
    struct start *st = of;
    struct exchange *x = st->x;
    void (*then)(struct exchange *x, struct served *k) = st->then;

    free(st);
    x->gone = NULL;
    if (k->state == SERVED_DEAD) {
        answer_error(x, 500, "the kernel does not start: %s", k->failure);
        return;
    }
    set_tags(k);
    then(x, k);
}

void
start_for(struct exchange *x, struct bytes object, void (*then)(struct exchange *x, struct served *k))
{
    scoped(wish_release) struct served_wish w = {0};
    struct server *s = x->server;
    struct served *k;
    struct err err;

    if (wish_read(x, object, &w) < 0)
        return;
    if (s->kernel_count >= s->options.max_kernels) {
        answer_error(x, 503, "%zu kernels run, and more are not allowed (--max-kernels)", s->kernel_count);
        return;
    }
    k = served_start(s, &w, &err);
    if (!k)
        answer_error(x, 500, "the kernel does not start: %s", err.text);
    else
        (void)wait_for(x, k, on_started, then);
}

void
files_for(struct exchange *x, void (*then)(struct exchange *x, struct served *k))
{
    scoped(wish_release) struct served_wish w = {0};
    struct served *k = x->server->kernels;
    struct err err;

    while (k && (!k->hidden || k->stopping))
        k = k->next;
    if (k && (k->state == SERVED_IDLE || k->state == SERVED_BUSY)) {
        then(x, k);
        return;
    }
    if (!k) {
        wish_of_server(x->server, &w);
        if (!(k = served_start(x->server, &w, &err))) {
            answer_error(x, 500, "there is no sandbox for files: %s", err.text);
            return;
        }
    }
    (void)wait_for(x, k, on_started, then);
    if (k->state == SERVED_DEAD)
        served_restart(k);
}

static void
on_restarted(void *of, struct served *k)
{
    struct start *st = of;
    struct exchange *x = st->x;
    struct buf b = {0};

    free(st);
    x->gone = NULL;
    if (k->state == SERVED_DEAD || k->removed) {
        answer_error(x, 500, "the kernel does not restart: %s", k->failure);
        return;
    }
    served_model(k, &b);
    answer_json(x, 200, &b);
}

void
restart_for(struct exchange *x, struct served *k)
{
    if (k->stopping) {
        answer_error(x, 404, "Kernel does not exist: %s", k->id);
        return;
    }
    (void)wait_for(x, k, on_restarted, NULL);
    served_restart(k);
}

static void
on_stopped(void *of, struct served *k)
{
    struct start *st = of;
    struct exchange *x = st->x;

    free(st);
    x->gone = NULL;
    answer_empty(x, 204);
}

/* A restart that is under way meanwhile wakes those who wait, too. */
static void
on_perhaps_stopped(void *of, struct served *k)
{
    struct start *st = of;

    if (k->removed)
        on_stopped(of, k);
    else
        served_wait(k, on_perhaps_stopped, st);
}

void
stop_for(struct exchange *x, struct served *k)
{
    (void)wait_for(x, k, on_perhaps_stopped, NULL);
    served_stop(k);
}
