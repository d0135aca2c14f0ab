/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/box.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/process.h"
#include "kernel/paths.h"

#define END_S 10       /* a sandbox whose broker hangs is not waited for longer */
#define REMOVE_MS 2000 /* nor is a broker that removes many files */

extern char **environ;

int
box_start(const char *broker, struct box *ret, struct err *err)
{
    char *const argv[] = {(char *)broker, (char *)paths_init(), (char *)paths_network(),
                          (char *)paths_ports(), (char *)paths_scope(), NULL};
    struct box box = BOX_EMPTY;
    int pair[2], r;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "make a socket for the broker");
    r = process_spawn(argv, environ, (struct process_fd[]){{.as = SANDBOX_FD, .fd = pair[1]}, PROCESS_END},
                      PROCESS_OURS, &box.broker, err);
    fd_close(&pair[1]);
    box.socket = pair[0];
    if (r < 0) {
        fd_close(&box.socket);
        return -1;
    }
    *ret = box;
    return 0;
}

static int
ask(struct box *box, enum sandbox_number what, const struct strv *options, struct err *err)
{
    struct bytes *parts = calloc(options->len, sizeof *parts);
    int r;

    if (!parts)
        return err_errno(err, "ask for the sandbox");
    for (size_t i = 0; i < options->len; i++)
        parts[i] = bytes_of(options->item[i]);
    r = packet_send(box->socket, (struct frame){.number = (uint16_t)what}, parts, options->len,
                    NULL, 0, err);
    free(parts);
    box->phase = SANDBOX_READY;
    if (r == 0 && fd_nonblock(box->socket) < 0)
        r = err_errno(err, "ask for the sandbox");
    return r;
}

int
box_build(struct box *box, const struct strv *options, struct err *err)
{
    return ask(box, SANDBOX_BUILD, options, err);
}

int
box_check(struct box *box, const struct strv *options, struct err *err)
{
    return ask(box, SANDBOX_CHECK, options, err);
}

static int
join_strings(const struct strv *v, struct buf *ret)
{
    for (size_t i = 0; i < v->len; i++)
        if (buf_add(ret, v->item[i], strlen(v->item[i]) + 1) < 0)
            return -1;
    return 0;
}

int
box_spawn(struct box *box, uint32_t slot, unsigned how, const char *directory,
          const struct strv *argv, const struct strv *environment, const int fds[static SANDBOX_FDS], struct err *err)
{
    scoped(buf_release) struct buf arguments = {0}, variables = {0};
    struct bytes parts[3];

    if (join_strings(argv, &arguments) < 0 || join_strings(environment, &variables) < 0)
        return err_errno(err, "start a process");
    parts[0] = bytes_of(directory);
    parts[1] = (struct bytes){arguments.data, arguments.len};
    parts[2] = (struct bytes){variables.data, variables.len};
    return packet_send(box->socket, (struct frame){.number = SANDBOX_SPAWN, .slot = slot, .value = how}, parts,
                       countof(parts), fds, SANDBOX_FDS, err);
}

int
box_signal(struct box *box, uint32_t slot, int signal, struct err *err)
{
    struct frame f = {.number = SANDBOX_SIGNAL, .slot = slot, .value = (uint32_t)signal};

    return packet_send(box->socket, f, NULL, 0, NULL, 0, err);
}

int
box_sweep(struct box *box, struct err *err)
{
    return packet_send(box->socket, (struct frame){.number = SANDBOX_SWEEP}, NULL, 0, NULL, 0, err);
}

int
box_expose(struct box *box, uint32_t slot, uint16_t port, int fd, struct err *err)
{
    struct frame f = {.number = SANDBOX_EXPOSE, .slot = slot, .value = port};

    return packet_send(box->socket, f, NULL, 0, &fd, 1, err);
}

int
box_unexpose(struct box *box, uint32_t slot, struct err *err)
{
    return packet_send(box->socket, (struct frame){.number = SANDBOX_UNEXPOSE, .slot = slot}, NULL, 0, NULL, 0, err);
}

int
box_diff(struct box *box, uint32_t slot, uint32_t limit, struct err *err)
{
    return packet_send(box->socket, (struct frame){.number = SANDBOX_DIFF, .slot = slot, .value = limit}, NULL, 0,
                       NULL, 0, err);
}

int
box_event(struct box *box, struct frame *ret, struct err *err)
{
    int fds[SANDBOX_FDS];
    int r;

    fd_close(&box->diff);
    r = packet_recv(box->socket, &box->packet, SANDBOX_BY_BROKER, box->phase, ret, fds, err);
    if (r == 0 && err->code != EAGAIN)
        return err_set(err, ECHILD, "the broker is gone");
    if (r > 0 && ret->number == SANDBOX_BUILT)
        memcpy(box->usage, fds, sizeof box->usage);
    if (r > 0 && ret->number == SANDBOX_DIFFED)
        box->diff = fds[0];
    return r;
}

/* It closes its end when the sandbox is down, and then removes files. That is waited for only a
 * little; but it is waited for, as many a container has nobody who would take in what it leaves. */
static void
await_end(struct box *box)
{
    struct timeval limit = {.tv_sec = END_S};
    int flags = fcntl(box->socket, F_GETFL);
    scoped(fd_close) int pidfd = (int)syscall(SYS_pidfd_open, box->broker, 0);
    struct pollfd ended = {.fd = pidfd, .events = POLLIN};
    char nothing[64];

    (void)fcntl(box->socket, F_SETFL, flags & ~O_NONBLOCK);
    (void)setsockopt(box->socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    shutdown(box->socket, SHUT_WR);
    while (recv(box->socket, nothing, sizeof nothing, 0) > 0)
        ;
    (void)poll(&ended, 1, REMOVE_MS);
    (void)waitpid(box->broker, NULL, WNOHANG);
}

void
box_end(struct box *box)
{
    if (box->broker > 0)
        await_end(box);
    fd_close(&box->socket);
    fd_close(&box->diff);
    for (int i = 0; i < USAGE_FILES; i++)
        fd_close(&box->usage[i]);
    buf_release(&box->packet);
    *box = BOX_EMPTY;
}
