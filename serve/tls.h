/* SPDX-License-Identifier: BSD-3-Clause
 *
 * tls.h: TLS in front of libmicrohttpd. Each connection has a session of GnuTLS here; libmicrohttpd, and after an
 * upgrade a WebSocket, gets one end of a socket pair for it, as if that were the client's socket. libmicrohttpd's
 * own TLS has no buffer for a connection that was upgraded, and carries its bytes four at a time (0.9.75).
 *
 * What the other end does not take is not read, so a connection holds a record in each direction, and what the
 * pair holds.
 */
#pragma once

#include <stddef.h>

#include "serve/loop.h"

struct tls;

/* Accepts at `listener` (borrowed), at most `most` connections at a time, and calls give(of, fd) when one has shaken
 * hands: the other end of its pair, which is the callee's. */
struct tls *tls_start(struct loop *loop, int listener, size_t most, const char *certificate, const char *key,
                      void (*give)(void *of, int fd), void *of, struct err *err);
/* What the other ends have written is sent, as far as the clients take it at once. */
void tls_stop(struct tls *t); /* NULL: nothing */
