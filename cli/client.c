/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/client.h"

#include <errno.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wall/agent.h"

#define LINGER_MS 200
#define FRAMES_MAX (2 + WIRE_PARTS + MESSAGE_BUFFERS)

void
client_take(int fd, struct client *ret)
{
    *ret = CLIENT_NONE;
    front_open(&ret->front, fd, FRONT_BY_KERNEL);
    sender_init(&ret->sender);
}

int
client_open(const struct registry_entry *entry, struct client *ret, struct err *err)
{
    struct conn conn;
    struct bytes key;
    int fd, unused;

    if (sodium_init() < 0)
        return err_set(err, EIO, "libsodium does not start");
    if (conn_load(entry->connection_file, &conn, &unused, err) < 0)
        return -1;
    fd = registry_connect(entry, err);
    if (fd >= 0) {
        client_take(fd, ret);
        key = (struct bytes){(const uint8_t *)conn.key, conn.key_len};
        front_send(&ret->front, (struct frame){.number = FRONT_HELLO}, &key, 1);
    }
    conn_release(&conn);
    return fd < 0 ? -1 : 0;
}

void
client_close(struct client *c)
{
    front_linger(&c->front, LINGER_MS);
    front_release(&c->front);
}

void
client_let_live(struct client *c)
{
    front_send(&c->front, (struct frame){.number = FRONT_STAY}, NULL, 0);
}

/* The parts of a request; `header` is what the first lies in. */
static int
make_parts(struct client *c, const char *type, struct bytes content, struct buf *header, struct bytes part[static WIRE_PARTS],
           char id[static 80], struct err *err)
{
    if (sender_header(&c->sender, type, header) < 0)
        return err_errno(err, "make a message");
    part[WIRE_HEADER] = (struct bytes){header->data, header->len};
    part[WIRE_PARENT] = part[WIRE_METADATA] = BYTES("{}");
    part[WIRE_CONTENT] = content;
    snprintf(id, 80, "%s", c->sender.last_id);
    return 0;
}

int
client_send(struct client *c, enum channel channel, const char *type, struct bytes content,
            const struct bytes *buffers, size_t n, char id[static 80], struct err *err)
{
    scoped(buf_release) struct buf header = {0};
    struct bytes part[WIRE_PARTS];

    if (make_parts(c, type, content, &header, part, id, err) < 0)
        return -1;
    front_message(&c->front, 0, channel, part, buffers, n);
    return 0; /* one that has ended is heard of when it is listened to */
}

int
client_send_file(struct client *c, enum channel channel, const char *type, struct bytes content, int file, size_t size,
                 char id[static 80], struct err *err)
{
    scoped(buf_release) struct buf header = {0};
    struct bytes part[WIRE_PARTS];

    if (make_parts(c, type, content, &header, part, id, err) < 0)
        return -1;
    return front_message_file(&c->front, 0, channel, part, file, size, err);
}

/* What a frame says; it stays where it is. */
static int
read_frame(const struct frame *f, struct message *m, struct err *err)
{
    struct bytes frames[FRAMES_MAX] = {BYTES(WIRE_DELIMITER)}, part;
    size_t at = 0, n = 2;

    while (frame_next(f, &at, &part))
        if (n < FRAMES_MAX)
            frames[n++] = part;
    if (wire_parse(frames, 0, n, &m->msg, err) < 0)
        return -1;
    m->channel = (enum channel)f->value;
    for (size_t i = 0; i < m->msg.buffers; i++)
        m->buffer[i] = frames[m->msg.first_buffer + i];
    return 0;
}

static void
move(struct bytes *b, const uint8_t *from, const uint8_t *to)
{
    b->data = b->data ? to + (b->data - from) : NULL;
}

/* Copies what is borrowed. */
static void
keep(struct message *m)
{
    const uint8_t *from = m->msg.part[WIRE_HEADER].data;
    struct bytes last = m->msg.buffers ? m->buffer[m->msg.buffers - 1] : m->msg.part[WIRE_CONTENT];

    if (buf_add(&m->kept, from, (size_t)(last.data + last.len - from)) < 0)
        abort();
    for (int i = 0; i < WIRE_PARTS; i++)
        move(&m->msg.part[i], from, m->kept.data);
    for (size_t i = 0; i < m->msg.buffers; i++)
        move(&m->buffer[i], from, m->kept.data);
    move(&m->msg.msg_id, from, m->kept.data);
    move(&m->msg.msg_type, from, m->kept.data);
}

/* Waits for the kernel, or for `fd`: 1, as one is ready. 0: `end` has come. -1: err is set. */
static int
await(struct client *c, int fd, int64_t end, int *ret_fd, struct err *err)
{
    struct pollfd p[2] = {{.fd = c->front.socket, .events = POLLIN | (front_waiting(&c->front) ? POLLOUT : 0)},
                          {.fd = fd, .events = POLLIN}};
    int64_t now = now_ms();

    if (c->front.ended || c->front.socket < 0)
        return err_set(err, ECHILD, "the kernel ended");
    if (end && now >= end)
        return 0;
    if (poll(p, 2, end ? (int)(end - now) : -1) < 0 && errno != EINTR)
        return err_errno(err, "wait for the kernel");
    if (p[0].revents & POLLOUT)
        front_flush(&c->front);
    *ret_fd = fd >= 0 && p[1].revents;
    return 1;
}

int
client_next(struct client *c, unsigned channels, int fd, int64_t end, struct message *ret, struct err *err)
{
    int at_fd = 0, r;

    message_release(ret);
    for (;;) {
        struct frame f;
        while ((r = front_next(&c->front, &f, err)) > 0) {
            if (f.number != FRONT_MESSAGE_TO || f.value >= CHANNELS || !(channels & 1u << f.value))
                continue;
            return read_frame(&f, ret, err) < 0 ? -1 : 1;
        }
        if (r < 0)
            return -1;
        if (at_fd)
            return 0;
        r = await(c, fd, end, &at_fd, err);
        if (r <= 0)
            return r;
    }
}

void
message_release(struct message *m)
{
    buf_release(&m->kept);
    *m = (struct message){0};
}

int
message_is_for(const struct message *m, const char *id)
{
    struct bytes parent;

    return json_get(m->msg.part[WIRE_PARENT], "msg_id", &parent) == J_STRING && json_string_is(parent, id);
}

struct bytes
message_content(const struct message *m)
{
    return m->msg.part[WIRE_CONTENT];
}

struct bytes
message_buffer(const struct message *m, size_t i)
{
    return i < m->msg.buffers ? m->buffer[i] : (struct bytes){0};
}

static int
number_of_code(struct bytes code)
{
    static const struct op_error rows[] = {
#define OP_ERROR(number, code, suggestion) {number, code, suggestion},
#include "wall/op_errors.def"
#undef OP_ERROR
    };

    for (size_t i = 0; i < countof(rows); i++)
        if (json_string_is(code, rows[i].code))
            return rows[i].number;
    return EIO;
}

static int
take_error(struct bytes content, struct err *err)
{
    scoped(buf_release) struct buf text = {0};
    struct bytes code = {0}, message;

    if (json_get(content, "evalue", &message) != J_STRING || json_unescape(message, &text) < 0 ||
        !buf_string(&text))
        return err_set(err, EPROTO, "the kernel refused without a reason");
    (void)json_get(content, "code", &code);
    return err_set(err, number_of_code(code), "%s", (char *)text.data);
}

int
message_result(const struct message *m, struct bytes *ret, struct err *err)
{
    struct bytes status;

    return json_get(message_content(m), "status", &status) == J_STRING && json_string_is(status, "ok") &&
                   json_get(message_content(m), "result", ret) == J_OBJECT
               ? 0
               : take_error(message_content(m), err);
}

int
client_call(struct client *c, const char *method, struct bytes params, struct bytes buffer, int64_t end,
            struct message *m, struct bytes *ret, struct err *err)
{
    scoped(buf_release) struct buf content = {0};
    char id[80];
    int r;

    if (buf_printf(&content, "{\"method\":\"%s\",\"params\":%.*s}", method, (int)params.len, params.data) < 0)
        return err_errno(err, "ask");
    if (client_send(c, CONTROL, "sandbox_request", (struct bytes){content.data, content.len}, &buffer,
                    buffer.data ? 1 : 0, id, err) < 0)
        return -1;
    while ((r = client_next(c, 1u << CONTROL, -1, end, m, err)) == 1) {
        if (!message_is_for(m, id))
            continue;
        keep(m);
        r = message_result(m, ret, err);
        if (r < 0)
            message_release(m);
        return r;
    }
    return r < 0 ? -1 : err_set(err, ETIMEDOUT, "the kernel does not answer");
}
