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
#include "sandbox/build.h"
#include "sandbox/landlock.h"
#include "wall/sandbox.h"

struct broker {
    struct policy policy;
    struct limits limits;
    struct sandbox sandbox;
    struct buf packet;
};

static volatile sig_atomic_t asked_to_end;

static void
on_term(int signal)
{
    asked_to_end = 1;
}

static int
tell_failure(const struct build_failure *failure, struct err *err)
{
    struct bytes parts[] = {bytes_of(failure->step), bytes_of(failure->err.text),
                            bytes_of(failure->advice)};

    return packet_send(SANDBOX_FD,
                       (struct frame){.number = SANDBOX_FAILED,
                                      .value = (uint32_t)failure->err.code},
                       parts, countof(parts), NULL, 0, err);
}

static int
tell_built(struct broker *b, struct err *err)
{
    char text[1024], limits[256];
    struct bytes parts[2];

    limits_describe(&b->limits, limits, sizeof limits);
    snprintf(text, sizeof text, "%s%s%s%s", limits,
             b->policy.private_workdir ? "; the working directory is private (" : "",
             b->policy.why_private, b->policy.private_workdir ? ")" : "");
    parts[0] = bytes_of(text);
    parts[1] = bytes_of(b->policy.workdir);
    return packet_send(SANDBOX_FD,
                       (struct frame){.number = SANDBOX_BUILT,
                                      .value = (uint32_t)b->sandbox.took},
                       parts, countof(parts), NULL, 0, err);
}

static int
send_policy(struct broker *b, struct err *err)
{
    scoped(view_release) struct mount_view view = {0};
    scoped(buf_release) struct buf rules = {0};
    struct bytes parts[512] = {{(const uint8_t *)filter_calls, sizeof filter_calls},
                               {(const uint8_t *)filter_arguments, sizeof filter_arguments}};
    size_t n = 2, nrules, at = 0;

    if (view_make(&b->policy, &view, err) < 0)
        return -1;
    if (landlock_rules(&b->policy, &view, &rules, &nrules) < 0 || nrules > countof(parts) - n)
        return err_set(err, E2BIG, "too many paths for Landlock: %zu", nrules);
    while (at < rules.len) {
        size_t len = get32(rules.data + at);
        parts[n++] = (struct bytes){rules.data + at + 4, len};
        at += 4 + len;
    }
    return packet_send(b->sandbox.socket, (struct frame){.number = SANDBOX_POLICY}, parts, n, NULL,
                       0, err);
}

static int
build(struct broker *b, const char *init_path, const struct frame *f, struct err *err)
{
    struct build_failure failure = {.step = "options"};
    scoped(fd_close) int program = -1;

    if (policy_read(f, &b->policy, &failure.err) < 0)
        goto failed;
    snprintf(failure.step, sizeof failure.step, "init");
    if ((program = build_init_program(init_path, &failure.err)) < 0)
        goto failed;
    snprintf(failure.step, sizeof failure.step, "limits");
    if (limits_make(&b->policy, &b->limits, &failure.err) < 0)
        goto failed;
    if (build_sandbox(&b->policy, &b->limits, program, &b->sandbox, &failure) < 0)
        goto failed;
    if (send_policy(b, err) < 0)
        return -1;
    return tell_built(b, err);
failed:
    if (tell_failure(&failure, err) < 0)
        return -1;
    return err_set(err, ECANCELED, "the sandbox was not built");
}

/* An order of the supervisor for pid 1. */
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
    r = packet_send(b->sandbox.socket, f, parts, n, fds, sandbox_rules[f.number].fds, err);
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
        parts[0] = bytes_of(cause);
    }
    return packet_send(SANDBOX_FD, f, parts, n, NULL, 0, err);
}

static int
serve(struct broker *b, struct err *err)
{
    struct pollfd wait[] = {{.fd = SANDBOX_FD, .events = POLLIN},
                            {.fd = b->sandbox.socket, .events = POLLIN}};

    while (!asked_to_end) {
        if (poll(wait, countof(wait), -1) < 0) {
            if (errno == EINTR)
                continue;
            return err_errno(err, "wait");
        }
        if (wait[1].revents && pass_up(b, err) < 0)
            return -1;
        if (wait[0].revents && pass_down(b, err) < 0)
            return -1;
    }
    return 0;
}

static int
run(struct broker *b, const char *init_path, struct err *err)
{
    struct frame f;
    int fds[SANDBOX_FDS];
    int r = packet_recv(SANDBOX_FD, &b->packet, SANDBOX_BY_KERNEL, SANDBOX_NEW, &f, fds, err);

    if (r <= 0)
        return r < 0 ? -1 : err_set(err, 0, "nobody asked for a sandbox");
    if (build(b, init_path, &f, err) < 0)
        return -1;
    return serve(b, err);
}

int
main(int argc, char **argv)
{
    struct broker b = {.limits = LIMITS_EMPTY, .sandbox = SANDBOX_EMPTY};
    struct sigaction term = {.sa_handler = on_term};
    struct err err = {0};
    int r;

    if (argc != 2 || fcntl(SANDBOX_FD, F_SETFD, FD_CLOEXEC) < 0) {
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
    r = run(&b, argv[1], &err);
    /* EPIPE: the supervisor went first, as it does when it is killed. */
    if (r < 0 && err.code && err.code != ECANCELED && err.code != EPIPE)
        log_error("%s", err.text);
    sandbox_end(&b.sandbox);
    limits_release(&b.limits);
    policy_release(&b.policy);
    buf_release(&b.packet);
    return r < 0 && err.code ? 1 : 0;
}
