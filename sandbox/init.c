/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-init: pid 1 of a sandbox. Starts processes in it, signals them, reaps whatever ends, and
 * tells the broker. It is executed from a sealed memfd with an empty environment, holds no
 * capability and no secret, is not dumpable, and cannot be killed from inside. Static: the root
 * it runs in need not have any library.
 *
 * It is forked by hostile children in no way and reads nothing that they write.
 *
 * With containment landlock or none (the first argument says so) there is no pid namespace and it is not pid
 * 1: then it is the subreaper of its descendants, ends them itself (kin.h), outlives the broker for
 * that, and with landlock is asked for each process that they start (forks.h): beyond so many as the second
 * argument says it refuses.
 *
 * In a container the first argument is `connect`, and the second the path of the broker's socket: there
 * it looks at what the engine has mounted, by names, before it says that it is there.
 */
#include <dirent.h>
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/forks.h"
#include "sandbox/join.h"
#include "sandbox/kin.h"
#include "wall/sandbox.h"

#define PROCESSES 256 /* started here and not yet gone */
#define SWEEP_MS 2000  /* for a sweep that spares some */

struct process {
    pid_t pid; /* also its process group; 0: free */
    uint32_t slot;
    int stays; /* over SWEEP */
};

struct init {
    struct process process[PROCESSES];
    struct join_policy policy;
    uint8_t *policy_bytes; /* owned; policy points into it */
    struct forks forks;
    struct buf packet;
    int ready;
};

static int alone; /* no pid namespace ends our children with us */

/* Nothing sensible is left to do when the broker cannot be told: the sandbox ends. */
static void __attribute__((noreturn))
give_up(void)
{
    if (alone)
        kin_end(-1);
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

/* POLICY: three programs, each a part, the last may be empty; then the rules. Kept for the life of the sandbox. */
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
            struct sock_filter *code = malloc(part.len + 1);
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

/* MOUNTS: a cell of another sandbox may have put a link in the place of what the broker looked at,
 * before the engine came there. From here on the mounts stay what they are. */
static void
on_mounts(const struct frame *f)
{
    struct bytes part;
    struct stat st;
    size_t at = 0;

    while (frame_next(f, &at, &part)) {
        char path[4096] = "";
        struct err err;
        if (part.len > 16 && part.len - 16 < sizeof path)
            memcpy(path, part.data + 16, part.len - 16);
        if (lstat(path, &st) == 0 && st.st_dev == get64(part.data) && st.st_ino == get64(part.data + 8))
            continue;
        err_set(&err, ESTALE, "'%s' is not what it was when husk looked at it", path);
        tell_failure(0, "mounts", &err);
        give_up();
    }
    tell((struct frame){.number = SANDBOX_ALIVE}, NULL, 0);
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
start(struct init *in, struct join *join, struct join_failure *failure)
{
    int report[2], listener, kept = 0;
    ssize_t n;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, report) < 0 || (pid = fork()) < 0) {
        err_errno(&failure->err, "start a process");
        snprintf(failure->step, sizeof failure->step, "fork");
        return -1;
    }
    if (pid == 0) {
        join->report = report[1];
        join_run(join);
    }
    close(report[1]);
    while ((n = forks_hear(report[0], failure, sizeof *failure, &listener)) > 0 && listener >= 0)
        kept |= forks_keep(&in->forks, listener);
    close(report[0]);
    if (n == 0 && kept == 0)
        return pid;
    if (kept < 0) {
        err_set(&failure->err, EAGAIN, "processes of %d were started here and still run", FORKS_LISTENERS);
        snprintf(failure->step, sizeof failure->step, "forks");
        kill(pid, SIGKILL);
    }
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
    int named = argv && argv[0] && (f->value & SANDBOX_NAMED) != 0;
    struct join join = {.policy = &in->policy, .directory = where, .program = argv ? argv[0] : NULL,
                        .argv = argv ? argv + named : NULL,
                        .environment = environment, .fds = fds};
    pid_t pid = -1;

    if (!process || find_process(in, f->slot))
        err_set(&failure.err, EAGAIN, "%d processes were started here and still run", PROCESSES);
    else if (!where || !argv || !environment || !argv[0])
        err_set(&failure.err, EINVAL, "a command without arguments");
    else
        pid = start(in, &join, &failure);
    if (pid < 0) {
        tell_failure(f->slot, failure.step, &failure.err);
    } else {
        *process = (struct process){.pid = pid, .slot = f->slot, .stays = (f->value & SANDBOX_STAYS) != 0};
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
tell_exited(struct init *in, struct process *p, int status)
{
    struct bytes no_cause = {(const uint8_t *)"", 0};

    tell((struct frame){.number = SANDBOX_EXITED, .slot = p->slot, .value = (uint32_t)status}, &no_cause,
         1);
    p->pid = 0;
}

static void
reap(struct init *in)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (size_t i = 0; i < PROCESSES; i++)
            if (in->process[i].pid == pid)
                tell_exited(in, &in->process[i], status);
}

static int
stays(const struct init *in, pid_t pid)
{
    for (size_t i = 0; i < PROCESSES; i++)
        if (in->process[i].stays && in->process[i].pid == pid)
            return 1;
    return 0;
}

/* Kills the children of pid 1 but those that stay; how many there were. */
static int
kill_children(const struct init *in)
{
    DIR *proc = opendir("/proc");
    struct dirent *e;
    int n = 0;

    while (proc && (e = readdir(proc)))
        if (*e->d_name >= '1' && *e->d_name <= '9' && pid_parent(e->d_name) == 1 &&
            !stays(in, (pid_t)atoi(e->d_name)) && kill((pid_t)atoi(e->d_name), SIGKILL) == 0)
            n++;
    if (proc)
        closedir(proc);
    return n;
}

/* Where something stays: whoever loses its parent becomes a child of pid 1, unless it descends from
 * what stays, which takes in its own. So the children of pid 1 are killed until there are none;
 * against one that forks faster than that, all are killed. */
static int
sweep_others(struct init *in)
{
    int64_t end = now_ms() + SWEEP_MS;
    int any = 0;

    for (size_t i = 0; i < PROCESSES; i++)
        any |= in->process[i].stays && in->process[i].pid;
    if (!any)
        return -1;
    while (kill_children(in) > 0) {
        if (now_ms() > end)
            return -1;
        poll(NULL, 0, 1);
        reap(in);
    }
    reap(in);
    return 0;
}

/* Without a pid namespace nothing may be killed but kin. It has no end but theirs: none of them forks
 * meanwhile, as nobody answers. */
static int
sweep_kin(struct init *in)
{
    pid_t spared[PROCESSES];
    size_t n = 0;

    for (size_t i = 0; i < PROCESSES; i++)
        if (in->process[i].stays && in->process[i].pid)
            spared[n++] = in->process[i].pid;
    while (kin_kill(spared, n) > 0) {
        poll(NULL, 0, 1);
        reap(in);
    }
    reap(in);
    return 0;
}

/* Kills everything else in the sandbox until nothing is left: a process that forks while it is
 * being killed is caught by the next round. */
static void
on_sweep(struct init *in)
{
    int status;
    pid_t pid;

    if ((alone ? sweep_kin(in) : sweep_others(in)) == 0) {
        tell((struct frame){.number = SANDBOX_SWEPT}, NULL, 0);
        return;
    }
    while (kill(-1, SIGKILL) == 0) {
        pid = waitpid(-1, &status, 0);
        for (size_t i = 0; pid > 0 && i < PROCESSES; i++)
            if (in->process[i].pid == pid)
                tell_exited(in, &in->process[i], status);
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
    case SANDBOX_MOUNTS:
        on_mounts(&f);
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

/* The engine started us: the socket is found, not inherited. */
static int
connect_to_broker(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof at.sun_path)
        return -1;
    strcpy(at.sun_path, path);
    if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) < 0 || dup2(fd, SANDBOX_FD) < 0)
        return -1;
    return (int)syscall(SYS_close_range, SANDBOX_FD + 1, ~0u, 0);
}

/* Exec made us dumpable and cleared nothing else: both doors are closed before anybody else is here
 * to look through /proc/1. */
static int
close_doors(void)
{
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return -1;
    /* The kernel ends a pid namespace with its pid 1, so that may die with the broker. */
    return alone ? prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) : prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

int
main(int argc, char **argv)
{
    static struct init in;
    struct pollfd wait[2 + FORKS_LISTENERS];
    sigset_t child;
    int signals, connects = argc > 2 && strcmp(argv[1], "connect") == 0;

    if (argc > 2 && !connects)
        in.policy.level = strcmp(argv[1], "landlock") == 0 ? LEVEL_LANDLOCK : LEVEL_NONE;
    alone = in.policy.level != LEVEL_FULL;
    in.forks.limit = alone ? strtoull(argv[2], NULL, 10) : 0;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    if (close_doors() < 0 || (connects && connect_to_broker(argv[2]) < 0) || sigprocmask(SIG_BLOCK, &child, NULL) < 0 ||
        (signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK)) < 0 ||
        fcntl(SANDBOX_FD, F_SETFD, FD_CLOEXEC) < 0)
        give_up();
    prctl(PR_SET_NAME, "husk-init", 0, 0, 0); /* for ps; the kernel named it after the memfd */
    if (!connects)
        tell((struct frame){.number = SANDBOX_ALIVE}, NULL, 0);
    wait[0] = (struct pollfd){.fd = SANDBOX_FD, .events = POLLIN};
    wait[1] = (struct pollfd){.fd = signals, .events = POLLIN};
    for (;;) {
        struct signalfd_siginfo info;
        size_t n = forks_list(&in.forks, wait + 2);
        if (poll(wait, 2 + n, -1) < 0) {
            if (errno != EINTR)
                give_up();
            continue;
        }
        forks_answer(&in.forks, wait + 2);
        if (wait[1].revents) {
            while (read(signals, &info, sizeof info) > 0)
                ;
            reap(&in);
        }
        if (wait[0].revents)
            on_packet(&in);
    }
}
