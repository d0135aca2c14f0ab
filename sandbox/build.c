/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/build.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/securebits.h>
#include <time.h>
#include <unistd.h>

#include "sandbox/join.h"
#include "sandbox/kin.h"
#include "sandbox/loopback.h"
#include "sandbox/mounts.h"
#include "sandbox/overlay.h"
#include "wall/sandbox.h"

#define END_MS 2000    /* husk-init has so long to end its descendants, where it is not pid 1 */
#define LEFT_MS 8000   /* and then the broker */

struct build {
    const struct policy *policy;
    const struct limits *limits;
    struct mount_view view;
    struct overlay overlay; /* of an image */
    int privileged; /* husk has root: trees can be id-mapped, groups dropped */
    uid_t uid;      /* of the sandbox, on the host */
    gid_t gid;
    int many;       /* an image whose users are more than its root */
    unsigned ids;   /* so many, from those on */
    int root;    /* the new root, while it is made */
    int program; /* memfd of pid 1 */
    int socket;  /* pid 1's end */
    int sockets; /* where the network's are handed out */
    int gate;    /* a byte for the maps, and one for the groups */
    int report;  /* a struct build_failure, if a step fails; closed by exec */
    struct build_times *times; /* shared by broker and child */
};

static int64_t
now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/*** The steps, run by the child ***/

static int
step_session(struct build *b, struct err *err)
{
    umask(022);
    if (setsid() < 0 || chdir("/") < 0)
        return err_errno(err, "start a session");
    /* A session keyring of the caller would be readable inside. No kernel support: nothing to
     * inherit either. A filter around husk that says EPERM, as a container's does, says so inside
     * as well. */
    if (syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL) < 0 && errno != ENOSYS &&
        !(errno == EPERM && b->policy->level != LEVEL_FULL))
        return err_errno(err, "join a new session keyring");
    return 0;
}

/* An ordinary user cannot be another one, nor leave its groups: then those of husk stay. */
static int
step_user(struct build *b, struct err *err)
{
    if (b->uid == geteuid())
        return b->uid ? 0 : err_set(err, EPERM, "a sandbox is never uid 0");
    if (setgroups(0, NULL) < 0)
        return err_errno(err, "drop supplementary groups");
    if (setresgid(b->gid, b->gid, b->gid) < 0 || setresuid(b->uid, b->uid, b->uid) < 0)
        return err_errno(err, "become uid %u", (unsigned)b->uid);
    return 0;
}

static int
step_identity(struct build *b, struct err *err)
{
    uid_t inside = policy_uid(b->policy);

    if ((b->privileged || b->many) && setgroups(0, NULL) < 0)
        return err_errno(err, "drop supplementary groups");
    if (setresgid(inside, inside, inside) < 0 || setresuid(inside, inside, inside) < 0)
        return err_errno(err, "become the user of the sandbox");
    /* After the last change of uid, which clears it. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return err_errno(err, "ask to die with the broker");
    return 0;
}

static int
hear_broker(const struct build *b)
{
    char byte;
    ssize_t n;

    do
        n = read(b->gate, &byte, 1);
    while (n < 0 && errno == EINTR);
    return n == 1 ? 0 : -1;
}

static int
step_groups(struct build *b, struct err *err)
{
    return hear_broker(b) < 0 ? err_set(err, ECHILD, "the broker is gone") : 0;
}

static int
step_cgroup_namespace(struct build *b, struct err *err)
{
    /* Here and not with the others: the process must be in its group first. */
    return unshare(CLONE_NEWCGROUP) < 0 ? err_errno(err, "unshare cgroups") : 0;
}

static int
step_network(struct build *b, struct err *err)
{
    return loopback_make(&b->policy->rules, b->sockets, err);
}

static int
step_hostname(struct build *b, struct err *err)
{
    return sethostname(b->policy->hostname, strlen(b->policy->hostname)) < 0 ? err_errno(err, "set the host name") : 0;
}

static int
step_trees(struct build *b, struct err *err)
{
    /* With root they were taken by the broker, see build_sandbox(). */
    if (b->privileged)
        return 0;
    if (b->policy->image && overlay_take(b->policy, 0, b->uid, &b->overlay, err) < 0)
        return -1;
    return view_take(&b->view, 0, b->uid, b->gid, err);
}

static int
step_root(struct build *b, struct err *err)
{
    int stage = -1;

    if (mounts_stage(&stage, err) < 0)
        return -1;
    if (b->policy->image)
        return overlay_mount(&b->overlay, stage, &b->root, err);
    b->root = stage;
    return 0;
}

static int
step_etc(struct build *b, struct err *err)
{
    if (b->policy->image)
        return overlay_etc(b->policy, b->root, !b->many, err);
    if (mkdirat(b->root, "var", 0755) < 0)
        return err_errno(err, "make '/var'");
    return mounts_etc(b->policy, b->root, err);
}

static int
step_view(struct build *b, struct err *err)
{
    return view_attach(&b->view, b->root, err);
}

static int
step_proc(struct build *b, struct err *err)
{
    return mounts_proc(b->root, err);
}

static int
step_dev(struct build *b, struct err *err)
{
    return mounts_dev(b->root, b->policy->tmp_size, err);
}

static int
step_pivot(struct build *b, struct err *err)
{
    return mounts_pivot(b->root, err);
}

static int
step_seal(struct build *b, struct err *err)
{
    return b->policy->image ? 0 : mounts_seal(err); /* an image's is the sandbox's own */
}

static int
step_limits(struct build *b, struct err *err)
{
    return limits_process(b->policy, b->limits->kind, err);
}

static int
step_no_new_privs(struct build *b, struct err *err)
{
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? err_errno(err, "set no_new_privs") : 0;
}

/* What dpkg needs of root to unpack files of other owners, where there are others, and what pid 1
 * needs to end them: over the users of the sandbox and its own mounts only. Nothing that mounts, traces, makes devices or reaches
 * the network; the system call filter stays the same. */
static const int of_packages[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID,
                                  CAP_KILL,  CAP_SETGID,       CAP_SETUID, CAP_SETFCAP};

static uint64_t
kept_capabilities(const struct build *b)
{
    uint64_t kept = 0;

    for (size_t i = 0; b->many && i < countof(of_packages); i++)
        kept |= 1ull << of_packages[i];
    return kept;
}

/* Without any capability uid 0 is nobody. With some, it is as on any system: who changes to
 * another uid loses them and cannot ask to keep them, and a program of root's gets them, but no more
 * than there were. */
static unsigned long
secure_bits(uint64_t kept)
{
    unsigned long bits = SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
                         SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED | SECBIT_NOROOT_LOCKED |
                         SECBIT_NO_SETUID_FIXUP_LOCKED;

    return kept ? bits : bits | SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP;
}

static int
step_capabilities(struct build *b, struct err *err)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    uint64_t kept = kept_capabilities(b);
    struct __user_cap_data_struct left[2] = {
        {.effective = (uint32_t)kept, .permitted = (uint32_t)kept},
        {.effective = (uint32_t)(kept >> 32), .permitted = (uint32_t)(kept >> 32)}};
    int last;

    for (last = 0; last < 64; last++)
        if (!(kept >> last & 1) && prctl(PR_CAPBSET_DROP, last, 0, 0, 0) < 0) {
            if (errno == EINVAL && prctl(PR_CAPBSET_READ, last, 0, 0, 0) < 0)
                break; /* the kernel knows no more */
            return err_errno(err, "drop capability %d from the bounding set", last);
        }
    if (prctl(PR_SET_SECUREBITS, secure_bits(kept), 0, 0, 0) < 0)
        return err_errno(err, "lock the secure bits");
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ||
        syscall(SYS_capset, &head, left) < 0)
        return err_errno(err, "drop capabilities");
    return 0;
}

/* The bounding set and the secure bits take CAP_SETPCAP to change, and no_new_privs makes them
 * harmless: no program that is executed gets a capability. */
static int
step_no_capabilities(struct build *b, struct err *err)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};

    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ||
        syscall(SYS_capset, &head, none) < 0)
        return err_errno(err, "drop all capabilities");
    return 0;
}

static int
step_init(struct build *b, struct err *err)
{
    static const char *const levels[] = LEVEL_NAMES;
    char *const full[] = {(char *)"husk-init", NULL};
    char counted[24], *const alone[] = {(char *)"husk-init", (char *)levels[b->policy->level], counted, NULL};
    char *const *argv = b->policy->level == LEVEL_FULL ? full : alone;
    char *const environment[] = {NULL};

    int held[] = {fcntl(b->socket, F_DUPFD_CLOEXEC, 64), fcntl(b->report, F_DUPFD_CLOEXEC, 64),
                  fcntl(b->program, F_DUPFD_CLOEXEC, 64)};

    snprintf(counted, sizeof counted, "%llu",
             b->limits->kind == LIMITS_SAMPLED ? (unsigned long long)b->policy->pids : 0);
    /* Out of the way of the numbers that they become, then down. Report and program close
     * themselves by exec; everything else but the socket goes now. */
    if (dup2(held[0], SANDBOX_FD) < 0 || dup3(held[1], SANDBOX_FD + 1, O_CLOEXEC) < 0 ||
        dup3(held[2], SANDBOX_FD + 2, O_CLOEXEC) < 0)
        return err_errno(err, "place the descriptors of pid 1");
    b->report = SANDBOX_FD + 1;
    if (syscall(SYS_close_range, SANDBOX_FD + 3, ~0u, 0) < 0)
        return err_errno(err, "close inherited descriptors");
    /* /dev/null was bound, so this opens the device and nothing of the host's. */
    for (int fd = 0; fd < SANDBOX_FD; fd++) {
        int null = open("/dev/null", O_RDWR);
        if (null < 0 || (null != fd && dup2(null, fd) < 0))
            return err_errno(err, "open '/dev/null'");
        if (null != fd)
            close(null);
    }
    syscall(SYS_execveat, SANDBOX_FD + 2, "", argv, environment, AT_EMPTY_PATH);
    return err_errno(err, "execute pid 1");
}

static const struct {
    const char *name;
    unsigned levels;
    int (*take)(struct build *, struct err *);
} steps[] = {
#define X(name, levels, meaning) {#name, levels, step_##name},
    BUILD_STEPS(X)
#undef X
};
#define FIRST_OF_CHILD (BUILD_COUNT - countof(steps))

static void __attribute__((noreturn))
run_child(struct build *b)
{
    struct build_failure failure = {0};
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (hear_broker(b) < 0)
        _exit(1); /* it is gone, or has given up */
    b->times->end[BUILD_gate] = now_ns();
    for (size_t i = 0; i < countof(steps); i++) {
        if (!(steps[i].levels & 1u << b->policy->level) || STEP_IS_SKIPPED(steps[i].name))
            continue;
        if (steps[i].take(b, &failure.err) < 0) {
            snprintf(failure.step, sizeof failure.step, "%s", steps[i].name);
            (void)!write(b->report, &failure, sizeof failure);
            _exit(1);
        }
        b->times->end[FIRST_OF_CHILD + i] = now_ns();
    }
    _exit(1); /* not reached: the last step executes */
}

/*** The broker's half ***/

int
build_init_program(const char *path, struct err *err)
{
    scoped(buf_release) struct buf program = {0};
    scoped(fd_close) int fd = -1;
    int r;

    if (file_read(AT_FDCWD, path, 16 << 20, &program) < 0)
        return err_errno(err, "read '%s'", path);
    fd = memfd_create("husk-init", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || fd_write_all(fd, program.data, program.len) < 0 || fchmod(fd, 0555) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
        return err_errno(err, "seal a copy of '%s'", path);
    r = fd;
    fd = -1; /* moved to the caller */
    return r;
}

static int
fail(struct build_failure *failure, const char *step)
{
    snprintf(failure->step, sizeof failure->step, "%s", step);
    return -1;
}

/* Whoever holds CAP_SYS_ADMIN on the host can take trees for others and drop groups. A root of
 * some user namespace, as in a rootless container, is an ordinary user here. */
int
build_is_privileged(void)
{
    scoped(buf_release) struct buf map = {0};
    unsigned inside, outside, count;
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct caps[2] = {{0}};

    if (file_read(AT_FDCWD, "/proc/self/uid_map", 4096, &map) < 0 || !buf_string(&map) ||
        sscanf((char *)map.data, "%u %u %u", &inside, &outside, &count) != 3 ||
        inside != 0 || outside != 0 || count != UINT32_MAX)
        return 0;
    return geteuid() == 0 && syscall(SYS_capget, &head, caps) == 0 &&
           (caps[0].effective & (1u << CAP_SYS_ADMIN)) && (caps[0].effective & (1u << CAP_SETUID));
}

/* The number `wanted`, if it is one here; else one of the upper half of what the user namespace that
 * husk was started in has. */
static int
pick_id(const char *map, unsigned wanted, unsigned *ret, struct err *err)
{
    scoped(buf_release) struct buf text = {0};
    unsigned inside, outside, count, found = 0;
    char *rest, *line;

    if (file_read(AT_FDCWD, map, 65536, &text) < 0 || !buf_string(&text))
        return err_errno(err, "read '%s'", map);
    rest = (char *)text.data;
    while ((line = strsep(&rest, "\n"))) {
        if (sscanf(line, "%u %u %u", &inside, &outside, &count) != 3)
            continue;
        if (wanted >= inside && wanted - inside < count) {
            *ret = wanted;
            return 0;
        }
        if (count >= 65536)
            found = inside + count - 2 - wanted % (count / 2);
    }
    *ret = found;
    return found ? 0 : err_set(err, EINVAL, "'%s' has no number that is free for a sandbox: run husk as "
                                            "an ordinary user", map);
}

static int
check_capabilities(struct err *err)
{
    static const struct {
        int number;
        const char *name;
    } needed[] = {{CAP_CHOWN, "CAP_CHOWN"}, {CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
                  {CAP_FOWNER, "CAP_FOWNER"}, {CAP_KILL, "CAP_KILL"},
                  {CAP_SETGID, "CAP_SETGID"}, {CAP_SETUID, "CAP_SETUID"}};
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct caps[2] = {{0}};

    if (syscall(SYS_capget, &head, caps) < 0)
        return err_errno(err, "read capabilities");
    for (size_t i = 0; i < countof(needed); i++)
        if (!(caps[0].effective & (1u << needed[i].number)))
            return err_set(err, EPERM, "husk is root without %s, and a sandbox is never uid 0: give it "
                                       "that, or run husk as an ordinary user", needed[i].name);
    return 0;
}

int
build_choose_user(struct policy *p, struct err *err)
{
    unsigned wanted = PRIVILEGED_UID_BASE + (unsigned)getpid();

    p->uid = geteuid();
    p->gid = getegid();
    if (!policy_has_user(p) || p->uid != 0 || p->level == LEVEL_NONE)
        return 0;
    if (check_capabilities(err) < 0 || pick_id("/proc/self/uid_map", wanted, &p->uid, err) < 0 ||
        pick_id("/proc/self/gid_map", wanted, &p->gid, err) < 0)
        return -1;
    if (!p->private_workdir)
        snprintf(p->why_private, sizeof p->why_private,
                 "husk is root, and without namespaces the owner of files cannot be mapped");
    p->private_workdir = 1;
    if (*p->why_private) /* the one that stays belongs to root, or to the sandbox before */
        snprintf(p->why_private + strlen(p->why_private),
                 sizeof p->why_private - strlen(p->why_private), "; it goes with the sandbox");
    return 0;
}

static int
write_maps(const struct build *b, pid_t pid, struct err *err)
{
    char path[64], map[64];
    scoped(fd_close) int proc = -1;

    if (b->policy->subordinate.count)
        return subordinate_map(&b->policy->subordinate, pid, err);
    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    proc = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0)
        return err_errno(err, "open '%s'", path);
    snprintf(map, sizeof map, "%u %u %u", policy_uid(b->policy), b->uid, b->ids);
    if (file_write(proc, "uid_map", map) < 0)
        return err_errno(err, "write uid_map '%s'", map);
    if (!b->privileged && file_write(proc, "setgroups", "deny") < 0)
        return err_errno(err, "write setgroups");
    snprintf(map, sizeof map, "%u %u %u", policy_uid(b->policy), b->gid, b->ids);
    return file_write(proc, "gid_map", map) < 0 ? err_errno(err, "write gid_map '%s'", map) : 0;
}

static pid_t
start_child(struct build *b, int *pidfd, struct build_failure *failure)
{
    const uint64_t namespaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET |
                                CLONE_NEWIPC | CLONE_NEWUTS;
    int full = b->policy->level == LEVEL_FULL;
    struct clone_args args = {
        .flags = CLONE_PIDFD | (full ? namespaces : 0),
        .pidfd = (uint64_t)(uintptr_t)pidfd,
        .exit_signal = SIGCHLD,
    };
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);

    if (pid < 0 && errno == ENOSYS) /* Docker's filter says so of clone3 and EPERM of clone */
        pid = (pid_t)syscall(SYS_clone, (unsigned long)args.flags | SIGCHLD, NULL, pidfd, NULL, 0);
    if (pid < 0) {
        err_errno(&failure->err, full ? "make namespaces" : "make a child");
        fail(failure, full ? "namespaces" : "child");
    }
    return pid;
}

/* Waits until the child has executed pid 1 (the report closes) and pid 1 says it lives. */
static int
await_child(int report, int socket, struct build_failure *failure)
{
    scoped(buf_release) struct buf packet = {0};
    struct build_failure said;
    struct frame frame;
    int fds[SANDBOX_FDS];
    ssize_t n;
    int r;

    do
        n = read(report, &said, sizeof said);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof said) {
        *failure = said;
        return -1;
    }
    r = packet_recv(socket, &packet, SANDBOX_BY_INIT, SANDBOX_NEW, &frame, fds, &failure->err);
    if (r == 1 && frame.number == SANDBOX_ALIVE)
        return 0;
    if (r == 0)
        err_set(&failure->err, ECHILD, "pid 1 ended before it was ready");
    return fail(failure, "init");
}

/* What will have to be done without a pid namespace. And nobody of the same user reads the memory of
 * the broker; at LEVEL_FULL nobody inside sees it, and its child needs its own files in /proc. */
static int
prepare_alone(struct build_failure *failure)
{
    if (kin_check(&failure->err) < 0)
        return fail(failure, "prepare");
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0) {
        err_errno(&failure->err, "take in processes that lose their parent");
        return fail(failure, "prepare");
    }
    return 0;
}

static int
prepare(struct build *b, struct build_failure *failure)
{
    if (b->policy->level != LEVEL_FULL)
        return prepare_alone(failure);
    if (view_make(b->policy, &b->view, &failure->err) < 0)
        return fail(failure, "prepare");
    if (b->privileged && b->policy->image &&
        overlay_take(b->policy, 1, b->uid, &b->overlay, &failure->err) < 0)
        return fail(failure, b->overlay.no_userns ? "namespaces" : "prepare");
    /* An id-mapping needs a user namespace: that is what this machine refuses, then. */
    if (b->privileged && view_take(&b->view, 1, b->uid, b->gid, &failure->err) < 0)
        return fail(failure, b->view.no_userns ? "namespaces" : "prepare");
    return 0;
}

static int
choose_ids(struct build *b, struct build_failure *failure)
{
    if (b->policy->level != LEVEL_FULL) { /* build_choose_user() has */
        b->uid = b->policy->uid;
        b->gid = b->policy->gid;
        return 0;
    }
    b->uid = b->privileged ? PRIVILEGED_UID_BASE + (uid_t)getpid() : geteuid();
    b->gid = b->privileged ? PRIVILEGED_UID_BASE + (gid_t)getpid() : getegid();
    b->ids = 1;
    b->many = b->policy->image && (b->privileged || b->policy->subordinate.count);
    if (!b->privileged || !b->policy->image)
        return 0;
    b->ids = OVERLAY_IDS;
    if (overlay_claim_ids(b->policy, &b->uid, &failure->err) < 0)
        return fail(failure, "prepare");
    b->gid = b->uid;
    return 0;
}

static int
share_times(struct build *b, struct build_failure *failure)
{
    void *page = mmap(NULL, sizeof *b->times, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                      -1, 0);

    if (page == MAP_FAILED) {
        err_errno(&failure->err, "share a page with the child");
        return fail(failure, "prepare");
    }
    b->times = page;
    b->times->start = now_ns();
    return 0;
}

static void
mark(struct build *b, enum build_step done)
{
    b->times->end[done] = now_ns();
}

/* What is done for the child while it waits at the gate, and then beside it. */
static int
receive_child(struct build *b, pid_t pid, int gate, struct build_failure *failure)
{
    int full = b->policy->level == LEVEL_FULL;

    mark(b, full ? BUILD_namespaces : BUILD_child);
    if (full) {
        if (write_maps(b, pid, &failure->err) < 0)
            return fail(failure, "maps");
        mark(b, BUILD_maps);
    }
    if (write(gate, "m", 1) != 1) {
        err_errno(&failure->err, "open the gate");
        return fail(failure, "gate");
    }
    /* A failure of the child has been told by then, and is the one that counts. */
    if (limits_enter(b->limits, pid, &failure->err) < 0 && failure->err.code != ESRCH)
        return fail(failure, "groups");
    (void)!write(gate, "g", 1);
    return 0;
}

int
build_sandbox(const struct policy *policy, struct limits *limits, int program,
              struct build_times *times, struct sandbox *ret, struct build_failure *failure)
{
    struct build b = {.policy = policy, .limits = limits, .program = program, .root = -1,
                      .overlay = OVERLAY_EMPTY,
                      .privileged = build_is_privileged()};
    struct sandbox s = SANDBOX_EMPTY;
    int64_t start = now_us();
    int gate[2] = {-1, -1}, report[2] = {-1, -1}, pair[2] = {-1, -1}, r = -1;
    int sockets[2] = {-1, -1};

    memset(failure, 0, sizeof *failure);
    s.alone = policy->level != LEVEL_FULL;
    if (share_times(&b, failure) < 0)
        return -1;
    if (choose_ids(&b, failure) < 0 || prepare(&b, failure) < 0)
        goto out;
    if (pipe2(gate, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0) {
        err_errno(&failure->err, "make pipes");
        fail(failure, "prepare");
        goto out;
    }
    mark(&b, BUILD_prepare);
    b.gate = gate[0];
    b.report = report[1];
    b.socket = pair[1];
    b.sockets = sockets[1];
    s.socket = pair[0];
    s.sockets = sockets[0];
    s.pid = start_child(&b, &s.pidfd, failure);
    if (s.pid == 0) {
        close(gate[1]);
        run_child(&b);
    }
    fd_close(&report[1]);
    fd_close(&pair[1]);
    fd_close(&sockets[1]);
    if (s.pid < 0) {
        s.pid = 0;
        goto out;
    }
    fd_close(&gate[0]);
    if (receive_child(&b, s.pid, gate[1], failure) < 0)
        goto out;
    fd_close(&gate[1]);
    r = await_child(report[0], s.socket, failure);
    if (r == 0)
        mark(&b, BUILD_init);
out:
    fd_close(&gate[0]);
    fd_close(&gate[1]);
    fd_close(&report[0]);
    fd_close(&report[1]);
    fd_close(&pair[1]);
    fd_close(&sockets[1]);
    overlay_release(&b.overlay);
    view_release(&b.view);
    *times = *b.times;
    munmap(b.times, sizeof *b.times);
    s.took = now_us() - start;
    if (r < 0)
        sandbox_end(&s);
    else
        *ret = s;
    return r;
}

int
build_describe(const struct build_times *times, struct buf *ret)
{
    static const char *const rows[][2] = {
#define X(name, levels, meaning) {#name, meaning},
        HOST_STEPS(X) BUILD_STEPS(X)
#undef X
    };
    int64_t before = times->start;

    for (size_t i = 0; i < countof(rows); i++) {
        int64_t us = (times->end[i] - before + 999) / 1000;
        if (!times->end[i])
            continue; /* of another level, or not reached */
        before = times->end[i];
        if (buf_printf(ret, "%s\t%lld\t%s\n", rows[i][0], (long long)us, rows[i][1]) < 0)
            return -1;
    }
    return 0;
}

/* husk-init finds the end of its socket, ends all its descendants, and itself. Whoever is left then,
 * because husk-init was killed or hangs, has become ours. */
static void
end_alone(struct sandbox *s)
{
    struct pollfd gone = {.fd = s->pidfd, .events = POLLIN};

    fd_close(&s->socket);
    while (poll(&gone, 1, END_MS) < 0 && errno == EINTR)
        ;
    kin_end(LEFT_MS);
}

void
sandbox_end(struct sandbox *s)
{
    if (s->pid > 0 && s->alone)
        end_alone(s);
    else
        pid_end(&s->pid);
    fd_close(&s->pidfd);
    fd_close(&s->socket);
    fd_close(&s->sockets);
    *s = SANDBOX_EMPTY;
}
