/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/kernel.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "kernel/exits.h"
#include "kernel/paths.h"

#define END_MS 1500    /* the interpreter has so long to run its atexit handlers */
#define LINKS_MAX 40   /* as the kernel: symlink(7) */
#define LINGER_MS 1000 /* ZeroMQ has so long to send what is queued */

/*** Start ***/

static int
open_signals(struct kernel *k, struct err *err)
{
    sigset_t set;

    /* Before ZeroMQ has threads, which inherit the mask. */
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return err_errno(err, "block signals");
    k->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return k->signals < 0 ? err_errno(err, "listen to signals") : 0;
}

/* The client that started us says who it is; when it is gone, so are we. */
static void
watch_parent(struct kernel *k)
{
    const char *said = getenv("JPY_PARENT_PID");
    int pid = said ? atoi(said) : 0;

    k->parent = -1;
    if (pid <= 1)
        return;
    k->parent = (int)syscall(SYS_pidfd_open, pid, 0);
    if (k->parent < 0 && errno == ESRCH)
        k->done = 1;
}

static int
find_directory(struct kernel *k, struct err *err)
{
    if (!realpath(k->options.workdir ? k->options.workdir : ".", k->directory))
        return err_errno(err, "find the working directory '%s'",
                         k->options.workdir ? k->options.workdir : ".");
    return 0;
}

static uint64_t
default_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size / 2 : 2ull << 30;
}

static int
add_guard(struct strv *options, const char *path)
{
    char real[PATH_MAX];

    if (*path != '/' || !realpath(path, real))
        return 0; /* relative, or nothing there */
    return strv_addf(options, "guard=%s", real);
}

/* The key must not be readable inside, wherever the client put the connection file; and no
 * directory where Jupyter keeps those of other kernels (jupyter_core.paths) is shared. */
static int
add_secrets(const struct kernel *k, struct strv *options)
{
    const struct {
        const char *base, *below;
    } candidates[] = {{getenv("JUPYTER_RUNTIME_DIR"), ""},
                      {getenv("JUPYTER_DATA_DIR"), "/runtime"},
                      {getenv("XDG_DATA_HOME"), "/jupyter/runtime"},
                      {getenv("XDG_RUNTIME_DIR"), "/jupyter"},
                      {paths_home(), "/.local/share/jupyter/runtime"}};
    char real[PATH_MAX], path[PATH_MAX];
    int bad = realpath(k->options.connection_file, real) &&
              strv_addf(options, "mask=%s", real) < 0;

    for (size_t i = 0; !bad && i < countof(candidates); i++) {
        if (!candidates[i].base || *candidates[i].base != '/')
            continue;
        snprintf(path, sizeof path, "%s%s", candidates[i].base, candidates[i].below);
        if (realpath(path, real))
            bad = strv_addf(options, "hide=%s", real) < 0;
    }
    return bad ? -1 : 0;
}

static int
lies_in(const char *path, const char *directory)
{
    size_t len = strlen(directory);

    return strncmp(path, directory, len) == 0 && (path[len] == '/' || path[len] == 0);
}

/* Whether a directory on the way to `path` is a symbolic link that lies in the working directory:
 * nothing can be mounted on a link, so a cell could put its own in its place. Follows the way as
 * the kernel does, link by link. The last name may be a link: its directory is read-only. */
static int
link_on_the_way(const char *path, const char *directory)
{
    char done[PATH_MAX] = "", rest[PATH_MAX], next[2 * PATH_MAX], target[PATH_MAX];
    int links = 0;

    snprintf(rest, sizeof rest, "%s", path);
    while (*rest && links < LINKS_MAX) {
        char *name = rest + strspn(rest, "/");
        size_t len = strcspn(name, "/"), used = strlen(done);
        ssize_t n;

        if (len == 0)
            break;
        if (len == 2 && strncmp(name, "..", 2) == 0 && strrchr(done, '/'))
            *strrchr(done, '/') = 0;
        else if (!(len == 1 && *name == '.') && !(len == 2 && strncmp(name, "..", 2) == 0))
            snprintf(done + used, sizeof done - used, "/%.*s", (int)len, name);
        memmove(rest, name + len, strlen(name + len) + 1);
        n = readlink(done, target, sizeof target - 1);
        if (n <= 0)
            continue;
        target[n] = 0;
        links++;
        if (done[used] == '/')
            done[used] = 0; /* the directory of the link */
        if (*rest && lies_in(done, directory))
            return 1;
        if (*target == '/')
            *done = 0;
        if (snprintf(next, sizeof next, "%s%s", target, rest) >= (int)sizeof rest)
            return 1;
        memcpy(rest, next, strlen(next) + 1);
    }
    return links == LINKS_MAX; /* too many to say: not shared */
}

/* Then the whole directory counts as where the program lies, and is not shared. */
static int
add_own(const struct kernel *k, struct strv *options)
{
    const char *at = getenv("PATH");
    int found = link_on_the_way(k->python.executable, k->directory) ||
                link_on_the_way(paths_program(), k->directory);

    while (!found && at && *at) {
        char path[PATH_MAX];
        size_t len = strcspn(at, ":");
        snprintf(path, sizeof path, "%.*s/", (int)len, at);
        found = link_on_the_way(path, k->directory);
        at += len + (at[len] == ':');
    }
    for (size_t i = 0; i < k->python.own.len; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/", k->python.own.item[i]);
        found = found || link_on_the_way(path, k->directory);
        if (strv_addf(options, "own=%s", k->python.own.item[i]) < 0)
            return -1;
    }
    return found ? strv_addf(options, "own=%s", k->directory) : 0;
}

/* What decides which program runs outside of the sandbox, at the next start: if it lies in the
 * working directory, a cell must not be able to change it. */
static int
add_guards(const struct kernel *k, struct strv *options)
{
    static const char *const lists[] = {"PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "JUPYTER_PATH", "JUPYTER_CONFIG_PATH",
                                        "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"};
    static const char *const names[] = {".jupyter", ".ipython"};
    int bad = add_guard(options, paths_program()) < 0 || add_guard(options, paths_broker()) < 0 ||
              add_guard(options, paths_init()) < 0 || add_guard(options, paths_logos()) < 0 ||
              add_secrets(k, options) < 0;

    for (size_t i = 0; !bad && i < countof(names) && k->directory[1]; i++)
        bad = strv_addf(options, "guard=%s/%s", k->directory, names[i]) < 0;
    for (size_t i = 0; !bad && i < countof(lists); i++) {
        const char *at = getenv(lists[i]);
        while (!bad && at && *at) {
            char path[PATH_MAX];
            size_t len = strcspn(at, ":");
            snprintf(path, sizeof path, "%.*s", (int)len, at);
            bad = add_guard(options, path) < 0;
            at += len + (at[len] == ':');
        }
    }
    return bad ? -1 : 0;
}

static int
ask_for_sandbox(struct kernel *k, struct err *err)
{
    scoped(strv_release) struct strv o = {0};
    scoped(str_free) char *state = paths_state("workspace", err), *hidden = NULL;
    uint64_t memory = k->options.memory ? k->options.memory : default_memory();
    int bad;

    if (!state)
        return -1;
    hidden = strdup(state);
    if (!hidden)
        return err_errno(err, "ask for the sandbox");
    *strrchr(hidden, '/') = 0; /* all of husk's state */
    bad = strv_addf(&o, "id=%.12s", wire_session(k->wire)) < 0 ||
          strv_addf(&o, "workdir=%s", k->directory) < 0 || strv_addf(&o, "state=%s", state) < 0 ||
          strv_addf(&o, "home=%s", paths_home()) < 0 ||
          strv_addf(&o, "hosthome=%s", paths_home()) < 0 || strv_addf(&o, "hide=%s", hidden) < 0 ||
          strv_addf(&o, "memory=%llu", (unsigned long long)memory) < 0 ||
          strv_addf(&o, "pids=%llu", (unsigned long long)k->options.pids) < 0 ||
          strv_addf(&o, "files=%llu", (unsigned long long)k->options.files) < 0 ||
          strv_addf(&o, "path=%s", paths_interpreter()) < 0;
    if (k->options.tmp_size)
        bad = bad || strv_addf(&o, "tmp-size=%llu", (unsigned long long)k->options.tmp_size) < 0;
    for (size_t i = 0; !bad && i < k->python.paths.len; i++)
        bad = strv_addf(&o, "path=%s", k->python.paths.item[i]) < 0;
    bad = bad || add_own(k, &o) < 0;
    bad = bad || add_guards(k, &o) < 0;
    return bad ? err_errno(err, "ask for the sandbox") : box_build(&k->box, &o, err);
}

/* Everything up to the loop. The order: nothing is left behind if it fails, no thread exists
 * before the last process has been started, and the sandbox is being built while we bind. */
static int
start(struct kernel *k, struct err *err)
{
    int exit_code = EXIT_INPUT;

    if (sodium_init() < 0)
        return err_set(err, EIO, "libsodium does not start"), EXIT_SYSTEM;
    if (!k->options.connection_file)
        return err_set(err, EINVAL, "no connection file: husk kernel -f FILE"), EXIT_USAGE;
    if (conn_load(k->options.connection_file, &k->conn, &exit_code, err) < 0)
        return exit_code;
    k->wire = wire_new(k->conn.scheme, k->conn.key, k->conn.key_len, err);
    if (!k->wire)
        return EXIT_DATA;
    conn_forget_key(&k->conn);
    if (find_directory(k, err) < 0 || open_signals(k, err) < 0)
        return EXIT_SYSTEM;
    if (box_start(paths_broker(), paths_init(), &k->box, err) < 0)
        return EXIT_SYSTEM;
    if (python_find(k->options.python, paths_probe(), &k->python, err) < 0)
        return EXIT_PYTHON;
    if (ask_for_sandbox(k, err) < 0)
        return EXIT_SYSTEM;
    if (sockets_open(&k->conn, &k->sockets, &exit_code, err) < 0)
        return exit_code;
    iopub_init(&k->iopub, k->sockets.socket[IOPUB], k->wire);
    watch_parent(k);
    return EXIT_OK;
}

/*** The loop ***/

enum source {
    ON_SHELL,
    ON_CONTROL,
    ON_IOPUB,
    ON_STDIN,
    ON_HB,
    ON_BOX,
    ON_SIGNAL,
    ON_PARENT,
    ON_INTERP, /* its socket; then its pipes */
    ON_PIPE0,
    ON_PIPE1,
    SOURCES
};

static size_t
list_sources(struct kernel *k, zmq_pollitem_t items[static SOURCES])
{
    const struct timeline *t = &k->interp.timeline;
    int alive = k->interp.state >= INTERP_STARTING && k->interp.state != INTERP_DEAD &&
                !k->interp.broken.code && !t->ended;

    for (int c = 0; c < CHANNELS; c++)
        items[c] = (zmq_pollitem_t){.socket = k->sockets.socket[c], .events = ZMQ_POLLIN};
    items[ON_BOX] = (zmq_pollitem_t){.fd = k->box.socket, .events = ZMQ_POLLIN};
    items[ON_SIGNAL] = (zmq_pollitem_t){.fd = k->signals, .events = ZMQ_POLLIN};
    items[ON_PARENT] = (zmq_pollitem_t){.fd = k->parent, .events = ZMQ_POLLIN};
    if (k->parent < 0)
        items[ON_PARENT].fd = k->signals;
    /* A slow client: the interpreter is not read, so that it waits too. */
    if (!alive || iopub_blocked(&k->iopub))
        return ON_INTERP;
    items[ON_INTERP] = (zmq_pollitem_t){.fd = t->socket, .events = ZMQ_POLLIN};
    if (k->interp.out.len)
        items[ON_INTERP].events |= ZMQ_POLLOUT;
    for (int i = 0; i < 2; i++)
        items[ON_PIPE0 + i] = (zmq_pollitem_t){
            .fd = t->pipe[i] >= 0 ? t->pipe[i] : t->socket, .events = ZMQ_POLLIN};
    return SOURCES;
}

static void
sooner(int64_t *at, int64_t other)
{
    if (other && (!*at || other < *at))
        *at = other;
}

static long
timeout(const struct kernel *k)
{
    int64_t now = now_ms(), at = iopub_deadline(&k->iopub, now);

    sooner(&at, k->interp.timeline.look_again);
    sooner(&at, k->ending);
    sooner(&at, k->interp.watch.at);
    sooner(&at, k->interp.hung_up);
    if (!at)
        return -1;
    return at > now ? (long)(at - now) : 0;
}

static void
echo_heartbeat(struct kernel *k)
{
    struct frames f = {0};

    while (frames_recv(&f, k->sockets.socket[HB])) {
        for (size_t i = 0; i < f.n; i++)
            send_bytes(k->sockets.socket[HB], f.bytes[i], i + 1 < f.n);
        frames_release(&f);
    }
    frames_release(&f);
}

static void
take_signals(struct kernel *k)
{
    struct signalfd_siginfo info;

    while (read(k->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGINT)
            interp_interrupt(k);
        else
            kernel_end(k);
    }
}

static void
take_box_events(struct kernel *k)
{
    struct frame event;
    struct err err;
    int r;

    while (!k->done && (r = box_event(&k->box, &event, &err)) != 0) {
        if (r < 0) {
            kernel_fail(k, EXIT_SANDBOX, &err);
            return;
        }
        interp_event(k, &event);
    }
}

static void
turn(struct kernel *k)
{
    zmq_pollitem_t items[SOURCES];
    size_t n = list_sources(k, items);

    if (zmq_poll(items, (int)n, timeout(k)) < 0 && errno != EINTR)
        return;
    k->iopub.now = now_ms();
    if (items[ON_SIGNAL].revents)
        take_signals(k);
    if (items[ON_PARENT].revents && k->parent >= 0)
        k->done = 1;
    if (items[ON_IOPUB].revents)
        iopub_subscriptions(&k->iopub);
    if (items[ON_HB].revents)
        echo_heartbeat(k);
    if (items[ON_CONTROL].revents)
        dispatch_socket(k, CONTROL);
    if (items[ON_SHELL].revents)
        dispatch_socket(k, SHELL);
    if (items[ON_STDIN].revents)
        dispatch_stdin(k);
    if (k->interp.out.len)
        interp_flush(k);
    interp_feed(k);
    interp_run(k);
    if (items[ON_BOX].revents)
        take_box_events(k);
    iopub_tick(&k->iopub, now_ms());
    watch_tick(k, now_ms());
    interp_feed(k);
    if (k->ending && now_ms() >= k->ending)
        k->done = 1;
}

void
kernel_end(struct kernel *k)
{
    if (k->ending)
        return;
    k->ending = now_ms() + END_MS;
    if (k->interp.state < INTERP_STARTING)
        k->done = 1;
    interp_shutdown(k);
}

void
kernel_fail(struct kernel *k, int exit_code, const struct err *err)
{
    if (k->done)
        return;
    log_error("%s", err->text);
    k->exit_code = exit_code;
    k->done = 1;
}

static void
release(struct kernel *k)
{
    if (k->iopub.socket)
        interp_release(k);
    box_end(&k->box);
    iopub_release(&k->iopub);
    sockets_close(&k->sockets, LINGER_MS);
    wire_free(k->wire);
    conn_release(&k->conn);
    python_release(&k->python);
    parents_release(&k->parents);
    history_release(&k->history);
    fd_close(&k->signals);
    fd_close(&k->parent);
}

int
kernel_run(struct kernel *k, struct err *err)
{
    int r;

    k->box = BOX_EMPTY;
    k->interp.timeline = (struct timeline){.socket = -1, .pipe = {-1, -1}};
    k->signals = k->parent = -1;
    k->next_count = 1;
    r = start(k, err);
    if (r == EXIT_OK) {
        while (!k->done)
            turn(k);
        r = k->exit_code;
    }
    release(k);
    return r;
}
