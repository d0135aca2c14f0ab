/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/forks.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "sandbox/kin.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1ul << 5) /* Linux 5.19 */
#endif
#define FULL_MS 50     /* so long the limit stays reached: a count takes milliseconds */
#define SETTLE_MS 1000 /* so long after it was let through a thread may still be about to fork */

/*** The process that is bound ***/

int
forks_bind(const struct sock_fprog *filter, int socket, struct err *err)
{
    /* A signal does not take back what has been asked: or a timer that is quicker than the answer
     * would ask for ever. */
    const unsigned flags =
        SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    scoped(fd_close) int fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, filter);

    if (fd < 0)
        return err_errno(err, "listen to forks");
    return fd_send(socket, fd) < 0 ? err_errno(err, "hand over the listener") : 0;
}

/*** husk-init ***/

ssize_t
forks_hear(int socket, void *into, size_t size, int *listener)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {into, size};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                       .msg_controllen = sizeof control};
    struct cmsghdr *c;
    ssize_t n;

    *listener = -1;
    do
        n = recvmsg(socket, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
        memcpy(listener, CMSG_DATA(c), sizeof *listener);
    return n;
}

int
forks_keep(struct forks *f, int listener)
{
    if (f->n == FORKS_LISTENERS) {
        close(listener);
        return -1;
    }
    f->listener[f->n++] = listener;
    return 0;
}

size_t
forks_list(const struct forks *f, struct pollfd wait[static FORKS_LISTENERS])
{
    for (size_t i = 0; i < f->n; i++)
        wait[i] = (struct pollfd){.fd = f->listener[i], .events = POLLIN};
    return f->n;
}

static uint64_t
count(void)
{
    size_t n;
    struct kin *ours = kin_list(KIN_HERE, getpid(), &n);
    uint64_t all = 0;

    for (size_t i = 1; i < n; i++)
        all += ours[i].threads;
    free(ours);
    return all;
}

/* One that asks again has forked, as one has for sure that was let through long ago. */
static void
forget_grants(struct forks *f, pid_t thread, int64_t now)
{
    size_t kept = 0;

    for (size_t i = 0; i < f->ngrants; i++)
        if (f->grant[i].thread != thread && f->grant[i].at + SETTLE_MS > now)
            f->grant[kept++] = f->grant[i];
    f->ngrants = kept;
}

/* Nobody is counted while there is room for sure: those that have ended since the last count only
 * make more of it. */
static int
has_room(struct forks *f, pid_t thread)
{
    int64_t now = now_ms();

    if (f->limit)
        forget_grants(f, thread, now);
    if (!f->limit || (f->alive < f->limit && f->ngrants < FORKS_GRANTS))
        return 1;
    if (now < f->full_until)
        return 0;
    f->alive = count() + f->ngrants;
    if (f->alive < f->limit && f->ngrants < FORKS_GRANTS)
        return 1;
    f->full_until = now + FULL_MS;
    return 0;
}

static void
grant(struct forks *f, pid_t thread)
{
    if (!f->limit)
        return;
    f->alive++;
    f->grant[f->ngrants++] = (struct forks_grant){thread, now_ms()};
}

static void
answer(struct forks *f, int listener)
{
    struct seccomp_notif asked = {0};
    struct seccomp_notif_resp said = {0};

    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) < 0)
        return; /* it was killed meanwhile */
    said.id = asked.id;
    if (has_room(f, (pid_t)asked.pid))
        said.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    else
        said.error = -EAGAIN;
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &said) == 0 && !said.error)
        grant(f, (pid_t)asked.pid);
}

void
forks_answer(struct forks *f, const struct pollfd *wait)
{
    size_t kept = 0, n = f->n;

    for (size_t i = 0; i < n; i++) {
        if (wait[i].revents & POLLIN)
            answer(f, wait[i].fd);
        if (wait[i].revents & (POLLHUP | POLLERR)) /* nobody is bound by it any more */
            close(wait[i].fd);
        else
            f->listener[kept++] = wait[i].fd;
    }
    f->n = kept;
}
