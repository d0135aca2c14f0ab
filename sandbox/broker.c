/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-sandbox: the broker. The supervisor starts one for each sandbox, before it has any
 * thread, and speaks sandbox.def with it over descriptor 3. It builds the sandbox, passes
 * orders to its pid 1 and what comes back, with the cause of a death added, and takes
 * everything down when the supervisor's end of the socket closes, however that came about.
 *
 * It holds no key and knows nothing of Jupyter.
 */
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
#include "sandbox/advice.h"
#include "sandbox/build.h"
#include "sandbox/disk.h"
#include "sandbox/changes.h"
#include "sandbox/doctor.h"
#include "sandbox/grants.h"
#include "sandbox/landlock.h"
#include "sandbox/layers.h"
#include "sandbox/ports.h"
#include "sandbox/uplink.h"
#include "wall/sandbox.h"

#define PATHS_MAX 1000
#define PATHS_BYTES 50000 /* a POLICY of 64 KiB has room for them and the filters */

struct broker {
    struct policy policy;
    struct limits limits;
    struct layers layers;
    struct disk disk;
    struct changes changes;
    struct sandbox sandbox;
    struct build_times times;
    struct uplink uplink;
    struct ports ports;
    const char *ports_program;
    pid_t sweeper; /* 0: none, or done */
    struct buf rules; /* of Landlock, as parts of POLICY */
    size_t nrules;
    int partly; /* the working directory is not given whole */
    struct buf packet;
};

static volatile sig_atomic_t asked_to_end;

static void
on_term(int signal)
{
    asked_to_end = 1;
}

static int
tell_failure(enum containment level, const struct build_failure *failure, struct err *err)
{
    struct bytes parts[] = {bytes_of(failure->step), bytes_of(failure->err.text),
                            bytes_of(advice_for(level, failure->step, failure->err.code))};

    return packet_send(SANDBOX_FD,
                       (struct frame){.number = SANDBOX_FAILED,
                                      .value = (uint32_t)failure->err.code},
                       parts, countof(parts), NULL, 0, err);
}

static void
describe_network(const struct policy *p, char *into, size_t size)
{
    size_t at = (size_t)snprintf(into, size, "%s", p->rules.all   ? "all but private addresses"
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

static int
tell_built(struct broker *b, struct err *err)
{
    const struct policy *p = &b->policy;
    char text[1024], limits[256], network[320];
    int fds[USAGE_FILES] = {-1, -1, -1}, r;
    struct bytes parts[3];

    if (limits_open_usage(&b->limits, fds, err) < 0)
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
    r = packet_send(SANDBOX_FD,
                    (struct frame){.number = SANDBOX_BUILT, .value = (uint32_t)b->sandbox.took},
                    parts, countof(parts), fds, USAGE_FILES, err);
    for (int i = 0; i < USAGE_FILES; i++)
        fd_close(&fds[i]);
    return r;
}

/* Before the build: what cannot be listed ends it. */
static int
list_rules(struct broker *b, struct err *err)
{
    scoped(view_release) struct mount_view view = {0};

    if (b->policy.level == LEVEL_LANDLOCK) {
        if (grants_make(&b->policy, &b->rules, &b->nrules, &b->partly, err) < 0)
            return -1;
    } else if (view_make(&b->policy, &view, err) < 0) {
        return -1;
    } else if (landlock_rules(&b->policy, &view, &b->rules, &b->nrules) < 0) {
        return err_errno(err, "list what may be reached");
    }
    if (b->nrules > PATHS_MAX || b->rules.len > PATHS_BYTES)
        return err_set(err, E2BIG, "too many paths for Landlock: %zu%s", b->nrules,
                       b->partly ? "; the working directory holds what is guarded, and is given entry by "
                                   "entry: take another --workdir, or --profile strict" : "");
    return 0;
}

/* The three programs of join.h. */
static void
choose_filter(const struct broker *b, struct bytes part[static 3])
{
    int image = b->policy.image != NULL, alone = b->policy.level == LEVEL_LANDLOCK;

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
    if (image && !build_is_privileged() && !b->policy.subordinate.count)
        part[2] = (struct bytes){(const uint8_t *)filter_pretend, sizeof filter_pretend};
}

static int
send_policy(struct broker *b, struct err *err)
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
build(struct broker *b, char **programs, const struct frame *f, struct build_failure *failure)
{
    scoped(fd_close) int program = -1;

    snprintf(failure->step, sizeof failure->step, "options");
    if (policy_read(f, &b->policy, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "init");
    if ((program = build_init_program(programs[0], &failure->err)) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "mounts");
    if (policy_look_at_mounts(&b->policy, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "image");
    if (policy_look_at_image(&b->policy, &failure->err) < 0)
        return -1;
    /* In a shared directory they would own files that the user cannot remove. */
    if (b->policy.image && !build_is_privileged() && !policy_shares(&b->policy))
        subordinate_find(&b->policy.subordinate);
    snprintf(failure->step, sizeof failure->step, "user");
    if (build_choose_user(&b->policy, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "layers");
    if (layers_make(&b->policy, &b->layers, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "landlock");
    if (list_rules(b, &failure->err) < 0)
        return -1;
    snprintf(failure->step, sizeof failure->step, "limits");
    if (limits_make(&b->policy, programs[3], &b->limits, &failure->err) < 0)
        return -1;
    if (build_sandbox(&b->policy, &b->limits, program, &b->times, &b->sandbox, failure) < 0)
        return -1;
    if (rules_any(&b->policy.rules) &&
        uplink_start(programs[1], &b->policy, &b->sandbox, &b->uplink, failure) < 0)
        return -1;
    fd_close(&b->sandbox.sockets);
    return 0;
}

/* The answer to CHECK. A sandbox that could be built stays, and takes orders as any other. */
static int
report(struct broker *b, struct checkup *checkup, struct err *err)
{
    scoped(doctor_release) struct report r = {0};

    if (checkup->built)
        doctor_try_process(b->sandbox.socket, checkup);
    if (doctor_report(checkup, &b->limits, &b->times, &r) < 0)
        return err_errno(err, "write the report");
    return packet_send(SANDBOX_FD,
                       (struct frame){.number = SANDBOX_REPORT, .value = (uint32_t)checkup->usable},
                       r.part, r.nparts, NULL, 0, err);
}

static int
answer(struct broker *b, char **programs, const struct frame *f, struct err *err)
{
    struct checkup checkup = {0};
    int check = f->number == SANDBOX_CHECK, r;

    checkup.built = build(b, programs, f, &checkup.failure) == 0;
    checkup.level = b->policy.level;
    if (checkup.built && send_policy(b, err) < 0)
        return -1;
    if (check)
        r = report(b, &checkup, err);
    else
        r = checkup.built ? tell_built(b, err) : tell_failure(b->policy.level, &checkup.failure, err);
    if (r == 0 && !checkup.built)
        r = err_set(err, ECANCELED, "the sandbox was not built");
    return r;
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
pass_to_ports(struct broker *b, const struct frame *f, const int *fds, struct err *err)
{
    struct err why;

    if (ports_pass(b->ports_program, &b->sandbox, &b->ports, f, fds, sandbox_rules[f->number].fds, &why) == 0)
        return 0;
    return tell_exposed(&(struct frame){.slot = f->slot, .value = (uint32_t)why.code}, why.text, err);
}

static int
hear_ports(struct broker *b, struct err *err)
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
start_diff(struct broker *b, const struct frame *f, struct err *err)
{
    struct err why;

    if (changes_start(&b->changes, &b->policy, &b->layers, b->sandbox.pid, f->slot, f->value, &why) == 0)
        return 0;
    return tell_diffed(f->slot, -1, &why, err);
}

static int
end_diff(struct broker *b, struct err *err)
{
    struct err why = {0};
    uint32_t slot = b->changes.slot;
    scoped(fd_close) int file = changes_take(&b->changes, &why);

    return tell_diffed(slot, file, &why, err);
}

/* An order of the supervisor, for pid 1 as a rule. */
static int
pass_down(struct broker *b, struct err *err)
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
pass_up(struct broker *b, struct err *err)
{
    struct bytes parts[3];
    char cause[256];
    struct frame f;
    int fds[SANDBOX_FDS], r;
    size_t n = 0, at = 0;

    r = packet_recv(b->sandbox.socket, &b->packet, SANDBOX_BY_INIT, SANDBOX_READY, &f, fds, err);
    if (r <= 0)
        return r < 0 ? -1 : err_set(err, ECHILD, "pid 1 of the sandbox is gone");
    while (n < countof(parts) && frame_next(&f, &at, &parts[n]))
        n++;
    if (f.number == SANDBOX_EXITED) {
        limits_cause(&b->limits, (int)f.value, cause, sizeof cause, &f.mark);
        disk_cause(&b->disk, cause, sizeof cause);
        parts[0] = bytes_of(cause);
    }
    /* Pid 1 knows nothing of the machine around it. */
    if (f.number == SANDBOX_FAILED) {
        snprintf(cause, sizeof cause, "%.*s", (int)parts[0].len, parts[0].data);
        parts[2] = bytes_of(advice_for(b->policy.level, cause, (int)f.value));
    }
    return packet_send(SANDBOX_FD, f, parts, n, NULL, 0, err);
}

/* What brokers that were killed left on the disk goes meanwhile; if this one ends first, the next
 * goes on. */
static void
start_sweeper(struct broker *b)
{
    pid_t pid = b->layers.base < 0 ? -1 : fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        close(SANDBOX_FD);
        close(b->sandbox.socket);
        (void)!nice(19);
        layers_sweep(&b->layers);
        _exit(0);
    }
    b->sweeper = pid > 0 ? pid : 0;
}

/* What the network refused, or that it has ended. */
static int
pass_notice(struct broker *b, struct err *err)
{
    char text[ERR_TEXT];
    struct bytes part;

    uplink_hear(&b->uplink, &b->packet, text);
    part = bytes_of(text);
    return packet_send(SANDBOX_FD, (struct frame){.number = SANDBOX_NOTICE}, &part, 1, NULL, 0, err);
}

static int
serve(struct broker *b, struct err *err)
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
        if (poll(wait, countof(wait), disk_timeout(&b->disk, now_ms())) < 0) {
            if (errno == EINTR)
                continue;
            return err_errno(err, "wait");
        }
        disk_tick(&b->disk, b->sandbox.pid, now_ms());
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

static int
run(struct broker *b, char **programs, struct err *err)
{
    struct frame f;
    int fds[SANDBOX_FDS];
    int r = packet_recv(SANDBOX_FD, &b->packet, SANDBOX_BY_KERNEL, SANDBOX_NEW, &f, fds, err);

    if (r <= 0)
        return r < 0 ? -1 : err_set(err, 0, "nobody asked for a sandbox");
    if (answer(b, programs, &f, err) < 0)
        return -1;
    return serve(b, err);
}

int
main(int argc, char **argv)
{
    struct broker b = {.limits = LIMITS_EMPTY, .layers = LAYERS_EMPTY, .disk = DISK_EMPTY,
                       .changes = CHANGES_EMPTY,
                       .sandbox = SANDBOX_EMPTY, .uplink = UPLINK_EMPTY, .ports = PORTS_EMPTY};
    struct sigaction term = {.sa_handler = on_term};
    struct err err = {0};
    int r;

    if (argc != 5 || fcntl(SANDBOX_FD, F_SETFD, FD_CLOEXEC) < 0) {
        fprintf(stderr, "husk-sandbox is started by husk and not by hand\n");
        return 100;
    }
    log_open("husk-sandbox", LOG_WARNING);
    /* Out of the kernel's process group: a SIGKILL to that group, the usual end of a Jupyter
     * kernel, must leave somebody to take the sandbox down. */
    setsid();
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGTERM, &term, NULL);
    b.ports_program = argv[3];
    r = run(&b, argv + 1, &err);
    /* EPIPE: the supervisor went first, as it does when it is killed. */
    if (r < 0 && err.code && err.code != ECANCELED && err.code != EPIPE)
        log_error("%s", err.text);
    pid_end(&b.sweeper);
    uplink_end(&b.uplink);
    ports_end(&b.ports);
    disk_end(&b.disk);
    changes_end(&b.changes);
    sandbox_end(&b.sandbox);
    limits_release(&b.limits);
    /* The supervisor waits for nothing that could take long: what follows is on the disk. */
    close(SANDBOX_FD);
    layers_release(&b.layers);
    policy_release(&b.policy);
    buf_release(&b.rules);
    buf_release(&b.packet);
    return r < 0 && err.code ? 1 : 0;
}
