/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/operations.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "kernel/base64.h"
#include "serve/feed.h"
#include "serve/handlers.h"
#include "wall/agent.h"

/* One that is asked for and not answered. */
struct asked {
    struct exchange *x;
    struct call *call;
    struct feed *feed; /* if its events are streamed */
    int done;
};

/*** Results ***/

unsigned
operation_status(struct bytes code)
{
    static const struct {
        const char *code;
        unsigned status;
    } rows[] = {{"not_found", 404}, {"no_such_process", 404}, {"unknown_method", 404}, {"permission_denied", 403},
                {"read_only", 403}, {"exists", 409}, {"not_empty", 409}, {"address_in_use", 409}, {"ended", 409},
                {"too_large", 413}, {"timeout", 408}, {"too_many", 429}, {"too_many_open", 429}, {"no_space", 507},
                {"out_of_memory", 507}, {"not_supported", 501}, {"agent_died", 503}, {"ending", 503},
                {"io_error", 500}, {"failed", 500}};

    for (size_t i = 0; i < countof(rows); i++)
        if (json_string_is(code, rows[i].code))
            return rows[i].status;
    return 400;
}

/* {"message", "reason", "code", "suggestion"} of a reply that is an error. */
static void
add_error(struct bytes content, struct buf *b, struct bytes *ret_code)
{
    struct bytes message = BYTES("\"\""), suggestion = BYTES("\"\"");

    *ret_code = BYTES("\"failed\"");
    (void)json_get(content, "code", ret_code);
    if (json_get(content, "message", &message) != J_STRING)
        (void)json_get(content, "evalue", &message);
    (void)json_get(content, "suggestion", &suggestion);
    if (buf_printf(b, "{\"message\": %.*s, \"reason\": null, \"code\": %.*s, \"suggestion\": %.*s}", (int)message.len,
                   (const char *)message.data, (int)ret_code->len, (const char *)ret_code->data, (int)suggestion.len,
                   (const char *)suggestion.data) < 0)
        abort();
}

/* An object with its buffers as one more member. */
static void
add_object(struct bytes object, const struct framing *m, struct buf *b)
{
    if (buf_add(b, object.data, object.len) < 0)
        abort();
    if (!m->buffers)
        return;
    while (b->data[b->len - 1] != '}')
        b->len--;
    b->len--;
    if (buf_printf(b, "%s\"buffers\":[", b->data[b->len - 1] == '{' ? "" : ",") < 0)
        abort();
    for (size_t i = 0; i < m->buffers; i++) {
        if (buf_text(b, i ? ",\"" : "\"") < 0 || base64_add(b, m->buffer[i]) < 0 || buf_text(b, "\"") < 0)
            abort();
    }
    if (buf_text(b, "]}") < 0)
        abort();
}

int
operation_result(struct exchange *x, struct heard *h, struct bytes *ret)
{
    struct buf b = {0};
    struct bytes code;

    if (!h) {
        answer_error(x, 503, "the kernel has ended");
        return -1;
    }
    if (json_get(h->message.part[3], "result", ret) == J_OBJECT)
        return 0;
    add_error(h->message.part[3], &b, &code);
    answer_json(x, operation_status(code), &b);
    return -1;
}

struct served *
operation_kernel(struct server *s, struct exchange *x)
{
    struct served *k = served_of(s, x, x->segment[0]);

    if (k && k->front.socket < 0) {
        answer_error(x, 503, "the kernel is dead: %s", k->failure);
        return NULL;
    }
    return k;
}

/*** A whole result ***/

static void
on_result(void *of, struct heard *h)
{
    struct asked *a = of;
    struct exchange *x = a->x;
    struct buf b = {0};
    struct bytes result;

    free(a);
    x->gone = NULL;
    if (operation_result(x, h, &result) < 0)
        return;
    add_object(result, &h->message, &b);
    answer_json(x, 200, &b);
}

static void
forget(struct exchange *x)
{
    struct asked *a = x->of;

    call_forget(a->call);
    free(a);
}

/*** A stream of events ***/

static void
add_line(struct feed *f, const char *name, struct bytes object, const struct framing *m)
{
    scoped(buf_release) struct buf b = {0};

    if (buf_printf(&b, "{\"%s\": ", name) < 0)
        abort();
    add_object(object, m, &b);
    if (buf_text(&b, "}\n") < 0)
        abort();
    feed_add(f, b.data, b.len);
}

static void
on_event(void *of, struct heard *h)
{
    struct asked *a = of;
    struct bytes type;

    if (a->feed && json_get(h->message.part[0], "msg_type", &type) == J_STRING && json_string_is(type, "sandbox_event"))
        add_line(a->feed, "event", h->message.part[3], &h->message);
}

static void
on_last(void *of, struct heard *h)
{
    struct asked *a = of;
    scoped(buf_release) struct buf b = {0};
    struct bytes result, code;

    a->call = NULL;
    a->done = 1;
    if (!h) {
        feed_end(a->feed, 1);
        return;
    }
    if (json_get(h->message.part[3], "result", &result) == J_OBJECT) {
        add_line(a->feed, "result", result, &h->message);
    } else {
        add_error(h->message.part[3], &b, &code);
        add_line(a->feed, "error", (struct bytes){b.data, b.len}, &(struct framing){0});
    }
    feed_end(a->feed, 0);
}

/* The reply is sent, or nobody reads it. */
static void
on_over(void *of)
{
    struct asked *a = of;

    if (a->call)
        call_forget(a->call);
    free(a);
}

static int
wants_stream(const struct exchange *x)
{
    const char *stream = exchange_query(x, "stream"), *accept = exchange_header(x, "Accept");

    return (stream && strcmp(stream, "0") != 0 && strcmp(stream, "false") != 0) ||
           (accept && strstr(accept, "application/x-ndjson"));
}

void
post_operation(struct server *s, struct exchange *x)
{
    struct served *k = operation_kernel(s, x);
    const char *name = x->segment[1];
    struct bytes params;
    struct asked *a;

    if (!k)
        return;
    if (!operation_find(bytes_of(name))) {
        answer_error(x, 404, "there is no operation '%.80s'; /api/spec.json lists them", name);
        return;
    }
    if (exchange_object(x, &params) < 0)
        return;
    if (!(a = calloc(1, sizeof *a)))
        abort();
    a->x = x;
    if (wants_stream(x)) {
        a->feed = feed_answer(x, 200, FEED_ENDLESS, "application/x-ndjson", NULL, NULL, on_over, a);
        a->call = call_operation(k, name, params, NULL, 0, on_last, on_event, a);
    } else {
        x->of = a;
        x->gone = forget;
        a->call = call_operation(k, name, params, NULL, 0, on_result, NULL, a);
    }
}
