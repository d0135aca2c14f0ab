/* SPDX-License-Identifier: BSD-3-Clause
 *
 * resolver.h: the addresses of allowed names, asked for outside of the sandbox (c-ares). Nothing
 * blocks; whatever it answers is judged by the caller.
 */
#pragma once

#include <ares.h>
#include <netinet/in.h>

#include "base/err.h"
#include "sandbox/loop.h"

#define RESOLVER_SOCKETS 32
#define RESOLVER_ADDRESSES 16 /* of one name; more are not tried */
#define ADDRESS_TEXT (INET6_ADDRSTRLEN + 2)

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

struct resolver {
    ares_channel channel;
    const char *server;  /* ADDR[:PORT], borrowed; NULL: the machine's */
    int epoll;
    size_t asking;       /* lookups under way */
    int64_t file;        /* when the machine's list of servers was changed, ns */
    struct watch watch[RESOLVER_SOCKETS];
};

/* As text, IPv6 in brackets. */
void address_text(const union address *address, char into[static ADDRESS_TEXT]);

/* What came of a question: LOOKUP_DONE if there are addresses, else another code of c-ares. */
enum { LOOKUP_DONE = ARES_SUCCESS, LOOKUP_NO_NAME = ARES_ENOTFOUND, LOOKUP_NO_DATA = ARES_ENODATA };
const char *lookup_why(int status);
typedef void lookup_done(void *self, int status, const union address *address, size_t n);
struct lookup;

int resolver_open(struct resolver *resolver, int epoll, const char *server, struct err *err);
/* Calls `done` once, maybe at once; then NULL is returned. */
struct lookup *resolver_ask(struct resolver *resolver, const char *name, uint16_t port,
                            lookup_done *done, void *self);
/* `done` will not be called. */
void lookup_forget(struct lookup *lookup);
/* ms until resolver_tick() is needed; -1: never. */
int resolver_timeout(struct resolver *resolver);
void resolver_tick(struct resolver *resolver);
