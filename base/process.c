/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/signalfd.h>
#include <unistd.h>

int
process_signals(int *ret, struct err *err)
{
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return err_errno(err, "block signals");
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return err_errno(err, "listen to signals");
    *ret = fd;
    return 0;
}

int
process_spawn(char *const argv[], char *const environment[], const struct process_fd *fds,
              enum process_session session, pid_t *ret, struct err *err)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, ignored;
    pid_t pid;
    int r;

    posix_spawn_file_actions_init(&actions);
    for (; fds->as >= 0; fds++) {
        if (fds->path)
            posix_spawn_file_actions_addopen(&actions, fds->as, fds->path, fds->flags, 0600);
        else
            posix_spawn_file_actions_adddup2(&actions, fds->fd, fds->as);
    }
    posix_spawnattr_init(&attr);
    sigemptyset(&none);
    sigemptyset(&ignored);
    sigaddset(&ignored, SIGPIPE);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &ignored);
    posix_spawnattr_setflags(&attr, (short)(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                            (session == PROCESS_OF_ITS_OWN ? POSIX_SPAWN_SETSID : 0)));
    r = posix_spawnp(&pid, argv[0], &actions, &attr, argv, environment);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    errno = r;
    if (r != 0)
        return err_errno(err, "start '%s'", argv[0]);
    *ret = pid;
    return 0;
}

int
process_hear(int fd, int64_t ms, size_t max, struct buf *ret)
{
    int64_t end = now_ms() + ms;

    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = end - now_ms();
        ssize_t n;

        if (left <= 0 || ret->len > max || buf_reserve(ret, 4096) < 0)
            return -1;
        if (poll(&p, 1, (int)left) <= 0)
            continue;
        n = read(fd, ret->data + ret->len, 4096);
        if (n <= 0)
            return (int)n;
        ret->len += (size_t)n;
    }
}
