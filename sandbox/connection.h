/* SPDX-License-Identifier: BSD-3-Clause
 *
 * connection.h: one connection from inside to a host that the rules allow.
 *
 *   RESOLVING   the name's addresses are asked for; an allowed address has this behind it
 *   CONNECTING  one address after the other, those that the guard refuses left out
 *   OPEN        bytes go both ways
 *
 * The server may speak first (SSH, SMTP), so nothing waits for the client. But the client's
 * first bytes are held until they are known to be no TLS, or a ClientHello for this very name; not
 * if every name is allowed.
 * Whatever fails reaches the client as a reset, and the user as a notice.
 */
#pragma once

#include "sandbox/network.h"

#define CONNECTION_PATIENCE_MS 15000 /* to be open; a ClientHello has as long to be complete */
#define CONNECTION_TRY_MS 4000       /* for one address, while others are left */

/* Takes `fd`. `name` is what it is for, or NULL: the address itself. The port is that of `to`. */
void connection_start(struct network *network, int fd, const char *name, const union address *to);
/* Ends those whose time is over. Returns ms until the next could be; -1: none. */
int connection_tick(struct network *network);
void connection_free_over(struct network *network);
/* Closes so that the peer gets a reset. */
void reset_socket(int *fd);
