/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/uplink.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/loopback.h"
#include "wall/sandbox.h"

/* Of the environment, which holds tokens and would steer c-ares, only what finds libraries and
 * what sanitizers are told. */
static const char *const kept[] = {"LD_LIBRARY_PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS"};

static void __attribute__((noreturn))
run_child(const char *program, char *const *argv, char *const *environment, int sockets, int broker)
{
    /* Out of the way of the numbers that they become, then down. */
    sockets = fcntl(sockets, F_DUPFD_CLOEXEC, 64);
    broker = fcntl(broker, F_DUPFD_CLOEXEC, 64);
    if (dup2(broker, NETWORK_FD_BROKER) >= 0 && dup2(sockets, NETWORK_FD_SOCKETS) >= 0 &&
        syscall(SYS_close_range, NETWORK_FD_SOCKETS + 1, ~0u, 0) == 0)
        execve(program, argv, environment);
    /* The only way left to say so: the broker reads it as it reads the step of husk-network. */
    struct err err, ignored;
    struct bytes parts[] = {BYTES("execute"), {0}, BYTES("")};
    err_errno(&err, "execute '%s'", program);
    parts[1] = bytes_of(err.text);
    (void)packet_send(NETWORK_FD_BROKER,
                      (struct frame){.number = SANDBOX_FAILED, .value = (uint32_t)err.code}, parts,
                      countof(parts), NULL, 0, &ignored);
    _exit(127);
}

static int
make_arguments(const char *program, const struct policy *p, struct strv *argv,
               struct strv *environment)
{
    int bad = strv_add(argv, program) < 0 || strv_add(argv, p->resolver ? p->resolver : "-") < 0;

    for (size_t i = 0; !bad && i < p->allow.len; i++)
        bad = strv_add(argv, p->allow.item[i]) < 0;
    for (size_t i = 0; !bad && i < countof(kept); i++)
        if (getenv(kept[i]))
            bad = strv_addf(environment, "%s=%s", kept[i], getenv(kept[i])) < 0;
    return bad || strv_add(environment, "PATH=/usr/bin:/bin") < 0 ? -1 : 0;
}

static int
await(struct uplink *u, struct build_failure *failure)
{
    scoped(buf_release) struct buf packet = {0};
    struct frame f;
    struct bytes step;
    int fds[SANDBOX_FDS];
    int r = packet_recv(u->socket, &packet, SANDBOX_BY_NETWORK, SANDBOX_NEW, &f, fds,
                        &failure->err);

    if (r == 1 && f.number == SANDBOX_ALIVE)
        return 0;
    snprintf(failure->step, sizeof failure->step, "network");
    if (r == 0)
        err_set(&failure->err, ECHILD, "husk-network ended before it was ready");
    if (r != 1)
        return -1;
    step = frame_part(&f, 0);
    snprintf(failure->step, sizeof failure->step, "network, %.*s", (int)step.len, step.data);
    return err_set(&failure->err, (int)f.value, "%.*s", (int)frame_part(&f, 1).len,
                   frame_part(&f, 1).data);
}

int
uplink_start(const char *program, const struct policy *policy, struct sandbox *sandbox,
             struct uplink *ret, struct build_failure *failure)
{
    scoped(strv_release) struct strv argv = {0}, environment = {0};
    struct uplink u = UPLINK_EMPTY;
    int pair[2];

    snprintf(failure->step, sizeof failure->step, "network");
    if (make_arguments(program, policy, &argv, &environment) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(&failure->err, "start '%s'", program);
    u.socket = pair[0];
    u.pid = fork();
    if (u.pid == 0)
        run_child(program, argv.item, environment.item, sandbox->sockets, pair[1]);
    if (u.pid < 0)
        err_errno(&failure->err, "start '%s'", program);
    fd_close(&pair[1]);
    fd_close(&sandbox->sockets);
    if (u.pid < 0 || await(&u, failure) < 0) {
        uplink_end(&u);
        return -1;
    }
    *ret = u;
    return 0;
}

int
uplink_hear(struct uplink *u, struct buf *packet, char text[static ERR_TEXT])
{
    struct frame f;
    struct err err = {0};
    int fds[SANDBOX_FDS];
    int r = packet_recv(u->socket, packet, SANDBOX_BY_NETWORK, SANDBOX_READY, &f, fds, &err);

    if (r == 1) {
        snprintf(text, ERR_TEXT, "%.*s", (int)frame_part(&f, 0).len, frame_part(&f, 0).data);
        for (char *c = text; *c; c++)
            if (*c < 0x20 || *c > 0x7e)
                *c = '?';
        return 1;
    }
    /* Nothing listens inside any more: what is left is a sandbox without a network. */
    snprintf(text, ERR_TEXT, "the network has ended, restart the kernel to have it again%s%.300s",
             r < 0 ? ": " : "", r < 0 ? err.text : "");
    uplink_end(u);
    return 0;
}

void
uplink_end(struct uplink *u)
{
    pid_end(&u->pid);
    fd_close(&u->socket);
    *u = UPLINK_EMPTY;
}
