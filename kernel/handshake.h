/* SPDX-License-Identifier: BSD-3-Clause
 *
 * handshake.h: a kernel that chose its ports itself tells them to who started it (JEP 66;
 * messaging.rst, "Kernel startup handshake").
 */
#pragma once

#include "kernel/conn.h"
#include "kernel/wire.h"

#define HANDSHAKE_MS 5000 /* a launcher that has not acknowledged by then wants no kernel */

/* Sends the ports to conn->registration and waits for the signed acknowledgement. The ports are
 * those of bound sockets. */
int handshake(const struct conn *conn, struct wire *wire, void *zmq_context, struct err *err);
