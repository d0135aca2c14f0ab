/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ports.h: ports of the sandbox on addresses of the host. The supervisor makes the socket that
 * listens and gives it away; the connections are the broker's business (sandbox/ports.h).
 */
#pragma once

#include "kernel/request.h"
#include "wall/frame.h"

struct kernel;

#define PORTS_MAX 64

struct port {
    uint32_t slot;  /* 0: free */
    struct request *request; /* ports.expose, or ports.close: open until the broker has answered */
    int closing;             /* it is ports.close */
    int port, host_port;
    char host[64], socket[108];
};
struct ports {
    struct port port[PORTS_MAX];
};

void ports_expose(struct kernel *k, struct request *r, struct bytes params);
void ports_list(struct kernel *k, struct request *r, struct bytes params);
void ports_close(struct kernel *k, struct request *r, struct bytes params);
void ports_event(struct kernel *k, const struct frame *event); /* EXPOSED */
void ports_release(struct kernel *k);
