/* SPDX-License-Identifier: BSD-3-Clause */
#include "wall/sandbox.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int
packet_send(int fd, struct frame frame, const struct bytes *parts, size_t nparts,
            const int *fds, size_t nfds, struct err *err)
{
    scoped(buf_release) struct buf buf = {0};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(SANDBOX_FDS * sizeof(int))];
    } control = {0};
    struct iovec iov;
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    const char *name = sandbox_rules[frame.number].name;

    if (frame_add(&buf, frame, parts, nparts) < 0)
        return err_errno(err, "make %s", name);
    if (buf.len > SANDBOX_PACKET)
        return err_set(err, EMSGSIZE, "%s of %zu bytes does not fit", name, buf.len);
    iov = (struct iovec){buf.data, buf.len};
    if (nfds) {
        struct cmsghdr *c;
        msg.msg_control = control.space;
        msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
        memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
    }
    for (;;) {
        if (sendmsg(fd, &msg, MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno == EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            poll(&p, 1, -1);
        } else if (errno != EINTR) {
            return err_errno(err, "send %s", name);
        }
    }
}

static size_t
take_fds(struct msghdr *msg, int fds[static SANDBOX_FDS])
{
    size_t count = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t n;
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (count < SANDBOX_FDS)
                fds[count++] = fd;
            else
                close(fd);
        }
    }
    return count;
}

int
packet_recv(int fd, struct buf *buf, unsigned sender, unsigned phase, struct frame *ret,
            int fds[static SANDBOX_FDS], struct err *err)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE((SANDBOX_FDS + 1) * sizeof(int))];
    } control;
    struct iovec iov;
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    size_t count;
    ssize_t n, used;

    err->code = 0;
    for (int i = 0; i < SANDBOX_FDS; i++)
        fds[i] = -1;
    buf->len = 0;
    if (buf_reserve(buf, SANDBOX_PACKET) < 0)
        return err_errno(err, "receive");
    iov = (struct iovec){buf->data, SANDBOX_PACKET};
    msg.msg_control = control.space;
    msg.msg_controllen = sizeof control.space;
    do
        n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) {
        err->code = EAGAIN;
        return 0;
    }
    if (n < 0 && errno != ECONNRESET)
        return err_errno(err, "receive");
    if (n <= 0)
        return 0;
    buf->len = (size_t)n;
    count = take_fds(&msg, fds);
    used = frame_parse(buf->data, buf->len, sandbox_rules, sender, phase, ret, err);
    if (used == 0)
        used = err_set(err, EPROTO, "a datagram that is shorter than its frame");
    else if (used > 0 && (used != n || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))))
        used = err_set(err, EPROTO, "%s with bytes after its end",
                       sandbox_rules[ret->number].name);
    else if (used > 0 && count != sandbox_rules[ret->number].fds)
        used = err_set(err, EPROTO, "%s with %zu descriptors",
                       sandbox_rules[ret->number].name, count);
    if (used < 0) {
        for (size_t i = 0; i < count; i++)
            fd_close(&fds[i]);
        return -1;
    }
    return 1;
}
