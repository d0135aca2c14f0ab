/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/calls.h"

#include <stdlib.h>

#include "base/json.h"
#include "kernel/conn.h"

static void
finish(struct call *c, struct heard *h)
{
    void (*done)(void *of, struct heard *h) = c->done;
    void *of = c->of;

    party_leave(&c->party);
    free(c);
    if (done)
        done(of, h);
}

static void
on_ended(struct party *p)
{
    finish((struct call *)p, NULL);
}

static void
on_heard(struct party *p, struct heard *h)
{
    struct call *c = (struct call *)p;
    struct bytes id;

    if (json_get(h->message.part[1], "msg_id", &id) != J_STRING || !json_string_is(id, c->id))
        return;
    if ((h->channel == CONTROL || h->channel == SHELL) && c->stays)
        c->done(c->of, h);
    else if (h->channel == CONTROL || h->channel == SHELL)
        finish(c, h);
    else if (h->channel == IOPUB && c->event)
        c->event(c->of, h);
}

struct call *
call_start(struct served *k, const char *type, struct bytes content, const struct bytes *buffers, size_t n,
           void (*done)(void *of, struct heard *h), void (*event)(void *of, struct heard *h), void *of)
{
    struct call *c = calloc(1, sizeof *c);
    struct framing m = {.part = {{0}, BYTES("{}"), BYTES("{}"), content}, .buffer = (struct bytes *)buffers, .buffers = n};
    scoped(buf_release) struct buf header = {0};
    char date[32];

    if (!c)
        abort();
    *c = (struct call){.party = {.listens = event != NULL, .hear = on_heard, .ended = on_ended},
                       .done = done, .event = event, .of = of};
    uuid_new(c->id);
    if (buf_printf(&header,
                   "{\"msg_id\":\"%s\",\"msg_type\":\"%s\",\"username\":\"husk\",\"session\":\"%s\",\"date\":\"%s\","
                   "\"version\":\"5.6\"}", c->id, type, k->id, clock_text(clock_us(), date)) < 0)
        abort();
    m.part[0] = (struct bytes){header.data, header.len};
    party_join(k, &c->party);
    party_send(&c->party, CONTROL, &m);
    return c;
}

void
call_forget(struct call *c)
{
    party_leave(&c->party);
    free(c);
}

struct call *
call_operation(struct served *k, const char *method, struct bytes params, const struct bytes *buffers, size_t n,
               void (*done)(void *of, struct heard *h), void (*event)(void *of, struct heard *h), void *of)
{
    scoped(buf_release) struct buf content = {0};

    if (buf_printf(&content, "{\"method\":\"%s\",\"params\":", method) < 0 ||
        buf_add(&content, params.data, params.len) < 0 || buf_text(&content, "}") < 0)
        abort();
    return call_start(k, "sandbox_request", (struct bytes){content.data, content.len}, buffers, n, done, event, of);
}
