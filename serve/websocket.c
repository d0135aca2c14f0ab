/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/websocket.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define READ_SIZE (256u << 10)
#define AT_ONCE 32 /* messages that one call sends */
#define MUCH 65536 /* bytes that wait: they are not held until the end of a turn */
#define PINGS 64 /* before a close is answered, see hold_the_close() */

/*** What is sent ***/

struct message *
message_new(int binary)
{
    struct message *m = calloc(1, sizeof *m);

    if (!m)
        abort();
    m->refs = 1;
    m->binary = binary;
    return m;
}

void
message_hold(struct message *m)
{
    m->refs++;
}

void
message_drop(struct message *m)
{
    if (!m || --m->refs)
        return;
    buf_release(&m->data);
    free(m);
}

/*** wslay's view of the socket ***/

static ssize_t
put(struct websocket *w, const uint8_t *data, size_t len, int more)
{
    ssize_t n;

    do
        n = send(w->source.fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0));
    while (n < 0 && errno == EINTR);
    if (n > 0)
        w->taken += (uint64_t)n;
    return n;
}

static ssize_t
put_event(wslay_event_context_ptr ctx, const uint8_t *data, size_t len, int flags, void *of)
{
    ssize_t n = put(of, data, len, flags & WSLAY_MSG_MORE);

    if (n < 0)
        wslay_event_set_error(ctx, errno == EAGAIN ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return n;
}

static ssize_t
take_input(wslay_event_context_ptr ctx, uint8_t *into, size_t len, int flags, void *of)
{
    struct websocket *w = of;

    if (w->input.len == 0) {
        wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    if (len > w->input.len)
        len = w->input.len;
    memcpy(into, w->input.data, len);
    w->input.data += len;
    w->input.len -= len;
    return (ssize_t)len;
}

static void
on_wslay_message(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *a, void *of)
{
    struct websocket *w = of;

    if (w->gone || (w->close_code && !wslay_is_ctrl_frame(a->opcode)))
        return;
    if (a->opcode == WSLAY_TEXT_FRAME || a->opcode == WSLAY_BINARY_FRAME)
        w->on_message(w->of, a->opcode == WSLAY_BINARY_FRAME, (struct bytes){a->msg, a->msg_length});
}

/*** Sending ***/

/* RFC 6455, 5.2; nothing that a server sends is masked. */
static void
make_head(struct message *m)
{
    uint64_t len = m->data.len;
    unsigned more = len < 126 ? 0 : len < 65536 ? 2 : 8;

    m->head[0] = 0x80 | (m->binary ? WSLAY_BINARY_FRAME : WSLAY_TEXT_FRAME);
    m->head[1] = more == 0 ? (uint8_t)len : more == 2 ? 126 : 127;
    for (unsigned i = 0; i < more; i++)
        m->head[2 + i] = (uint8_t)(len >> 8 * (more - 1 - i));
    m->head_len = 2 + more;
}

/* What is left of it after *skip bytes. */
static void
add_piece(struct iovec *pieces, size_t *n, const void *data, size_t len, size_t *skip)
{
    size_t gone = *skip < len ? *skip : len;

    *skip -= gone;
    if (len > gone)
        pieces[(*n)++] = (struct iovec){(uint8_t *)data + gone, len - gone};
}

static void
took(struct websocket *w, size_t n)
{
    w->taken += n;
    w->sent += n;
    while (w->count) {
        struct message *m = w->queue[w->first];
        if (w->sent < m->head_len + m->data.len)
            return;
        w->sent -= m->head_len + m->data.len;
        w->queued -= m->data.len;
        w->first = (w->first + 1) % w->size;
        w->count--;
        message_drop(m);
    }
}

static int
send_some(struct websocket *w)
{
    struct iovec pieces[2 * AT_ONCE];
    struct msghdr all = {.msg_iov = pieces};
    size_t skip = w->sent, pieces_len = 0;
    ssize_t n;

    for (size_t i = 0; i < w->count && i < AT_ONCE; i++) {
        struct message *m = w->queue[(w->first + i) % w->size];
        add_piece(pieces, &pieces_len, m->head, m->head_len, &skip);
        add_piece(pieces, &pieces_len, m->data.data, m->data.len, &skip);
    }
    all.msg_iovlen = pieces_len;
    do
        n = sendmsg(w->source.fd, &all, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == ENOBUFS ? 0 : -1;
    took(w, (size_t)n);
    return 1;
}

/* Control frames go between whole messages. 1: all is sent, 0: the socket is full, -1: it is broken. */
static int
send_all(struct websocket *w)
{
    for (;;) {
        int r;
        if (w->sent || (w->count && !wslay_event_want_write(w->event) && !wslay_event_get_close_sent(w->event))) {
            if ((r = send_some(w)) <= 0)
                return r;
            continue;
        }
        if (w->close_code && !w->count && !wslay_event_get_close_sent(w->event) && !w->close_at) {
            (void)wslay_event_queue_close(w->event, w->close_code, (uint8_t *)w->close_reason,
                                          strlen(w->close_reason));
            w->close_code = 0;
        }
        if (w->close_at || !wslay_event_want_write(w->event))
            return 1;
        if (wslay_event_send(w->event) != 0)
            return -1;
        if (wslay_event_want_write(w->event))
            return 0;
    }
}

static void
release(void *of)
{
    struct websocket *w = of;

    wslay_event_context_free(w->event);
    while (w->count) {
        message_drop(w->queue[w->first]);
        w->first = (w->first + 1) % w->size;
        w->count--;
    }
    free(w->queue);
    w->on_gone(w->of);
}

void
websocket_drop(struct websocket *w)
{
    if (w->gone)
        return;
    w->gone = 1;
    loop_set(w->loop, &w->timer, 0);
    loop_remove(w->loop, &w->source);
    MHD_upgrade_action(w->urh, MHD_UPGRADE_ACTION_CLOSE);
    *w->http_due = 1;
    loop_later(w->loop, release, w);
}

static void
set_timer(struct websocket *w)
{
    int64_t at = w->heard + WEBSOCKET_PING_MS;

    if (w->closing)
        at = w->closing;
    if (w->close_at)
        at = w->close_at;
    if (at <= now_ms() && !w->closing && !w->close_at)
        at = now_ms() + WEBSOCKET_PING_MS;
    loop_set(w->loop, &w->timer, at);
}

/* Sends what can be sent, and says what is waited for. */
static void
go_on(struct websocket *w)
{
    uint64_t before = w->taken;
    int r;

    if (w->gone)
        return;
    r = send_all(w);
    if (r < 0 || (wslay_event_get_close_sent(w->event) && wslay_event_get_close_received(w->event) &&
                  !wslay_event_want_write(w->event))) {
        websocket_drop(w);
        return;
    }
    /* Also after an error of the other side's: to hang up on what it still sends would take back the close code. */
    if (wslay_event_get_close_sent(w->event) && !w->closing) {
        w->closing = now_ms() + WEBSOCKET_CLOSE_MS;
        set_timer(w);
    }
    loop_want(w->loop, &w->source, EPOLLIN | (r == 0 ? EPOLLOUT : 0));
    if (w->taken != before && w->on_taken)
        w->on_taken(w->of);
}

/* What a cell says comes in several messages, and whoever waits for them need not be woken by each. */
static void
send_due(void *of)
{
    struct websocket *w = of;

    w->due = 0;
    go_on(w);
}

void
websocket_send(struct websocket *w, struct message *m)
{
    if (w->gone || w->close_code || wslay_event_get_close_sent(w->event) || w->close_at)
        return;
    if (w->count == w->size) {
        size_t size = w->size ? 2 * w->size : 16;
        struct message **queue = calloc(size, sizeof *queue);
        if (!queue)
            abort();
        for (size_t i = 0; i < w->count; i++)
            queue[i] = w->queue[(w->first + i) % w->size];
        free(w->queue);
        w->queue = queue;
        w->size = size;
        w->first = 0;
    }
    make_head(m);
    message_hold(m);
    w->queue[(w->first + w->count++) % w->size] = m;
    w->queued += m->data.len;
    if (w->queued > MUCH) {
        go_on(w);
    } else if (!w->due) {
        w->due = 1;
        loop_later(w->loop, send_due, w);
    }
}

void
websocket_close(struct websocket *w, uint16_t code, const char *reason)
{
    if (w->gone || w->close_code || wslay_event_get_close_sent(w->event))
        return;
    w->close_code = code;
    snprintf(w->close_reason, sizeof w->close_reason, "%s", reason);
    for (char *c = w->close_reason; *c; c++)
        if (*c < 0x20 || *c > 0x7e)
            *c = '?'; /* it may quote what is no UTF-8, or be cut inside a character */
    w->closing = now_ms() + WEBSOCKET_CLOSE_MS;
    set_timer(w);
    go_on(w);
}

/*** Receiving ***/

/* websocket-client (1.9) waits ten seconds for our answer to its close about every second time: the thread that
 * closes takes it before the one that waits for the socket to be readable has seen it. It reads two bytes at
 * a time, so a row of pings is seen by both. */
static void
hold_the_close(struct websocket *w)
{
    uint8_t pings[2 * PINGS];

    if (!wslay_event_get_close_received(w->event) || w->close_at || wslay_event_get_close_sent(w->event))
        return;
    while (w->count > (w->sent ? 1 : 0)) { /* nobody reads it any more */
        w->count--;
        message_drop(w->queue[(w->first + w->count) % w->size]);
    }
    for (size_t i = 0; i < sizeof pings; i++)
        pings[i] = i % 2 ? 0 : 0x80 | WSLAY_PING;
    if (!w->sent)
        (void)put(w, pings, sizeof pings, 0);
    w->close_at = now_ms() + WEBSOCKET_BEFORE_CLOSE_MS;
    set_timer(w);
}

/* A frame that is none: wslay has only an empty close for it. */
static void
refuse(struct websocket *w)
{
    static const uint8_t frame[] = "\x88\x10\x03\xea" "protocol error"; /* 1002 */

    if (!w->sent && !wslay_event_get_close_sent(w->event))
        (void)put(w, frame, sizeof frame - 1, 0);
    websocket_drop(w);
}

static void
hear(struct websocket *w, struct bytes data)
{
    w->input = data;
    w->heard = now_ms();
    while (!w->gone && w->input.len) {
        size_t before = w->input.len;
        if (wslay_event_recv(w->event) != 0) {
            refuse(w);
            return;
        }
        if (w->input.len == before)
            break; /* it takes no more: a close was sent or received */
    }
    if (!w->gone)
        hold_the_close(w);
}

static void
on_ready(void *of, uint32_t events)
{
    static uint8_t into[READ_SIZE];
    struct websocket *w = of;

    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t n = recv(w->source.fd, into, sizeof into, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            websocket_drop(w);
            return;
        }
        if (n > 0)
            hear(w, (struct bytes){into, (size_t)n});
    }
    go_on(w);
}

static void
on_time(void *of)
{
    struct websocket *w = of;
    int64_t now = now_ms();

    if (w->close_at && now >= w->close_at) {
        w->close_at = 0;
        if (!w->closing)
            w->closing = now + WEBSOCKET_CLOSE_MS;
    } else if ((w->closing && now >= w->closing) || now - w->heard > WEBSOCKET_SILENT_MS) {
        websocket_drop(w);
        return;
    } else if (!w->closing && now - w->heard >= WEBSOCKET_PING_MS) {
        struct wslay_event_msg ping = {WSLAY_PING, NULL, 0};
        (void)wslay_event_queue_msg(w->event, &ping);
    }
    set_timer(w);
    go_on(w);
}

void
websocket_open(struct websocket *w, struct loop *loop, int *http_due, struct MHD_UpgradeResponseHandle *urh, int fd)
{
    static const struct wslay_event_callbacks event = {
        .recv_callback = take_input, .send_callback = put_event, .on_msg_recv_callback = on_wslay_message};
    int on = 1;
    struct err err;

    w->loop = loop;
    w->http_due = http_due;
    w->urh = urh;
    w->source = (struct source){.fd = fd, .events = EPOLLIN, .ready = on_ready, .of = w};
    w->timer = (struct timer){.fire = on_time, .of = w};
    w->heard = now_ms();
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (wslay_event_context_server_init(&w->event, &event, w) != 0)
        abort(); /* it fails without memory only */
    wslay_event_config_set_max_recv_msg_length(w->event, WEBSOCKET_MESSAGE);
    if (loop_add(loop, &w->source, &err) < 0) {
        w->source.fd = -1;
        websocket_drop(w);
        return;
    }
    set_timer(w);
}

void
websocket_early(struct websocket *w, struct bytes early)
{
    if (w->gone || !early.len)
        return;
    hear(w, early);
    go_on(w);
}
