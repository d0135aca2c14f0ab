/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/connection.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sandbox/forward.h"
#include "sandbox/hello.h"

/* Errors alone, once: level-triggered, EPOLLHUP would be reported for ever. */
#define ONLY_DEATH ((uint32_t)EPOLLET)
/* A program that closed looks like one that half-closed, until its socket is gone for good and
 * answers a keepalive with a reset: after about a minute (tcp_fin_timeout). */
#define KEEPALIVE_SECONDS 20

enum state { RESOLVING, CONNECTING, OPEN, OVER };
enum first_words { HELD, SENDING, PASSED }; /* of the client */

struct connection {
    struct network *network;
    struct connection *next, *previous; /* `next` alone in the list of those that are over */
    enum state state;
    char host[NAME_SIZE]; /* the name, or the address as text */
    int named;
    uint16_t port;
    struct lookup *lookup; /* under way, or NULL */
    union address address[RESOLVER_ADDRESSES];
    size_t naddresses, tried;
    int error;             /* errno of the last try */
    int64_t deadline;      /* ms; 0: none */
    int64_t next_try;      /* ms: the present try is given up for the next; 0: it is the last */
    struct watch inside, outside;
    struct forward up, down;
    enum first_words words;
    uint8_t *first; /* HELLO_MAX bytes, until they are sent */
    size_t nfirst, sent;
};

/*** The end ***/

void
reset_socket(int *fd)
{
    struct linger now = {.l_onoff = 1};

    if (*fd >= 0)
        (void)setsockopt(*fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    fd_close(fd);
}

static void
end(struct connection *c, int reset)
{
    struct network *n = c->network;

    if (c->state == OVER)
        return;
    c->state = OVER;
    if (c->lookup)
        lookup_forget(c->lookup);
    (void)watch_for(n->epoll, &c->inside, 0);
    (void)watch_for(n->epoll, &c->outside, 0);
    if (reset) {
        reset_socket(&c->inside.fd);
        reset_socket(&c->outside.fd);
    }
    fd_close(&c->inside.fd);
    fd_close(&c->outside.fd);
    forward_release(&c->up);
    forward_release(&c->down);
    free(c->first);
    c->first = NULL;
    if (c->previous)
        c->previous->next = c->next;
    else
        n->first = c->next;
    if (c->next)
        c->next->previous = c->previous;
    n->count--;
    c->next = n->over;
    n->over = c;
}

/* The notice before the reset: it should be there when the program tells of its error. */
static void
refuse(struct connection *c, const char *why)
{
    notices_tell(&c->network->notices, "%s:%u was refused: %s", c->host, c->port, why);
    end(c, 1);
}

static void
give_up(struct connection *c, const char *why)
{
    notices_tell(&c->network->notices, "%s:%u cannot be reached: %s", c->host, c->port, why);
    end(c, 1);
}

/*** OPEN ***/

static void
listen_again(struct connection *c)
{
    uint32_t inside = 0, outside = 0;

    if (c->words == HELD || (c->words == PASSED && forward_wants_from(&c->up)))
        inside |= EPOLLIN;
    if (c->words == SENDING || forward_wants_to(&c->up))
        outside |= EPOLLOUT;
    if (forward_wants_from(&c->down))
        outside |= EPOLLIN;
    if (forward_wants_to(&c->down))
        inside |= EPOLLOUT;
    if (!inside && !outside)
        end(c, 0); /* both sides have said all */
    else if (watch_for(c->network->epoll, &c->inside, inside ? inside : ONLY_DEATH) < 0 ||
             watch_for(c->network->epoll, &c->outside, outside) < 0)
        end(c, 1);
}

/* A program inside says to whom it wants to speak; 0 if that is not whom the rules allowed. */
static int
judge_words(struct connection *c)
{
    char name[NAME_SIZE], why[NAME_SIZE + 64];

    switch (hello_read(c->first, c->nfirst, name)) {
    case HELLO_MORE:
        return 1;
    case HELLO_OTHER:
        c->words = SENDING;
        return 1;
    case HELLO_NAMED:
        c->words = SENDING;
        if (strcmp(name, c->host) == 0)
            return 1;
        snprintf(why, sizeof why, "its TLS asks for another server, %s", name);
        break;
    case HELLO_UNNAMED:
        snprintf(why, sizeof why, "its TLS names no server");
        break;
    case HELLO_BROKEN:
        snprintf(why, sizeof why, "its TLS begins with what is no ClientHello");
        break;
    }
    refuse(c, why);
    return 0;
}

/* 0 if the connection is over. */
static int
hear_words(struct connection *c)
{
    ssize_t n;

    if (!c->first && !(c->first = malloc(HELLO_MAX))) {
        give_up(c, strerror(errno));
        return 0;
    }
    n = recv(c->inside.fd, c->first + c->nfirst, HELLO_MAX - c->nfirst, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 1;
    if (n < 0) {
        end(c, 1);
        return 0;
    }
    if (n == 0 && c->nfirst) {
        refuse(c, "its TLS ends within the ClientHello");
        return 0;
    }
    if (n == 0) {
        c->words = PASSED; /* it has nothing to say: forward_run() finds the end again */
        return 1;
    }
    if (c->nfirst == 0)
        c->deadline = now_ms() + CONNECTION_PATIENCE_MS;
    c->nfirst += (size_t)n;
    return judge_words(c);
}

static int
send_words(struct connection *c)
{
    ssize_t n = send(c->outside.fd, c->first + c->sent, c->nfirst - c->sent, MSG_NOSIGNAL);

    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        end(c, 1);
        return 0;
    }
    c->sent += n > 0 ? (size_t)n : 0;
    if (c->sent < c->nfirst)
        return 1;
    free(c->first);
    c->first = NULL;
    c->words = PASSED;
    return 1;
}

static void
pump(struct connection *c)
{
    if (c->words == HELD && !hear_words(c))
        return;
    if (c->words != HELD)
        c->deadline = 0;
    if (c->words == SENDING && !send_words(c))
        return;
    if ((c->words == PASSED && forward_run(&c->up) < 0) || forward_run(&c->down) < 0)
        end(c, 1);
    else
        listen_again(c);
}

static void
on_open(struct connection *c)
{
    int on = 1;

    (void)setsockopt(c->outside.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(c->outside.fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    c->state = OPEN;
    c->deadline = c->next_try = 0;
    c->up.from = c->down.to = c->inside.fd;
    c->up.to = c->down.from = c->outside.fd;
    c->words = c->named && !c->network->rules.all ? HELD : PASSED;
    pump(c);
}

/*** CONNECTING ***/

/* Where a packet to this address would come from: the address itself, if it is this machine's. */
static int
is_own(const union address *a)
{
    scoped(fd_close) int fd = socket(a->any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    union address from = {0};
    socklen_t len = sizeof from;

    if (fd < 0 || connect(fd, &a->any, sizeof *a) < 0 || getsockname(fd, &from.any, &len) < 0)
        return 0; /* not to be reached, then */
    return a->any.sa_family == AF_INET
               ? from.v4.sin_addr.s_addr == a->v4.sin_addr.s_addr
               : memcmp(&from.v6.sin6_addr, &a->v6.sin6_addr, sizeof from.v6.sin6_addr) == 0;
}

static const char *
judge_address(const struct connection *c, const union address *a)
{
    const char *why = rules_refuse_address(&c->network->rules, &a->any, c->port);

    if (!why && !rules_list_address(&c->network->rules, &a->any, c->port) && is_own(a))
        why = "an address of this machine";
    return why;
}

/* Leaves only those that may be connected to. 0 if there are none. */
static int
judge_addresses(struct connection *c)
{
    char why[128] = "it has no address";
    size_t kept = 0;

    for (size_t i = 0; i < c->naddresses; i++) {
        const char *refused = judge_address(c, &c->address[i]);
        if (!refused)
            c->address[kept++] = c->address[i];
        else
            snprintf(why, sizeof why, "%s %s", c->named ? "the name stands for" : "it is", refused);
    }
    c->naddresses = kept;
    if (!kept)
        refuse(c, why);
    return kept > 0;
}

static void
try_next(struct connection *c)
{
    while (c->tried < c->naddresses) {
        const union address *to = &c->address[c->tried++];
        (void)watch_for(c->network->epoll, &c->outside, 0);
        fd_close(&c->outside.fd);
        c->outside.fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (c->outside.fd < 0) {
            c->error = errno;
            continue;
        }
        if (connect(c->outside.fd, &to->any, sizeof *to) == 0) {
            on_open(c);
            return;
        }
        c->error = errno;
        if (errno != EINPROGRESS || watch_for(c->network->epoll, &c->outside, EPOLLOUT) < 0)
            continue;
        c->next_try = c->tried < c->naddresses ? now_ms() + CONNECTION_TRY_MS : 0;
        return;
    }
    give_up(c, strerror(c->error));
}

static void
begin_connecting(struct connection *c)
{
    c->state = CONNECTING;
    if (judge_addresses(c))
        try_next(c);
}

static void
on_resolved(void *self, int status, const union address *address, size_t n)
{
    struct connection *c = self;

    c->lookup = NULL;
    if (status != LOOKUP_DONE) {
        give_up(c, lookup_why(status));
        return;
    }
    memcpy(c->address, address, n * sizeof *address);
    c->naddresses = n;
    begin_connecting(c);
}

static void
on_outside(struct watch *w, uint32_t events)
{
    struct connection *c = w->self;
    socklen_t len = sizeof c->error;

    if (c->state == CONNECTING) {
        if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &c->error, &len) < 0)
            c->error = errno;
        if (c->error)
            try_next(c);
        else
            on_open(c);
    } else if (c->state == OPEN) {
        pump(c);
    }
}

static void
on_inside(struct watch *w, uint32_t events)
{
    struct connection *c = w->self;

    if (c->state != OVER && (events & EPOLLERR))
        end(c, 1); /* reset by the program, or not there any more */
    else if (c->state == OPEN)
        pump(c);
}

/*** The beginning, and time ***/

static int
watch_inside(struct connection *c)
{
    int on = 1, seconds = KEEPALIVE_SECONDS;

    /* Bytes go on as they come; it is the client's part to join them. */
    (void)setsockopt(c->inside.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (setsockopt(c->inside.fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) < 0 ||
        setsockopt(c->inside.fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds) < 0 ||
        setsockopt(c->inside.fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds) < 0)
        return -1;
    return watch_for(c->network->epoll, &c->inside, ONLY_DEATH);
}

static struct connection *
new_connection(struct network *n, int fd, uint16_t port)
{
    struct connection *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    c->network = n;
    c->port = port;
    c->inside = (struct watch){.fd = fd, .ready = on_inside, .self = c};
    c->outside = (struct watch){.fd = -1, .ready = on_outside, .self = c};
    c->up = c->down = FORWARD_EMPTY;
    c->deadline = now_ms() + CONNECTION_PATIENCE_MS;
    c->next = n->first;
    if (n->first)
        n->first->previous = c;
    n->first = c;
    n->count++;
    return c;
}

void
connection_start(struct network *n, int fd, const char *name, const union address *to)
{
    struct connection *c = new_connection(n, fd, ntohs(to->v4.sin_port)); /* as in v6 */
    struct lookup *lookup;

    if (!c) {
        reset_socket(&fd);
        return;
    }
    if (watch_inside(c) < 0) {
        end(c, 1);
        return;
    }
    if (!name) {
        c->address[0] = *to;
        c->naddresses = 1;
        address_text(to, c->host);
        begin_connecting(c);
        return;
    }
    c->named = 1;
    snprintf(c->host, sizeof c->host, "%s", name);
    lookup = resolver_ask(&n->resolver, c->host, c->port, on_resolved, c);
    if (lookup)
        c->lookup = lookup;
}

static void
check_time(struct connection *c, int64_t now)
{
    if (c->deadline && now >= c->deadline) {
        if (c->state == OPEN)
            refuse(c, "its TLS does not end its ClientHello");
        else
            give_up(c, strerror(ETIMEDOUT));
    } else if (c->next_try && now >= c->next_try) {
        c->error = ETIMEDOUT;
        try_next(c);
    }
}

int
connection_tick(struct network *n)
{
    int64_t now = now_ms(), at = 0;

    for (struct connection *c = n->first, *next; c; c = next) {
        next = c->next;
        check_time(c, now);
        if (c->state == OVER)
            continue;
        if (c->deadline && (!at || c->deadline < at))
            at = c->deadline;
        if (c->next_try && (!at || c->next_try < at))
            at = c->next_try;
    }
    if (!at)
        return -1;
    return at > now ? (int)(at - now) : 0;
}

void
connection_free_over(struct network *n)
{
    struct connection *c;

    while ((c = n->over)) {
        n->over = c->next;
        free(c);
    }
}
