/* SPDX-License-Identifier: BSD-3-Clause
 *
 * terminals.h: /api/terminals, and their WebSockets, which speak terminado's protocol: arrays of JSON, the first
 * element says what it is: "setup", "stdout", "disconnect" to the client; "stdin", "set_size" from it.
 *
 * A terminal is a shell in the sandbox of a kernel (exec.start with a tty): of the one that the body names, else of the
 * one that was started last, else of a new one. What it printed last is what a client sees first.
 */
#pragma once

#include "serve/server.h"

#define TERMINAL_KEPT (64u << 10)  /* bytes */
#define TERMINAL_QUEUE (8u << 20)  /* bytes that wait for a client; one that does not read is left */

/* The kernels end first. */
void terminals_release(struct server *s);
