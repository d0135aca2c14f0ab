/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/join.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/forks.h"
#include "sandbox/landlock.h"
#include "wall/sandbox.h"

#ifndef SECCOMP_SET_MODE_FILTER
#define SECCOMP_SET_MODE_FILTER 1
#endif

static int
step_signals(struct join *j, struct err *err)
{
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int s = 1; s < NSIG; s++)
        (void)sigaction(s, &standard, NULL); /* SIGKILL, SIGSTOP and two of libc's refuse */
    sigemptyset(&none);
    if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
        return err_errno(err, "unblock signals");
    return setsid() < 0 ? err_errno(err, "start a session") : 0;
}

static int
step_end(struct join *j, struct err *err)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return err_errno(err, "ask to die with husk-init");
    return 0;
}

static int
step_descriptors(struct join *j, struct err *err)
{
    const int above = SANDBOX_FDS + 1; /* the report's number */
    int held[SANDBOX_FDS], report;
    int null;

    /* First out of the way of the numbers that they become, then down. */
    report = fcntl(j->report, F_DUPFD_CLOEXEC, 32);
    for (int i = 0; i < SANDBOX_FDS; i++) {
        held[i] = fcntl(j->fds[i], F_DUPFD_CLOEXEC, 32);
        if (held[i] < 0)
            return err_errno(err, "keep a descriptor");
    }
    null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (report < 0 || null < 0 || dup2(null, 0) < 0)
        return err_errno(err, "open '/dev/null'");
    for (int i = 0; i < SANDBOX_FDS; i++)
        if (dup2(held[i], i + 1) < 0)
            return err_errno(err, "place descriptor %d", i + 1);
    if (dup3(report, above, O_CLOEXEC) < 0 || syscall(SYS_close_range, above + 1, ~0u, 0) < 0)
        return err_errno(err, "close inherited descriptors");
    j->report = above;
    return 0;
}

static int
step_directory(struct join *j, struct err *err)
{
    return chdir(j->directory) < 0 ? err_errno(err, "enter '%s'", j->directory) : 0;
}

static int
step_landlock(struct join *j, struct err *err)
{
    return landlock_enter(j->policy->rule, j->policy->nrules,
                          j->policy->level == LEVEL_LANDLOCK, err);
}

static int
step_seccomp(struct join *j, struct err *err)
{
    size_t n = j->policy->level == LEVEL_LANDLOCK ? JOIN_LAST : countof(j->policy->filter);

    for (size_t i = 0; i < n; i++)
        if (j->policy->filter[i].len &&
            syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &j->policy->filter[i]) < 0)
            return err_errno(err, "load the system call filter");
    return 0;
}

static int
step_forks(struct join *j, struct err *err)
{
    return forks_bind(&j->policy->filter[JOIN_LAST], j->report, err);
}

static int
step_execute(struct join *j, struct err *err)
{
    environ = (char **)j->environment; /* a name without a slash is looked for on its PATH */
    execvp(j->program, j->argv);
    return err_errno(err, "execute '%s'", j->program);
}

static const struct {
    const char *name;
    unsigned levels;
    int (*take)(struct join *, struct err *);
} steps[] = {
#define X(name, levels, meaning) {#name, levels, step_##name},
    JOIN_STEPS(X)
#undef X
};

void
join_run(struct join *join)
{
    struct join_failure failure = {0};

    for (size_t i = 0; i < countof(steps); i++) {
        if (!(steps[i].levels & 1u << join->policy->level) || STEP_IS_SKIPPED(steps[i].name))
            continue;
        if (steps[i].take(join, &failure.err) < 0) {
            snprintf(failure.step, sizeof failure.step, "%s", steps[i].name);
            (void)!write(join->report, &failure, sizeof failure);
            break;
        }
    }
    _exit(127);
}
