/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-network: what a sandbox with a network may reach. The broker starts it with
 *
 *     husk-network RESOLVER RULE...      RESOLVER: ADDR[:PORT], or "-" for the machine's
 *                                        RULE: as of --allow, or "*": everything
 *
 * and ends it; it ends by itself when the broker's socket closes.
 */
#include "sandbox/network.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "sandbox/connection.h"
#include "sandbox/landlock.h"
#include "sandbox/own_filter.h"
#include "wall/sandbox.h"

#define NOBODY 65534u

#define FDS_OTHERS (LOOPBACK_SOCKETS + RESOLVER_SOCKETS + 96) /* and spare pipes */
#define FDS_EACH 6 /* of a connection: two sockets, two pipes */

/* The order: what needs rights comes before they are given up. */
#define NETWORK_STEPS(X)                                                                       \
    X(rules, "what is allowed")                                                                \
    X(sockets, "those that listen inside")                                                     \
    X(identity, "not root, no capability, dies with the broker")                               \
    X(limits, "enough descriptors, no process, no file, no core")                              \
    X(resolver, "c-ares")                                                                      \
    X(no_new_privs, "no program can give privileges back")                                     \
    X(landlock, "no file but the resolver's, none to be written")                              \
    X(seccomp, "the same system calls as inside; last, it forbids what was used above")

struct start {
    struct network *network;
    char **argv;
};

/*** The steps ***/

static int
step_rules(struct start *s, struct err *err)
{
    for (char **rule = s->argv + 2; *rule; rule++)
        if (rules_add(&s->network->rules, *rule, err) < 0)
            return -1;
    return 0;
}

static int
step_sockets(struct start *s, struct err *err)
{
    struct network *n = s->network;
    int fds[LOOPBACK_SOCKETS];

    n->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (n->epoll < 0)
        return err_errno(err, "wait for sockets");
    if (loopback_take(NETWORK_FD_SOCKETS, fds, &n->nsockets, err) < 0)
        return -1;
    close(NETWORK_FD_SOCKETS);
    for (size_t i = 0; i < n->nsockets; i++) {
        n->socket[i] = (struct watch){
            .fd = fds[i], .ready = i ? service_listener : service_dns, .self = n};
        if (watch_for(n->epoll, &n->socket[i], EPOLLIN) < 0)
            return err_errno(err, "wait for sockets");
    }
    return 0;
}

/* EINVAL: this uid does not exist in our user namespace. */
static int
become(uid_t uid)
{
    return setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0 ? -1 : 0;
}

/* The sandbox has the broker's pid in its uid, this has its own: the two differ.
 * A container may have few users, or none but the one that started it: then there is nobody else
 * to become, and its root is no root. */
static int
leave_root(void)
{
    if (setgroups(0, NULL) < 0)
        return errno == EPERM ? 0 : -1;
    if (become(PRIVILEGED_UID_BASE + (uid_t)getpid()) == 0 || errno != EINVAL)
        return geteuid() ? 0 : -1;
    return become(NOBODY) == 0 || errno == EINVAL ? 0 : -1;
}

static int
step_identity(struct start *s, struct err *err)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};

    if (geteuid() == 0 && leave_root() < 0)
        return err_errno(err, "become another user than root");
    if (syscall(SYS_capset, &head, none) < 0)
        return err_errno(err, "drop all capabilities");
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) /* a change of uid clears it */
        return err_errno(err, "ask to die with the broker");
    return 0;
}

static int
step_limits(struct start *s, struct err *err)
{
    const struct rlimit none = {0, 0};
    struct rlimit files;
    rlim_t want = FDS_OTHERS + FDS_EACH * NETWORK_CONNECTIONS;

    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        return err_errno(err, "read the limit of files");
    if (want > files.rlim_max)
        want = files.rlim_max;
    if (want < FDS_OTHERS + FDS_EACH * 8)
        return err_set(err, EMFILE, "%llu open files are too few ('ulimit -Hn')",
                       (unsigned long long)want);
    s->network->max = (want - FDS_OTHERS) / FDS_EACH;
    files = (struct rlimit){want, want};
    if (setrlimit(RLIMIT_NOFILE, &files) < 0 || setrlimit(RLIMIT_NPROC, &none) < 0 ||
        setrlimit(RLIMIT_FSIZE, &none) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
        return err_errno(err, "set limits");
    return 0;
}

static int
step_resolver(struct start *s, struct err *err)
{
    const char *server = s->argv[1];

    return resolver_open(&s->network->resolver, s->network->epoll,
                         strcmp(server, "-") == 0 ? NULL : server, err);
}

static int
step_no_new_privs(struct start *s, struct err *err)
{
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? err_errno(err, "set no_new_privs") : 0;
}

static int
step_landlock(struct start *s, struct err *err)
{
    /* Directories: such files are replaced by others of the same name. */
    char etc[] = "/etc", random[] = "/dev/urandom", real[PATH_MAX];
    struct join_rule rules[] = {
        {LANDLOCK_READ, etc}, {LANDLOCK_READ, random}, {LANDLOCK_READ, etc}};

    if (realpath("/etc/resolv.conf", real))
        rules[2].path = dirname(real);
    return landlock_enter(rules, countof(rules), 0, err);
}

static int
step_seccomp(struct start *s, struct err *err)
{
    return own_filter_load(err);
}

static const struct {
    const char *name;
    int (*take)(struct start *, struct err *);
} steps[] = {
#define X(name, meaning) {#name, step_##name},
    NETWORK_STEPS(X)
#undef X
};

/* The broker hears of the first step that fails, or that it runs. */
static int
start(struct network *n, char **argv)
{
    struct start s = {n, argv};
    struct frame f = {.number = SANDBOX_ALIVE};
    struct err err, ignored;

    for (size_t i = 0; i < countof(steps); i++) {
        if (steps[i].take(&s, &err) == 0)
            continue;
        struct bytes parts[] = {bytes_of(steps[i].name), bytes_of(err.text), BYTES("")};
        f = (struct frame){.number = SANDBOX_FAILED, .value = (uint32_t)err.code};
        (void)packet_send(NETWORK_FD_BROKER, f, parts, countof(parts), NULL, 0, &ignored);
        return -1;
    }
    return packet_send(NETWORK_FD_BROKER, f, NULL, 0, NULL, 0, &ignored);
}

/*** The loop ***/

static void
on_broker(struct watch *w, uint32_t events)
{
    _exit(0); /* it never says anything: this is the end */
}

static int
sooner(int a, int b)
{
    return a < 0 || (b >= 0 && b < a) ? b : a;
}

static void
turn(struct network *n)
{
    struct epoll_event event[64];
    int wait = sooner(connection_tick(n), resolver_timeout(&n->resolver));
    int count = epoll_wait(n->epoll, event, countof(event), wait);

    for (int i = 0; i < count; i++) {
        struct watch *w = event[i].data.ptr;
        w->ready(w, event[i].events);
    }
    resolver_tick(&n->resolver);
    connection_free_over(n);
}

int
main(int argc, char **argv)
{
    static struct network n;

    if (argc < 3 || fcntl(NETWORK_FD_BROKER, F_SETFD, FD_CLOEXEC) < 0) {
        fprintf(stderr, "husk-network is started by husk-sandbox and not by hand\n");
        return 100;
    }
    log_open("husk-network", LOG_WARNING);
    signal(SIGPIPE, SIG_IGN);
    n.notices.socket = NETWORK_FD_BROKER;
    n.broker = (struct watch){.fd = NETWORK_FD_BROKER, .ready = on_broker};
    if (start(&n, argv) < 0)
        return 1;
    if (watch_for(n.epoll, &n.broker, EPOLLIN) < 0)
        return 1;
    for (;;)
        turn(&n);
}
