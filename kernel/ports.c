/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/ports.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/json.h"
#include "kernel/kernel.h"

#define BACKLOG 128

union any {
    struct sockaddr head;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un local;
};

static int64_t
number(struct bytes params, const char *name, int64_t standard)
{
    struct bytes value;
    int64_t n;

    return json_get(params, name, &value) == J_NUMBER && json_int64(value, &n) == 0 ? n : standard;
}

static int
text(struct bytes params, const char *name, char *into, size_t size, struct err *err)
{
    scoped(buf_release) struct buf t = {0};
    struct bytes value;

    if (json_get(params, name, &value) != J_STRING)
        return 0;
    if (json_unescape(value, &t) < 0 || !buf_string(&t) || t.len >= size || strlen((char *)t.data) != t.len ||
        !t.len)
        return err_set(err, EINVAL, "'%s' is empty or too long", name);
    memcpy(into, t.data, t.len + 1);
    return 0;
}

static int
read_port(struct bytes params, struct port *p, struct err *err)
{
    int64_t port = number(params, "port", 0), host_port = number(params, "host_port", 0);

    snprintf(p->host, sizeof p->host, "127.0.0.1");
    if (port < 1 || port > 65535 || host_port < 0 || host_port > 65535)
        return err_set(err, EINVAL, "'%s' is no port", port < 1 || port > 65535 ? "port" : "host_port");
    p->port = (int)port;
    p->host_port = (int)host_port;
    return text(params, "host", p->host, sizeof p->host, err) < 0 ? -1
           : text(params, "socket", p->socket, sizeof p->socket, err);
}

static socklen_t
address_of(const struct port *p, union any *a)
{
    memset(a, 0, sizeof *a);
    if (*p->socket) {
        a->local.sun_family = AF_UNIX;
        snprintf(a->local.sun_path, sizeof a->local.sun_path, "%s", p->socket);
        return sizeof a->local;
    }
    a->v4.sin_family = AF_INET;
    a->v4.sin_port = htons((uint16_t)p->host_port);
    if (inet_pton(AF_INET, p->host, &a->v4.sin_addr) == 1)
        return sizeof a->v4;
    memset(a, 0, sizeof *a);
    a->v6.sin6_family = AF_INET6;
    a->v6.sin6_port = htons((uint16_t)p->host_port);
    return inet_pton(AF_INET6, p->host, &a->v6.sin6_addr) == 1 ? sizeof a->v6 : 0;
}

/* The socket that listens, or -1. */
static int
listen_on(struct port *p, struct err *err)
{
    union any a;
    socklen_t len = address_of(p, &a);
    int fd, on = 1;

    if (!len)
        return err_set(err, EADDRNOTAVAIL, "'host' is no address: '%s'", p->host);
    fd = socket(a.head.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(err, "make a socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, &a.head, len) < 0 || listen(fd, BACKLOG) < 0) {
        err_errno(err, "listen on '%s'", *p->socket ? p->socket : p->host);
        close(fd);
        return -1;
    }
    if (!*p->socket && getsockname(fd, &a.head, &len) == 0)
        p->host_port = ntohs(a.head.sa_family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
    return fd;
}

static void
describe(const struct port *p, struct buf *b)
{
    int six = strchr(p->host, ':') != NULL, bad;

    if (*p->socket)
        bad = buf_printf(b, "{\"port\":%d,\"host\":null,\"host_port\":null,\"url\":null,\"socket\":", p->port) < 0 ||
              json_quote(bytes_of(p->socket), b) < 0 || buf_text(b, "}") < 0;
    else
        bad = buf_printf(b, "{\"port\":%d,\"host\":\"%s\",\"host_port\":%d,\"url\":\"http://%s%s%s:%d\",\"socket\":null}",
                         p->port, p->host, p->host_port, six ? "[" : "", p->host, six ? "]" : "", p->host_port) < 0;
    if (bad)
        abort();
}

static void
forget(struct port *p)
{
    if (*p->socket)
        unlink(p->socket);
    *p = (struct port){0};
}

void
ports_expose(struct kernel *k, struct request *r, struct bytes params)
{
    struct port *p = k->ports.port, wanted = {.slot = r->slot, .request = r};
    struct err err;
    int fd = -1;

    for (struct port *other = p; other < p + PORTS_MAX; other++)
        if (other->slot && other->port == number(params, "port", 0)) {
            operations_refuse(k, r, EEXIST, "that port is exposed already");
            return;
        }
    while (p < k->ports.port + PORTS_MAX && p->slot)
        p++;
    if (p == k->ports.port + PORTS_MAX)
        err_set(&err, EMFILE, "%d ports are exposed already", PORTS_MAX);
    else if (k->interp.state == INTERP_NONE)
        err_set(&err, EAGAIN, "the sandbox is not there yet");
    else if (read_port(params, &wanted, &err) == 0)
        fd = listen_on(&wanted, &err);
    if (fd >= 0 && box_expose(&k->box, r->slot, (uint16_t)wanted.port, fd, &err) < 0)
        fd_close(&fd);
    if (fd < 0) {
        operations_refuse(k, r, err.code, err.text);
        return;
    }
    close(fd); /* husk-ports has it now */
    *p = wanted;
}

void
ports_event(struct kernel *k, const struct frame *event)
{
    struct bytes why = frame_part(event, 0);
    char line[ERR_TEXT];

    for (struct port *p = k->ports.port; p < k->ports.port + PORTS_MAX; p++) {
        struct request *r = p->request;
        scoped(buf_release) struct buf b = {0};
        if (!p->slot || (event->slot && p->slot != event->slot))
            continue;
        snprintf(line, sizeof line, "%.*s", (int)why.len, why.data);
        p->request = NULL;
        if (r && p->closing) { /* closed, also if that was because husk-ports ended */
            forget(p);
            operations_answer(k, r, BYTES("{\"closed\":true}"), NULL, 0);
        } else if (event->value == 0 && r) {
            describe(p, &b);
            operations_answer(k, r, (struct bytes){b.data, b.len}, NULL, 0);
        } else if (event->value) { /* it cannot be, or is no more */
            forget(p);
            if (r)
                operations_refuse(k, r, (int)event->value, *line ? line : "the port cannot be exposed");
        }
    }
}

void
ports_list(struct kernel *k, struct request *r, struct bytes params)
{
    scoped(buf_release) struct buf b = {0};

    if (buf_text(&b, "{\"ports\":[") < 0)
        abort();
    for (struct port *p = k->ports.port; p < k->ports.port + PORTS_MAX; p++) {
        if (!p->slot || p->request)
            continue;
        if (b.data[b.len - 1] != '[' && buf_text(&b, ",") < 0)
            abort();
        describe(p, &b);
    }
    if (buf_text(&b, "]}") < 0)
        abort();
    operations_answer(k, r, (struct bytes){b.data, b.len}, NULL, 0);
}

void
ports_close(struct kernel *k, struct request *r, struct bytes params)
{
    struct err err;

    for (struct port *p = k->ports.port; p < k->ports.port + PORTS_MAX; p++)
        if (p->slot && !p->request && p->port == number(params, "port", 0)) {
            if (box_unexpose(&k->box, p->slot, &err) < 0) {
                operations_refuse(k, r, err.code, err.text);
                return;
            }
            p->request = r;
            p->closing = 1;
            return;
        }
    operations_refuse(k, r, ENOENT, "that port is not exposed");
}

void
ports_release(struct kernel *k)
{
    for (struct port *p = k->ports.port; p < k->ports.port + PORTS_MAX; p++) {
        if (p->request)
            operations_refuse(k, p->request, ESHUTDOWN, "the kernel ended while this was under way");
        if (p->slot)
            forget(p);
    }
}
