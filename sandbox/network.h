/* SPDX-License-Identifier: BSD-3-Clause
 *
 * network.h: husk-network, the outside half of the network. A process of its own for each
 * sandbox that has one: it holds the sockets that listen inside (loopback.h), and no key.
 *
 *   network.c     starts, gives up what it does not need, runs the one loop
 *   service.c     answers DNS, accepts connections: what may go out
 *   connection.c  one connection: resolve, connect, judge what the client says first, forward
 *
 * Everything that comes from inside is hostile, and so is what comes from a server.
 */
#pragma once

#include "base/names.h"
#include "sandbox/aliases.h"
#include "sandbox/loop.h"
#include "sandbox/loopback.h"
#include "sandbox/notices.h"
#include "sandbox/resolver.h"

#define NETWORK_CONNECTIONS 512
#define NETWORK_QUESTIONS 128 /* of DNS that wait for the resolver at once */

struct connection;

struct network {
    struct rules rules;
    struct aliases aliases;
    struct notices notices;
    struct resolver resolver;
    int epoll;
    struct watch broker;
    struct watch socket[LOOPBACK_SOCKETS]; /* DNS, then the listeners */
    size_t nsockets;
    struct connection *first; /* open ones */
    struct connection *over;  /* freed at the end of the turn, when no event can mean them */
    size_t count, max;        /* of open ones */
    size_t questions;         /* that wait */
};

/* service.c */
void service_dns(struct watch *watch, uint32_t events);
void service_listener(struct watch *watch, uint32_t events);
