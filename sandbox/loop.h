/* SPDX-License-Identifier: BSD-3-Clause
 *
 * loop.h: a descriptor in an epoll set, and what is called when it is ready. Level-triggered: a
 * descriptor that nobody waits for is not in the set, because EPOLLHUP cannot be masked and
 * would be reported for ever.
 */
#pragma once

#include <stdint.h>

struct watch {
    int fd;
    uint32_t events; /* that it is in the set for; 0: it is not in it */
    void (*ready)(struct watch *watch, uint32_t events);
    void *self;
};

/* 0, or -1 and errno. */
int watch_for(int epoll, struct watch *watch, uint32_t events);
