/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/zeromq.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>

#include "base/base.h"

#define LIBRARY "libzmq.so.5" /* of the interface that zmq.h of version 4 describes */
#define ITEMS 64

struct zeromq zmq;

int
zeromq_load(struct err *err)
{
    struct zeromq found;
    void *library;

    if (zmq.socket)
        return 0;
    library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return err_set(err, ENOENT, "load ZeroMQ: %s", dlerror());
#define X(name)                                                              \
    if (!(*(void **)&found.name = dlsym(library, "zmq_" #name)))             \
        return err_set(err, ENOSYS, LIBRARY " has no zmq_" #name "()");
    ZEROMQ_CALLS(X)
#undef X
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
