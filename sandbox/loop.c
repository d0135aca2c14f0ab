/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/loop.h"

#include <sys/epoll.h>

int
watch_for(int epoll, struct watch *w, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = w};
    int op = !events ? EPOLL_CTL_DEL : w->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

    if (events == w->events)
        return 0;
    if (epoll_ctl(epoll, op, w->fd, &e) < 0)
        return -1;
    w->events = events;
    return 0;
}
