/* SPDX-License-Identifier: BSD-3-Clause
 *
 * zeromq.h: the calls of libzmq that husk makes, loaded when the first socket is opened (library.h).
 *
 * libzmq brings 17 other libraries along: 2.3 ms of processor time and 0.7 MB in each process.
 */
#pragma once

#include <zmq.h>

#include "base/err.h"

#define ZEROMQ_CALLS(X)                                                                                \
    X(bind) X(close) X(connect) X(ctx_new) X(ctx_term) X(getsockopt) X(msg_close) X(msg_data) X(msg_init)  \
    X(msg_init_data) X(msg_init_size) X(msg_more) X(msg_recv) X(msg_send) X(msg_size) X(poll) X(send)      \
    X(setsockopt) X(socket) X(strerror)

struct zeromq {
#define X(name) __typeof__(zmq_##name) *name;
    ZEROMQ_CALLS(X)
#undef X
};

/* As zmq.bind(...) for zmq_bind(3). All are NULL before zeromq_load(). */
extern struct zeromq zmq;

/* Does nothing the second time. */
int zeromq_load(struct err *err);

/* zmq_poll(3). As long as nothing is loaded there are only descriptors, and it is poll(2). */
int zeromq_poll(zmq_pollitem_t *items, int n, long timeout_ms);
