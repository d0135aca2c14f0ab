/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/channels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "kernel/conn.h"
#include "serve/handlers.h"
#include "serve/upgrade.h"
#include "serve/websocket.h"

#define CLOSE_NORMAL 1000
#define CLOSE_GOING_AWAY 1001
#define CLOSE_WRONG_KIND 1003
#define CLOSE_WRONG_DATA 1007
#define CLOSE_POLICY 1008
#define SESSION_MAX 128

struct client {
    struct party party;
    struct websocket ws;
    struct server *server;
    char kernel[37];
    int v1;
    char session[SESSION_MAX + 1]; /* "": it said none */
    struct timer patience;
    int slow;            /* more waits than CHANNEL_QUEUE */
    int behind;          /* it was left behind */
    uint64_t taken;      /* when patience began */
    int64_t behind_since;
    uint64_t dropped, dropped_bytes;
    struct client *next; /* of the server */
};
static struct client *clients;

/* What was said while nobody was there, as the party that its client was. */
struct backlog {
    struct party party;
    char session[SESSION_MAX + 1];
    struct kept {
        struct kept *next;
        uint32_t channel;
        size_t buffers, size;
        struct bytes piece[]; /* parts, buffers; the bytes are behind them */
    } *first, *last;
    size_t size;
    uint64_t dropped, dropped_bytes;
};

/*** To the client ***/

static struct message *
made_for(const struct client *c, struct heard *h)
{
    struct message **m = &h->made[c->v1];
    int binary;

    if (*m)
        return *m;
    *m = message_new(0);
    if (framing_write(&h->message, c->v1, &(*m)->data, &binary) < 0)
        abort();
    (*m)->binary = binary;
    return *m;
}

static size_t
size_of(const struct heard *h)
{
    size_t size = 0;

    for (int i = 0; i < FRAMING_PARTS; i++)
        size += h->message.part[i].len;
    for (size_t i = 0; i < h->message.buffers; i++)
        size += h->message.buffer[i].len;
    return size;
}

/* Cells wait as long as one that reads is slow. */
static void
set_pause(struct served *k)
{
    int slow = 0;

    for (struct client *c = clients; c; c = c->next)
        slow = slow || (c->party.kernel == k && c->slow && !c->behind);
    served_pause(k, slow);
}

static void
leave_behind(void *of)
{
    struct client *c = of;

    if (!c->slow || c->behind || c->ws.gone)
        return;
    if (c->ws.taken - c->taken >= CHANNEL_READS) {
        c->taken = c->ws.taken;
        loop_set(&c->server->loop, &c->patience, now_ms() + CHANNEL_PATIENCE_MS);
        return;
    }
    c->behind = 1;
    c->behind_since = now_ms();
    c->server->count.slow_clients++;
    log_info("a client of kernel %s does not read", c->kernel);
    if (c->party.kernel)
        set_pause(c->party.kernel);
}

static void
send_heard(struct client *c, struct heard *h)
{
    struct message *m;

    if (c->behind && h->channel == IOPUB) {
        size_t size = size_of(h);
        if (size > CHANNEL_SMALL || c->ws.queued > CHANNEL_MAX) {
            c->dropped++;
            c->dropped_bytes += size;
            return;
        }
    }
    m = made_for(c, h);
    c->server->count.messages_out++;
    c->server->count.bytes_out += m->data.len;
    websocket_send(&c->ws, m);
    if (!c->slow && c->ws.queued > CHANNEL_QUEUE) {
        c->slow = 1;
        c->taken = c->ws.taken;
        loop_set(&c->server->loop, &c->patience, now_ms() + CHANNEL_PATIENCE_MS);
        if (c->party.kernel)
            set_pause(c->party.kernel);
    }
}

static void
on_heard(struct party *p, struct heard *h)
{
    send_heard((struct client *)p, h);
}

/* A line of the server's own, as text of a cell that nobody asked for. */
static void
tell(struct client *c, const char *text)
{
    scoped(buf_release) struct buf header = {0}, content = {0};
    char id[37], date[32];
    struct heard h = {.channel = IOPUB};

    uuid_new(id);
    if (buf_printf(&header,
                   "{\"msg_id\":\"%s\",\"msg_type\":\"stream\",\"username\":\"husk\",\"session\":\"%s\",\"date\":\"%s\","
                   "\"version\":\"5.6\"}", id, c->kernel, clock_text(clock_us(), date)) < 0 ||
        buf_text(&content, "{\"name\":\"stderr\",\"text\":") < 0 || json_quote(bytes_of(text), &content) < 0 ||
        buf_text(&content, "}") < 0)
        abort();
    h.message = (struct framing){.channel = BYTES("iopub"),
                                 .part = {{header.data, header.len}, BYTES("{}"), BYTES("{}"),
                                          {content.data, content.len}}};
    send_heard(c, &h);
    message_drop(h.made[0]);
    message_drop(h.made[1]);
}

static void
on_taken(void *of)
{
    struct client *c = of;
    char text[200];

    if (!c->slow || c->ws.queued > CHANNEL_QUEUE_LOW)
        return;
    c->slow = 0;
    loop_set(&c->server->loop, &c->patience, 0);
    if (c->behind) {
        c->behind = 0;
        snprintf(text, sizeof text,
                 "[husk: a client did not read for %lld s; %llu messages of %llu bytes were not delivered to it]\n",
                 (long long)(now_ms() - c->behind_since) / 1000, (unsigned long long)c->dropped,
                 (unsigned long long)c->dropped_bytes);
        if (c->dropped)
            tell(c, text);
        c->dropped = c->dropped_bytes = 0;
    }
    if (c->party.kernel)
        set_pause(c->party.kernel);
}

/*** From the client ***/

static int
channel_of(const struct framing *m)
{
    struct bytes type;

    for (int c = 0; c < CHANNELS; c++)
        if (bytes_equal(m->channel, channel_names[c]))
            return c == SHELL || c == CONTROL || c == STDIN ? c : -1;
    if (m->channel.len)
        return -1;
    return json_get(m->part[0], "msg_type", &type) == J_STRING && json_string_is(type, "input_reply") ? STDIN : SHELL;
}

static void
on_message(void *of, int binary, struct bytes data)
{
    static struct bytes buffers[FRAMING_BUFFERS];
    struct client *c = of;
    struct framing m;
    struct bytes value;
    char why[160];
    struct err err;
    int to;

    server_active(c->server);
    if (framing_read(data, c->v1, binary, buffers, &m, &err) < 0) {
        websocket_close(&c->ws, c->v1 && !binary ? CLOSE_WRONG_KIND : CLOSE_WRONG_DATA, err.text);
    } else if ((to = channel_of(&m)) < 0) {
        snprintf(why, sizeof why, "there is no channel '%.*s' to send on", (int)(m.channel.len > 40 ? 40 : m.channel.len),
                 (const char *)m.channel.data);
        websocket_close(&c->ws, CLOSE_POLICY, why);
    } else if (json_get(m.part[0], "msg_id", &value) != J_STRING ||
               json_get(m.part[0], "msg_type", &value) != J_STRING) {
        websocket_close(&c->ws, CLOSE_WRONG_DATA, "a header without msg_id and msg_type");
    } else {
        party_send(&c->party, (uint32_t)to, &m);
    }
}

/*** What nobody heard ***/

static void
drop_backlog(struct served *k)
{
    struct backlog *b = k->backlog;

    if (!b)
        return;
    k->backlog = NULL;
    party_leave(&b->party);
    while (b->first) {
        struct kept *one = b->first;
        b->first = one->next;
        free(one);
    }
    free(b);
}

static void
keep(struct party *p, struct heard *h)
{
    struct backlog *b = (struct backlog *)p;
    size_t size = size_of(h), n = FRAMING_PARTS + h->message.buffers;
    struct kept *one;
    uint8_t *at;

    if (b->size + size > BACKLOG_MAX && size > 4096) {
        b->dropped++;
        b->dropped_bytes += size;
        return;
    }
    one = malloc(sizeof *one + n * sizeof one->piece[0] + size);
    if (!one)
        abort();
    *one = (struct kept){.channel = h->channel, .buffers = h->message.buffers, .size = size};
    at = (uint8_t *)&one->piece[n];
    for (size_t i = 0; i < n; i++) {
        struct bytes piece = i < FRAMING_PARTS ? h->message.part[i] : h->message.buffer[i - FRAMING_PARTS];
        if (piece.len)
            memcpy(at, piece.data, piece.len);
        one->piece[i] = (struct bytes){at, piece.len};
        at += piece.len;
    }
    *(b->last ? &b->last->next : &b->first) = one;
    b->last = one;
    b->size += size;
}

static void
begin_backlog(struct client *c, struct served *k)
{
    struct backlog *b;

    if (!*c->session || k->connections || k->removed || c->server->draining)
        return;
    b = calloc(1, sizeof *b);
    if (!b)
        abort();
    b->party = (struct party){.number = c->party.number, .listens = 1, .hear = keep};
    memcpy(b->session, c->session, sizeof b->session);
    k->backlog = b;
    party_join(k, &b->party);
}

/* The client is back, or another one. */
static void
replay(struct client *c, struct served *k)
{
    struct backlog *b = k->backlog;
    char text[160];

    if (!b)
        return;
    if (strcmp(b->session, c->session) == 0) {
        for (struct kept *one = b->first; one; one = one->next) {
            struct heard h = {.channel = one->channel,
                              .message = {.channel = bytes_of(channel_names[one->channel]),
                                          .buffer = &one->piece[FRAMING_PARTS], .buffers = one->buffers}};
            memcpy(h.message.part, one->piece, sizeof h.message.part);
            send_heard(c, &h);
            message_drop(h.made[0]);
            message_drop(h.made[1]);
        }
        c->party.number = b->party.number; /* what it asked then is answered to it now */
        if (b->dropped) {
            snprintf(text, sizeof text,
                     "[husk: nobody was connected; %llu messages of %llu bytes were not kept]\n",
                     (unsigned long long)b->dropped, (unsigned long long)b->dropped_bytes);
            tell(c, text);
        }
    }
    drop_backlog(k);
}

/*** Connections ***/

static void
on_gone(void *of)
{
    struct client *c = of, **at;
    struct served *k = c->party.kernel;

    for (at = &clients; *at && *at != c; at = &(*at)->next)
        ;
    if (*at)
        *at = c->next;
    loop_set(&c->server->loop, &c->patience, 0);
    c->server->count.sockets--;
    if (k) {
        k->connections--;
        party_leave(&c->party);
        begin_backlog(c, k);
        set_pause(k);
    }
    free(c);
}

static void
close_stale(struct served *k, const struct client *mine)
{
    for (struct client *c = clients; c; c = c->next)
        if (c != mine && c->party.kernel == k && *mine->session && strcmp(c->session, mine->session) == 0) {
            k->connections--;
            party_leave(&c->party);
            websocket_close(&c->ws, CLOSE_NORMAL, "another connection of the same session took its place");
        }
}

static void
on_ended(struct party *p)
{
    struct client *c = (struct client *)p;

    websocket_close(&c->ws, c->server->draining ? CLOSE_GOING_AWAY : CLOSE_NORMAL, "the kernel has ended");
}

static void
open_client(void *of, struct upgraded *up)
{
    struct client *c = of;
    struct served *k = served_find(c->server, c->kernel);

    c->next = clients;
    clients = c;
    c->server->count.sockets++;
    c->server->count.websockets++;
    c->ws.on_message = on_message;
    c->ws.on_taken = on_taken;
    c->ws.on_gone = on_gone;
    c->ws.of = c;
    c->patience = (struct timer){.fire = leave_behind, .of = c};
    c->party = (struct party){.listens = 1, .hear = on_heard, .ended = on_ended};
    websocket_open(&c->ws, &c->server->loop, &c->server->run_http, up->urh, up->fd);
    if (!k) {
        websocket_close(&c->ws, CLOSE_NORMAL, "the kernel has ended");
        return;
    }
    close_stale(k, c);
    replay(c, k);
    party_join(k, &c->party);
    k->connections++;
    k->last_activity = clock_us();
    websocket_early(&c->ws, up->early);
}

void
get_channels(struct server *s, struct exchange *x)
{
    const char *session = exchange_query(x, "session_id");
    struct served *k = served_of(s, x, x->segment[0]);
    struct client *c;

    if (!k || upgrade_check(x) < 0)
        return;
    if (session && strlen(session) > SESSION_MAX) {
        answer_error(x, 400, "a session_id of %zu characters, at most %d", strlen(session), SESSION_MAX);
        return;
    }
    if (!(c = calloc(1, sizeof *c)))
        abort();
    c->server = s;
    c->v1 = upgrade_offers(x, FRAMING_V1);
    memcpy(c->kernel, k->id, sizeof c->kernel);
    snprintf(c->session, sizeof c->session, "%s", session ? session : "");
    upgrade_answer(x, c->v1 ? FRAMING_V1 : NULL, open_client, c);
}

void
channels_end(struct served *k)
{
    drop_backlog(k);
}

void
channels_close_all(struct server *s, uint16_t code, const char *reason)
{
    for (struct client *c = clients; c; c = c->next)
        websocket_close(&c->ws, code, reason);
}
