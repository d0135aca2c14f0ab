/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/handshake.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/sockets.h"

static void
close_socket(void **socket)
{
    int none = 0;

    if (*socket) {
        zmq.setsockopt(*socket, ZMQ_LINGER, &none, sizeof none);
        zmq.close(*socket);
    }
    *socket = NULL;
}

/* The specification wants ports as strings here. */
static char *
make_content(const struct conn *conn)
{
    json_t *root = json_pack("{s:s}", "kernel_id", conn->registration.kernel_id);
    char *text;

    for (int c = 0; c < CHANNELS; c++) {
        char name[32], port[16];
        snprintf(name, sizeof name, "%s_port", channel_names[c]);
        snprintf(port, sizeof port, "%d", conn->port[c]);
        json_object_set_new(root, name, json_string(port));
    }
    text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

static int
send_ports(const struct conn *conn, struct wire *wire, void *socket, struct err *err)
{
    scoped(str_free) char *content = make_content(conn);
    struct bytes part[WIRE_PARTS] = {{0}};
    char sig[WIRE_SIGNATURE];

    if (!content)
        return err_errno(err, "make the registration");
    part[0] = bytes_of(content);
    wire_sign(wire, part, sig);
    if (send_bytes(socket, BYTES(WIRE_DELIMITER), 1) < 0 ||
        send_bytes(socket, bytes_of(sig), 1) < 0 || send_bytes(socket, part[0], 0) < 0)
        return err_set(err, errno, "send the registration: %s", zmq.strerror(errno));
    return 0;
}

static int
check_answer(const struct frames *f, struct wire *wire, struct err *err)
{
    size_t at = 0;

    while (at < f->n && !bytes_equal(f->bytes[at], WIRE_DELIMITER))
        at++;
    if (f->n - at < 3)
        return err_set(err, EBADMSG, "%zu frames that are no acknowledgement", f->n);
    return wire_check(wire, f->bytes[at + 1], f->bytes[at + 2], err);
}

int
handshake(const struct conn *conn, struct wire *wire, void *zmq_context, struct err *err)
{
    scoped(close_socket) void *socket = zmq.socket(zmq_context, ZMQ_DEALER);
    scoped(frames_release) struct frames answer = {0};
    char address[512];

    if (conn_registration_address(conn, address, sizeof address) < 0)
        return err_set(err, ENAMETOOLONG, "the address of the registration is too long");
    if (!socket || zmq.connect(socket, address) < 0)
        return err_set(err, errno, "register at '%s': %s", address, zmq.strerror(errno));
    if (send_ports(conn, wire, socket, err) < 0)
        return -1;
    zeromq_poll(&(zmq_pollitem_t){.socket = socket, .events = ZMQ_POLLIN}, 1, HANDSHAKE_MS);
    if (!frames_recv(&answer, socket))
        return err_set(err, ETIMEDOUT, "register at '%s': no acknowledgement in %d s", address,
                       HANDSHAKE_MS / 1000);
    if (check_answer(&answer, wire, err) < 0)
        return err_wrap(err, "register at '%s'", address);
    return 0;
}
