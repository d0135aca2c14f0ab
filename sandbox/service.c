/* SPDX-License-Identifier: BSD-3-Clause
 *
 * service.c: what the sandbox may ask for. A name that no rule allows does not exist, an address
 * that stands for none is refused. If all names are allowed, those exist that exist outside.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sandbox/connection.h"
#include "sandbox/dns.h"

#define BATCH 64 /* packets or connections, before others have their turn */

/*** DNS ***/

static int
is_reverse(const struct dns_query *q)
{
    const char *arpa = strstr(q->name, ".arpa");

    return q->type == DNS_PTR || (arpa && arpa[5] == 0);
}

/* A name that may be reached has one address, which stands for it. */
static void
answer(struct network *n, const struct dns_query *q, int code, int has_address,
       const struct sockaddr_in *to)
{
    uint8_t packet[DNS_PACKET];
    uint32_t address =
        has_address && q->type == DNS_A ? aliases_address(&n->aliases, q->name) : 0;
    size_t len = dns_answer(q, code, address, packet);

    (void)sendto(n->socket[0].fd, packet, len, MSG_DONTWAIT | MSG_NOSIGNAL,
                 (const struct sockaddr *)to, sizeof *to);
}

/* A query that waits until it is known whether its name exists. */
struct question {
    struct network *network;
    struct sockaddr_in from;
    size_t len;
    uint8_t packet[DNS_PACKET];
};

/* The addresses themselves are asked for again, and judged, when it connects. */
static void
on_existence(void *self, int status, const union address *address, size_t count)
{
    struct question *ask = self;
    struct network *n = ask->network;
    struct dns_query q;

    int code = DNS_SERVER_FAILURE;

    if (status == LOOKUP_DONE || status == LOOKUP_NO_DATA)
        code = DNS_OK;
    else if (status == LOOKUP_NO_NAME)
        code = DNS_NO_NAME;
    n->questions--;
    if (dns_read(ask->packet, ask->len, &q) == DNS_OK) /* as it was */
        answer(n, &q, code, status == LOOKUP_DONE, &ask->from);
    free(ask);
}

/* One too many is dropped, as datagrams are: whoever asked asks again. */
static void
ask_outside(struct network *n, const char *name, const uint8_t *packet, size_t len,
            const struct sockaddr_in *from)
{
    struct question *ask;

    if (n->questions >= NETWORK_QUESTIONS || len > DNS_PACKET || !(ask = malloc(sizeof *ask)))
        return;
    *ask = (struct question){.network = n, .from = *from, .len = len};
    memcpy(ask->packet, packet, len);
    n->questions++;
    (void)resolver_ask(&n->resolver, name, 0, on_existence, ask);
}

static int
decide(struct network *n, const struct dns_query *q)
{
    /* Libraries ask for the name of an address by themselves: nobody wants to hear of that. */
    if (is_reverse(q) && (n->rules.all || !rules_allow_name(&n->rules, q->name, 0)))
        return DNS_NO_NAME;
    if (*q->name && rules_allow_name(&n->rules, q->name, 0))
        return DNS_OK;
    if (*q->name)
        notices_tell(&n->notices, "%s was refused: no --allow names it", q->name);
    else
        notices_tell(&n->notices, "a name with bytes that no name has was refused");
    return DNS_NO_NAME;
}

static void
on_query(struct network *n, const uint8_t *packet, size_t len, const struct sockaddr_in *from)
{
    struct dns_query q;
    int code = dns_read(packet, len, &q);

    if (code < 0)
        return;
    if (code == DNS_OK)
        code = decide(n, &q);
    if (code == DNS_OK && n->rules.all)
        ask_outside(n, q.name, packet, len, from);
    else
        answer(n, &q, code, code == DNS_OK, from);
}

void
service_dns(struct watch *w, uint32_t events)
{
    uint8_t packet[2048];

    for (int i = 0; i < BATCH; i++) {
        struct sockaddr_in from;
        socklen_t len = sizeof from;
        ssize_t got = recvfrom(w->fd, packet, sizeof packet, 0, (struct sockaddr *)&from, &len);

        if (got < 0)
            return;
        on_query(w->self, packet, (size_t)got, &from);
    }
}

/*** Connections ***/

static int
is_loopback(const union address *to)
{
    return to->any.sa_family == AF_INET ? ntohl(to->v4.sin_addr.s_addr) >> 24 == 127
                                        : IN6_IS_ADDR_LOOPBACK(&to->v6.sin6_addr);
}

/* Rules list no address of IPv6: it is reached only if everything may be. */
static int
may_reach(struct network *n, const union address *to, uint16_t port)
{
    uint32_t address = ntohl(to->v4.sin_addr.s_addr);

    if (to->any.sa_family != AF_INET)
        return n->rules.all;
    return (address & ALIAS_MASK) != ALIAS_NETWORK &&
           rules_allow_address(&n->rules, address, port);
}

/* To whom it wants to speak, by the address that it believes to have reached. */
static void
admit(struct network *n, int fd)
{
    union address to = {0};
    socklen_t len = sizeof to;
    const char *name = NULL;
    char text[ADDRESS_TEXT];
    uint16_t port;

    if (getsockname(fd, &to.any, &len) < 0 ||
        (to.any.sa_family != AF_INET && to.any.sa_family != AF_INET6)) {
        reset_socket(&fd);
        return;
    }
    port = ntohs(to.v4.sin_port); /* as in v6 */
    address_text(&to, text);
    if (to.any.sa_family == AF_INET)
        name = aliases_name(&n->aliases, ntohl(to.v4.sin_addr.s_addr));
    if (n->count >= n->max)
        notices_tell(&n->notices, "%s:%u was refused: %zu connections are open", name ? name : text,
                     port, n->count);
    else if (name && rules_allow_name(&n->rules, name, port))
        return connection_start(n, fd, name, &to);
    else if (name)
        notices_tell(&n->notices, "%s:%u was refused: no --allow names this port", name, port);
    else if (is_loopback(&to))
        ; /* its own loopback, where nothing listens: a reset is what it would get without us */
    else if (may_reach(n, &to, port))
        return connection_start(n, fd, NULL, &to);
    else
        notices_tell(&n->notices, "%s:%u was refused: %s", text, port,
                     n->rules.all ? "it stands for no name" : "no --allow lists it");
    reset_socket(&fd);
}

void
service_listener(struct watch *w, uint32_t events)
{
    for (int i = 0; i < BATCH; i++) {
        int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            admit(w->self, fd);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            /* Ours are within RLIMIT_NOFILE; if the whole machine is short of them, wait for
             * better times instead of asking again at once. */
            if (errno != EAGAIN)
                poll(NULL, 0, 20);
            return;
        }
    }
}
