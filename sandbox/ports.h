/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ports.h: the broker's hand on husk-ports, which carries connections from listening sockets of the
 * host to ports of the sandbox. It is started with the first of them, stands in the sandbox's
 * network and nowhere else of it, and can reach nothing of the host but the sockets it was given.
 */
#pragma once

#include "sandbox/build.h"

#define PORTS_FD_SANDBOX 4 /* pidfd of pid 1; beside SANDBOX_FD, the socket to the broker */

struct ports {
    pid_t pid;  /* 0: none, or inside */
    int socket; /* to it; or -1 */
};
#define PORTS_EMPTY ((struct ports){.socket = -1})

/* With `program` inside the sandbox it is started by husk-init, which is behind sandbox->socket, in
 * this slot: what is said about it there is for nobody. */
#define PORTS_SLOT UINT32_MAX
int ports_start_inside(const char *program, const struct sandbox *sandbox, struct ports *ports, struct err *err);

/* Passes an EXPOSE or UNEXPOSE on, and starts `program` if it does not run. -1: *err says why, and
 * the supervisor has to be told. */
int ports_pass(const char *program, const struct sandbox *sandbox, struct ports *ports,
               const struct frame *frame, const int *fds, size_t nfds, struct err *err);
void ports_end(struct ports *ports);
