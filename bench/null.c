/* SPDX-License-Identifier: BSD-3-Clause
 *
 * null -f FILE: a kernel that runs nothing: busy, execute_input, a reply and idle, signed, for each request. What is
 * left of a round trip then is the client, ZeroMQ and the machine: the floor of bench.py. It ends when it is killed.
 */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/sockets.h"
#include "kernel/wire.h"

static void
fail(const struct err *err)
{
    fprintf(stderr, "null: %s\n", err->text);
    exit(1);
}

static void
say(void *socket, struct wire *wire, struct bytes to, const char *type, struct bytes parent, const char *content)
{
    scoped(buf_release) struct buf header = {0};
    char signature[WIRE_SIGNATURE];
    struct bytes part[WIRE_PARTS];

    if (wire_header(wire, type, &header) < 0)
        abort();
    part[WIRE_HEADER] = (struct bytes){header.data, header.len};
    part[WIRE_PARENT] = parent;
    part[WIRE_METADATA] = BYTES("{}");
    part[WIRE_CONTENT] = bytes_of(content);
    wire_sign(wire, part, signature);
    send_bytes(socket, to, 1);
    send_bytes(socket, BYTES(WIRE_DELIMITER), 1);
    send_bytes(socket, bytes_of(signature), 1);
    for (int i = 0; i < WIRE_PARTS; i++)
        send_bytes(socket, part[i], i + 1 < WIRE_PARTS);
}

static void
answer(struct sockets *s, struct wire *wire, enum channel channel)
{
    struct frames f = {0};
    struct wire_msg m;
    struct err err;

    while (frames_recv(&f, s->socket[channel])) {
        if (wire_open(wire, f.bytes, f.n, &m, &err) == 0 && m.identities == 1) {
            struct bytes parent = m.part[WIRE_HEADER];
            int runs = memmem(m.msg_type.data, m.msg_type.len, "execute", 7) != NULL;

            say(s->socket[IOPUB], wire, BYTES("status"), "status", parent, "{\"execution_state\":\"busy\"}");
            if (runs)
                say(s->socket[IOPUB], wire, BYTES("execute_input"), "execute_input", parent,
                    "{\"execution_count\":1,\"code\":\"\"}");
            say(s->socket[channel], wire, f.bytes[0], runs ? "execute_reply" : "kernel_info_reply", parent,
                runs ? "{\"status\":\"ok\",\"execution_count\":1,\"payload\":[],\"user_expressions\":{}}" : "{\"status\":\"ok\"}");
            say(s->socket[IOPUB], wire, BYTES("status"), "status", parent, "{\"execution_state\":\"idle\"}");
        }
        frames_release(&f);
    }
    frames_release(&f);
}

int
main(int argc, char **argv)
{
    struct conn conn = {0};
    struct sockets s = {0};
    struct wire *wire;
    struct err err;
    int unused;

    if (argc != 3 || sodium_init() < 0)
        return 2;
    if (conn_load(argv[2], &conn, &unused, &err) < 0 || sockets_open(&conn, NULL, &s, &unused, &err) < 0 ||
        !(wire = wire_new(conn.scheme, conn.key, conn.key_len, &err)))
        fail(&err);
    for (;;) {
        zmq_pollitem_t items[] = {{.socket = s.socket[SHELL], .events = ZMQ_POLLIN},
                                  {.socket = s.socket[CONTROL], .events = ZMQ_POLLIN},
                                  {.socket = s.socket[IOPUB], .events = ZMQ_POLLIN}};
        struct frames f = {0};

        if (zeromq_poll(items, 3, -1) < 0)
            continue;
        answer(&s, wire, SHELL);
        answer(&s, wire, CONTROL);
        while (frames_recv(&f, s.socket[IOPUB])) { /* sockets.c has subscriptions confirmed */
            if (f.bytes[0].len && f.bytes[0].data[0] == 1)
                (void)zmq.setsockopt(s.socket[IOPUB], ZMQ_SUBSCRIBE, f.bytes[0].data + 1, f.bytes[0].len - 1);
            frames_release(&f);
        }
        frames_release(&f);
    }
}
