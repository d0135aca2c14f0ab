/* SPDX-License-Identifier: BSD-3-Clause
 *
 * channels.h: WebSockets of /api/kernels/ID/channels (get_channels of routes.def): several for a kernel, each in
 * the form that it asked for (framing.h).
 *
 * - A client is known by its session_id. A second socket with the same one takes the place of the first, which is stale.
 * - When the last one is gone, what the kernel says is kept, up to BACKLOG_MAX, and is the first thing that it
 *   gets when it is back. If another client comes instead, it is dropped: it was not its.
 * - A client that does not keep up makes cells wait (PAUSE of kernel/front.def). One that takes next to nothing for
 *   CHANNEL_PATIENCE_MS is left behind: large messages on iopub are dropped for it alone, and a line on stderr
 *   says how much when it is back; replies, status and what is small always go.
 */
#pragma once

#include "serve/kernels.h"

#define CHANNEL_QUEUE (16u << 20)     /* bytes that wait for a client before cells wait */
#define CHANNEL_QUEUE_LOW (4u << 20)  /* and until they go on */
#define CHANNEL_PATIENCE_MS 1000
#define CHANNEL_READS (256u << 10)    /* bytes that one that reads takes in that time */
#define CHANNEL_SMALL 65536           /* bytes: a message up to this goes, up to CHANNEL_MAX */
#define CHANNEL_MAX (64u << 20)       /* bytes that wait for one that was left behind; then it is dropped */
#define BACKLOG_MAX (64u << 20)

/* The kernel is gone for good. */
void channels_end(struct served *k);
/* SIGTERM. */
void channels_close_all(struct server *s, uint16_t code, const char *reason);
