/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/process.h"
#include "kernel/exits.h"
#include "kernel/handshake.h"
#include "kernel/image.h"
#include "kernel/paths.h"
#include "kernel/registry.h"
#include "kernel/sandboxes.h"

#define FRESH_MS 200     /* a connection file that is older is one of an earlier start */
#define RECONNECT_MS 300 /* until the sockets of its clients are back */
#define JUPYTER_SERVER_RATE 1000000 /* bytes: its iopub_data_rate_limit */
#define END_MS 1500    /* the interpreter has so long to run its atexit handlers */
#define LINKS_MAX 40   /* as the kernel: symlink(7) */
#define FRONT_START_MS 10000 /* the server has so long to say what cells get */
#define LINGER_MS 1000 /* ZeroMQ has so long to send what is queued */

/*** Start ***/

/* What profile strict calls them; the broker has the last word (BUILT). */
#define STRICT_DIRECTORY "/workspace"
#define STRICT_HOME "/home/user"
#define IMAGE_HOME "/root"

static int
has_profile(const struct kernel *k, const char *name)
{
    return k->options.profile && strcmp(k->options.profile, name) == 0;
}

const char *
kernel_containment(const struct kernel *k)
{
    return k->options.containment ? k->options.containment : "full";
}

int
kernel_in_container(const struct kernel *k)
{
    return options_in_container(&k->options);
}

int
kernel_has_root(const struct kernel *k)
{
    return k->image || kernel_in_container(k);
}

/* Where cells are processes of the same user as this one, none of them reads its memory (the key) or
 * its environment: Landlock says so, and so does this. */
static int
hide_memory(const struct kernel *k, struct err *err)
{
    if (strcmp(kernel_containment(k), "full") == 0)
        return 0;
    return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? err_errno(err, "hide the memory of husk") : 0;
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

int
kernel_find_directory(struct kernel *k, struct err *err)
{
    const char *home = has_profile(k, "image")                               ? IMAGE_HOME
                       : has_profile(k, "strict") || kernel_in_container(k) ? STRICT_HOME
                                                                            : paths_home();

    snprintf(k->home, sizeof k->home, "%s", home);
    if (has_profile(k, "strict") || has_profile(k, "image")) {
        snprintf(k->directory, sizeof k->directory, STRICT_DIRECTORY);
        return 0;
    }
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
 * directory where Jupyter (jupyter_core.paths) or we keep those of other kernels is shared. */
static int
add_secrets(const struct kernel *k, struct strv *options)
{
    struct err unused;
    scoped(str_free) char *registry = registry_directory(&unused); /* NULL: we have none, and keep nothing */
    const struct {
        const char *base, *below;
    } candidates[] = {{getenv("JUPYTER_RUNTIME_DIR"), ""},
                      {getenv("JUPYTER_DATA_DIR"), "/runtime"},
                      {getenv("XDG_DATA_HOME"), "/jupyter/runtime"},
                      {getenv("XDG_RUNTIME_DIR"), "/jupyter"},
                      {paths_home(), "/.local/share/jupyter/runtime"},
                      {registry, ""}};
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

static int
has_link_to_what_runs(const struct kernel *k, const char *directory)
{
    const char *at = getenv("PATH");
    int found = link_on_the_way(k->python.executable, directory) ||
                link_on_the_way(paths_program(), directory);
    char path[PATH_MAX];

    while (!found && at && *at) {
        size_t len = strcspn(at, ":");
        snprintf(path, sizeof path, "%.*s/", (int)len, at);
        found = link_on_the_way(path, directory);
        at += len + (at[len] == ':');
    }
    for (size_t i = 0; !found && i < k->python.own.len; i++) {
        snprintf(path, sizeof path, "%s/", k->python.own.item[i]);
        found = link_on_the_way(path, directory);
    }
    return found;
}

/* Such a directory counts as where the program lies, and is not shared to be written. */
static int
add_own(const struct kernel *k, struct strv *options)
{
    char source[PATH_MAX];
    int bad = 0;

    for (size_t i = 0; !bad && i < k->python.own.len; i++)
        bad = strv_addf(options, "own=%s", k->python.own.item[i]) < 0;
    if (!bad && has_link_to_what_runs(k, k->directory))
        bad = strv_addf(options, "own=%s", k->directory) < 0;
    for (size_t i = 0; !bad && i < k->options.mounts.len; i++) {
        const char *spec = k->options.mounts.item[i];
        snprintf(source, sizeof source, "%.*s", (int)strcspn(spec, ":"), spec);
        if (has_link_to_what_runs(k, source))
            bad = strv_addf(options, "own=%s", source) < 0;
        bad = bad || strv_addf(options, "mount=%s", spec) < 0;
    }
    return bad ? -1 : 0;
}

/* What decides which program runs outside of the sandbox, at the next start: if it lies in the
 * working directory, a cell must not be able to change it. */
static int
add_guards(const struct kernel *k, struct strv *options)
{
    static const char *const lists[] = {"PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "JUPYTER_PATH", "JUPYTER_CONFIG_PATH",
                                        "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"};
    static const char *const names[] = {".jupyter", ".ipython"};
    static const char *(*const ours[])(void) = {paths_program, paths_broker, paths_init, paths_network,
                                                paths_ports, paths_scope, paths_server, paths_kernel, paths_launch,
                                                paths_logos};
    int bad = add_secrets(k, options) < 0;

    for (size_t i = 0; !bad && i < countof(ours); i++)
        bad = add_guard(options, ours[i]()) < 0;
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

/* Of the user's IPython: not the history, the keys and the database that lie beside these. Wherever the user keeps it,
 * inside it is where IPython looks first. */
static int
add_ipython(const struct kernel *k, struct strv *options)
{
    static const char *const parts[] = {"startup", "ipython_config.py", "ipython_config.json",
                                        "ipython_kernel_config.py", "ipython_kernel_config.json"};
    const char *name = kernel_ipython(k), *elsewhere = getenv("IPYTHONDIR");
    int bad = 0;

    for (size_t i = 0; !bad && name && i < countof(parts); i++) {
        char source[PATH_MAX];
        if (!elsewhere || *elsewhere != '/') {
            bad = strv_addf(options, "path=%s/.ipython/profile_%s/%s", k->home, name, parts[i]) < 0;
            continue;
        }
        snprintf(source, sizeof source, "%s/profile_%s/%s", elsewhere, name, parts[i]);
        if (!strchr(source, ':') && access(source, F_OK) == 0)
            bad = strv_addf(options, "mount=%s:%s/.ipython/profile_%s/%s:ro", source, k->home, name, parts[i]) < 0;
    }
    return bad ? -1 : 0;
}

static int
add_container(const struct kernel *k, struct strv *o)
{
    const struct {
        const char *name, *value;
    } options[] = {{"container", k->options.image}, {"pull", k->options.pull},
                   {"runtime", k->options.runtime}, {"gpus", k->options.gpus}};
    int bad = 0;

    for (size_t i = 0; !bad && kernel_in_container(k) && i < countof(options); i++)
        if (options[i].value)
            bad = strv_addf(o, "%s=%s", options[i].name, options[i].value) < 0;
    return bad ? -1 : 0;
}

static int
ask_for_sandbox(struct kernel *k, struct err *err)
{
    scoped(strv_release) struct strv o = {0};
    scoped(str_free) char *state = paths_state("workspace", err), *hidden = NULL;
    scoped(str_free) char *layers = paths_layers(kernel_containment(k), err);
    int bad;

    if (!state || !layers)
        return -1;
    if (!k->options.memory)
        k->options.memory = default_memory();
    hidden = strdup(state);
    if (!hidden)
        return err_errno(err, "ask for the sandbox");
    *strrchr(hidden, '/') = 0; /* all of husk's state */
    bad = strv_addf(&o, "id=%.12s", wire_session(k->wire)) < 0 ||
          strv_addf(&o, "workdir=%s", k->directory) < 0 || strv_addf(&o, "state=%s", state) < 0 ||
          strv_addf(&o, "layers=%s", layers) < 0 || strv_addf(&o, "home=%s", k->home) < 0 ||
          strv_addf(&o, "hosthome=%s", paths_home()) < 0 || strv_addf(&o, "hide=%s", hidden) < 0 ||
          strv_addf(&o, "memory=%llu", (unsigned long long)k->options.memory) < 0 ||
          strv_addf(&o, "pids=%llu", (unsigned long long)k->options.pids) < 0 ||
          strv_addf(&o, "disk=%llu", (unsigned long long)k->options.disk) < 0 ||
          strv_addf(&o, "files=%llu", (unsigned long long)k->options.files) < 0 ||
          strv_addf(&o, "path=%s", paths_interpreter()) < 0 ||
          strv_addf(&o, "containment=%s", kernel_containment(k)) < 0 || strv_addf(&o, "hide=%s", layers) < 0;
    if (k->options.profile)
        bad = bad || strv_addf(&o, "profile=%s", k->options.profile) < 0;
    if (k->image)
        bad = bad || strv_addf(&o, "image=%s", k->image) < 0;
    bad = bad || add_container(k, &o) < 0;
    if (k->options.unconfined)
        bad = bad || strv_addf(&o, "unconfined=%s", k->options.unconfined) < 0;
    if (k->options.hostname)
        bad = bad || strv_addf(&o, "hostname=%s", k->options.hostname) < 0;
    if (k->options.cpus)
        bad = bad || strv_addf(&o, "cpus=%llu", (unsigned long long)k->options.cpus) < 0;
    if (k->options.tmp_size)
        bad = bad || strv_addf(&o, "tmp-size=%llu", (unsigned long long)k->options.tmp_size) < 0;
    if (k->options.resolver)
        bad = bad || strv_addf(&o, "resolver=%s", k->options.resolver) < 0;
    if (k->options.network && strcmp(k->options.network, "all") == 0)
        bad = bad || strv_add(&o, "allow=*") < 0; /* RULES_ALL of base/names.h */
    for (size_t i = 0; !bad && i < k->options.allow.len; i++)
        bad = strv_addf(&o, "allow=%s", k->options.allow.item[i]) < 0;
    for (size_t i = 0; !bad && i < k->python.paths.len; i++)
        bad = strv_addf(&o, "path=%s", k->python.paths.item[i]) < 0;
    bad = bad || add_ipython(k, &o) < 0;
    bad = bad || add_own(k, &o) < 0;
    bad = bad || add_guards(k, &o) < 0;
    return bad ? err_errno(err, "ask for the sandbox") : box_build(&k->box, &o, err);
}

/* A person's notebooks share one; what agents run by the thousand is no person's history. */
static const char *
history_kind(const struct kernel *k)
{
    if (k->options.history)
        return k->options.history;
    return !k->options.profile || has_profile(k, "notebook") ? "shared" : "session";
}

const char *
kernel_ipython(const struct kernel *k)
{
    int has_home_of_user = !kernel_in_container(k) && (!k->options.profile || has_profile(k, "notebook")) &&
                           strcmp(kernel_containment(k), "full") == 0;

    if (!has_home_of_user || (k->options.ipython && strcmp(k->options.ipython, "none") == 0))
        return NULL;
    return k->options.ipython ? k->options.ipython : "default";
}

/* What makes no sense together. */
static int
check_options(const struct kernel *k, struct err *err)
{
    if ((has_profile(k, "strict") || has_profile(k, "image")) && k->options.workdir)
        return err_set(err, EINVAL, "--workdir: profile %s shares no working directory; --mount shows "
                                    "one", k->options.profile);
    if (k->options.name && !registry_is_name(k->options.name))
        return err_set(err, EINVAL, "--name '%s' is no name of letters, digits, '.', '_' and '-'",
                       k->options.name);
    if (k->options.history && strcmp(k->options.history, "shared") != 0 &&
        strcmp(k->options.history, "session") != 0 && strcmp(k->options.history, "off") != 0)
        return err_set(err, EINVAL, "--history '%s' is not one of shared, session, off", k->options.history);
    if (k->options.ipython && !registry_is_name(k->options.ipython))
        return err_set(err, EINVAL, "--ipython '%s' is no name of letters, digits, '.', '_' and '-'",
                       k->options.ipython);
    if (k->options.ipython && strcmp(k->options.ipython, "none") != 0 && !kernel_ipython(k))
        return err_set(err, EINVAL, "--ipython needs --profile notebook and --containment full");
    if (kernel_in_container(k) && strcmp(kernel_containment(k), "full") != 0)
        return err_set(err, EINVAL, "--containment %s: a container has all that full has", kernel_containment(k));
    if (kernel_in_container(k))
        return 0;
    if (strcmp(kernel_containment(k), "none") == 0 && k->options.network)
        return err_set(err, EINVAL, "--network %s: containment none has the machine's own", k->options.network);
    if (k->options.image && !has_profile(k, "image"))
        return err_set(err, EINVAL, "--image needs --profile image");
    if (!k->options.image && has_profile(k, "image"))
        return err_set(err, EINVAL, "--profile image needs --image PATH");
    /* The broker would say so, too, but the image may take long to unpack. */
    if (k->options.image && strcmp(kernel_containment(k), "full") != 0)
        return err_set(err, EINVAL, "--profile image: containment %s has no root file system of its own",
                       kernel_containment(k));
    return 0;
}

/* An image's Python runs nowhere but in its sandbox, so it is not asked what it is: one that
 * cannot be used says so when it starts. */
static int
find_python(struct kernel *k, struct err *err)
{
    if (kernel_in_container(k)) { /* looked for on the PATH of its image, inside */
        k->python.executable = strdup(k->options.python ? k->options.python : "python3");
        return k->python.executable ? 0 : err_errno(err, "keep --python");
    }
    if (!k->image) {
        if (python_find(k->options.python, paths_probe(), &k->python, err) < 0)
            return -1;
        /* For who asks before the interpreter itself has said so. */
        k->can_debug = k->python.debugger && strcmp(kernel_containment(k), "full") == 0;
        return 0;
    }
    return image_python(k->image, k->options.python, &k->python.executable, err);
}

/* With a registration the ports are ours to choose, at each start anew. */
static int
open_sockets(struct kernel *k, int *ret_exit, struct err *err)
{
    int registers = k->conn.registration.port != 0;
    struct err why;

    if (k->front.socket >= 0 && strcmp(k->conn.transport, "ipc") == 0)
        return sockets_listen(&k->conn, k->doors, err);
    if (registers)
        memset(k->conn.port, 0, sizeof k->conn.port);
    if (wire_prepare(k->wire, err) < 0) {
        *ret_exit = EXIT_SYSTEM;
        return -1;
    }
    if (sockets_open(&k->conn, NULL, &k->sockets, ret_exit, err) < 0)
        return -1;
    conn_forget_curve(&k->conn);
    if (!registers)
        return 0;
    if (conn_save(&k->conn, k->options.connection_file, &why) < 0)
        log_warning("other clients will not find this kernel: %s", why.text);
    return handshake(&k->conn, k->wire, k->sockets.context, err);
}

/* Variables that hold secrets are on no command line. */
static int
hear_environment(struct kernel *k, struct err *err)
{
    struct bytes part;
    struct frame f;
    size_t at = 0;
    int r;

    if (k->front.socket < 0)
        return 0;
    r = front_await(&k->front, FRONT_START_MS, &f, err);
    if (r == 0 || (r > 0 && f.number != FRONT_ENVIRONMENT))
        return err_set(err, EPROTO, "the server did not say how to start");
    while (r > 0 && frame_next(&f, &at, &part))
        if (strv_addf(&k->options.environment, "%.*s", (int)part.len, (const char *)part.data) < 0)
            return err_errno(err, "keep a variable");
    return r < 0 ? -1 : 0;
}

/* Whether clients of a kernel before this one are there: a launcher writes the connection file just before the first start,
 * and leaves it for those that follow. Their sockets try again every 100 to 200 ms (ZMQ_RECONNECT_IVL), each
 * for itself: the one that brings a cell may be back before the one that hears what it prints, and
 * this kernel is ready sooner than that. */
static int
is_restart(const struct kernel *k)
{
    struct timespec now;
    struct stat st;

    clock_gettime(CLOCK_REALTIME, &now);
    return stat(k->options.connection_file, &st) == 0 &&
           (now.tv_sec - st.st_mtim.tv_sec) * 1000 + (now.tv_nsec - st.st_mtim.tv_nsec) / 1000000 > FRESH_MS;
}

/* Whether a Jupyter server started this kernel, and drops what is above its rates. It says so if that was for a notebook or a
 * console; else what it wrote about itself, by its number, lies beside the connection files of its kernels. */
static int
is_of_a_server(const struct kernel *k)
{
    const char *file = k->options.connection_file, *slash = strrchr(file, '/');
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%.*sjpserver-%d.json", slash ? (int)(slash + 1 - file) : 0, file, (int)getppid());

    return getenv("JPY_SESSION_NAME") || (n < (int)sizeof path && access(path, F_OK) == 0);
}

/* Everything up to the loop. The order: nothing is left behind if it fails, no thread exists
 * before the last process has been started, and the sandbox is being built while we bind. */
static int
start(struct kernel *k, struct err *err)
{
    int exit_code = EXIT_INPUT;

    if (!k->options.connection_file)
        return err_set(err, EINVAL, "no connection file: husk kernel -f FILE"), EXIT_USAGE;
    if (check_options(k, err) < 0)
        return EXIT_USAGE;
    if (hear_environment(k, err) < 0)
        return EXIT_SYSTEM;
    /* The broker loads while we read the connection file; there is no key in this process yet. */
    if (box_start(kernel_in_container(k) ? paths_docker() : paths_broker(), &k->box, err) < 0)
        return EXIT_SYSTEM;
    if (sodium_init() < 0)
        return err_set(err, EIO, "libsodium does not start"), EXIT_SYSTEM;
    if (hide_memory(k, err) < 0 || history_init(&k->history, history_kind(k), err) < 0)
        return EXIT_SYSTEM;
    if (conn_load(k->options.connection_file, &k->conn, &exit_code, err) < 0)
        return exit_code;
    k->wire = wire_new(k->conn.scheme, k->conn.key, k->conn.key_len, err);
    if (!k->wire)
        return EXIT_DATA;
    conn_forget_key(&k->conn);
    if (kernel_find_directory(k, err) < 0 || process_signals(&k->signals, err) < 0)
        return EXIT_SYSTEM;
    if (k->options.image && !kernel_in_container(k) && image_find(k->options.image, &k->image, err) < 0)
        return EXIT_SYSTEM;
    if (find_python(k, err) < 0)
        return EXIT_PYTHON;
    if (ask_for_sandbox(k, err) < 0)
        return EXIT_SYSTEM;
    warm_look(k); /* while it is built */
    if (open_sockets(k, &exit_code, err) < 0)
        return exit_code;
    if (k->front.socket < 0 && is_restart(k))
        k->hold_until = now_ms() + RECONNECT_MS;
    iopub_init(&k->iopub, k->sockets.socket[IOPUB], &k->front, k->wire);
    k->iopub.pace.rate = k->options.output_rate;
    if (!k->iopub.pace.rate && is_of_a_server(k))
        k->iopub.pace.rate = JUPYTER_SERVER_RATE;
    watch_parent(k);
    return EXIT_OK;
}

/* A kernel that cannot register runs all the same: its clients know it by its connection file. */
void
kernel_register(struct kernel *k)
{
    char id[16], file[PATH_MAX];
    struct registry_entry entry = {.id = id, .name = k->options.name, .connection_file = file, .directory = k->directory,
                                   .profile = k->options.profile ? k->options.profile : (char *)"notebook", .created = k->created};
    struct err err;
    int r;

    snprintf(id, sizeof id, "%.12s", wire_session(k->wire));
    r = realpath(k->options.connection_file, file) ? registry_put(&entry, &err)
                                                   : err_errno(&err, "find '%s'", k->options.connection_file);
    if (r < 0) {
        log_warning("commands will not find this kernel: %s", err.text); /* nor would anybody remove a socket of it after a crash */
        return;
    }
    k->registered = 1;
    callers_open(k, id);
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
    ON_AGENT,
    ON_ASIDE,
    ON_HISTORY,
    ON_FRONT,
    ON_CALLERS,
    ON_INTERP, /* its sockets; then its pipes */
    ON_SIDE,
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
        items[c] = (zmq_pollitem_t){.socket = k->sockets.socket[c], .fd = k->doors[c], .events = ZMQ_POLLIN};
    items[ON_BOX] = (zmq_pollitem_t){.fd = k->box.socket, .events = ZMQ_POLLIN};
    items[ON_SIGNAL] = (zmq_pollitem_t){.fd = k->signals, .events = ZMQ_POLLIN};
    items[ON_PARENT] = (zmq_pollitem_t){.fd = k->parent, .events = ZMQ_POLLIN};
    if (k->parent < 0)
        items[ON_PARENT].fd = k->signals;
    items[ON_AGENT] = (zmq_pollitem_t){.fd = k->agent.socket >= 0 ? k->agent.socket : k->signals,
                                       .events = ZMQ_POLLIN};
    if (k->agent.socket >= 0 && iopub_blocked(&k->iopub))
        items[ON_AGENT].events = 0;
    if (k->agent.socket >= 0 && k->agent.out.len)
        items[ON_AGENT].events |= ZMQ_POLLOUT;
    items[ON_ASIDE] = (zmq_pollitem_t){.fd = k->aside.socket >= 0 ? k->aside.socket : k->signals,
                                       .events = ZMQ_POLLIN};
    items[ON_HISTORY] = (zmq_pollitem_t){
        .fd = k->history.ready >= 0 ? k->history.ready : k->signals, .events = ZMQ_POLLIN};
    if (k->aside.socket >= 0 && k->aside.out.len)
        items[ON_ASIDE].events |= ZMQ_POLLOUT;
    items[ON_FRONT] = (zmq_pollitem_t){.fd = k->front.socket >= 0 ? k->front.socket : k->signals,
                                       .events = ZMQ_POLLIN};
    if (k->front.socket >= 0 && front_waiting(&k->front))
        items[ON_FRONT].events |= ZMQ_POLLOUT;
    items[ON_CALLERS] = (zmq_pollitem_t){.fd = k->callers.epoll >= 0 ? k->callers.epoll : k->signals,
                                         .events = ZMQ_POLLIN};
    /* A slow client: the interpreter is not read, so that it waits too. */
    if (!alive || iopub_blocked(&k->iopub))
        return ON_INTERP;
    items[ON_INTERP] = (zmq_pollitem_t){.fd = t->socket, .events = ZMQ_POLLIN};
    if (k->interp.out.buf.len)
        items[ON_INTERP].events |= ZMQ_POLLOUT;
    items[ON_SIDE] = (zmq_pollitem_t){.fd = t->side, .events = k->interp.side.buf.len ? ZMQ_POLLOUT : 0};
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

/* ms: when --idle-timeout strikes, if nothing comes before; 0: never. */
static int64_t
idle_over(const struct kernel *k)
{
    if (!k->options.idle_timeout || k->ending || shells_busy(k) || shells_waiting(k) ||
        k->agent.open.first)
        return 0;
    return k->last_asked + (int64_t)k->options.idle_timeout * 1000;
}

static long
timeout(const struct kernel *k)
{
    int64_t now = now_ms(), at = iopub_deadline(&k->iopub, now);

    if (k->callers.again)
        return 0;
    sooner(&at, k->callers.rest);
    sooner(&at, k->interp.timeline.look_again);
    sooner(&at, k->ending);
    sooner(&at, k->restarting);
    sooner(&at, watch_deadline(k));
    sooner(&at, k->interp.hung_up);
    for (const struct shell *s = &k->main; s; s = s->next)
        sooner(&at, s->input.retry);
    sooner(&at, k->leave_at);
    sooner(&at, k->hold_until);
    sooner(&at, k->listener.until);
    sooner(&at, operations_deadline(k));
    sooner(&at, aside_deadline(k));
    sooner(&at, history_deadline(k));
    sooner(&at, k->warm.give_up);
    sooner(&at, idle_over(k));
    sooner(&at, k->life_over);
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
tell_built(struct kernel *k)
{
    struct bytes id = bytes_of(wire_session(k->wire)), parts[3];

    parts[0] = (struct bytes){id.data, id.len < 12 ? id.len : 12};
    parts[1] = bytes_of(k->directory);
    parts[2] = bytes_of(k->home);
    front_send(&k->front, (struct frame){.number = FRONT_BUILT}, parts, 3);
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
        if (event.number == SANDBOX_EXPOSED)
            ports_event(k, &event);
        else if (event.number == SANDBOX_DIFFED)
            sandboxes_compared(k, &event);
        else if (event.slot >= AGENT_SLOTS)
            operations_event(k, &event);
        else
            interp_event(k, &event);
        if (event.number == SANDBOX_BUILT) {
            kernel_register(k);
            tell_built(k);
            operations_start(k);
        }
    }
}

static void
end_in_time(struct kernel *k, int64_t now)
{
    int64_t idle = idle_over(k);

    if (k->ending)
        return;
    if (k->life_over && now >= k->life_over) {
        log_warning("the kernel's lifetime of %llu s is over", (unsigned long long)k->options.lifetime);
        kernel_end(k);
    } else if (idle && now >= idle) {
        log_warning("nothing was asked for %llu s: the kernel ends",
                    (unsigned long long)k->options.idle_timeout);
        kernel_end(k);
    } else if (k->leave_at && now >= k->leave_at) {
        kernel_end(k);
    }
}

/* Somebody comes with ZeroMQ to a kernel that only the server spoke to. No process is forked any more
 * in this one: what is started is started by the broker. */
static void
open_doors(struct kernel *k)
{
    int unused;
    struct err err;

    if (wire_prepare(k->wire, &err) < 0 || sockets_open(&k->conn, k->doors, &k->sockets, &unused, &err) < 0) {
        log_warning("nobody can speak to this kernel over ZeroMQ: %s", err.text);
        for (int c = 0; c < CHANNELS; c++)
            fd_close(&k->doors[c]);
        return;
    }
    k->iopub.socket = k->sockets.socket[IOPUB];
}

static int
is_at_a_door(struct kernel *k, const zmq_pollitem_t *items)
{
    for (int c = 0; c < CHANNELS; c++)
        if (k->doors[c] >= 0 && items[c].revents)
            return 1;
    return 0;
}

static void
turn(struct kernel *k)
{
    zmq_pollitem_t items[SOURCES];
    size_t n = list_sources(k, items);

    if (zeromq_poll(items, (int)n, timeout(k)) < 0 && errno != EINTR)
        return;
    k->iopub.now = now_ms();
    if (is_at_a_door(k, items)) {
        open_doors(k);
        return;
    }
    if (items[ON_FRONT].revents && k->front.socket >= 0)
        dispatch_front(k);
    if (items[ON_CALLERS].revents || k->callers.again || k->callers.rest)
        callers_run(k);
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
    interp_flush(k);
    interp_feed(k);
    interp_run(k);
    if (items[ON_AGENT].revents)
        operations_run(k);
    if (items[ON_ASIDE].revents)
        aside_run(k);
    if (items[ON_HISTORY].revents)
        history_run(k);
    if (items[ON_BOX].revents)
        take_box_events(k);
    iopub_tick(&k->iopub, now_ms());
    watch_tick(k, now_ms());
    interp_ask(k);
    operations_tick(k, now_ms());
    aside_tick(k, now_ms());
    interp_tick(k, now_ms());
    history_tick(k, now_ms());
    warm_tick(k, now_ms());
    if (k->hold_until && now_ms() >= k->hold_until)
        k->hold_until = 0;
    if (k->listener.until && (k->iopub.announced || now_ms() >= k->listener.until))
        k->listener.until = 0;
    end_in_time(k, now_ms());
    interp_feed(k);
    if (k->ending && now_ms() >= k->ending)
        k->done = 1;
}

void
kernel_end(struct kernel *k)
{
    if (k->ending)
        return;
    k->leave_at = k->life_over = 0;
    k->ending = now_ms() + END_MS;
    if (k->interp.state < INTERP_STARTING)
        k->done = 1;
    interp_shutdown(k);
}

static void
tell_failure(struct kernel *k, int exit_code, const struct err *err)
{
    struct bytes text = bytes_of(err->text);

    front_send(&k->front, (struct frame){.number = FRONT_FAILED, .value = (uint32_t)exit_code}, &text, 1);
}

void
kernel_fail(struct kernel *k, int exit_code, const struct err *err)
{
    if (k->done)
        return;
    log_error("%s", err->text);
    tell_failure(k, exit_code, err);
    k->exit_code = exit_code;
    k->done = 1;
}

static void
unregister(struct kernel *k)
{
    char id[16];

    snprintf(id, sizeof id, "%.12s", wire_session(k->wire));
    registry_remove(id, k->options.connection_file);
}

static void
release(struct kernel *k)
{
    if (k->iopub.wire) { /* it has started */
        interp_release(k);
        operations_release(k);
        aside_release(k);
    }
    history_release(k);
    ports_release(k);
    warm_release(k);
    sandboxes_release(k);
    buf_release(&k->tags);
    box_end(&k->box);
    iopub_release(&k->iopub);
    front_linger(&k->front, LINGER_MS);
    callers_release(k);
    sockets_close(&k->sockets, LINGER_MS);
    for (int c = 0; c < CHANNELS; c++)
        fd_close(&k->doors[c]);
    if (k->wire)
        unregister(k);
    wire_free(k->wire);
    conn_release(&k->conn);
    python_release(&k->python);
    str_free(&k->image);
    front_release(&k->front);
    strv_release(&k->container_environment);
    parents_release(&k->parents);
    fd_close(&k->signals);
    fd_close(&k->parent);
}

int
kernel_run(struct kernel *k, struct err *err)
{
    int r;

    k->box = BOX_EMPTY;
    k->warm = WARM_EMPTY;
    k->interp.timeline = (struct timeline){.socket = -1, .side = -1, .pipe = {-1, -1}};
    shells_init(k);
    for (int c = 0; c < CHANNELS; c++)
        k->doors[c] = -1;
    k->front = FRONT_NONE;
    k->callers = CALLERS_NONE;
    if (k->options.front > 2 && fcntl((int)k->options.front, F_SETFD, FD_CLOEXEC) == 0)
        front_open(&k->front, (int)k->options.front, FRONT_BY_SERVER);
    k->signals = k->parent = k->agent.socket = k->aside.socket = k->history.ready = -1;
    k->aside.wanted = getenv("JPY_SESSION_NAME") != NULL; /* a notebook or console of a Jupyter server */
    clock_text(clock_us(), k->created);
    k->next_count = 1;
    r = start(k, err);
    if (r == EXIT_OK) {
        k->last_asked = k->account.began = now_ms();
        if (k->options.lifetime)
            k->life_over = k->last_asked + (int64_t)k->options.lifetime * 1000;
        if (k->front.socket >= 0)
            dispatch_front(k); /* what came together with the environment */
        while (!k->done)
            turn(k);
        r = k->exit_code;
    } else {
        tell_failure(k, r, err);
    }
    release(k);
    return r;
}
