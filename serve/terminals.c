/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/terminals.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "serve/calls.h"
#include "serve/handlers.h"
#include "serve/operations.h"
#include "serve/starts.h"
#include "serve/upgrade.h"
#include "serve/websocket.h"

#define CLOSE_NORMAL 1000
#define CLOSE_WRONG_DATA 1007
#define CLOSE_TOO_SLOW 1013

struct viewer { /* a WebSocket */
    struct viewer *next;
    struct websocket ws;
    struct terminal *terminal; /* NULL: it is gone */
    char name[32];
    struct server *server;
};

struct terminal {
    struct terminal *next;
    struct server *server;
    char name[32], kernel[37];
    struct buf process; /* its id, a string of JSON; empty until it has one */
    struct call *call;  /* NULL: its process, or the kernel, has ended */
    struct buf kept;
    struct viewer *viewers;
    struct exchange *waits; /* for its start */
    int64_t last_activity;
    int ending;
};
static struct terminal *terminals;
static unsigned last_number;

static struct terminal *
find(const char *name)
{
    for (struct terminal *t = terminals; t; t = t->next)
        if (strcmp(t->name, name) == 0)
            return t;
    return NULL;
}

/*** To those who look ***/

static struct message *
make_message(const char *kind, struct bytes json)
{
    struct message *m = message_new(0);

    if (buf_printf(&m->data, "[\"%s\", ", kind) < 0 || buf_add(&m->data, json.data, json.len) < 0 ||
        buf_text(&m->data, "]") < 0)
        abort();
    return m;
}

static void
show(struct terminal *t, struct bytes json)
{
    struct message *m = make_message("stdout", json);

    for (struct viewer *v = t->viewers; v; v = v->next) {
        if (v->ws.queued > TERMINAL_QUEUE)
            websocket_close(&v->ws, CLOSE_TOO_SLOW, "this client does not read");
        else
            websocket_send(&v->ws, m);
    }
    message_drop(m);
}

static void
keep(struct terminal *t, struct bytes json)
{
    size_t too_many;

    if (json_unescape(json, &t->kept) < 0)
        abort();
    if (t->kept.len <= TERMINAL_KEPT)
        return;
    too_many = t->kept.len - TERMINAL_KEPT / 2;
    while (too_many < t->kept.len && (t->kept.data[too_many] & 0xc0) == 0x80)
        too_many++; /* not inside a character */
    buf_consume(&t->kept, too_many);
}

static void
end_terminal(struct terminal *t)
{
    struct message *m = make_message("disconnect", BYTES("1"));
    struct terminal **at;

    for (struct viewer *v = t->viewers; v; v = v->next) {
        v->terminal = NULL;
        websocket_send(&v->ws, m);
        websocket_close(&v->ws, CLOSE_NORMAL, "the terminal has ended");
    }
    message_drop(m);
    for (at = &terminals; *at && *at != t; at = &(*at)->next)
        ;
    if (*at)
        *at = t->next;
    if (t->call)
        call_forget(t->call);
    if (t->waits) {
        t->waits->gone = NULL;
        answer_error(t->waits, 500, "the kernel has ended");
    }
    buf_release(&t->process);
    buf_release(&t->kept);
    free(t);
}

/*** The process ***/

static void
end_now(void *of)
{
    end_terminal(of);
}

static void
end_later(struct terminal *t)
{
    if (!t->ending)
        loop_later(&t->server->loop, end_now, t);
    t->ending = 1;
}

static void
on_event(void *of, struct heard *h)
{
    struct terminal *t = of;
    struct bytes what, text;

    if (json_get(h->message.part[3], "event", &what) != J_STRING)
        return;
    t->last_activity = clock_us();
    if (json_string_is(what, "exit")) {
        call_forget(t->call);
        t->call = NULL;
        end_later(t);
    } else if (json_get(h->message.part[3], "text", &text) == J_STRING) {
        keep(t, text);
        show(t, text);
    } else if (h->message.buffers) { /* bytes that are no text: as a terminal shows them */
        scoped(buf_release) struct buf quoted = {0};
        if (json_quote(h->message.buffer[0], &quoted) < 0)
            abort();
        keep(t, (struct bytes){quoted.data, quoted.len});
        show(t, (struct bytes){quoted.data, quoted.len});
    }
}

static void
add_model(const struct terminal *t, struct buf *b)
{
    char date[32];

    if (buf_printf(b, "{\"name\": \"%s\", \"last_activity\": \"%s\", \"kernel_id\": \"%s\"}", t->name,
                   clock_text(t->last_activity, date), t->kernel) < 0)
        abort();
}

static void
on_started(void *of, struct heard *h)
{
    struct terminal *t = of;
    struct exchange *x = t->waits;
    struct bytes result, id;
    struct buf b = {0};

    t->waits = NULL;
    if (!h)
        t->call = NULL; /* it ended with the kernel */
    if (x) {
        x->gone = NULL;
        if (operation_result(x, h, &result) == 0 && json_get(result, "id", &id) == J_STRING &&
            buf_add(&t->process, id.data, id.len) == 0) {
            add_model(t, &b);
            answer_json(x, 200, &b);
            return;
        }
    }
    end_later(t);
}

static void
forget_start(struct exchange *x)
{
    ((struct terminal *)x->of)->waits = NULL;
}

static void
ask(struct terminal *t, const char *method, struct bytes rest)
{
    scoped(buf_release) struct buf params = {0};
    struct served *k = served_find(t->server, t->kernel);

    if (!t->process.len || !t->call || !k || k->front.socket < 0)
        return;
    if (buf_printf(&params, "{\"id\":%.*s", (int)t->process.len, (const char *)t->process.data) < 0 ||
        buf_add(&params, rest.data, rest.len) < 0 || buf_text(&params, "}") < 0)
        abort();
    (void)call_operation(k, method, (struct bytes){params.data, params.len}, NULL, 0, NULL, NULL, NULL);
}

/*** From those who look ***/

static void
on_message(void *of, int binary, struct bytes data)
{
    scoped(buf_release) struct buf rest = {0};
    struct viewer *v = of;
    struct bytes what, a, b;
    int64_t rows, columns;
    struct err err;
    size_t at = 0;

    server_active(v->server);
    if (!v->terminal)
        return;
    if (json_check(data, &err) != J_ARRAY || json_element(data, &at, &what) != J_STRING) {
        websocket_close(&v->ws, CLOSE_WRONG_DATA, "it is no array that begins with a text");
    } else if (json_string_is(what, "stdin") && json_element(data, &at, &a) == J_STRING) {
        if (buf_text(&rest, ",\"data\":") < 0 || buf_add(&rest, a.data, a.len) < 0)
            abort();
        ask(v->terminal, "proc.stdin", (struct bytes){rest.data, rest.len});
    } else if (json_string_is(what, "set_size") && json_element(data, &at, &a) == J_NUMBER &&
               json_element(data, &at, &b) == J_NUMBER && json_int64(a, &rows) == 0 && json_int64(b, &columns) == 0) {
        if (buf_printf(&rest, ",\"rows\":%lld,\"cols\":%lld", (long long)rows, (long long)columns) < 0)
            abort();
        ask(v->terminal, "proc.resize", (struct bytes){rest.data, rest.len});
    }
}

static void
on_gone(void *of)
{
    struct viewer *v = of;
    struct viewer **at = v->terminal ? &v->terminal->viewers : NULL;

    while (at && *at && *at != v)
        at = &(*at)->next;
    if (at && *at)
        *at = v->next;
    v->server->count.sockets--;
    free(v);
}

static void
open_viewer(void *of, struct upgraded *up)
{
    scoped(buf_release) struct buf quoted = {0};
    struct viewer *v = of;
    struct terminal *t = find(v->name);
    struct message *m = make_message("setup", BYTES("{}"));

    v->server->count.sockets++;
    v->server->count.websockets++;
    v->ws.on_message = on_message;
    v->ws.on_gone = on_gone;
    v->ws.of = v;
    websocket_open(&v->ws, &v->server->loop, &v->server->run_http, up->urh, up->fd);
    websocket_send(&v->ws, m);
    message_drop(m);
    if (!t) {
        websocket_close(&v->ws, CLOSE_NORMAL, "the terminal has ended");
        return;
    }
    v->terminal = t;
    v->next = t->viewers;
    t->viewers = v;
    if (t->kept.len) {
        if (json_quote((struct bytes){t->kept.data, t->kept.len}, &quoted) < 0)
            abort();
        m = make_message("stdout", (struct bytes){quoted.data, quoted.len});
        websocket_send(&v->ws, m);
        message_drop(m);
    }
    websocket_early(&v->ws, up->early);
}

/*** Requests ***/

static struct terminal *
named(struct exchange *x)
{
    struct terminal *t = find(x->segment[0]);

    if (!t)
        answer_error(x, 404, "Terminal not found: %s", x->segment[0]);
    return t;
}

void
get_terminals(struct server *s, struct exchange *x)
{
    struct buf b = {0};

    if (buf_text(&b, "[") < 0)
        abort();
    for (const struct terminal *t = terminals; t; t = t->next) {
        if (t != terminals && buf_text(&b, ", ") < 0)
            abort();
        add_model(t, &b);
    }
    if (buf_text(&b, "]") < 0)
        abort();
    answer_json(x, 200, &b);
}

void
get_terminal(struct server *s, struct exchange *x)
{
    struct terminal *t = named(x);
    struct buf b = {0};

    if (!t)
        return;
    add_model(t, &b);
    answer_json(x, 200, &b);
}

static void
start_terminal(struct exchange *x, struct served *k)
{
    static const char params[] =
        "{\"cmd\":[\"/bin/sh\",\"-c\",\"command -v bash >/dev/null && exec bash; exec sh\"],\"tty\":true,\"stdin\":true,"
        "\"stream\":true,\"env\":{\"TERM\":\"xterm-256color\"}}";
    struct terminal *t = calloc(1, sizeof *t);

    if (!t)
        abort();
    *t = (struct terminal){.next = terminals, .server = x->server, .waits = x, .last_activity = clock_us()};
    terminals = t;
    snprintf(t->name, sizeof t->name, "%u", ++last_number);
    memcpy(t->kernel, k->id, sizeof t->kernel);
    x->of = t;
    x->gone = forget_start;
    t->call = call_operation(k, "exec.start", BYTES(params), NULL, 0, on_started, on_event, t);
    t->call->stays = 1;
}

void
post_terminal(struct server *s, struct exchange *x)
{
    static const char *const names[] = {"name", "cwd", "kernel_id", NULL};
    scoped(buf_release) struct buf id = {0};
    struct bytes object, value;
    struct served *k = served_next(s, NULL); /* the one that was started last */

    if (exchange_object(x, &object) < 0 || exchange_only(x, object, names) < 0)
        return;
    if (json_get(object, "kernel_id", &value) == J_STRING) {
        if (json_unescape(value, &id) < 0 || !buf_string(&id))
            abort();
        if (!(k = served_of(s, x, (char *)id.data)))
            return;
    }
    while (k && k->front.socket < 0 && !id.len)
        k = served_next(s, k);
    if (!k)
        start_for(x, BYTES("{}"), start_terminal);
    else if (k->front.socket < 0)
        answer_error(x, 503, "the kernel is dead: %s", k->failure);
    else
        start_terminal(x, k);
}

void
delete_terminal(struct server *s, struct exchange *x)
{
    struct terminal *t = named(x);

    if (!t)
        return;
    ask(t, "proc.kill", BYTES(",\"signal\":1,\"grace_ms\":500"));
    end_terminal(t);
    answer_empty(x, 204);
}

void
get_terminal_socket(struct server *s, struct exchange *x)
{
    struct terminal *t = named(x);
    struct viewer *v;

    if (!t || upgrade_check(x) < 0)
        return;
    if (!(v = calloc(1, sizeof *v)))
        abort();
    v->server = s;
    memcpy(v->name, t->name, sizeof v->name);
    upgrade_answer(x, NULL, open_viewer, v);
}

void
terminals_release(struct server *s)
{
    while (terminals)
        end_terminal(terminals);
}
