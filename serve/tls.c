/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "base/log.h"

#define RECORD 16384    /* bytes: a record of TLS has no more */
#define REFUSED "-VERS-TLS1.0:-VERS-TLS1.1" /* of what this machine's configuration of GnuTLS allows */
#define FILE_MAX (1 << 20)
#define HELLO_MS 15000  /* a client has so long to shake hands */
#define LINGER_MS 15000 /* and to take the next bytes of what is left when the other end has closed */
#define DRAIN_MS 2000   /* and to hear that it is over, before its socket is closed */
#define AGAIN_MS 1000   /* after there was no descriptor for a connection */

enum state {
    HELLO,  /* shakes hands; there is no pair */
    OPEN,   /* bytes go both ways */
    BYE,    /* the other end has closed and all is sent, but that this is the end */
    ENDING, /* that too; what the client still says is dropped */
};

struct half { /* bytes on their way */
    uint8_t data[RECORD];
    size_t from, to;
};

struct link {
    struct link *next, **back;
    struct tls *tls;
    enum state state;
    gnutls_session_t session;
    int fd, pair;                /* the client's socket, our end of the pair */
    struct source client, inner; /* of these */
    struct timer deadline;
    int heard_all; /* the client says no more */
    int hung_up;   /* the other end of the pair is closed */
    uint64_t sent; /* bytes to the client */
    struct half in, out;
};

struct tls {
    struct loop *loop;
    struct source listener;
    struct timer again;
    gnutls_certificate_credentials_t credentials;
    struct link *links;
    size_t count, most;
    void (*give)(void *of, int fd);
    void *of;
};

static int
waits(const struct half *h)
{
    return h->from < h->to;
}

static int
is_for_later(ssize_t r)
{
    return r == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED;
}

static void
end(struct link *l)
{
    struct tls *t = l->tls;

    loop_set(t->loop, &l->deadline, 0);
    loop_remove(t->loop, &l->client);
    loop_remove(t->loop, &l->inner);
    gnutls_deinit(l->session);
    fd_close(&l->fd);
    fd_close(&l->pair);
    *l->back = l->next;
    if (l->next)
        l->next->back = l->back;
    if (t->count-- == t->most)
        loop_want(t->loop, &t->listener, EPOLLIN);
    loop_later(t->loop, free, l);
}

static void
on_deadline(void *of)
{
    end(of);
}

/*** Bytes ***/

/* From the client to the pair. -1: the client is gone. */
static int
carry_in(struct link *l)
{
    struct half *h = &l->in;
    ssize_t n;

    for (;;) {
        while (waits(h)) {
            n = send(l->pair, h->data + h->from, h->to - h->from, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (n < 0) /* who has closed is seen by carry_out(), which has what it left */
                return errno == EAGAIN || errno == EINTR || errno == EPIPE ? 0 : -1;
            h->from += (size_t)n;
        }
        if (l->heard_all)
            return 0;
        n = gnutls_record_recv(l->session, h->data, sizeof h->data);
        if (n < 0)
            return is_for_later(n) ? 0 : -1;
        h->from = 0;
        h->to = (size_t)n;
        if (n == 0) {
            l->heard_all = 1;
            (void)shutdown(l->pair, SHUT_WR);
        }
    }
}

/* From the pair to the client. -1: the client is gone, 1: all has been sent that ever comes. */
static int
carry_out(struct link *l)
{
    struct half *h = &l->out;
    ssize_t n;

    for (;;) {
        while (waits(h)) { /* after GNUTLS_E_AGAIN it wants to be called in the same way */
            n = gnutls_record_send(l->session, h->data + h->from, h->to - h->from);
            if (n < 0)
                return is_for_later(n) ? 0 : -1;
            h->from += (size_t)n;
            l->sent += (uint64_t)n;
        }
        n = recv(l->pair, h->data, sizeof h->data, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (n <= 0)
            return 1;
        h->from = 0;
        h->to = (size_t)n;
    }
}

/* To close while the client still sends would take back what it has not read yet. */
static void
say_bye(struct link *l)
{
    struct loop *loop = l->tls->loop;

    if (l->state == OPEN) {
        l->state = BYE;
        loop_remove(loop, &l->inner);
        fd_close(&l->pair);
        loop_set(loop, &l->deadline, now_ms() + LINGER_MS);
    }
    if (is_for_later(gnutls_bye(l->session, GNUTLS_SHUT_WR))) {
        loop_want(loop, &l->client, EPOLLOUT);
        return;
    }
    l->state = ENDING;
    (void)shutdown(l->fd, SHUT_WR);
    loop_want(loop, &l->client, EPOLLIN);
    loop_set(loop, &l->deadline, now_ms() + DRAIN_MS);
}

static void
drop_what_comes(struct link *l)
{
    ssize_t n = recv(l->fd, l->in.data, sizeof l->in.data, MSG_DONTWAIT);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        end(l);
}

static void
carry(struct link *l, int in, int out)
{
    struct loop *loop = l->tls->loop;
    uint64_t before = l->sent;
    int r = 0;

    if ((in && carry_in(l) < 0) || (out && (r = carry_out(l)) < 0)) {
        end(l);
        return;
    }
    if (r > 0) {
        say_bye(l);
        return;
    }
    if (l->hung_up && l->sent != before)
        loop_set(loop, &l->deadline, now_ms() + LINGER_MS);
    loop_want(loop, &l->client, (l->heard_all || waits(&l->in) ? 0 : EPOLLIN) | (waits(&l->out) ? EPOLLOUT : 0));
    loop_want(loop, &l->inner, (waits(&l->out) ? 0 : EPOLLIN) | (waits(&l->in) ? EPOLLOUT : 0));
}

/* epoll(7) would say so again and again, while the client takes the rest of it in its own time. */
static void
hang_up(struct link *l)
{
    l->hung_up = 1;
    loop_remove(l->tls->loop, &l->inner);
    loop_set(l->tls->loop, &l->deadline, now_ms() + LINGER_MS);
}

static void
on_inner(void *of, uint32_t events)
{
    struct link *l = of;

    if (events & EPOLLHUP)
        hang_up(l);
    carry(l, events & EPOLLOUT, events & ~(uint32_t)EPOLLOUT);
}

/*** Hands are shaken ***/

static int
open_link(struct link *l)
{
    struct err err;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        log_warning("a connection is not taken: %m");
        return -1;
    }
    l->pair = pair[0];
    l->inner = (struct source){.fd = l->pair, .events = EPOLLIN, .ready = on_inner, .of = l};
    if (loop_add(l->tls->loop, &l->inner, &err) < 0) {
        close(pair[1]);
        return -1;
    }
    loop_set(l->tls->loop, &l->deadline, 0);
    l->state = OPEN;
    l->tls->give(l->tls->of, pair[1]);
    return 0;
}

static void
greet(struct link *l)
{
    int r = gnutls_handshake(l->session);

    if (is_for_later(r)) {
        loop_want(l->tls->loop, &l->client, gnutls_record_get_direction(l->session) ? EPOLLOUT : EPOLLIN);
    } else if (r < 0 || open_link(l) < 0) {
        log_debug("tls: %s", gnutls_strerror(r));
        (void)gnutls_alert_send_appropriate(l->session, r);
        end(l);
    } else {
        carry(l, 1, 0); /* it may have read more than the hello */
    }
}

static void
on_client(void *of, uint32_t events)
{
    struct link *l = of;

    if (l->state == HELLO)
        greet(l);
    else if (l->state == ENDING)
        drop_what_comes(l);
    else if (events & (EPOLLERR | EPOLLHUP))
        end(l);
    else if (l->state == BYE)
        say_bye(l);
    else
        carry(l, events & ~(uint32_t)EPOLLOUT, events & EPOLLOUT);
}

/*** Connections come ***/

static int
begin(struct tls *t, int fd)
{
    struct link *l = calloc(1, sizeof *l);
    int on = 1;
    struct err err;

    if (!l || gnutls_init(&l->session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL) < 0) {
        free(l);
        return -1;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    l->tls = t;
    l->fd = fd;
    l->pair = -1;
    l->client = (struct source){.fd = fd, .events = EPOLLIN, .ready = on_client, .of = l};
    l->inner.fd = -1;
    l->deadline = (struct timer){.fire = on_deadline, .of = l};
    gnutls_transport_set_int(l->session, fd);
    if (gnutls_set_default_priority_append(l->session, REFUSED, NULL, 0) < 0 ||
        gnutls_credentials_set(l->session, GNUTLS_CRD_CERTIFICATE, t->credentials) < 0 ||
        loop_add(t->loop, &l->client, &err) < 0) {
        gnutls_deinit(l->session);
        free(l);
        return -1;
    }
    l->next = t->links;
    l->back = &t->links;
    if (l->next)
        l->next->back = &l->next;
    t->links = l;
    t->count++;
    loop_set(t->loop, &l->deadline, now_ms() + HELLO_MS);
    return 0;
}

static void
accept_again(void *of)
{
    struct tls *t = of;

    loop_want(t->loop, &t->listener, t->count < t->most ? EPOLLIN : 0);
}

static void
on_connection(void *of, uint32_t events)
{
    struct tls *t = of;
    int fd = -1;

    while (t->count < t->most && (fd = accept4(t->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
        if (begin(t, fd) < 0) {
            log_warning("a connection is not taken: no memory");
            close(fd);
        }
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
        log_warning("a connection is not taken: %m");
        loop_want(t->loop, &t->listener, 0);
        loop_set(t->loop, &t->again, now_ms() + AGAIN_MS);
    } else if (t->count == t->most) {
        loop_want(t->loop, &t->listener, 0);
    }
}

/*** Start and stop ***/

static int
read_pair(gnutls_certificate_credentials_t into, const char *certificate, const char *key, struct err *err)
{
    scoped(buf_release) struct buf public = {0}, secret = {0};
    gnutls_datum_t of_public, of_secret;
    int r;

    if (file_read(AT_FDCWD, certificate, FILE_MAX, &public) < 0)
        return err_errno(err, "read '%s'", certificate);
    if (file_read(AT_FDCWD, key, FILE_MAX, &secret) < 0)
        return err_errno(err, "read '%s'", key);
    of_public = (gnutls_datum_t){public.data, (unsigned)public.len};
    of_secret = (gnutls_datum_t){secret.data, (unsigned)secret.len};
    r = gnutls_certificate_set_x509_key_mem(into, &of_public, &of_secret, GNUTLS_X509_FMT_PEM);
    sodium_memzero(secret.data, secret.len);
    return r < 0 ? err_set(err, EINVAL, "'%s' and '%s' are no certificate and its key: %s", certificate, key,
                           gnutls_strerror(r))
                 : 0;
}

struct tls *
tls_start(struct loop *loop, int listener, size_t most, const char *certificate, const char *key,
          void (*give)(void *of, int fd), void *of, struct err *err)
{
    struct tls *t = calloc(1, sizeof *t);

    if (!t || gnutls_certificate_allocate_credentials(&t->credentials) < 0)
        abort(); /* without memory only */
    t->loop = loop;
    t->listener = (struct source){.fd = listener, .events = EPOLLIN, .ready = on_connection, .of = t};
    t->again = (struct timer){.fire = accept_again, .of = t};
    t->most = most;
    t->give = give;
    t->of = of;
    if (read_pair(t->credentials, certificate, key, err) < 0 || loop_add(loop, &t->listener, err) < 0) {
        t->listener.fd = -1;
        tls_stop(t);
        return NULL;
    }
    return t;
}

void
tls_stop(struct tls *t)
{
    if (!t)
        return;
    loop_remove(t->loop, &t->listener);
    loop_set(t->loop, &t->again, 0);
    while (t->links) {
        struct link *l = t->links;
        if (l->state == OPEN && carry_out(l) > 0)
            say_bye(l);
        end(l);
    }
    gnutls_certificate_free_credentials(t->credentials);
    free(t);
}
