/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/iopub.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/json.h"
#include "kernel/progress.h"
#include "kernel/sockets.h"

#define COPY_MAX 4096 /* bytes: smaller frames live inside ZeroMQ's own message */

/* A message, frame by frame, ready to go. */
struct pending {
    struct pending *next;
    size_t n;
    zmq_msg_t msg[];
};

/* Bytes handed to ZeroMQ and not yet written to every subscriber. The count is shared with
 * ZeroMQ's thread, which frees. */
static atomic_size_t bytes_under_way;

/* Messages that some subscriber has not been sent yet: the length of the longest queue. */
static atomic_size_t messages_under_way;

static void
free_first(void *data, void *hint)
{
    atomic_fetch_sub(&messages_under_way, 1);
    free(data);
}

/* The first frame of each message is the one that is counted. */
static int
fill_first(zmq_msg_t *msg, struct bytes from)
{
    void *copy = malloc(from.len + 1);

    if (!copy)
        return -1;
    if (from.len)
        memcpy(copy, from.data, from.len);
    if (zmq.msg_init_data(msg, copy, from.len, free_first, NULL) < 0) {
        free(copy);
        return -1;
    }
    atomic_fetch_add(&messages_under_way, 1);
    return 0;
}

static void
free_counted(void *data, void *hint)
{
    atomic_fetch_sub(&bytes_under_way, (size_t)(uintptr_t)hint);
    free(data);
}

static int
fill_msg(zmq_msg_t *msg, struct bytes from)
{
    void *copy;

    if (from.len <= COPY_MAX) {
        if (zmq.msg_init_size(msg, from.len) < 0)
            return -1;
        if (from.len)
            memcpy(zmq.msg_data(msg), from.data, from.len);
        return 0;
    }
    copy = malloc(from.len);
    if (!copy)
        return -1;
    memcpy(copy, from.data, from.len);
    if (zmq.msg_init_data(msg, copy, from.len, free_counted, (void *)(uintptr_t)from.len) < 0) {
        free(copy);
        return -1;
    }
    atomic_fetch_add(&bytes_under_way, from.len);
    return 0;
}

static void
free_pending(struct pending *p)
{
    for (size_t i = 0; i < p->n; i++)
        zmq.msg_close(&p->msg[i]);
    free(p);
}

void
iopub_init(struct iopub *io, void *socket, struct front *front, struct wire *wire)
{
    *io = (struct iopub){.socket = socket, .front = front, .wire = wire};
    snprintf(io->topic, sizeof io->topic, "kernel.%s.", wire_session(wire));
}

void
iopub_release(struct iopub *io)
{
    while (io->first) {
        struct pending *p = io->first;
        io->first = p->next;
        free_pending(p);
    }
    buf_release(&io->text);
    buf_release(&io->parent);
    for (int i = 0; i < STREAM_NAMES; i++)
        buf_release(&io->cut[i]);
    for (int i = 0; i < UPDATES; i++) {
        buf_release(&io->updates[i].id);
        buf_release(&io->updates[i].parent);
        buf_release(&io->updates[i].metadata);
        buf_release(&io->updates[i].content);
    }
}

/*** Pace ***/

static double
drained(double level, double rate, int64_t since, int64_t now)
{
    double left = level - rate * PACE_SHARE * (double)(now - since) / 1e3;

    return left > 0 ? left : 0;
}

static void
pace_take(struct pace *p, size_t bytes, int64_t now)
{
    if (!p->rate)
        return;
    p->bytes = drained(p->bytes, (double)p->rate, p->at, now) + (double)bytes;
    p->messages = drained(p->messages, PACE_MESSAGES, p->at, now) + 1;
    p->at = now;
}

/* ms from `at` until the channel is no longer ahead; 0: it is not. */
static int64_t
pace_over(const struct pace *p)
{
    double bytes = p->bytes - PACE_BURST * (double)p->rate;
    double messages = p->messages - PACE_BURST * PACE_MESSAGES;
    double ms = 0;

    if (!p->rate)
        return 0;
    if (bytes > 0)
        ms = bytes / ((double)p->rate * PACE_SHARE) * 1e3;
    if (messages > 0 && messages / (PACE_MESSAGES * PACE_SHARE) * 1e3 > ms)
        ms = messages / (PACE_MESSAGES * PACE_SHARE) * 1e3;
    return ms > 0 ? p->at + (int64_t)ms + 1 : 0;
}

/*** Sending ***/

static void
set_nodrop(struct iopub *io, int on)
{
    zmq.setsockopt(io->socket, ZMQ_XPUB_NODROP, &on, sizeof on);
}

/* Hands all frames to ZeroMQ, or none: only the first can be refused (xpub.cpp checks the
 * high-water mark of a whole message). */
static int
try_send(struct iopub *io, struct pending *p)
{
    for (size_t i = 0; i < p->n; i++) {
        int flags = ZMQ_DONTWAIT | (i + 1 < p->n ? ZMQ_SNDMORE : 0);
        while (zmq.msg_send(&p->msg[i], io->socket, flags) < 0) {
            if (errno == EAGAIN && i == 0)
                return -1;
            if (errno != EINTR)
                return 0; /* the context ends: nobody is there to hear it */
        }
    }
    return 0;
}

static void
tell_gap(struct iopub *io)
{
    scoped(buf_release) struct buf parent = {0};
    char text[200];
    uint64_t dropped = io->dropped, bytes = io->dropped_bytes;

    io->leaving_behind = 0;
    io->dropped = io->dropped_bytes = 0;
    snprintf(text, sizeof text,
             "[husk: a client did not read for %d s; %llu messages of %llu bytes were not delivered to it]\n",
             IOPUB_PATIENCE_MS / 1000, (unsigned long long)dropped, (unsigned long long)bytes);
    log_warning("%.*s", (int)strcspn(text + 7, "]"), text + 7); /* "[husk: " */
    /* Where people look: at the latest text. */
    if (buf_add(&parent, io->parent.data, io->parent.len) < 0)
        abort();
    iopub_text(io, STREAM_STDERR, io->slot, (struct bytes){parent.data, parent.len}, bytes_of(text));
}

static size_t
size_of(struct pending *p)
{
    size_t size = 0;

    for (size_t i = 0; i < p->n; i++)
        size += zmq.msg_size(&p->msg[i]);
    return size;
}

static void
count_dropped(struct iopub *io, size_t size)
{
    io->dropped++;
    io->dropped_bytes += size;
}

/* Whether ZeroMQ passes over a subscriber, as it does, without a word, when its queue was full until
 * half of it has been sent (lwm in pipe.cpp). */
static int
passes_over(void)
{
    return atomic_load(&messages_under_way) >= IOPUB_HWM / 2;
}

/* Sends to those who can take it. Somebody's queue is full and its time is over. */
static void
send_leaving_behind(struct iopub *io, struct pending *p)
{
    size_t size = size_of(p);

    if (size > IOPUB_SMALL && atomic_load(&bytes_under_way) > IOPUB_BYTES_MAX) {
        count_dropped(io, size);
        return;
    }
    if (try_send(io, p) == 0) {
        if (passes_over())
            count_dropped(io, size);
        return;
    }
    count_dropped(io, size);
    set_nodrop(io, 0);
    try_send(io, p);
    set_nodrop(io, 1);
}

/* Whether who was left behind hears everything again. ZeroMQ takes note of it when it looks at its
 * commands. */
static int
is_back(struct iopub *io)
{
    int events;
    size_t size = sizeof events;

    if (passes_over() || atomic_load(&bytes_under_way) > IOPUB_BYTES_MAX / 2)
        return 0;
    zmq.getsockopt(io->socket, ZMQ_EVENTS, &events, &size);
    return 1;
}

static void
begin_patience(struct iopub *io)
{
    io->blocked_since = now_ms();
    io->blocked_messages = atomic_load(&messages_under_way);
    io->blocked_bytes = atomic_load(&bytes_under_way);
}

/* Who reads is waited for as long as it takes; who has stopped, or nearly so, is not. While one is left
 * behind what others take is not seen, so they get more time. */
static int
patience_is_over(struct iopub *io)
{
    int64_t patience = io->leaving_behind ? 3 * IOPUB_PATIENCE_MS : IOPUB_PATIENCE_MS;

    if (!io->blocked_since || now_ms() - io->blocked_since < patience)
        return 0;
    if (atomic_load(&messages_under_way) + IOPUB_READS > io->blocked_messages &&
        atomic_load(&bytes_under_way) + IOPUB_READS_BYTES > io->blocked_bytes)
        return 1;
    begin_patience(io);
    return 0;
}

static void
send_or_wait(struct iopub *io, struct pending *p)
{
    int full = atomic_load(&bytes_under_way) > IOPUB_BYTES_MAX;
    size_t size = size_of(p);

    if (!io->first && full && io->leaving_behind) {
        send_leaving_behind(io, p);
        free_pending(p);
        return;
    }
    /* Also while somebody is left behind, another one that is full is waited for. */
    if (!io->first && !full && try_send(io, p) == 0) {
        if (io->leaving_behind && passes_over())
            count_dropped(io, size);
        free_pending(p);
        return;
    }
    if (!io->first)
        begin_patience(io);
    p->next = NULL;
    *(io->last ? &io->last->next : &io->first) = p;
    io->last = p;
}

void
iopub_retry(struct iopub *io)
{
    int over = patience_is_over(io);

    while (io->first) {
        struct pending *p = io->first;
        size_t size = size_of(p);
        if (atomic_load(&bytes_under_way) > IOPUB_BYTES_MAX || try_send(io, p) < 0) {
            if (!over)
                return;
            io->leaving_behind = 1;
            send_leaving_behind(io, p);
        } else if (io->leaving_behind && passes_over()) {
            count_dropped(io, size); /* sent to the others */
        }
        io->first = p->next;
        if (!io->first)
            io->last = NULL;
        free_pending(p);
    }
    io->blocked_since = 0;
}

static void
send_to_subscribers(struct iopub *io, struct bytes topic, const struct bytes part[static WIRE_PARTS],
                    const struct bytes *buffers, size_t nbuffers)
{
    char sig[WIRE_SIGNATURE];
    struct pending *p = malloc(sizeof *p + (3 + WIRE_PARTS + nbuffers) * sizeof p->msg[0]);

    if (!p)
        abort(); /* status and replies must not be lost: without memory there is no kernel */
    wire_sign(io->wire, part, sig);
    p->n = 0;
    if (fill_first(&p->msg[p->n++], topic) < 0 ||
        fill_msg(&p->msg[p->n++], BYTES(WIRE_DELIMITER)) < 0 ||
        fill_msg(&p->msg[p->n++], bytes_of(sig)) < 0)
        abort();
    for (int i = 0; i < WIRE_PARTS; i++)
        if (fill_msg(&p->msg[p->n++], part[i]) < 0)
            abort();
    for (size_t i = 0; i < nbuffers; i++)
        if (fill_msg(&p->msg[p->n++], buffers[i]) < 0)
            abort();
    send_or_wait(io, p);
}

static void
send_message(struct iopub *io, struct bytes topic, const char *type, struct bytes parent,
             struct bytes metadata, struct bytes content, const struct bytes *buffers,
             size_t nbuffers)
{
    scoped(buf_release) struct buf header = {0};
    struct bytes part[WIRE_PARTS];

    if (wire_header(io->wire, type, &header) < 0)
        abort();
    part[WIRE_HEADER] = (struct bytes){header.data, header.len};
    part[WIRE_PARENT] = parent.len ? parent : BYTES("{}");
    part[WIRE_METADATA] = metadata.len ? metadata : BYTES("{}");
    part[WIRE_CONTENT] = content;
    if (io->front->socket >= 0 && strcmp(type, "iopub_welcome") != 0) /* it is for one subscriber */
        front_message(io->front, 0, IOPUB, part, buffers, nbuffers);
    if (io->socket)
        send_to_subscribers(io, topic, part, buffers, nbuffers);
}

static void flush_text(struct iopub *io, int complete);

static void
send_typed(struct iopub *io, const char *type, struct bytes parent, struct bytes metadata,
           struct bytes content, const struct bytes *buffers, size_t nbuffers)
{
    char topic[128];

    snprintf(topic, sizeof topic, "%s%s", io->topic, type);
    pace_take(&io->pace, 0, io->now);
    send_message(io, bytes_of(topic), type, parent, metadata, content, buffers, nbuffers);
}

/*** Updates of displays ***/

static struct bytes
bytes_in(const struct buf *buf)
{
    return (struct bytes){buf->data, buf->len};
}

static int
same(const struct buf *buf, struct bytes bytes)
{
    return buf->len == bytes.len && (bytes.len == 0 || memcmp(buf->data, bytes.data, bytes.len) == 0);
}

static void
put(struct buf *buf, struct bytes bytes)
{
    buf->len = 0;
    if (buf_add(buf, bytes.data, bytes.len) < 0)
        abort();
}

static void
send_update(struct iopub *io, struct update *u)
{
    u->waits = 0;
    u->sent = io->now;
    send_typed(io, "update_display_data", bytes_in(&u->parent), bytes_in(&u->metadata),
               bytes_in(&u->content), NULL, 0);
}

static void
send_updates(struct iopub *io)
{
    for (int i = 0; io->updates_due && i < UPDATES; i++)
        if (io->updates[i].waits)
            send_update(io, &io->updates[i]);
    io->updates_due = 0;
}

/* The entry of this display id, or that of which nothing was heard for longest. */
static struct update *
find_update(struct iopub *io, struct bytes id)
{
    struct update *oldest = &io->updates[0];

    for (int i = 0; i < UPDATES; i++) {
        if (same(&io->updates[i].id, id))
            return &io->updates[i];
        if (io->updates[i].sent < oldest->sent)
            oldest = &io->updates[i];
    }
    return oldest;
}

/* 1 if the update waits now, in the place of an earlier one if there was one. */
static int
join_update(struct iopub *io, struct bytes parent, struct bytes metadata, struct bytes content)
{
    struct bytes transient, id;
    struct update *u;

    if (json_get(content, "transient", &transient) != J_OBJECT ||
        json_get(transient, "display_id", &id) != J_STRING)
        return 0;
    u = find_update(io, id);
    if (!same(&u->id, id) || (u->waits && !same(&u->parent, parent))) {
        send_updates(io);
        put(&u->id, id);
        u->sent = 0;
    }
    if (!u->waits && io->now - u->sent >= IOPUB_JOIN_MS) {
        u->sent = io->now;
        return 0;
    }
    put(&u->parent, parent);
    put(&u->metadata, metadata);
    put(&u->content, content);
    u->waits = 1;
    if (!io->updates_due)
        io->updates_due = io->now + IOPUB_JOIN_MS;
    return 1;
}

void
iopub_publish(struct iopub *io, const char *type, struct bytes parent, struct bytes metadata,
              struct bytes content, const struct bytes *buffers, size_t nbuffers)
{
    flush_text(io, 1);
    if (strcmp(type, "update_display_data") == 0 && nbuffers == 0 &&
        join_update(io, parent, metadata, content))
        return;
    send_updates(io);
    send_typed(io, type, parent, metadata, content, buffers, nbuffers);
}

void
iopub_status(struct iopub *io, const char *state, struct bytes parent)
{
    char content[64];

    snprintf(content, sizeof content, "{\"execution_state\":\"%s\"}", state);
    iopub_publish(io, "status", parent, (struct bytes){0}, bytes_of(content), NULL, 0);
    if (strcmp(state, "idle") == 0)
        io->pace = (struct pace){.rate = io->pace.rate};
}

/*** Streams ***/

static const char *const stream_names[] = {[STREAM_STDOUT] = "stdout", [STREAM_STDERR] = "stderr"};

/* Sends the first `len` bytes of the text. */
static void
send_text(struct iopub *io, size_t len)
{
    scoped(buf_release) struct buf content = {0};
    char topic[128];

    if (buf_printf(&content, "{\"name\":\"%s\",\"text\":", stream_names[io->stream]) < 0 ||
        json_quote((struct bytes){io->text.data, len}, &content) < 0 ||
        buf_add(&content, "}", 1) < 0)
        abort();
    snprintf(topic, sizeof topic, "%sstream.%s", io->topic, stream_names[io->stream]);
    buf_consume(&io->text, len);
    pace_take(&io->pace, content.len, io->now);
    io->due = 0;
    io->last_sent = now_ms();
    send_message(io, bytes_of(topic), "stream", (struct bytes){io->parent.data, io->parent.len},
                 (struct bytes){0}, (struct bytes){content.data, content.len}, NULL, 0);
}

/* What is cut stays behind until its rest comes; it is not sent as a broken character. */
static void
cut_tail(struct iopub *io)
{
    size_t tail = json_utf8_tail((struct bytes){io->text.data, io->text.len});

    if (tail && buf_add(&io->cut[io->stream], io->text.data + io->text.len - tail, tail) < 0)
        abort();
    io->text.len -= tail;
}

static void
flush_text(struct iopub *io, int complete)
{
    cut_tail(io);
    progress_collapse(&io->text);
    if (io->text.len)
        send_text(io, io->text.len);
    /* What was to become a character of either stream stays broken: this request is over. */
    for (int i = 0; complete && i < STREAM_NAMES; i++) {
        struct buf *cut = &io->cut[i];
        if (!cut->len)
            continue;
        if (buf_add(&io->text, cut->data, cut->len) < 0)
            abort();
        cut->len = 0;
        io->stream = i;
        send_text(io, io->text.len);
    }
    io->due = 0;
}

void
iopub_flush(struct iopub *io, int complete)
{
    flush_text(io, complete);
    send_updates(io);
}

/* The time is over, or the text is long: whole lines go, what comes after them may wait once
 * more; text without any line end goes as it is. */
static void
flush_lines(struct iopub *io)
{
    const uint8_t *end;

    progress_collapse(&io->text);
    end = memrchr(io->text.data, '\n', io->text.len);
    if (!end) {
        flush_text(io, 0);
        return;
    }
    send_text(io, (size_t)(end + 1 - io->text.data));
    if (io->text.len)
        io->due = io->last_sent + IOPUB_JOIN_MS;
}

void
iopub_text(struct iopub *io, enum stream_name stream, uint32_t slot, struct bytes parent,
           struct bytes text)
{
    struct buf *cut = &io->cut[stream];

    if (text.len == 0)
        return;
    send_updates(io);
    if (stream != io->stream || slot != io->slot) {
        flush_text(io, slot != io->slot);
        io->stream = stream;
        io->slot = slot;
        io->parent.len = 0;
        if (buf_add(&io->parent, parent.data, parent.len) < 0)
            abort();
    }
    if (cut->len) {
        if (buf_add(&io->text, cut->data, cut->len) < 0)
            abort();
        cut->len = 0;
    }
    if (buf_add(&io->text, text.data, text.len) < 0)
        abort();
    if (io->text.len >= IOPUB_TEXT_MAX) {
        flush_lines(io);
        return;
    }
    if (!io->due)
        io->due = io->now + IOPUB_JOIN_MS;
    if (text.data[text.len - 1] == '\n' && io->now - io->last_sent >= IOPUB_JOIN_MS)
        io->due = io->now;
}

/*** Subscribers ***/

static void
welcome(struct iopub *io, struct bytes topic)
{
    scoped(buf_release) struct buf content = {0};

    if (buf_text(&content, "{\"subscription\":") < 0 || json_quote(topic, &content) < 0 ||
        buf_add(&content, "}", 1) < 0)
        abort();
    /* Its topic is the subscription, so that it is delivered to it. */
    send_message(io, topic, "iopub_welcome", (struct bytes){0}, (struct bytes){0},
                 (struct bytes){content.data, content.len}, NULL, 0);
}

void
iopub_subscriptions(struct iopub *io)
{
    zmq_msg_t msg;

    /* Text that was there before must not be anybody's first message. And nothing is sent between
     * receiving a subscription and confirming it: a send handles what happened meanwhile, and if
     * that was the end of another subscriber, XPUB forgets whose subscription this one is. */
    iopub_flush(io, 0);
    zmq.msg_init(&msg);
    while (zmq.msg_recv(&msg, io->socket, ZMQ_DONTWAIT) >= 0) {
        const uint8_t *data = zmq.msg_data(&msg);
        size_t len = zmq.msg_size(&msg);

        if (len && *data <= 1)
            zmq.setsockopt(io->socket, *data ? ZMQ_SUBSCRIBE : ZMQ_UNSUBSCRIBE, data + 1, len - 1);
        if (len && *data == 1)
            welcome(io, (struct bytes){data + 1, len - 1});
        if (len && *data == 1 && !io->announced) {
            io->announced = 1;
            iopub_status(io, "starting", (struct bytes){0});
        }
    }
    zmq.msg_close(&msg);
}

/*** Time ***/

int
iopub_blocked(const struct iopub *io)
{
    return io->first != NULL || pace_over(&io->pace) > io->now || io->front->paused ||
           front_waiting(io->front) > FRONT_OUT_MAX;
}

int64_t
iopub_deadline(const struct iopub *io, int64_t now)
{
    const int64_t all[] = {io->first ? now + IOPUB_RETRY_MS : 0, io->due, io->updates_due,
                           pace_over(&io->pace), io->leaving_behind ? now + IOPUB_BACK_MS : 0};
    int64_t at = 0;

    for (size_t i = 0; i < countof(all); i++)
        if (all[i] > 0 && (!at || all[i] < at) && (i != 3 || all[i] > now))
            at = all[i];
    return at;
}

void
iopub_tick(struct iopub *io, int64_t now)
{
    io->now = now;
    if (io->first)
        iopub_retry(io);
    if (io->leaving_behind && !io->first && is_back(io))
        tell_gap(io);
    if (io->due && now >= io->due && io->text.len)
        flush_lines(io);
    if (io->updates_due && now >= io->updates_due)
        send_updates(io);
}
