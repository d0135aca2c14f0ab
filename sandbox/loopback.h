/* SPDX-License-Identifier: BSD-3-Clause
 *
 * loopback.h: the half of the network that lies in the sandbox's network namespace.
 *
 * The namespace has one interface, lo. With an allow-list every address that a rule could mean
 * is made an address of lo itself (a route of type `local`), so that a connection to it arrives
 * at a socket that listens here. These sockets are made while the sandbox is built and given to
 * husk-network outside; a socket stays in the namespace that it was made in, whoever holds it.
 * There is no route to anything else, and nobody inside can make one.
 *
 * If everything is allowed, every address is one of lo, and one listener stands for all ports
 * (divert.h); another for IPv6, where this machine has it.
 */
#pragma once

#include "base/names.h"

#define LOOPBACK_RESOLVER "127.0.0.53" /* where the DNS socket is bound; in /etc/resolv.conf */
#define LOOPBACK_SOCKETS (1 + PORTS_MAX) /* DNS, then a listener for each port */

/* Descriptors of husk-network. */
#define NETWORK_FD_BROKER 3  /* as SANDBOX_FD: to the broker */
#define NETWORK_FD_SOCKETS 4 /* where the sockets wait, until they are taken */

/* Brings lo up; if anything is allowed also makes routes and sockets, and sends these as one datagram
 * over `to`. Nothing stays open. */
int loopback_make(const struct rules *rules, int to, struct err *err);
/* Whether everything could be allowed here: tries it in the caller's network namespace, which must
 * be one to throw away. */
int loopback_try_all(struct err *err);
/* The other end of `to`: DNS first. The caller owns them. */
int loopback_take(int from, int ret[static LOOPBACK_SOCKETS], size_t *count, struct err *err);
