/* SPDX-License-Identifier: BSD-3-Clause
 *
 * shim.c: between the agent and a command. Whatever the command starts comes back to it when its own
 * parent ends (PR_SET_CHILD_SUBREAPER), so it can find and end the whole tree, with those who
 * called setsid(2) or forked twice.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/agent.h"

#define SHIM_SOCKET 3
#define PIDS_MAX 65536

extern char **environ;

static void
say(enum shim_says kind, int value)
{
    struct shim_word word = {kind, value};

    (void)!send(SHIM_SOCKET, &word, sizeof word, MSG_NOSIGNAL);
}

/*** The command ***/

/* Those that the agent ignores; the others have been so since it began. */
static void
default_signals(void)
{
    sigset_t none;

    for (size_t i = 0; i < countof(shim_ignored); i++)
        signal(shim_ignored[i], SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In the memory of the shim, which waits: until exec, or why it did not come to that. */
static void __attribute__((noreturn))
run_command(const struct shim *s, volatile int why[2])
{
    struct rlimit files;

    default_signals();
    setsid();
    if (s->tty)
        ioctl(0, TIOCSCTTY, 0);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = s->files;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    why[0] = SHIM_NO_DIRECTORY;
    if (chdir(s->directory) == 0) {
        why[0] = SHIM_FAILED;
        environ = (char **)s->environment;
        execvp(s->argv[0], s->argv);
    }
    why[1] = errno;
    _exit(127);
}

static pid_t
start_command(const struct shim *s)
{
    volatile int why[2] = {0};
    pid_t pid = vfork(); /* no copy of any page: this is where the time of a short command goes */

    if (pid < 0) {
        say(SHIM_FAILED, errno);
        return -1;
    }
    if (pid == 0)
        run_command(s, why);
    if (why[1]) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        say((enum shim_says)why[0], why[1]);
        return -1;
    }
    say(SHIM_STARTED, pid);
    return pid;
}

/*** Its tree ***/

/* Signals all descendants; how many there were. */
static int
signal_tree(int signal)
{
    static struct {
        pid_t pid, parent;
        int in;
    } all[PIDS_MAX];
    DIR *proc = opendir("/proc");
    struct dirent *e;
    size_t n = 0;
    int found = 0, more = 1;

    while (proc && n < PIDS_MAX && (e = readdir(proc)))
        if (*e->d_name >= '1' && *e->d_name <= '9' && (all[n].parent = pid_parent(e->d_name)) > 0) {
            all[n].in = all[n].parent == getpid();
            all[n++].pid = (pid_t)atoi(e->d_name);
        }
    if (proc)
        closedir(proc);
    while (more) {
        more = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; !all[i].in && j < n; j++)
                if (all[j].in && all[j].pid == all[i].parent)
                    all[i].in = more = 1;
    }
    for (size_t i = 0; i < n; i++)
        if (all[i].in && kill(all[i].pid, signal) == 0)
            found++;
    return found;
}

static void
reap(pid_t command)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == command)
            say(SHIM_EXITED, status);
    if (pid < 0 && errno == ECHILD)
        _exit(0); /* the tree is gone: the agent sees the end of the socket */
}

/* A process that forks meanwhile is caught by the next round. */
static void __attribute__((noreturn))
end_tree(pid_t command)
{
    for (;;) {
        signal_tree(SIGKILL);
        reap(command);
        poll(NULL, 0, 1);
    }
}

static void
hear(pid_t command)
{
    struct shim_word word;
    ssize_t n = recv(SHIM_SOCKET, &word, sizeof word, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n != (ssize_t)sizeof word || word.value == SIGKILL)
        end_tree(command);
    signal_tree(word.value);
}

/* Descriptors: 0, 1, 2 of the command, 3 to the agent, nothing else. */
static void
place_descriptors(struct shim *s)
{
    int held[] = {fcntl(s->in, F_DUPFD_CLOEXEC, 64), fcntl(s->out, F_DUPFD_CLOEXEC, 64),
                  fcntl(s->err, F_DUPFD_CLOEXEC, 64), fcntl(s->socket, F_DUPFD_CLOEXEC, 64)};

    for (int i = 0; i < (int)countof(held); i++)
        if (held[i] < 0 || dup2(held[i], i) < 0)
            _exit(1);
    syscall(SYS_close_range, SHIM_SOCKET + 1, ~0u, 0);
    fcntl(SHIM_SOCKET, F_SETFD, FD_CLOEXEC);
}

void
shim_run(struct shim *s)
{
    struct pollfd wait[2] = {{.fd = SHIM_SOCKET, .events = POLLIN}, {.events = POLLIN}};
    struct signalfd_siginfo info;
    sigset_t child;
    pid_t pid;

    signal(SIGCHLD, SIG_DFL);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    prctl(PR_SET_NAME, "husk-shim", 0, 0, 0);
    place_descriptors(s);
    pid = start_command(s);
    if (pid < 0)
        _exit(0);
    /* Its input and output belong to the command alone: who reads sees the end when that closes. */
    for (int i = 0; i < 3; i++)
        close(i);
    wait[1].fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    for (;;) {
        if (poll(wait, 2, -1) < 0 && errno != EINTR)
            end_tree(pid);
        while (read(wait[1].fd, &info, sizeof info) > 0)
            ;
        reap(pid);
        if (wait[0].revents)
            hear(pid);
    }
}
