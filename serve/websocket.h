/* SPDX-License-Identifier: BSD-3-Clause
 *
 * websocket.h: one WebSocket (RFC 6455) of the server, after its handshake. Frames are wslay's: what arrives goes
 * through its event interface, which joins fragments, checks UTF-8 and answers pings and closes. A message is
 * framed once for all sockets that get it, and all that a turn of the loop has for a socket goes in one call.
 *
 * Who does not read is not waited for: `queued` says how much waits, and its owner decides.
 */
#pragma once

#include <microhttpd.h>
#include <wslay/wslay.h>

#include "base/base.h"
#include "serve/loop.h"

#define WEBSOCKET_MESSAGE (512u << 20) /* bytes: the largest that is taken; then close code 1009 */
#define WEBSOCKET_PING_MS 30000
#define WEBSOCKET_SILENT_MS 90000      /* nothing heard, not even a pong: it is gone */
#define WEBSOCKET_CLOSE_MS 2000        /* the other side has so long to answer a close */
#define WEBSOCKET_BEFORE_CLOSE_MS 20   /* see websocket.c */

/* What is sent, once for all who get it. */
struct message {
    unsigned refs;
    int binary;
    struct buf data; /* not changed after it was sent to the first */
    uint8_t head[10]; /* of its frame */
    size_t head_len;
};
struct message *message_new(int binary); /* one reference; aborts without memory */
void message_hold(struct message *m);
void message_drop(struct message *m);

struct websocket {
    struct loop *loop;
    struct source source;
    struct timer timer;
    struct MHD_UpgradeResponseHandle *urh;
    int *http_due; /* set when MHD has to be called to close it */
    wslay_event_context_ptr event;
    struct bytes input;       /* read, and not yet taken by wslay */
    struct message **queue;   /* a ring of `size` */
    size_t first, count, size;
    size_t sent;              /* of the first: bytes of its frame; not 0: it is under way */
    int due;                  /* it is sent at the end of this turn */
    size_t queued;            /* bytes in the queue */
    uint64_t taken;           /* bytes that the other side took, ever */
    int64_t heard;            /* ms: the last time that something came */
    int64_t close_at;         /* ms: a close that waits is answered; 0: none waits */
    uint16_t close_code;      /* ours, when all that is queued has gone; 0: not closing */
    char close_reason[124];
    int64_t closing;          /* ms: when it is over, whatever the other side does; 0 */
    int gone;
    /* the owner's */
    void (*on_message)(void *of, int binary, struct bytes data);
    void (*on_taken)(void *of); /* something was sent */
    void (*on_gone)(void *of);  /* called once, last */
    void *of;
};

/* Takes the descriptor that MHD gave. `on_gone` is called in any case. */
void websocket_open(struct websocket *w, struct loop *loop, int *http_due, struct MHD_UpgradeResponseHandle *urh, int fd);
/* What MHD had read already. */
void websocket_early(struct websocket *w, struct bytes early);
/* At the end of this turn of the loop, or sooner if there is much. */
void websocket_send(struct websocket *w, struct message *m);
/* Sends what is queued, then closes with this code and reason. */
void websocket_close(struct websocket *w, uint16_t code, const char *reason);
/* At once, without a word. */
void websocket_drop(struct websocket *w);
