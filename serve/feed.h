/* SPDX-License-Identifier: BSD-3-Clause
 *
 * feed.h: the body of a reply that comes into being while it is sent: a file, events, output. The connection is put
 * aside while there is nothing to send, and looked at now and then, as libmicrohttpd would not notice that its
 * client is gone.
 */
#pragma once

#include "serve/http.h"

#define FEED_ENDLESS UINT64_MAX /* its size is not known */
#define FEED_LOOK_MS 1000

struct feed {
    struct server *server;
    struct MHD_Connection *connection;
    struct timer look;
    struct buf data;
    size_t used;     /* of data */
    int suspended, ended, broken;
    void (*taken)(void *of); /* some of it was sent: there may be room */
    void (*gone)(void *of);  /* it is over, whoever ended it; of may be released */
    void *of;
};

/* Answers the exchange with it. `headers` may set more; NULL. */
struct feed *feed_answer(struct exchange *x, unsigned status, uint64_t size, const char *type,
                         void (*headers)(struct MHD_Response *r, void *of), void (*taken)(void *of),
                         void (*gone)(void *of), void *of);
void feed_add(struct feed *f, const void *data, size_t len);
/* Nothing more comes. `broken`: and it is not whole, which the client sees. */
void feed_end(struct feed *f, int broken);
size_t feed_waiting(const struct feed *f);
