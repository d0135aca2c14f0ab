/* SPDX-License-Identifier: BSD-3-Clause
 *
 * notices.h: what the network refused, told to the broker, for people. Whoever is refused can
 * cause any number of notices: the same one is told again only after a while, a window of time
 * has room for few, and what did not fit is counted. Nothing waits: if the broker does not
 * read, notices are lost, and the network goes on.
 */
#pragma once

#include "base/base.h"

#define NOTICES_KEPT 64          /* recent ones that are not repeated */
#define NOTICES_REPEAT_MS 5000
#define NOTICES_WINDOW_MS 10000
#define NOTICES_IN_WINDOW 50
#define NOTICE_TEXT 400          /* bytes */

struct notices {
    int socket; /* to the broker; borrowed */
    struct {
        uint32_t hash;
        int64_t when; /* ms */
    } recent[NOTICES_KEPT];
    size_t next;
    int64_t window; /* ms: when it began */
    unsigned told;  /* in this window */
    unsigned left_out;
};

/* One line; what is not printable ASCII becomes '?'. */
void notices_tell(struct notices *notices, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
