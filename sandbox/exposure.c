/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/ports.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "wall/sandbox.h"

static void __attribute__((noreturn))
run_child(const char *program, int pidfd, int broker)
{
    char *const argv[] = {(char *)program, NULL};
    char *environment[4] = {(char *)"PATH=/usr/bin:/bin"};
    char sanitizers[256];
    const char *said = getenv("ASAN_OPTIONS");

    if (said && (size_t)snprintf(sanitizers, sizeof sanitizers, "ASAN_OPTIONS=%s", said) < sizeof sanitizers)
        environment[1] = sanitizers;
    /* Out of the way of the numbers that they become, then down. */
    pidfd = fcntl(pidfd, F_DUPFD_CLOEXEC, 64);
    broker = fcntl(broker, F_DUPFD_CLOEXEC, 64);
    if (dup2(broker, SANDBOX_FD) >= 0 && dup2(pidfd, PORTS_FD_SANDBOX) >= 0 &&
        syscall(SYS_close_range, PORTS_FD_SANDBOX + 1, ~0u, 0) == 0)
        execve(program, argv, environment);
    _exit(127);
}

static int
await(struct ports *p, int started, struct err *err)
{
    scoped(buf_release) struct buf packet = {0};
    int fds[SANDBOX_FDS], r;
    struct frame f;

    r = started < 0 ? -1 : packet_recv(p->socket, &packet, SANDBOX_BY_NETWORK, SANDBOX_NEW, &f, fds, err);
    if (r == 1 && f.number == SANDBOX_ALIVE)
        return 0;
    if (r == 1)
        r = err_set(err, (int)f.value, "ports: step '%.*s': %.*s", (int)frame_part(&f, 0).len,
                    frame_part(&f, 0).data, (int)frame_part(&f, 1).len, frame_part(&f, 1).data);
    else if (r == 0)
        r = err_set(err, ECHILD, "husk-ports ended before it was ready");
    if (p->pid < 0)
        p->pid = 0;
    ports_end(p);
    return -1;
}

static int
start(const char *program, const struct sandbox *s, struct ports *p, struct err *err)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "start '%s'", program);
    p->pid = fork();
    if (p->pid == 0)
        run_child(program, s->pidfd, pair[1]);
    close(pair[1]);
    p->socket = pair[0];
    return await(p, p->pid < 0 ? err_errno(err, "start '%s'", program) : 0, err);
}

int
ports_start_inside(const char *program, const struct sandbox *s, struct ports *p, struct err *err)
{
    scoped(buf_release) struct buf argv = {0};
    scoped(fd_close) int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct frame f = {.number = SANDBOX_SPAWN, .slot = PORTS_SLOT, .value = SANDBOX_STAYS};
    struct bytes parts[] = {BYTES("/"), {0}, {(const uint8_t *)"", 0}};
    int pair[2], fds[SANDBOX_FDS], r;

    if (buf_add(&argv, program, strlen(program) + 1) < 0 || buf_add(&argv, "inside", sizeof "inside") < 0 || null < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "start '%s'", program);
    parts[1] = (struct bytes){argv.data, argv.len};
    for (int i = 0; i < SANDBOX_FDS; i++)
        fds[i] = null;
    fds[SANDBOX_FD - 1] = pair[1];
    r = packet_send(s->socket, f, parts, countof(parts), fds, SANDBOX_FDS, err);
    close(pair[1]);
    p->socket = pair[0];
    return await(p, r, err);
}

int
ports_pass(const char *program, const struct sandbox *s, struct ports *p, const struct frame *f,
           const int *fds, size_t nfds, struct err *err)
{
    if (s->alone)
        return err_set(err, EOPNOTSUPP, "there is no network of the sandbox's own");
    if (p->socket < 0 && f->number == SANDBOX_EXPOSE && start(program, s, p, err) < 0)
        return -1;
    if (p->socket < 0)
        return 0;
    if (packet_send(p->socket, *f, NULL, 0, fds, nfds, err) == 0)
        return 0;
    ports_end(p); /* it is gone; the next one starts anew */
    return -1;
}

void
ports_end(struct ports *p)
{
    pid_end(&p->pid);
    fd_close(&p->socket);
    *p = PORTS_EMPTY;
}
