/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/client.h"

#include <errno.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "wall/agent.h"

#define WELCOME_MS 60000
#define LINGER_MS 200
#define LAST_MS 50     /* for what was on its way when the kernel ended */
#define RECONNECT_MS 2 /* while the kernel has not bound its sockets yet */

/* With the pair of the connection file, as jupyter_client does. */
static int
encrypt(void *socket, const struct conn *conn)
{
    if (!conn->curve_secret)
        return 0;
    return zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, conn->curve_public, CURVE_Z85 + 1) < 0 ||
                   zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, conn->curve_public, CURVE_Z85 + 1) < 0 ||
                   zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, conn->curve_secret, CURVE_Z85 + 1) < 0
               ? -1
               : 0;
}

static int
connect_to(struct client *c, enum channel channel, int type, struct err *err)
{
    char address[512];
    int linger = LINGER_MS, none = 0, again = RECONNECT_MS;

    if (conn_address(&c->conn, channel, address, sizeof address) < 0)
        return err_set(err, EINVAL, "an address is too long");
    c->socket[channel] = zmq_socket(c->context, type);
    if (!c->socket[channel] || zmq_setsockopt(c->socket[channel], ZMQ_LINGER, &linger, sizeof linger) < 0 ||
        zmq_setsockopt(c->socket[channel], ZMQ_RECONNECT_IVL, &again, sizeof again) < 0 ||
        zmq_setsockopt(c->socket[channel], ZMQ_SNDHWM, &none, sizeof none) < 0 ||
        zmq_setsockopt(c->socket[channel], ZMQ_RCVHWM, &none, sizeof none) < 0 ||
        zmq_setsockopt(c->socket[channel], ZMQ_ROUTING_ID, wire_session(c->wire),
                       strlen(wire_session(c->wire))) < 0 ||
        (channel == IOPUB && zmq_setsockopt(c->socket[channel], ZMQ_SUBSCRIBE, "", 0) < 0) ||
        encrypt(c->socket[channel], &c->conn) < 0 ||
        zmq_connect(c->socket[channel], address) < 0)
        return err_set(err, errno, "connect to '%s': %s", address, zmq_strerror(errno));
    return 0;
}

static int
await_welcome(struct client *c, struct err *err)
{
    int64_t end = now_ms() + WELCOME_MS;

    for (;;) {
        struct message m = {0};
        int r = client_next(c, 1u << IOPUB, -1, end, &m, err);
        int welcome = r == 1 && json_string_is(m.msg.msg_type, "iopub_welcome");
        message_release(&m);
        if (welcome)
            return 0;
        if (r <= 0)
            return r < 0 ? -1 : err_set(err, ETIMEDOUT, "the kernel does not answer");
    }
}

int
client_open(const char *connection_file, pid_t pid, int listen, struct client *ret, struct err *err)
{
    struct client c = {.pidfd = (int)syscall(SYS_pidfd_open, pid, 0)};
    int unused;

    if (sodium_init() < 0)
        return err_set(err, EIO, "libsodium does not start");
    if (conn_load(connection_file, &c.conn, &unused, err) < 0)
        return -1;
    if (!c.conn.port[SHELL])
        return err_set(err, ENOENT, "'%s' has no ports: its kernel has not registered", connection_file);
    c.wire = wire_new(c.conn.scheme, c.conn.key, c.conn.key_len, err);
    if (c.wire)
        conn_forget_key(&c.conn);
    c.context = c.wire ? zmq_ctx_new() : NULL;
    if (c.context && connect_to(&c, SHELL, ZMQ_DEALER, err) == 0 &&
        connect_to(&c, CONTROL, ZMQ_DEALER, err) == 0 && connect_to(&c, STDIN, ZMQ_DEALER, err) == 0 &&
        (!listen || (connect_to(&c, IOPUB, ZMQ_SUB, err) == 0 && await_welcome(&c, err) == 0))) {
        *ret = c;
        return 0;
    }
    if (c.wire && !c.context)
        err_errno(err, "start ZeroMQ");
    client_close(&c);
    return -1;
}

/* What was not sent is for nobody once the kernel has ended: a socket would wait all the same. */
static void
close_socket(struct client *c, void *socket)
{
    int none = 0;

    if (c->pidfd >= 0 && poll(&(struct pollfd){.fd = c->pidfd, .events = POLLIN}, 1, 0) == 1)
        (void)zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof none);
    zmq_close(socket);
}

void
client_close(struct client *c)
{
    for (int i = 0; i < CHANNELS; i++)
        if (c->socket[i])
            close_socket(c, c->socket[i]);
    if (c->context)
        zmq_ctx_term(c->context);
    wire_free(c->wire);
    conn_release(&c->conn);
    fd_close(&c->pidfd);
    *c = (struct client){.pidfd = -1};
}

int
client_send(struct client *c, enum channel channel, const char *type, struct bytes content,
            const struct bytes *buffers, size_t n, char id[static 80], struct err *err)
{
    scoped(buf_release) struct buf header = {0};
    struct bytes part[WIRE_PARTS];
    char sig[WIRE_SIGNATURE];
    int r;

    if (wire_header(c->wire, type, &header) < 0)
        return err_errno(err, "make a message");
    part[WIRE_HEADER] = (struct bytes){header.data, header.len};
    part[WIRE_PARENT] = part[WIRE_METADATA] = BYTES("{}");
    part[WIRE_CONTENT] = content;
    wire_sign(c->wire, part, sig);
    snprintf(id, 80, "%s", wire_last_id(c->wire));
    r = send_bytes(c->socket[channel], BYTES(WIRE_DELIMITER), 1);
    r = r < 0 ? r : send_bytes(c->socket[channel], bytes_of(sig), 1);
    for (int i = 0; r == 0 && i < WIRE_PARTS; i++)
        r = send_bytes(c->socket[channel], part[i], i + 1 < WIRE_PARTS || n > 0);
    for (size_t i = 0; r == 0 && i < n; i++)
        r = send_bytes(c->socket[channel], buffers[i], i + 1 < n);
    return r < 0 ? err_set(err, errno, "send to the kernel: %s", zmq_strerror(errno)) : 0;
}

static int
next_message(struct client *c, unsigned channels, int fd, int64_t end, struct message *ret, struct err *err)
{
    for (;;) {
        zmq_pollitem_t items[CHANNELS + 2];
        int64_t now;
        int n = 0, ended = -1;

        for (int i = 0; i < CHANNELS; i++) {
            if (!(channels & 1u << i) || !c->socket[i])
                continue;
            if (frames_recv(&ret->frames, c->socket[i])) {
                if (wire_open(c->wire, ret->frames.bytes, ret->frames.n, &ret->msg, err) < 0)
                    return -1;
                ret->channel = (enum channel)i;
                return 1;
            }
            items[n++] = (zmq_pollitem_t){.socket = c->socket[i], .events = ZMQ_POLLIN};
        }
        if (c->pidfd >= 0) {
            ended = n;
            items[n++] = (zmq_pollitem_t){.fd = c->pidfd, .events = ZMQ_POLLIN};
        }
        if (fd >= 0)
            items[n++] = (zmq_pollitem_t){.fd = fd, .events = ZMQ_POLLIN};
        now = now_ms();
        if (end && now >= end)
            return 0;
        if (zmq_poll(items, n, end ? (long)(end - now) : -1) < 0 && errno != EINTR)
            return err_set(err, errno, "wait for the kernel: %s", zmq_strerror(errno));
        if (ended >= 0 && items[ended].revents) {
            /* What it said before is heard first. */
            if (zmq_poll(items, ended, LAST_MS) <= 0)
                return err_set(err, ECHILD, "the kernel ended");
            continue;
        }
        if (fd >= 0 && items[n - 1].revents)
            return 0;
    }
}

int
client_next(struct client *c, unsigned channels, int fd, int64_t end, struct message *ret, struct err *err)
{
    int r = next_message(c, channels, fd, end, ret, err);

    if (r != 1) /* there is room for frames, and none has come */
        message_release(ret);
    return r;
}

void
message_release(struct message *m)
{
    frames_release(&m->frames);
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
    return i < m->msg.buffers ? m->frames.bytes[m->msg.first_buffer + i] : (struct bytes){0};
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
        struct bytes status;
        if (!message_is_for(m, id)) {
            message_release(m);
            continue;
        }
        if (json_get(message_content(m), "status", &status) == J_STRING && json_string_is(status, "ok") &&
            json_get(message_content(m), "result", ret) == J_OBJECT)
            return 0;
        r = take_error(message_content(m), err);
        message_release(m);
        return r;
    }
    return r < 0 ? -1 : err_set(err, ETIMEDOUT, "the kernel does not answer");
}
