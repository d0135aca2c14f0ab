/* SPDX-License-Identifier: BSD-3-Clause
 *
 * upgrade.h: from a request of HTTP to a WebSocket (RFC 6455, 4.2).
 */
#pragma once

#include "serve/http.h"

/* The connection, after 101 has been sent. */
struct upgraded {
    struct MHD_UpgradeResponseHandle *urh;
    int fd;
    struct bytes early; /* what libmicrohttpd had read already */
};

/* -1: it asks for no WebSocket, or for one that is not spoken here, and that was answered. */
int upgrade_check(struct exchange *x);
int upgrade_offers(struct exchange *x, const char *protocol);
/* Answers with 101, and calls fn(of) then. `protocol` may be NULL. */
void upgrade_answer(struct exchange *x, const char *protocol, void (*fn)(void *of, struct upgraded *up), void *of);
