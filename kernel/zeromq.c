/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/zeromq.h"

#include <errno.h>
#include <poll.h>

#include "base/base.h"
#include "kernel/library.h"

#define LIBRARY "libzmq.so.5" /* of the interface that zmq.h of version 4 describes */
#define ITEMS 64

struct zeromq zmq;

int
zeromq_load(struct err *err)
{
    static struct zeromq found;
    static const struct library_call calls[] = {
#define X(name) {"zmq_" #name, (void **)&found.name},
        ZEROMQ_CALLS(X)
#undef X
    };

    if (zmq.socket)
        return 0;
    if (library_load(LIBRARY, calls, countof(calls), err) < 0)
        return -1;
    zmq = found;
    return 0;
}

int
zeromq_poll(zmq_pollitem_t *items, int n, long timeout_ms)
{
    struct pollfd fds[ITEMS];
    int r;

    if (zmq.poll)
        return zmq.poll(items, n, timeout_ms);
    if (n > ITEMS) {
        errno = EINVAL;
        return -1;
    }
    for (int i = 0; i < n; i++)
        fds[i] = (struct pollfd){
            .fd = items[i].fd,
            .events = (short)((items[i].events & ZMQ_POLLIN ? POLLIN : 0) | (items[i].events & ZMQ_POLLOUT ? POLLOUT : 0))};
    r = poll(fds, (nfds_t)n, (int)timeout_ms);
    for (int i = 0; i < n; i++) /* as libzmq has it: whatever else happened is an error */
        items[i].revents = (short)((fds[i].revents & POLLIN ? ZMQ_POLLIN : 0) |
                                   (fds[i].revents & POLLOUT ? ZMQ_POLLOUT : 0) |
                                   (fds[i].revents & ~(POLLIN | POLLOUT) ? ZMQ_POLLERR : 0));
    return r;
}
