/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/advice.h"
#include "sandbox/loopback.h"
#include "wall/sandbox.h"

#define PROGRAM "/bin/true"
#define PROGRAM_SLOT UINT32_MAX /* the supervisor counts from 1 */
#define PROGRAM_MS 10000        /* it has so long to start, and so long to end */
#define OLDEST_MAJOR 5          /* Landlock came with Linux 5.13 */
#define OLDEST_MINOR 13
#define SUBORDINATE_IDS 65536 /* what useradd gives, too */
#define SUBORDINATE_FIRST 100000

/*** A process in the sandbox ***/

/* The next frame of pid 1. 0, or -1 with the failure set. */
static int
await(int socket, struct buf *packet, struct frame *ret, struct err *err)
{
    struct pollfd p = {.fd = socket, .events = POLLIN};
    int fds[SANDBOX_FDS], r;

    do
        r = poll(&p, 1, PROGRAM_MS);
    while (r < 0 && errno == EINTR);
    if (r == 0)
        return err_set(err, ETIMEDOUT, "pid 1 gave no answer in %d s", PROGRAM_MS / 1000);
    r = packet_recv(socket, packet, SANDBOX_BY_INIT, SANDBOX_READY, ret, fds, err);
    return r == 0 ? err_set(err, ECHILD, "pid 1 ended") : r < 0 ? -1 : 0;
}

static int
send_order(int socket, struct err *err)
{
    scoped(fd_close) int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct bytes parts[] = {BYTES("/"), {(const uint8_t *)PROGRAM, sizeof PROGRAM},
                            {(const uint8_t *)"", 0}};
    int fds[SANDBOX_FDS];

    if (null < 0)
        return err_errno(err, "open '/dev/null'");
    for (int i = 0; i < SANDBOX_FDS; i++)
        fds[i] = null;
    return packet_send(socket, (struct frame){.number = SANDBOX_SPAWN, .slot = PROGRAM_SLOT},
                       parts, countof(parts), fds, SANDBOX_FDS, err);
}

void
doctor_try_process(int socket, struct checkup *c)
{
    scoped(buf_release) struct buf packet = {0};
    struct build_failure *failure = &c->failure;
    int64_t start = now_us();
    struct frame f;

    snprintf(failure->step, sizeof failure->step, "process");
    if (send_order(socket, &failure->err) < 0 || await(socket, &packet, &f, &failure->err) < 0)
        return;
    c->process_us = now_us() - start;
    if (f.number == SANDBOX_FAILED) {
        struct bytes step = frame_part(&f, 0), text = frame_part(&f, 1);
        snprintf(failure->step, sizeof failure->step, "%.*s", (int)step.len, step.data);
        err_set(&failure->err, (int)f.value, "%.*s", (int)text.len, text.data);
        /* A system without that program: everything that binds it had been done by then. */
        c->usable = bytes_equal(step, "execute") && f.value == ENOENT;
        return;
    }
    if (await(socket, &packet, &f, &failure->err) < 0)
        return;
    if (f.number != SANDBOX_EXITED || f.value != 0)
        err_set(&failure->err, ECHILD, "'" PROGRAM "' ended with %s %d",
                WIFSIGNALED(f.value) ? "signal" : "status",
                WIFSIGNALED(f.value) ? WTERMSIG(f.value) : WEXITSTATUS(f.value));
    else
        c->usable = 1;
}

/*** What each check knows and says ***/

struct finding {
    const char *status; /* "ok", "missing", "note" */
    char found[1024];
    char repair[2048];
};

enum container { NONE, DOCKER, PODMAN, KUBERNETES, OTHER };

struct look {
    const struct checkup *c;
    const struct limits *limits;
    const struct build_times *times;
    enum container container;
    const char *sign; /* by which the container was recognized */
};

static void __attribute__((format(printf, 3, 4)))
say(struct finding *f, const char *status, const char *format, ...)
{
    va_list list;

    f->status = status;
    va_start(list, format);
    vsnprintf(f->found, sizeof f->found, format, list);
    va_end(list);
}

/* Adds lines. */
static void __attribute__((format(printf, 2, 3)))
repair(struct finding *f, const char *format, ...)
{
    size_t used = strlen(f->repair);
    va_list list;

    va_start(list, format);
    vsnprintf(f->repair + used, sizeof f->repair - used, format, list);
    va_end(list);
}

static int
failed_at(const struct look *l, const char *step)
{
    return !l->c->usable && strcmp(l->c->failure.step, step) == 0;
}

/* The machine said no, as opposed to: it cannot, or something is not there. */
static int
refused_at(const struct look *l, const char *step)
{
    return failed_at(l, step) &&
           (l->c->failure.err.code == EPERM || l->c->failure.err.code == EACCES);
}

/* It said no to what an ordinary user may do on a machine of their own. An EACCES of other steps
 * is about some file. */
static int
is_refused(const struct look *l)
{
    int eperm = !l->c->usable && l->c->failure.err.code == EPERM;

    return (eperm && !failed_at(l, "identity")) || refused_at(l, "namespaces") ||
           refused_at(l, "maps") || refused_at(l, "cgroup_namespace") ||
           refused_at(l, "root");
}

/* Before anything was asked of the machine but files. */
static int
ended_early(const struct look *l)
{
    static const char *const steps[] = {"options", "init", "mounts", "layers", "limits", "prepare"};
    int early = 0;

    /* The child's own "limits" comes when a user namespace is long there. */
    for (size_t i = 0; i < countof(steps) && !l->times->end[BUILD_prepare]; i++)
        early |= failed_at(l, steps[i]);
    return early;
}

static void
say_failure(const struct look *l, struct finding *f)
{
    const struct build_failure *failure = &l->c->failure;

    say(f, "missing", "step '%s': %s", failure->step, failure->err.text);
    repair(f, "%s", advice_for(l->c->level, failure->step, failure->err.code));
}

/* Returns -1 where there is no such file, as most kernels lack most of them. */
static long
read_number(const char *path)
{
    scoped(buf_release) struct buf text = {0};

    if (file_read(AT_FDCWD, path, 256, &text) < 0 || !buf_string(&text))
        return -1;
    return strtol((const char *)text.data, NULL, 10);
}

/*** The checks ***/

static void
look_kernel(const struct look *l, struct finding *f)
{
    struct utsname u;
    int major = 0, minor = 0, old;

    uname(&u);
    old = sscanf(u.release, "%d.%d", &major, &minor) == 2 &&
          (major < OLDEST_MAJOR || (major == OLDEST_MAJOR && minor < OLDEST_MINOR));
    say(f, !old ? "ok" : l->c->usable ? "note" : "missing", "Linux %s", u.release);
    if (old)
        repair(f, "boot Linux %d.%d or newer", OLDEST_MAJOR, OLDEST_MINOR);
}

static void
look_user_namespaces(const struct look *l, struct finding *f)
{
    if (failed_at(l, "namespaces") || failed_at(l, "maps"))
        say_failure(l, f);
    else if (ended_early(l))
        say(f, "note", "not tried: the build ended before, at step '%s'", l->c->failure.step);
    else
        say(f, "ok", "one was made, with its own mounts, processes, network, IPC and names");
}

static void
look_sandbox(const struct look *l, struct finding *f)
{
    if (l->c->built)
        say(f, "ok", "one was built, every step of it");
    else
        say_failure(l, f);
}

static void
look_process(const struct look *l, struct finding *f)
{
    if (!l->c->built)
        say(f, "note", "not tried: there is no sandbox");
    else if (!l->c->usable)
        say_failure(l, f);
    else if (strcmp(l->c->failure.step, "execute") == 0)
        say(f, "ok", "one was started in it; this system has no '" PROGRAM "'");
    else
        say(f, "ok", "'" PROGRAM "' ran in it");
}

static void
look_limits(const struct look *l, struct finding *f)
{
    if (!l->limits->memory)
        say(f, "note", "not tried: the build ended before");
    else if (failed_at(l, "groups"))
        say_failure(l, f);
    else if (l->limits->kind == LIMITS_CGROUP2)
        say(f, "ok", "cgroup v2: memory and processes of a sandbox together");
    else if (l->limits->kind == LIMITS_CGROUP1)
        say(f, "ok", "cgroup v1: memory and processes of a sandbox together");
    else {
        say(f, "note", "sampled: no cgroup may be made here%s%s, so memory is limited for each process of a "
                       "sandbox, and all of them together are looked at several times a second",
            *l->limits->why ? ": " : "", l->limits->why);
        repair(f, "systemd-run --user --scope -p Delegate=yes husk ...\n"
                  "(or the program that starts it: what it starts stays in its cgroup)\n");
        if (l->container != NONE)
            repair(f, "in a container, limit all of it: docker run --memory SIZE --pids-limit N ...");
    }
}

static void
look_landlock(const struct look *l, struct finding *f)
{
    int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    const char *why = strerror(errno);

    if (failed_at(l, "landlock"))
        say_failure(l, f);
    else if (l->c->usable)
        say(f, "ok", "ABI %d; the process was bound by it", abi);
    else if (abi >= 1)
        say(f, "note", "ABI %d; not tried further", abi);
    else {
        say(f, "missing", "the kernel offers none: %s", why);
        repair(f, "%s", advice_for(l->c->level, "landlock", 0));
    }
}

static void
look_seccomp(const struct look *l, struct finding *f)
{
    uint32_t action = 0x80000000; /* SECCOMP_RET_KILL_PROCESS */

    if (failed_at(l, "seccomp"))
        say_failure(l, f);
    else if (l->c->usable)
        say(f, "ok", "the process ran under husk's filter");
    else if (syscall(SYS_seccomp, 2 /* SECCOMP_GET_ACTION_AVAIL */, 0, &action) == 0)
        say(f, "note", "the kernel has filters; not tried further");
    else {
        say(f, "missing", "the kernel offers no filters: %s", strerror(errno));
        repair(f, "%s", advice_for(l->c->level, "seccomp", 0));
    }
}

static void
look_id_mapped_mounts(const struct look *l, struct finding *f)
{
    if (!build_is_privileged())
        say(f, "note", "not needed: husk does not have root here");
    else if (failed_at(l, "prepare") && strncmp(l->c->failure.err.text, "id-map", 6) == 0) {
        say_failure(l, f);
        repair(f, "run husk as the owner of the notebooks instead of root, or keep them on ext4, "
                  "xfs or btrfs (in a container: in a volume)");
    } else if (failed_at(l, "namespaces") || ended_early(l))
        say(f, "note", "not tried: the build ended before, at step '%s'", l->c->failure.step);
    else
        say(f, "ok", "a directory's owner on disk was made the user of the sandbox");
}

/* A row "NAME:START:COUNT" of this user in /etc/subuid or /etc/subgid. *next becomes the first
 * number after all rows. */
static int
find_subordinate(const char *file, const char *user, unsigned long *next, char *into, size_t size)
{
    scoped(buf_release) struct buf text = {0};
    char *rest, *line, number[16];
    int found = 0;

    snprintf(number, sizeof number, "%u", (unsigned)getuid());
    if (file_read(AT_FDCWD, file, 1 << 20, &text) < 0 || !buf_string(&text))
        return 0;
    rest = (char *)text.data;
    while ((line = strsep(&rest, "\n"))) {
        char *range = strchr(line, ':');
        unsigned long start, count;
        if (!range || sscanf(range + 1, "%lu:%lu", &start, &count) != 2)
            continue;
        *range = 0;
        if (start + count > *next)
            *next = start + count;
        if (!found && (strcmp(line, user) == 0 || strcmp(line, number) == 0)) {
            snprintf(into, size, "%lu to %lu", start, start + count - 1);
            found = 1;
        }
    }
    return found;
}

static void
look_subordinate_ids(const struct look *l, struct finding *f)
{
    static const char *const helpers[] = {"/usr/bin/newuidmap", "/usr/local/bin/newuidmap"};
    struct passwd *p = getpwuid(getuid());
    char number[16];
    const char *user = p ? p->pw_name : number, *helper = NULL;
    char uids[64] = "none", gids[64] = "none";
    unsigned long next = SUBORDINATE_FIRST;
    int have;

    snprintf(number, sizeof number, "%u", (unsigned)getuid());
    have = find_subordinate("/etc/subuid", user, &next, uids, sizeof uids);
    have &= find_subordinate("/etc/subgid", user, &next, gids, sizeof gids);
    for (size_t i = 0; i < countof(helpers) && !helper; i++)
        helper = access(helpers[i], X_OK) == 0 ? helpers[i] : NULL;
    say(f, have && helper ? "ok" : "note",
        "uids of '%s': %s; gids: %s; newuidmap: %s; a sandbox of one user needs none", user, uids,
        gids, helper ? helper : "not installed");
    if (geteuid() == 0)
        return; /* root may map any, and one of a user namespace none of these */
    if (!have && !p) /* usermod knows no user without a name */
        repair(f, "echo %s:%lu:%d | sudo tee -a /etc/subuid /etc/subgid\n", number, next,
               SUBORDINATE_IDS);
    else if (!have)
        repair(f, "sudo usermod --add-subuids %lu-%lu --add-subgids %lu-%lu %s\n", next,
               next + SUBORDINATE_IDS - 1, next, next + SUBORDINATE_IDS - 1, user);
    if (!helper)
        repair(f, "sudo apt install uidmap   (Fedora: sudo dnf install shadow-utils)");
}

static int
try_network_all(struct err *err)
{
    int pair[2], status;
    pid_t pid;
    ssize_t n;

    if (pipe2(pair, O_CLOEXEC) < 0)
        return err_errno(err, "make a pipe");
    pid = fork();
    if (pid == 0) {
        struct err why = {0};
        if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
            err_errno(&why, "make a network to try it in");
        else
            (void)loopback_try_all(&why);
        (void)!write(pair[1], &why, sizeof why);
        _exit(0);
    }
    close(pair[1]);
    n = pid < 0 ? -1 : read(pair[0], err, sizeof *err);
    close(pair[0]);
    if (pid > 0)
        waitpid(pid, &status, 0);
    if (n != (ssize_t)sizeof *err)
        return err_set(err, ECHILD, "a process to try it ended");
    return err->code ? -1 : 0;
}

static void
look_network_all(const struct look *l, struct finding *f)
{
    struct err err = {0};

    if (!l->c->built) {
        say(f, "note", "not tried: there is no sandbox");
    } else if (try_network_all(&err) == 0) {
        say(f, "ok", "nftables has tproxy, which option '--network all' takes");
    } else {
        say(f, "note", "'--network all' cannot be had, an allow-list can: %s", err.text);
        repair(f, "sudo modprobe nft_tproxy\necho nft_tproxy | sudo tee /etc/modules-load.d/husk.conf");
    }
}

static void
repair_apparmor(struct finding *f)
{
    char path[4096];
    ssize_t len = readlink("/proc/self/exe", path, sizeof path - 1);

    path[len > 0 ? len : 0] = 0;
    repair(f,
           "write this into /etc/apparmor.d/husk:\n"
           "abi <abi/4.0>,\n"
           "include <tunables/global>\n"
           "profile husk \"%s\" flags=(unconfined) {\n"
           "  userns,\n"
           "  include if exists <local/husk>\n"
           "}\n"
           "and load it:\n"
           "sudo apparmor_parser -r /etc/apparmor.d/husk",
           path);
}

/* Ubuntu lets an ordinary user make the user namespace, but takes its capabilities away: then one
 * of the first steps that need any is refused. */
static void
look_apparmor(const struct look *l, struct finding *f)
{
    long restricts = read_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");

    if (restricts != 1) {
        say(f, "ok", "AppArmor does not restrict user namespaces");
    } else if (refused_at(l, "namespaces") || refused_at(l, "maps") ||
               refused_at(l, "identity") || refused_at(l, "cgroup_namespace") ||
               refused_at(l, "network") || refused_at(l, "hostname") ||
               refused_at(l, "root")) {
        say(f, "missing", "kernel.apparmor_restrict_unprivileged_userns is 1, and step '%s' was "
                          "refused: no profile gives husk user namespaces", l->c->failure.step);
        repair_apparmor(f);
    } else {
        say(f, l->c->usable ? "ok" : "note",
            "kernel.apparmor_restrict_unprivileged_userns is 1, but not what stops husk");
    }
}

static void
set_for_good(struct finding *f, const char *setting)
{
    repair(f, "sudo sysctl -w %s\necho %s | sudo tee /etc/sysctl.d/90-husk.conf", setting, setting);
}

static void
look_debian(const struct look *l, struct finding *f)
{
    long allows = read_number("/proc/sys/kernel/unprivileged_userns_clone");

    if (allows < 0) {
        say(f, "ok", "this kernel has no such switch");
    } else if (allows > 0) {
        say(f, "ok", "it is %ld", allows);
    } else if (refused_at(l, "namespaces")) {
        say(f, "missing", "it is 0: only root may make user namespaces");
        set_for_good(f, "kernel.unprivileged_userns_clone=1");
    } else {
        say(f, "note", "it is 0, but not what decides for husk");
    }
}

static void
look_max_user_namespaces(const struct look *l, struct finding *f)
{
    long most = read_number("/proc/sys/user/max_user_namespaces");

    if (failed_at(l, "namespaces") && l->c->failure.err.code == ENOSPC) {
        char setting[64];
        snprintf(setting, sizeof setting, "user.max_user_namespaces=%ld",
                 most > 0 ? 2 * most : 15000);
        say(f, "missing", "it is %ld, and that is reached", most);
        set_for_good(f, setting);
    } else if (most < 0) {
        say(f, "ok", "this kernel has no such limit");
    } else {
        say(f, "ok", "it is %ld", most);
    }
}

/*** Containers ***/

static void
find_container(struct look *l)
{
    static const struct {
        const char *word;
        enum container is;
    } groups[] = {{"kubepods", KUBERNETES}, {"docker", DOCKER}, {"libpod", PODMAN},
                  {"containerd", OTHER}, {"lxc", OTHER}};
    scoped(buf_release) struct buf text = {0};

    if (getenv("KUBERNETES_SERVICE_HOST")) {
        l->container = KUBERNETES;
        l->sign = "KUBERNETES_SERVICE_HOST";
    } else if (access("/run/.containerenv", F_OK) == 0) {
        l->container = PODMAN;
        l->sign = "/run/.containerenv";
    } else if (access("/.dockerenv", F_OK) == 0) {
        l->container = DOCKER;
        l->sign = "/.dockerenv";
    } else if (file_read(AT_FDCWD, "/proc/1/cgroup", 1 << 16, &text) == 0 && buf_string(&text)) {
        for (size_t i = 0; i < countof(groups) && !l->sign; i++)
            if (strstr((const char *)text.data, groups[i].word)) {
                l->container = groups[i].is;
                l->sign = "/proc/1/cgroup";
            }
    }
}

static int
is_confined_by_apparmor(void)
{
    scoped(buf_release) struct buf text = {0};

    return file_read(AT_FDCWD, "/proc/self/attr/current", 4096, &text) == 0 && text.len > 1 &&
           buf_string(&text) && strncmp((const char *)text.data, "unconfined", 10) != 0;
}

static void
repair_container(const struct look *l, struct finding *f)
{
    const char *apparmor = is_confined_by_apparmor() ? " --security-opt apparmor=unconfined" : "";

    if (l->container == PODMAN)
        repair(f, "podman run --security-opt seccomp=unconfined --security-opt unmask=ALL%s ...",
               apparmor);
    else if (l->container != KUBERNETES)
        repair(f, "docker run --security-opt seccomp=unconfined "
                  "--security-opt systempaths=unconfined%s ...\nIn Kubernetes, for the pod:\n",
               apparmor);
    if (l->container != PODMAN)
        repair(f, "spec:\n"
                  "  hostUsers: false\n"
                  "  containers:\n"
                  "  - securityContext:\n"
                  "      procMount: Unmasked\n"
                  "      seccompProfile: {type: Unconfined}\n"
                  "      appArmorProfile: {type: Unconfined}");
}

static void
look_container(const struct look *l, struct finding *f)
{
    static const char *const kinds[] = {
        [DOCKER] = "a Docker container", [PODMAN] = "a Podman container",
        [KUBERNETES] = "a pod of Kubernetes", [OTHER] = "a container"};

    if (l->container == NONE) {
        say(f, "ok", "no sign of one around husk");
    } else if (l->c->usable) {
        say(f, "ok", "%s says that this is %s; it allows what husk needs", l->sign,
            kinds[l->container]);
    } else if (is_refused(l)) {
        say(f, "missing", "%s says that this is %s, and step '%s' was refused in it", l->sign,
            kinds[l->container], l->c->failure.step);
        repair_container(l, f);
    } else {
        say(f, "note", "%s says that this is %s", l->sign, kinds[l->container]);
    }
}

/*** The report ***/

static const struct {
    const char *name;
    void (*look)(const struct look *, struct finding *);
} checks[] = {
    {"kernel", look_kernel},
    {"user-namespaces", look_user_namespaces},
    {"sandbox", look_sandbox},
    {"process", look_process},
    {"limits", look_limits},
    {"landlock", look_landlock},
    {"seccomp", look_seccomp},
    {"id-mapped-mounts", look_id_mapped_mounts},
    {"subordinate-ids", look_subordinate_ids},
    {"network-all", look_network_all},
    {"apparmor", look_apparmor},
    {"unprivileged_userns_clone", look_debian},
    {"max_user_namespaces", look_max_user_namespaces},
    {"container", look_container},
};
_Static_assert(countof(checks) <= REPORT_CHECKS, "REPORT_CHECKS is too small");

static int
add_steps(const struct checkup *c, const struct build_times *times, struct report *r)
{
    if (build_describe(times, &r->steps) < 0)
        return -1;
    return c->usable ? buf_printf(&r->steps, "process\t%lld\ta process in it: file rules, "
                                             "system call filter, program\n",
                                  (long long)c->process_us) : 0;
}

int
doctor_report(const struct checkup *checkup, const struct limits *limits,
              const struct build_times *times, struct report *ret)
{
    struct look look = {.c = checkup, .limits = limits, .times = times};
    struct report *r = ret;

    find_container(&look);
    if (add_steps(checkup, times, r) < 0)
        return -1;
    for (size_t i = 0; i < countof(checks); i++) {
        struct finding f = {.status = "note"};
        checks[i].look(&look, &f);
        if (strv_add(&r->text, checks[i].name) < 0 || strv_add(&r->text, f.status) < 0 ||
            strv_add(&r->text, f.found) < 0 || strv_add(&r->text, f.repair) < 0)
            return -1;
    }
    r->part[r->nparts++] = (struct bytes){r->steps.data, r->steps.len};
    for (size_t i = 0; i < r->text.len; i++)
        r->part[r->nparts++] = bytes_of(r->text.item[i]);
    return 0;
}

void
doctor_release(struct report *r)
{
    strv_release(&r->text);
    buf_release(&r->steps);
    r->nparts = 0;
}
