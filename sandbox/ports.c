/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-ports: the outside of ports that are exposed. It accepts on sockets that listen on the host,
 * connects to 127.0.0.1 in the network of the sandbox, and carries bytes (forward.h). The broker
 * starts it, and it ends when the broker's socket closes.
 *
 * In a container, whose network nobody but root can enter, husk-init starts it inside (`husk-ports
 * inside`), bound by all that binds a cell: then it is there already, and the sockets that listen on the host come to
 * it. A cell, which is the same user, can end it and do nothing else to it.
 */
#include "sandbox/ports.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/forward.h"
#include "sandbox/landlock.h"
#include "sandbox/loop.h"
#include "sandbox/own_filter.h"
#include "wall/sandbox.h"

#define EXPOSED 64      /* at a time */
#define CONNECTIONS 512 /* at a time; then those who come wait in the backlog */

#define OUTSIDE 1 /* steps of who starts there */
#define INSIDE 2

#define PORTS_STEPS(X)                                                                         \
    X(network, OUTSIDE, "into the network of the sandbox")                                     \
    X(identity, OUTSIDE, "the user of the sandbox, no capability")                             \
    X(memory, OUTSIDE | INSIDE, "dies with the broker or husk-init; nobody looks into it")     \
    X(limits, OUTSIDE | INSIDE, "no process, no file, no core")                                \
    X(no_new_privs, OUTSIDE | INSIDE, "no program can give privileges back")                   \
    X(landlock, OUTSIDE | INSIDE, "no file at all")                                            \
    X(seccomp, OUTSIDE, "the same system calls as inside; last, it forbids what was used above")

/* One end of a connection, and what it gives to the other one. */
struct end {
    struct watch watch;
    struct forward forward; /* from here to the other end */
};

struct connection {
    struct connection *next;
    struct end end[2]; /* the client of the host, the server inside */
    int connected, over;
};

struct exposure {
    struct watch watch; /* the listening socket; fd -1: free */
    uint32_t slot;
    uint16_t port;
};

static int epoll;
static struct exposure exposures[EXPOSED];
static struct connection *connections;
static size_t nconnections;

/*** The steps ***/

static int
step_network(struct err *err)
{
    int r = setns(PORTS_FD_SANDBOX, CLONE_NEWUSER | CLONE_NEWNET);

    close(PORTS_FD_SANDBOX);
    return r < 0 ? err_errno(err, "enter the network of the sandbox") : 0;
}

/* The user of a sandbox; in an image with one user that is its root. */
static int
become_somebody(void)
{
    uid_t uid = POLICY_UID;

    if (setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0) {
        uid = 0;
        if (setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
            return -1;
    }
    return 0;
}

static int
step_identity(struct err *err)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};

    (void)setgroups(0, NULL); /* refused where there are none to leave */
    if (become_somebody() < 0)
        return err_errno(err, "become the user of the sandbox");
    if (syscall(SYS_capset, &head, none) < 0)
        return err_errno(err, "drop all capabilities");
    return 0;
}

static int
step_memory(struct err *err)
{
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return err_errno(err, "ask to die with the broker");
    return 0;
}

static int
step_limits(struct err *err)
{
    const struct rlimit none = {0, 0};
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return err_errno(err, "read the limit of files");
    files.rlim_cur = files.rlim_max < 4096 ? files.rlim_max : 4096;
    if (setrlimit(RLIMIT_NOFILE, &files) < 0 || setrlimit(RLIMIT_NPROC, &none) < 0 ||
        setrlimit(RLIMIT_FSIZE, &none) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
        return err_errno(err, "set limits");
    return 0;
}

static int
step_no_new_privs(struct err *err)
{
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? err_errno(err, "set no_new_privs") : 0;
}

static int
step_landlock(struct err *err)
{
    return landlock_enter(NULL, 0, 0, err);
}

static int
step_seccomp(struct err *err)
{
    return own_filter_load(err);
}

static const struct {
    const char *name;
    int where;
    int (*take)(struct err *);
} steps[] = {
#define X(name, where, meaning) {#name, where, step_##name},
    PORTS_STEPS(X)
#undef X
};

/*** Connections ***/

static void
want(struct connection *c)
{
    for (int i = 0; i < 2; i++) {
        struct end *e = &c->end[i], *other = &c->end[!i];
        uint32_t events = 0;
        if (!c->connected)
            events = i == 1 ? EPOLLOUT : 0;
        else
            events = (forward_wants_from(&e->forward) ? EPOLLIN : 0) |
                     (forward_wants_to(&other->forward) ? EPOLLOUT : 0);
        if (watch_for(epoll, &e->watch, events) < 0)
            c->over = 1;
    }
}

static void
on_end(struct watch *w, uint32_t events)
{
    struct connection *c = w->self;
    int error = 0;
    socklen_t len = sizeof error;

    if (c->over)
        return;
    if (!c->connected) {
        if (getsockopt(c->end[1].watch.fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error)
            c->over = 1;
        c->connected = 1;
    }
    for (int i = 0; i < 2 && !c->over; i++)
        if (forward_run(&c->end[i].forward) < 0)
            c->over = 1;
    if (c->end[0].forward.ended && c->end[1].forward.ended && !c->end[0].forward.held &&
        !c->end[1].forward.held)
        c->over = 1;
    if (!c->over)
        want(c);
}

static void
close_over(void)
{
    for (struct connection **at = &connections; *at;) {
        struct connection *c = *at;
        if (!c->over) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        for (int i = 0; i < 2; i++) {
            forward_release(&c->end[i].forward);
            fd_close(&c->end[i].watch.fd);
        }
        free(c);
        nconnections--;
    }
}

static int
connect_inside(uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;

    if (fd < 0)
        return -1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        fd_close(&fd);
    return fd;
}

/* Nobody listens inside: the client sees its connection closed, as behind any forwarder. */
static void
on_listener(struct watch *w, uint32_t events)
{
    struct exposure *e = w->self;
    struct connection *c;
    int on = 1, client, server;

    client = nconnections < CONNECTIONS ? accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK) : -1;
    if (client < 0)
        return;
    (void)setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* not of a UNIX socket */
    server = connect_inside(e->port);
    c = server < 0 ? NULL : calloc(1, sizeof *c);
    if (!c) {
        close(client);
        fd_close(&server);
        return;
    }
    for (int i = 0; i < 2; i++) {
        int mine = i ? server : client, other = i ? client : server;
        c->end[i].watch = (struct watch){.fd = mine, .ready = on_end, .self = c};
        c->end[i].forward = FORWARD_EMPTY;
        c->end[i].forward.from = mine;
        c->end[i].forward.to = other;
    }
    c->next = connections;
    connections = c;
    nconnections++;
    want(c);
}

/*** The broker ***/

static void
tell_exposed(uint32_t slot, int number)
{
    struct err unused;

    if (packet_send(SANDBOX_FD, (struct frame){.number = SANDBOX_EXPOSED, .slot = slot, .value = (uint32_t)number},
                    NULL, 0, NULL, 0, &unused) < 0)
        _exit(0);
}

static void
expose(uint32_t slot, uint32_t port, int fd)
{
    struct exposure *e = exposures;

    while (e < exposures + EXPOSED && e->watch.fd >= 0)
        e++;
    if (e == exposures + EXPOSED || fd_nonblock(fd) < 0) {
        close(fd);
        tell_exposed(slot, EMFILE);
        return;
    }
    *e = (struct exposure){.slot = slot, .port = (uint16_t)port,
                           .watch = {.fd = fd, .ready = on_listener, .self = e}};
    if (watch_for(epoll, &e->watch, EPOLLIN) < 0) {
        fd_close(&e->watch.fd);
        tell_exposed(slot, errno);
        return;
    }
    tell_exposed(slot, 0);
}

static void
unexpose(uint32_t slot)
{
    for (struct exposure *e = exposures; e < exposures + EXPOSED; e++)
        if (e->slot == slot && e->watch.fd >= 0) {
            (void)watch_for(epoll, &e->watch, 0); /* connections go on */
            fd_close(&e->watch.fd);
        }
    tell_exposed(slot, 0);
}

static void
on_broker(struct watch *w, uint32_t events)
{
    static struct buf packet;
    int fds[SANDBOX_FDS];
    struct frame f;
    struct err err;

    if (packet_recv(SANDBOX_FD, &packet, SANDBOX_BY_BROKER, SANDBOX_READY, &f, fds, &err) <= 0)
        _exit(0);
    if (f.number == SANDBOX_EXPOSE)
        expose(f.slot, f.value, fds[0]);
    else
        unexpose(f.slot);
}

static void
start(int where)
{
    struct frame f = {.number = SANDBOX_ALIVE};
    struct err err, ignored;

    for (size_t i = 0; i < countof(steps); i++) {
        if (!(steps[i].where & where) || steps[i].take(&err) == 0)
            continue;
        struct bytes parts[] = {bytes_of(steps[i].name), bytes_of(err.text), BYTES("")};
        f = (struct frame){.number = SANDBOX_FAILED, .value = (uint32_t)err.code};
        (void)packet_send(SANDBOX_FD, f, parts, countof(parts), NULL, 0, &ignored);
        _exit(1);
    }
    if (packet_send(SANDBOX_FD, f, NULL, 0, NULL, 0, &ignored) < 0)
        _exit(1);
}

int
main(int argc, char **argv)
{
    struct watch broker = {.fd = SANDBOX_FD, .ready = on_broker};

    int where = argc == 2 && strcmp(argv[1], "inside") == 0 ? INSIDE : OUTSIDE;

    if ((argc != 1 && where == OUTSIDE) || fcntl(SANDBOX_FD, F_SETFD, FD_CLOEXEC) < 0 ||
        fcntl(PORTS_FD_SANDBOX, F_SETFD, FD_CLOEXEC) < 0) {
        fprintf(stderr, "husk-ports is started by husk-sandbox and not by hand\n");
        return 100;
    }
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < EXPOSED; i++)
        exposures[i].watch.fd = -1;
    epoll = epoll_create1(EPOLL_CLOEXEC);
    start(where);
    if (epoll < 0 || watch_for(epoll, &broker, EPOLLIN) < 0)
        _exit(1);
    for (;;) {
        struct epoll_event event[64];
        int count = epoll_wait(epoll, event, countof(event), -1);
        for (int i = 0; i < count; i++) {
            struct watch *w = event[i].data.ptr;
            if (w->fd >= 0)
                w->ready(w, event[i].events);
        }
        close_over();
    }
}
