/* SPDX-License-Identifier: BSD-3-Clause
 *
 * uplink.h: the broker's hand on husk-network (network.h): starts it, hears it, ends it. It deals
 * with bytes from inside and from the internet, so it is not believed more than pid 1 is.
 */
#pragma once

#include "sandbox/build.h"

struct uplink {
    pid_t pid;  /* 0: none */
    int socket; /* to it; -1 when it is gone */
};
#define UPLINK_EMPTY ((struct uplink){.socket = -1})

/* Starts `program` for this policy, with the sockets that wait in sandbox->sockets, and waits
 * until it serves. On failure *failure says which of its steps, and why. */
int uplink_start(const char *program, const struct policy *policy, struct sandbox *sandbox,
                 struct uplink *ret, struct build_failure *failure);
/* What it says: *text, in packet, is for people. 0 if it is gone, which *text says. */
int uplink_hear(struct uplink *uplink, struct buf *packet, char text[static ERR_TEXT]);
void uplink_end(struct uplink *uplink);
