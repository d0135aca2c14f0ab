/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-init: pid 1 of a sandbox. Starts processes in it, signals them, reaps whatever ends, and
 * tells the broker. It is executed from a sealed memfd with an empty environment, holds no
 * capability and no secret, is not dumpable, and cannot be killed from inside. Static: the root
 * it runs in need not have any library.
 *
 * It is forked by hostile children in no way and reads nothing that they write.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/join.h"
#include "wall/sandbox.h"

#define PROCESSES 256 /* started here and not yet gone */

struct process {
    pid_t pid; /* also its process group; 0: free */
    uint32_t slot;
};

struct init {
    struct process process[PROCESSES];
    struct join_policy policy;
    uint8_t *policy_bytes; /* owned; policy points into it */
    struct buf packet;
    int ready;
};

/* Nothing sensible is left to do when the broker cannot be told: the sandbox ends. */
static void __attribute__((noreturn))
give_up(void)
{
    _exit(1);
}

static void
tell(struct frame frame, const struct bytes *parts, size_t nparts)
{
    struct err err;

    if (packet_send(SANDBOX_FD, frame, parts, nparts, NULL, 0, &err) < 0)
        give_up();
}

static void
tell_failure(uint32_t slot, const char *step, const struct err *why)
{
    struct bytes parts[] = {bytes_of(step), bytes_of(why->text), {(const uint8_t *)"", 0}};

    tell((struct frame){.number = SANDBOX_FAILED, .slot = slot, .value = (uint32_t)why->code},
         parts, countof(parts));
}

/* POLICY: two programs, each a part, then the rules. Kept for the life of the sandbox. */
static int
on_policy(struct init *in, const struct frame *f, struct err *err)
{
    struct frame kept = *f;
    struct bytes part;
    size_t at = 0, n = 0;

    in->policy_bytes = malloc(f->length);
    in->policy.rule = calloc(f->length / FRAME_PART_HEAD + 1, sizeof *in->policy.rule);
    if (!in->policy_bytes || !in->policy.rule)
        return err_errno(err, "keep the policy");
    memcpy(in->policy_bytes, f->payload, f->length);
    kept.payload = in->policy_bytes;
    for (; frame_next(&kept, &at, &part); n++) {
        if (n < countof(in->policy.filter)) {
            struct sock_filter *code = malloc(part.len);
            if (!code)
                return err_errno(err, "keep the policy");
            memcpy(code, part.data, part.len); /* aligned, unlike the frame */
            in->policy.filter[n] = (struct sock_fprog){
                .len = (unsigned short)(part.len / sizeof *code), .filter = code};
            continue;
        }
        in->policy.rule[in->policy.nrules].rights = get64(part.data);
        in->policy.rule[in->policy.nrules].path =
            strndup((const char *)part.data + 8, part.len - 8);
        if (!in->policy.rule[in->policy.nrules++].path)
            return err_errno(err, "keep the policy");
    }
    in->ready = 1;
    return 0;
}

/* Strings that each end in NUL -> a vector; the strings stay where they are. */
static char **
split_strings(struct bytes all)
{
    size_t count = 0, n = 0;
    char **v;

    for (size_t i = 0; i < all.len; i++)
        count += all.data[i] == 0;
    v = calloc(count + 1, sizeof *v);
    if (!v)
        return NULL;
    for (size_t at = 0; n < count; at += strlen(v[n]) + 1, n++)
        v[n] = (char *)all.data + at;
    return v;
}

static struct process *
find_process(struct init *in, uint32_t slot)
{
    for (size_t i = 0; i < PROCESSES; i++)
        if (in->process[i].pid && in->process[i].slot == slot)
            return &in->process[i];
    return NULL;
}

static struct process *
free_process(struct init *in)
{
    for (size_t i = 0; i < PROCESSES; i++)
        if (!in->process[i].pid)
            return &in->process[i];
    return NULL;
}

/* Forks, and waits until the child has executed or told why not: a few hundred microseconds. */
static pid_t
start(struct join *join, struct join_failure *failure)
{
    int report[2];
    ssize_t n;
    pid_t pid;

    if (pipe2(report, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
        err_errno(&failure->err, "start a process");
        snprintf(failure->step, sizeof failure->step, "fork");
        return -1;
    }
    if (pid == 0) {
        join->report = report[1];
        join_run(join);
    }
    close(report[1]);
    do
        n = read(report[0], failure, sizeof *failure);
    while (n < 0 && errno == EINTR);
    close(report[0]);
    if (n == 0)
        return pid;
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return -1;
}

static void
on_spawn(struct init *in, const struct frame *f, const int *fds)
{
    struct bytes directory = frame_part(f, 0);
    char *where = strndup((const char *)directory.data, directory.len);
    char **argv = split_strings(frame_part(f, 1)), **environment = split_strings(frame_part(f, 2));
    struct process *process = free_process(in);
    struct join_failure failure = {.step = "fork"};
    struct join join = {.policy = &in->policy, .directory = where, .argv = argv,
                        .environment = environment, .fds = fds};
    pid_t pid = -1;

    if (!process || find_process(in, f->slot))
        err_set(&failure.err, EAGAIN, "%d processes were started here and still run", PROCESSES);
    else if (!where || !argv || !environment || !argv[0])
        err_set(&failure.err, EINVAL, "a command without arguments");
    else
        pid = start(&join, &failure);
    if (pid < 0) {
        tell_failure(f->slot, failure.step, &failure.err);
    } else {
        *process = (struct process){.pid = pid, .slot = f->slot};
        tell((struct frame){.number = SANDBOX_SPAWNED, .slot = f->slot, .value = (uint32_t)pid},
             NULL, 0);
    }
    free(where);
    free(argv);
    free(environment);
}

static void
on_signal(struct init *in, const struct frame *f)
{
    struct process *p = find_process(in, f->slot);

    /* The group, as a terminal would: children that stayed in it are interrupted too. */
    if (p && kill(-p->pid, (int)f->value) < 0)
        kill(p->pid, (int)f->value);
}

static void
reap(struct init *in)
{
    struct bytes no_cause = {(const uint8_t *)"", 0};
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (size_t i = 0; i < PROCESSES; i++)
            if (in->process[i].pid == pid) {
                tell((struct frame){.number = SANDBOX_EXITED, .slot = in->process[i].slot,
                                    .value = (uint32_t)status},
                     &no_cause, 1);
                in->process[i].pid = 0;
            }
}

/* Kills everything else in the sandbox until nothing is left: a process that forks while it is
 * being killed is caught by the next round. */
static void
on_sweep(struct init *in)
{
    int status;
    pid_t pid;

    while (kill(-1, SIGKILL) == 0) {
        pid = waitpid(-1, &status, 0);
        for (size_t i = 0; pid > 0 && i < PROCESSES; i++)
            if (in->process[i].pid == pid)
                in->process[i].pid = 0;
        if (pid < 0 && errno == ECHILD)
            break;
    }
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    memset(in->process, 0, sizeof in->process);
    tell((struct frame){.number = SANDBOX_SWEPT}, NULL, 0);
}

static void
on_packet(struct init *in)
{
    struct frame f;
    struct err err;
    int fds[SANDBOX_FDS];

    if (packet_recv(SANDBOX_FD, &in->packet, SANDBOX_BY_BROKER,
                    in->ready ? SANDBOX_READY : SANDBOX_NEW, &f, fds, &err) <= 0)
        give_up(); /* the broker is gone, or no broker */
    switch (f.number) {
    case SANDBOX_POLICY:
        if (on_policy(in, &f, &err) < 0)
            give_up();
        break;
    case SANDBOX_SPAWN:
        on_spawn(in, &f, fds);
        for (int i = 0; i < SANDBOX_FDS; i++)
            fd_close(&fds[i]);
        break;
    case SANDBOX_SIGNAL:
        on_signal(in, &f);
        break;
    case SANDBOX_SWEEP:
        on_sweep(in);
        break;
    }
}

int
main(void)
{
    static struct init in;
    struct pollfd wait[2];
    sigset_t child;
    int signals;

    /* exec made us dumpable and cleared nothing else: close both doors before anybody else is
     * here to look through /proc/1. */
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 ||
        sigprocmask(SIG_BLOCK, &child, NULL) < 0 ||
        (signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK)) < 0 ||
        fcntl(SANDBOX_FD, F_SETFD, FD_CLOEXEC) < 0)
        give_up();
    prctl(PR_SET_NAME, "husk-init", 0, 0, 0); /* for ps; the kernel named it after the memfd */
    tell((struct frame){.number = SANDBOX_ALIVE}, NULL, 0);
    wait[0] = (struct pollfd){.fd = SANDBOX_FD, .events = POLLIN};
    wait[1] = (struct pollfd){.fd = signals, .events = POLLIN};
    for (;;) {
        struct signalfd_siginfo info;
        if (poll(wait, 2, -1) < 0 && errno != EINTR)
            give_up();
        if (wait[1].revents) {
            while (read(signals, &info, sizeof info) > 0)
                ;
            reap(&in);
        }
        if (wait[0].revents)
            on_packet(&in);
    }
}
