/* SPDX-License-Identifier: BSD-3-Clause
 *
 * divert.h: one listener for all ports of all addresses (--network all).
 *
 * A listening socket has one port. Where a rule may name any, the kernel is told to hand each TCP
 * connection that arrives at lo and is not for loopback itself to one socket: a single rule of
 * nftables, `tproxy`. Nothing is rewritten and nothing is tracked: the accepted socket says by
 * getsockname(2) what address and port the program wanted. The rule lies in the sandbox's network
 * namespace, where nobody has the right to change it.
 */
#pragma once

#include <netinet/in.h>

#include "base/err.h"

/* As `nft`: tcp, not to loopback: tproxy to `listener`, which must be transparent. IPv4 or IPv6,
 * by its family. Needs CAP_NET_ADMIN over the network namespace. */
int divert_to(const struct sockaddr *listener, struct err *err);
