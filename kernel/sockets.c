/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/sockets.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "kernel/exits.h"
#include "kernel/wire.h"

#define BIND_TRIES 20 /* of 50 ms */

static const int types[CHANNELS] = {[SHELL] = ZMQ_ROUTER,
                                    [CONTROL] = ZMQ_ROUTER,
                                    [IOPUB] = ZMQ_XPUB,
                                    [STDIN] = ZMQ_ROUTER,
                                    [HB] = ZMQ_ROUTER};

static int
set_int(void *socket, int option, int value)
{
    return zmq.setsockopt(socket, option, &value, sizeof value);
}

static int
configure(void *socket, enum channel channel)
{
    int64_t no_limit = -1;

    if (set_int(socket, ZMQ_LINGER, 1000) < 0 ||
        zmq.setsockopt(socket, ZMQ_MAXMSGSIZE, &no_limit, sizeof no_limit) < 0)
        return -1;
    if (channel == IOPUB)
        /* MANUAL: a subscription takes effect when we have seen it, so that iopub_welcome is the
         * first message of every subscriber. NODROP: a full queue is told, not silent loss. */
        return set_int(socket, ZMQ_XPUB_MANUAL, 1) < 0 || set_int(socket, ZMQ_XPUB_NODROP, 1) < 0 ||
                       set_int(socket, ZMQ_SNDHWM, IOPUB_HWM) < 0
                   ? -1
                   : 0;
    /* A question to a client whose stdin is not connected yet must be told, not dropped. */
    if (channel == STDIN && set_int(socket, ZMQ_ROUTER_MANDATORY, 1) < 0)
        return -1;
    /* A client that reconnects comes with its old identity (ipykernel issue 270). */
    return set_int(socket, ZMQ_ROUTER_HANDOVER, 1) < 0 || set_int(socket, ZMQ_SNDHWM, 0) < 0 ||
                   set_int(socket, ZMQ_RCVHWM, 0) < 0
               ? -1
               : 0;
}

/* libzmq would remove whatever stands at the path of an ipc socket: look first. */
static int
check_ipc_path(const char *address, struct strv *files, struct err *err)
{
    const char *path = address + strlen("ipc://");
    struct stat st;

    if (strncmp(address, "ipc://", 6) != 0)
        return 0;
    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return err_set(err, EADDRINUSE, "'%s' exists and is no socket", path);
    return strv_add(files, path) < 0 ? err_errno(err, "keep '%s'", path) : 0;
}

/* As a server of CurveZMQ, which takes every client that knows the public key. */
static int
encrypt(void *socket, const struct conn *conn)
{
    int on = 1;

    if (!conn->curve_secret)
        return 0;
    return zmq.setsockopt(socket, ZMQ_CURVE_SERVER, &on, sizeof on) < 0 ||
                   zmq.setsockopt(socket, ZMQ_CURVE_SECRETKEY, conn->curve_secret, CURVE_Z85 + 1) < 0
               ? -1
               : 0;
}

/* A number for a socket file that does not exist. libzmq chooses those of TCP itself. */
static void
choose_file(struct conn *conn, enum channel channel)
{
    char address[512];

    if (conn->port[channel] || strcmp(conn->transport, "ipc") != 0)
        return;
    do
        conn->port[channel] = 1 + (int)randombytes_uniform(65535);
    while (conn_address(conn, channel, address, sizeof address) == 0 &&
           access(address + strlen("ipc://"), F_OK) == 0);
}

/* The port that was chosen for us. */
static int
read_port(void *socket, int *port)
{
    char address[512];
    size_t size = sizeof address;

    if (*port)
        return 0;
    if (zmq.getsockopt(socket, ZMQ_LAST_ENDPOINT, address, &size) < 0 || !strrchr(address, ':'))
        return -1;
    *port = atoi(strrchr(address, ':') + 1);
    return 0;
}

/* libzmq takes the socket that listens already, and closes it in the end. */
static int
use_fd(void *socket, int *listening)
{
    int fd = listening ? *listening : -1;

    if (fd < 0)
        return 0;
    if (zmq.setsockopt(socket, ZMQ_USE_FD, &fd, sizeof fd) < 0)
        return -1;
    *listening = -1;
    return 0;
}

static int
bind_one(struct sockets *s, struct conn *conn, int *listening, enum channel channel, struct err *err)
{
    char address[512];
    struct timespec pause = {.tv_nsec = 50000000};

    choose_file(conn, channel);
    if (conn_address(conn, channel, address, sizeof address) < 0)
        return err_set(err, ENAMETOOLONG, "the address of %s is too long", channel_names[channel]);
    s->socket[channel] = zmq.socket(s->context, types[channel]);
    if (!s->socket[channel] || configure(s->socket[channel], channel) < 0 ||
        use_fd(s->socket[channel], listening ? &listening[channel] : NULL) < 0)
        return err_set(err, errno, "make the %s socket: %s", channel_names[channel],
                       zmq.strerror(errno));
    if (encrypt(s->socket[channel], conn) < 0)
        return err_set(err, errno, "encrypt %s: %s", channel_names[channel],
                       errno == EINVAL ? "the keys are none, or this libzmq has no CurveZMQ"
                                       : zmq.strerror(errno));
    if (check_ipc_path(address, &s->files, err) < 0)
        return err_wrap(err, "bind %s", channel_names[channel]);
    for (int tries = 0; zmq.bind(s->socket[channel], address) < 0; tries++) {
        if (errno != EADDRINUSE || tries == BIND_TRIES)
            return err_set(err, errno, "bind %s to '%s': %s", channel_names[channel], address,
                           zmq.strerror(errno));
        nanosleep(&pause, NULL);
    }
    if (read_port(s->socket[channel], &conn->port[channel]) < 0)
        return err_set(err, errno, "bind %s: %s", channel_names[channel], zmq.strerror(errno));
    return 0;
}

int
sockets_listen(const struct conn *conn, int ret[static CHANNELS], struct err *err)
{
    mode_t mask = umask(077);
    int r = 0;

    for (int c = 0; r == 0 && c < CHANNELS; c++) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        char address[512];

        if (conn_address(conn, c, address, sizeof address) < 0 || strncmp(address, "ipc://", 6) != 0 ||
            strlen(address + 6) >= sizeof a.sun_path) {
            r = err_set(err, ENAMETOOLONG, "the connection file names no socket file for %s", channel_names[c]);
            break;
        }
        memcpy(a.sun_path, address + 6, strlen(address + 6) + 1);
        ret[c] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (ret[c] < 0 || bind(ret[c], (struct sockaddr *)&a, sizeof a) < 0 || listen(ret[c], 100) < 0)
            r = err_errno(err, "bind %s to '%s'", channel_names[c], a.sun_path);
    }
    umask(mask);
    for (int c = 0; r < 0 && c < CHANNELS; c++)
        fd_close(&ret[c]);
    return r;
}

int
sockets_open(struct conn *conn, int *listening, struct sockets *ret, int *ret_exit, struct err *err)
{
    struct sockets s = {0};
    mode_t mask = umask(077); /* socket files are for their owner only */
    int r = zeromq_load(err);

    *ret_exit = r < 0 ? EXIT_SYSTEM : EXIT_BUSY;
    if (r == 0 && !(s.context = zmq.ctx_new()))
        r = err_errno(err, "start ZeroMQ");
    for (int c = 0; r == 0 && c < CHANNELS; c++)
        r = bind_one(&s, conn, listening, c, err);
    umask(mask);
    if (r < 0)
        sockets_close(&s, 0);
    else
        *ret = s;
    return r;
}

void
sockets_close(struct sockets *s, int linger_ms)
{
    for (int c = 0; c < CHANNELS; c++) {
        if (!s->socket[c])
            continue;
        set_int(s->socket[c], ZMQ_LINGER, linger_ms);
        zmq.close(s->socket[c]);
    }
    if (s->context)
        zmq.ctx_term(s->context);
    for (size_t i = 0; i < s->files.len; i++)
        unlink(s->files.item[i]);
    strv_release(&s->files);
    memset(s->socket, 0, sizeof s->socket);
    s->context = NULL;
}

static int
make_room(struct frames *f)
{
    size_t size = f->size ? 2 * f->size : 8;
    zmq_msg_t *msg = realloc(f->msg, size * sizeof *msg);
    struct bytes *bytes;

    if (!msg)
        return -1;
    f->msg = msg;
    bytes = realloc(f->bytes, size * sizeof *bytes);
    if (!bytes)
        return -1;
    f->bytes = bytes;
    f->size = size;
    return 0;
}

int
frames_recv(struct frames *f, void *socket)
{
    int more = 1;

    f->n = 0;
    while (more) {
        zmq_msg_t *m;
        if (f->n == f->size && make_room(f) < 0)
            abort(); /* half a message taken: no way to go on */
        m = &f->msg[f->n];
        zmq.msg_init(m);
        if (zmq.msg_recv(m, socket, f->n ? 0 : ZMQ_DONTWAIT) < 0) {
            zmq.msg_close(m);
            return 0;
        }
        f->n++;
        more = zmq.msg_more(m);
    }
    /* Small frames live inside zmq_msg_t, which may have moved: take the addresses last. */
    for (size_t i = 0; i < f->n; i++)
        f->bytes[i] = (struct bytes){zmq.msg_data(&f->msg[i]), zmq.msg_size(&f->msg[i])};
    return 1;
}

void
frames_of_front(struct frames *f, const struct frame *from)
{
    const size_t before = 3;
    size_t at = 0, count = 0, copied = 0;
    struct bytes part;
    uint8_t *copy;

    while (frame_next(from, &at, &part))
        if (count++ < WIRE_PARTS)
            copied = at;
    *f = (struct frames){.bytes = calloc(before + count, sizeof *f->bytes), .block = malloc(4 + copied)};
    if (!f->bytes || !f->block)
        abort();
    copy = f->block;
    put32(copy, from->slot);
    if (copied)
        memcpy(copy + 4, from->payload, copied);
    f->bytes[f->n++] = (struct bytes){copy, 4};
    f->bytes[f->n++] = BYTES(WIRE_DELIMITER);
    f->bytes[f->n++] = BYTES("");
    for (at = 0; frame_next(from, &at, &part); f->n++)
        f->bytes[f->n] = (struct bytes){f->n < before + WIRE_PARTS ? copy + 4 + (part.data - from->payload) : part.data,
                                        part.len};
    f->size = f->n;
    f->borrowed = count > WIRE_PARTS ? before + WIRE_PARTS : 0;
}

void
frames_keep(struct frames *f)
{
    size_t size = 0;
    uint8_t *at;

    if (!f->borrowed)
        return;
    for (size_t i = f->borrowed; i < f->n; i++)
        size += f->bytes[i].len;
    f->kept = at = malloc(size ? size : 1);
    if (!at)
        abort();
    for (size_t i = f->borrowed; i < f->n; at += f->bytes[i++].len) {
        if (f->bytes[i].len)
            memcpy(at, f->bytes[i].data, f->bytes[i].len);
        f->bytes[i].data = at;
    }
    f->borrowed = 0;
}

void
frames_release(struct frames *f)
{
    for (size_t i = 0; !f->block && i < f->n; i++)
        zmq.msg_close(&f->msg[i]);
    free(f->block);
    free(f->kept);
    free(f->msg);
    free(f->bytes);
    *f = (struct frames){0};
}

int
send_bytes(void *socket, struct bytes data, int more)
{
    int r;

    do
        r = zmq.send(socket, data.data, data.len, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0));
    while (r < 0 && errno == EINTR);
    return r < 0 ? -1 : 0;
}
