/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/resolver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#define TRY_MS 2500
#define TRIES 3

struct lookup {
    struct resolver *resolver;
    lookup_done *done; /* NULL: forgotten */
    void *self;
    uint16_t port;
    int starting; /* resolver_ask() has not returned */
    int finished;
};

void
address_text(const union address *a, char into[static ADDRESS_TEXT])
{
    char text[INET6_ADDRSTRLEN];

    if (a->any.sa_family == AF_INET)
        inet_ntop(AF_INET, &a->v4.sin_addr, into, ADDRESS_TEXT);
    else
        snprintf(into, ADDRESS_TEXT, "[%s]",
                 inet_ntop(AF_INET6, &a->v6.sin6_addr, text, sizeof text));
}

const char *
lookup_why(int status)
{
    return ares_strerror(status);
}

static void
on_ready(struct watch *w, uint32_t events)
{
    struct resolver *r = w->self;
    int bad = (events & (EPOLLERR | EPOLLHUP)) != 0;

    if (w->fd >= 0) /* c-ares may have closed it in this turn */
        ares_process_fd(r->channel, (events & EPOLLIN) || bad ? w->fd : ARES_SOCKET_BAD,
                        (events & EPOLLOUT) || bad ? w->fd : ARES_SOCKET_BAD);
}

/* c-ares says which of its sockets it waits for; neither: it is about to close it. */
static void
on_socket(void *self, ares_socket_t fd, int readable, int writable)
{
    struct resolver *r = self;
    struct watch *free_one = NULL, *w = NULL;
    uint32_t events = (readable ? (uint32_t)EPOLLIN : 0) | (writable ? (uint32_t)EPOLLOUT : 0);

    for (size_t i = 0; i < RESOLVER_SOCKETS; i++) {
        if (r->watch[i].fd == fd)
            w = &r->watch[i];
        else if (r->watch[i].fd < 0)
            free_one = &r->watch[i];
    }
    if (!w && events && (w = free_one))
        *w = (struct watch){.fd = fd, .ready = on_ready, .self = r};
    if (!w)
        return; /* one socket too many: its question will time out */
    (void)watch_for(r->epoll, w, events);
    if (!events)
        w->fd = -1;
}

/* A server that was named is asked and nothing else is; the machine's configuration may also have
 * its /etc/hosts looked at. */
static int
open_channel(struct resolver *r, struct err *err)
{
    struct ares_options o = {.timeout = TRY_MS, .tries = TRIES, .flags = ARES_FLAG_NOSEARCH,
                             .sock_state_cb = on_socket, .sock_state_cb_data = r,
                             .lookups = (char *)"b"};
    int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_FLAGS | ARES_OPT_SOCK_STATE_CB |
               ARES_OPT_DOMAINS /* none: an allowed name is the whole name */;
    int code = ares_init_options(&r->channel, &o, r->server ? mask | ARES_OPT_LOOKUPS : mask);

    if (code == ARES_SUCCESS && r->server)
        code = ares_set_servers_ports_csv(r->channel, r->server);
    return code == ARES_SUCCESS ? 0 : err_set(err, EIO, "start c-ares: %s", ares_strerror(code));
}

static int64_t
file_time(void)
{
    struct stat st;

    return stat("/etc/resolv.conf", &st) < 0
               ? 0
               : (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

int
resolver_open(struct resolver *r, int epoll, const char *server, struct err *err)
{
    int code = ares_library_init(ARES_LIB_INIT_ALL);

    if (code != ARES_SUCCESS)
        return err_set(err, EIO, "start c-ares: %s", ares_strerror(code));
    r->epoll = epoll;
    r->server = server;
    r->file = file_time();
    for (size_t i = 0; i < RESOLVER_SOCKETS; i++)
        r->watch[i].fd = -1;
    return open_channel(r, err);
}

/* A kernel lives for days, and a laptop moves from network to network. */
static void
follow_machine(struct resolver *r)
{
    ares_channel old = r->channel;
    int64_t file = file_time();
    struct err err;

    if (r->server || r->asking || file == r->file)
        return;
    r->file = file;
    if (open_channel(r, &err) == 0)
        ares_destroy(old);
    else
        r->channel = old;
}

static void
on_answer(void *self, int status, int timeouts, struct ares_addrinfo *info)
{
    struct lookup *l = self;
    union address address[RESOLVER_ADDRESSES];
    size_t n = 0;

    (void)timeouts;
    for (struct ares_addrinfo_node *a = info ? info->nodes : NULL; a && n < RESOLVER_ADDRESSES;
         a = a->ai_next) {
        if (a->ai_addrlen > sizeof address[n] ||
            (a->ai_family != AF_INET && a->ai_family != AF_INET6))
            continue;
        memset(&address[n], 0, sizeof address[n]);
        memcpy(&address[n], a->ai_addr, a->ai_addrlen);
        address[n++].v4.sin_port = htons(l->port); /* at the same place in both */
    }
    if (info)
        ares_freeaddrinfo(info);
    l->resolver->asking--;
    if (l->done)
        l->done(l->self, n ? LOOKUP_DONE : status ? status : LOOKUP_NO_DATA, address, n);
    l->finished = 1;
    if (!l->starting)
        free(l);
}

struct lookup *
resolver_ask(struct resolver *r, const char *name, uint16_t port, lookup_done *done, void *self)
{
    struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct lookup *l = calloc(1, sizeof *l);

    if (!l) {
        done(self, ARES_ENOMEM, NULL, 0);
        return NULL;
    }
    follow_machine(r);
    *l = (struct lookup){.resolver = r, .done = done, .self = self, .port = port, .starting = 1};
    r->asking++;
    ares_getaddrinfo(r->channel, name, NULL, &hints, on_answer, l);
    l->starting = 0;
    if (!l->finished)
        return l;
    free(l);
    return NULL;
}

void
lookup_forget(struct lookup *l)
{
    l->done = NULL;
}

int
resolver_timeout(struct resolver *r)
{
    struct timeval tv, *t = ares_timeout(r->channel, NULL, &tv);

    return t ? (int)(t->tv_sec * 1000 + t->tv_usec / 1000 + 1) : -1;
}

void
resolver_tick(struct resolver *r)
{
    ares_process_fd(r->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
}
