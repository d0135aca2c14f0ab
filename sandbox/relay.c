/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "filter.h" /* made by mkfilter */
#include "sandbox/landlock.h"
#include "wall/sandbox.h"

#define PATHS_MAX 1000
#define PATHS_BYTES 50000 /* a POLICY of 64 KiB has room for them and the filters */

static volatile sig_atomic_t asked_to_end;

static void
on_term(int signal)
{
    asked_to_end = 1;
}

int
relay_tell_failure(const struct relay *b, const struct build_failure *failure, struct err *err)
{
    struct bytes parts[] = {bytes_of(failure->step), bytes_of(failure->err.text),
                            bytes_of(b->kind->advice(b, failure->step, failure->err.code))};

    return packet_send(SANDBOX_FD,
                       (struct frame){.number = SANDBOX_FAILED,
                                      .value = (uint32_t)failure->err.code},
                       parts, countof(parts), NULL, 0, err);
}

static void
describe_network(const struct policy *p, char *into, size_t size)
{
    size_t at = (size_t)snprintf(into, size, "%s", p->level == LEVEL_NONE ? "the machine's own"
                                                   : p->rules.all ? "all but private addresses"
                                                   : p->allow.len ? "only"
                                                                  : "none");

    for (size_t i = 0; !p->rules.all && i < p->allow.len; i++) {
        size_t room = size - at, need = strlen(p->allow.item[i]) + sizeof " and 256 more";
        if (need >= room) {
            snprintf(into + at, room, " and %zu more", p->allow.len - i);
            return;
        }
        at += (size_t)snprintf(into + at, room, "%s %s", i ? "," : "", p->allow.item[i]);
    }
}

int
relay_tell_built(struct relay *b, struct err *err)
{
    const struct policy *p = &b->policy;
    char text[1024], limits[256], network[320];
    int fds[USAGE_FILES] = {-1, -1, -1}, r;
    struct bytes parts[5];

    if (limits_open_usage(&b->limits, fds, err) < 0 || memory_open_usage(&b->memory, fds, err) < 0)
        return -1;
    limits_describe(&b->limits, limits, sizeof limits);
    describe_network(p, network, sizeof network);
    snprintf(text, sizeof text, "network: %s; %s%s%s%s%s", network, limits,
             *p->why_private ? "; the working directory is private (" : "", p->why_private,
             *p->why_private ? ")" : "",
             b->partly ? "; the working directory holds what is guarded, so new files can be made in "
                         "its directories only" : "");
    parts[0] = bytes_of(text);
    parts[1] = bytes_of(p->workdir);
    parts[2] = bytes_of(p->tmp_layer ? p->tmp_layer : "");
    if (p->tmp_layer)
        parts[2].len = (size_t)(strrchr(p->tmp_layer, '/') - p->tmp_layer);
    parts[3] = (struct bytes){b->environment.data, b->environment.len};
    parts[4] = bytes_of(limits_kind_name(&b->limits));
    r = packet_send(SANDBOX_FD,
                    (struct frame){.number = SANDBOX_BUILT, .value = (uint32_t)b->sandbox.took},
                    parts, countof(parts), fds, USAGE_FILES, err);
    for (int i = 0; i < USAGE_FILES; i++)
        fd_close(&fds[i]);
    return r;
}

/* The three programs of join.h. */
static void
choose_filter(const struct relay *b, struct bytes part[static 3])
{
    int image = b->policy.profile == PROFILE_IMAGE, alone = b->policy.level == LEVEL_LANDLOCK;

    if (b->policy.level == LEVEL_NONE) {
        part[0] = part[1] = part[2] = (struct bytes){(const uint8_t *)"", 0};
        return;
    }
    part[0] = (struct bytes){(const uint8_t *)filter_calls, sizeof filter_calls};
    part[1] = (struct bytes){(const uint8_t *)filter_arguments, sizeof filter_arguments};
    part[2] = (struct bytes){(const uint8_t *)"", 0};
    if (alone) {
        part[1] = (struct bytes){(const uint8_t *)filter_alone, sizeof filter_alone};
        part[2] = (struct bytes){(const uint8_t *)filter_ask, sizeof filter_ask};
    }
    if (image && !policy_shares(&b->policy))
        part[1] = (struct bytes){(const uint8_t *)filter_arguments_unshared,
                                 sizeof filter_arguments_unshared};
    if (b->pretends)
        part[2] = (struct bytes){(const uint8_t *)filter_pretend, sizeof filter_pretend};
}

int
relay_check_rules(const struct relay *b, struct err *err)
{
    if (b->nrules > PATHS_MAX || b->rules.len > PATHS_BYTES)
        return err_set(err, E2BIG, "too many paths for Landlock: %zu%s", b->nrules,
                       b->partly ? "; the working directory holds what is guarded, and is given entry by "
                                   "entry: take another --workdir, or --profile strict" : "");
    return 0;
}

int
relay_send_policy(struct relay *b, struct err *err)
{
    struct bytes parts[3 + PATHS_MAX];
    size_t n = 3, at = 0;

    choose_filter(b, parts);
    while (at < b->rules.len) {
        size_t len = get32(b->rules.data + at);
        parts[n++] = (struct bytes){b->rules.data + at + 4, len};
        at += 4 + len;
    }
    return packet_send(b->sandbox.socket, (struct frame){.number = SANDBOX_POLICY}, parts, n, NULL,
                       0, err);
}

static int
tell_exposed(const struct frame *f, const char *text, struct err *err)
{
    struct bytes part = bytes_of(text);

    return packet_send(SANDBOX_FD, (struct frame){.number = SANDBOX_EXPOSED, .slot = f->slot, .value = f->value},
                       &part, 1, NULL, 0, err);
}

/* A port that cannot be had is the supervisor's to tell, and no end of anything. */
static int
pass_to_ports(struct relay *b, const struct frame *f, const int *fds, struct err *err)
{
    struct err why;

    if (b->kind->ports_inside && b->ports.socket < 0 && f->number == SANDBOX_EXPOSE &&
        ports_start_inside(b->kind->ports_inside(b), &b->sandbox, &b->ports, &why) < 0)
        return tell_exposed(&(struct frame){.slot = f->slot, .value = (uint32_t)why.code}, why.text, err);
    if (ports_pass(b->ports_program, &b->sandbox, &b->ports, f, fds, sandbox_rules[f->number].fds, &why) == 0)
        return 0;
    return tell_exposed(&(struct frame){.slot = f->slot, .value = (uint32_t)why.code}, why.text, err);
}

static int
hear_ports(struct relay *b, struct err *err)
{
    int fds[SANDBOX_FDS], r;
    struct frame f;
    struct err why;

    r = packet_recv(b->ports.socket, &b->packet, SANDBOX_BY_NETWORK, SANDBOX_READY, &f, fds, &why);
    if (r == 1 && f.number == SANDBOX_EXPOSED)
        return tell_exposed(&f, "", err);
    if (r == 1)
        return 0;
    ports_end(&b->ports);
    return tell_exposed(&(struct frame){.slot = 0, .value = ECHILD}, "husk-ports ended", err);
}

/* Without err it was done. */
static int
tell_diffed(uint32_t slot, int file, const struct err *why, struct err *err)
{
    scoped(fd_close) int nothing = file < 0 ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -1;
    struct frame f = {.number = SANDBOX_DIFFED, .slot = slot, .value = file < 0 ? (uint32_t)why->code : 0};
    struct bytes part = bytes_of(file < 0 ? why->text : "");

    return packet_send(SANDBOX_FD, f, &part, 1, file < 0 ? &nothing : &file, 1, err);
}

static int
start_diff(struct relay *b, const struct frame *f, struct err *err)
{
    struct err why;

    if (changes_start(&b->changes, &b->policy, &b->layers, b->sandbox.pid, f->slot, f->value, &why) == 0)
        return 0;
    return tell_diffed(f->slot, -1, &why, err);
}

static int
end_diff(struct relay *b, struct err *err)
{
    struct err why = {0};
    uint32_t slot = b->changes.slot;
    scoped(fd_close) int file = changes_take(&b->changes, &why);

    return tell_diffed(slot, file, &why, err);
}

/* An order of the supervisor, for pid 1 as a rule. */
static int
pass_down(struct relay *b, struct err *err)
{
    struct bytes parts[3];
    struct frame f;
    int fds[SANDBOX_FDS], r;
    size_t n = 0, at = 0;

    r = packet_recv(SANDBOX_FD, &b->packet, SANDBOX_BY_KERNEL, SANDBOX_READY, &f, fds, err);
    if (r <= 0)
        return r < 0 ? -1 : err_set(err, 0, "the supervisor is gone");
    while (n < countof(parts) && frame_next(&f, &at, &parts[n]))
        n++;
    r = f.number == SANDBOX_EXPOSE || f.number == SANDBOX_UNEXPOSE
            ? pass_to_ports(b, &f, fds, err)
        : f.number == SANDBOX_DIFF
            ? start_diff(b, &f, err)
            : packet_send(b->sandbox.socket, f, parts, n, fds, sandbox_rules[f.number].fds, err);
    for (int i = 0; i < SANDBOX_FDS; i++)
        fd_close(&fds[i]);
    return r;
}

/* What pid 1 says. It runs inside: every rule of the table is checked again here. */
static int
pass_up(struct relay *b, struct err *err)
{
    struct bytes parts[3];
    char cause[256];
    struct frame f;
    int fds[SANDBOX_FDS], r;
    size_t n = 0, at = 0;

    r = packet_recv(b->sandbox.socket, &b->packet, SANDBOX_BY_INIT, SANDBOX_READY, &f, fds, err);
    if (r <= 0 && (r = r < 0 ? -1 : err_set(err, ECHILD, "pid 1 of the sandbox is gone")) < 0) {
        if (b->kind->explain_end)
            b->kind->explain_end(b, err);
        return -1;
    }
    while (n < countof(parts) && frame_next(&f, &at, &parts[n]))
        n++;
    if (f.slot == PORTS_SLOT && f.number != SANDBOX_SWEPT)
        return 0;
    if (f.number == SANDBOX_SPAWNED)
        memory_spawned(&b->memory, f.slot, (pid_t)f.value);
    if (f.number == SANDBOX_EXITED) {
        limits_cause(&b->limits, (int)f.value, cause, sizeof cause, &f.mark);
        memory_exited(&b->memory, f.slot, cause, sizeof cause, &f.mark);
        disk_cause(&b->disk, cause, sizeof cause);
        parts[0] = bytes_of(cause);
    }
    /* Pid 1 knows nothing of the machine around it. */
    if (f.number == SANDBOX_FAILED) {
        snprintf(cause, sizeof cause, "%.*s", (int)parts[0].len, parts[0].data);
        parts[2] = bytes_of(b->kind->advice(b, cause, (int)f.value));
    }
    return packet_send(SANDBOX_FD, f, parts, n, NULL, 0, err);
}

/* What brokers that were killed left on the disk goes meanwhile; if this one ends first, the next
 * goes on. */
static void
start_sweeper(struct relay *b)
{
    pid_t pid = b->layers.base < 0 ? -1 : fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        close(SANDBOX_FD);
        close(b->sandbox.socket);
        (void)!nice(19);
        if (b->kind->sweep)
            b->kind->sweep(b);
        layers_sweep(&b->layers);
        _exit(0);
    }
    b->sweeper = pid > 0 ? pid : 0;
}

/* What the network refused, or that it has ended. */
static int
pass_notice(struct relay *b, struct err *err)
{
    char text[ERR_TEXT];
    struct bytes part;

    uplink_hear(&b->uplink, &b->packet, text);
    part = bytes_of(text);
    return packet_send(SANDBOX_FD, (struct frame){.number = SANDBOX_NOTICE}, &part, 1, NULL, 0, err);
}

/* ms until one of those that look at something now and then has to; -1: never. */
static int
timeout(const struct relay *b)
{
    int64_t now = now_ms();
    int disk = disk_timeout(&b->disk, now), memory = memory_timeout(&b->memory, now);

    return disk < 0 || (memory >= 0 && memory < disk) ? memory : disk;
}

int
relay_serve(struct relay *b, struct err *err)
{
    start_sweeper(b);
    disk_start(&b->disk, &b->layers, b->policy.disk);
    while (!asked_to_end) {
        /* poll(2) passes over a descriptor of -1, where there is no network. */
        struct pollfd wait[] = {{.fd = SANDBOX_FD, .events = POLLIN},
                                {.fd = b->sandbox.socket, .events = POLLIN},
                                {.fd = b->uplink.socket, .events = POLLIN},
                                {.fd = b->ports.socket, .events = POLLIN},
                                {.fd = b->changes.ended, .events = POLLIN}};
        if (b->sweeper > 0 && waitpid(b->sweeper, NULL, WNOHANG) == b->sweeper)
            b->sweeper = 0;
        if (poll(wait, countof(wait), timeout(b)) < 0) {
            if (errno == EINTR)
                continue;
            return err_errno(err, "wait");
        }
        disk_tick(&b->disk, b->sandbox.pid, now_ms());
        memory_tick(&b->memory, now_ms());
        if (wait[4].revents && end_diff(b, err) < 0)
            return -1;
        if (wait[3].revents && hear_ports(b, err) < 0)
            return -1;
        if (wait[2].revents && pass_notice(b, err) < 0)
            return -1;
        if (wait[1].revents && pass_up(b, err) < 0)
            return -1;
        if (wait[0].revents && pass_down(b, err) < 0)
            return -1;
    }
    return 0;
}


int
relay_begin(const struct relay_kind *kind, struct relay *ret)
{
    struct sigaction term = {.sa_handler = on_term};

    if (fcntl(SANDBOX_FD, F_SETFD, FD_CLOEXEC) < 0)
        return -1;
    log_open(kind->program, LOG_WARNING);
    /* Out of the kernel's process group: a SIGKILL to that group, the usual end of a Jupyter
     * kernel, must leave somebody to take the sandbox down. */
    setsid();
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGTERM, &term, NULL);
    *ret = RELAY_EMPTY;
    ret->kind = kind;
    return 0;
}

int
relay_hear_order(struct relay *b, struct frame *ret, struct err *err)
{
    int fds[SANDBOX_FDS];
    int r = packet_recv(SANDBOX_FD, &b->packet, SANDBOX_BY_KERNEL, SANDBOX_NEW, ret, fds, err);

    return r == 0 ? err_set(err, 0, "nobody asked for a sandbox") : r;
}

int
relay_end(struct relay *b, int r, const struct err *err)
{
    /* EPIPE: the supervisor went first, as it does when it is killed. */
    if (r < 0 && err->code && err->code != ECANCELED && err->code != EPIPE)
        log_error("%s", err->text);
    pid_end(&b->sweeper);
    uplink_end(&b->uplink);
    ports_end(&b->ports);
    disk_end(&b->disk);
    memory_end(&b->memory);
    changes_end(&b->changes);
    b->kind->end(b);
    limits_release(&b->limits);
    /* The supervisor waits for nothing that could take long: what follows is on the disk. */
    close(SANDBOX_FD);
    if (b->kind->remove)
        b->kind->remove(b);
    layers_release(&b->layers);
    policy_release(&b->policy);
    buf_release(&b->rules);
    buf_release(&b->environment);
    buf_release(&b->packet);
    return r < 0 && err->code ? 1 : 0;
}
