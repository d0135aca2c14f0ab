/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/build.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/securebits.h>
#include <unistd.h>

#include "sandbox/mounts.h"
#include "wall/sandbox.h"

/* Where husk has root, the sandbox is a user of the host that nobody else is: never uid 0, and
 * another one for each broker, so that two sandboxes do not share even that. */
#define PRIVILEGED_UID_BASE 1879048192u /* 0x70000000 */

struct build {
    const struct policy *policy;
    const struct limits *limits;
    struct mount_view view;
    int privileged; /* husk has root: trees can be id-mapped, groups dropped */
    uid_t uid;      /* of the sandbox, on the host */
    gid_t gid;
    int root;    /* the new root, while it is made */
    int program; /* memfd of pid 1 */
    int socket;  /* pid 1's end */
    int gate;    /* readable when the maps are written */
    int report;  /* a struct build_failure, if a step fails; closed by exec */
};

/*** The steps, run by the child ***/

static int
step_session(struct build *b, struct err *err)
{
    umask(022);
    if (setsid() < 0 || chdir("/") < 0)
        return err_errno(err, "start a session");
    /* A session keyring of the caller would be readable inside. No kernel support: nothing to
     * inherit either. */
    if (syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL) < 0 && errno != ENOSYS)
        return err_errno(err, "join a new session keyring");
    return 0;
}

static int
step_identity(struct build *b, struct err *err)
{
    if (b->privileged && setgroups(0, NULL) < 0)
        return err_errno(err, "drop supplementary groups");
    if (setresgid(POLICY_UID, POLICY_UID, POLICY_UID) < 0 ||
        setresuid(POLICY_UID, POLICY_UID, POLICY_UID) < 0)
        return err_errno(err, "become the user of the sandbox");
    /* After the last change of uid, which clears it. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return err_errno(err, "ask to die with the broker");
    return 0;
}

static int
step_cgroup_namespace(struct build *b, struct err *err)
{
    /* Here and not with the others: the process must be in its group first. */
    return unshare(CLONE_NEWCGROUP) < 0 ? err_errno(err, "unshare cgroups") : 0;
}

static int
step_loopback(struct build *b, struct err *err)
{
    scoped(fd_close) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};

    return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &r) < 0 ? err_errno(err, "bring up lo") : 0;
}

static int
step_hostname(struct build *b, struct err *err)
{
    return sethostname("husk", 4) < 0 ? err_errno(err, "set the host name") : 0;
}

static int
step_trees(struct build *b, struct err *err)
{
    /* With root they were taken by the broker, see build_sandbox(). */
    return b->privileged ? 0 : view_take(&b->view, 0, b->uid, b->gid, err);
}

static int
step_private_mounts(struct build *b, struct err *err)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return err_errno(err, "make all mounts private");
    return 0;
}

static int
step_root(struct build *b, struct err *err)
{
    return mounts_stage(&b->root, err);
}

static int
step_etc(struct build *b, struct err *err)
{
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
    return mounts_seal(err);
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

static int
step_capabilities(struct build *b, struct err *err)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0}};
    int last;

    for (last = 0; prctl(PR_CAPBSET_READ, last, 0, 0, 0) >= 0; last++)
        if (prctl(PR_CAPBSET_DROP, last, 0, 0, 0) < 0)
            return err_errno(err, "drop capability %d from the bounding set", last);
    if (prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                                     SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                                     SECBIT_NO_CAP_AMBIENT_RAISE |
                                     SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED, 0, 0, 0) < 0)
        return err_errno(err, "lock the secure bits");
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 ||
        syscall(SYS_capset, &head, none) < 0)
        return err_errno(err, "drop all capabilities");
    return 0;
}

static int
step_init(struct build *b, struct err *err)
{
    char *const argv[] = {(char *)"husk-init", NULL};
    char *const environment[] = {NULL};

    int held[] = {fcntl(b->socket, F_DUPFD_CLOEXEC, 64), fcntl(b->report, F_DUPFD_CLOEXEC, 64),
                  fcntl(b->program, F_DUPFD_CLOEXEC, 64)};

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
    int (*take)(struct build *, struct err *);
} steps[] = {
#define X(name, meaning) {#name, step_##name},
    BUILD_STEPS(X)
#undef X
};

static void __attribute__((noreturn))
run_child(struct build *b)
{
    struct build_failure failure = {0};
    sigset_t none;
    char go;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* Nothing is written to the gate: the broker closes it when the maps are there, or dies.
     * In the second case pid 1 finds the end of its socket and ends at once. */
    while (read(b->gate, &go, 1) < 0 && errno == EINTR)
        ;
    for (size_t i = 0; i < countof(steps); i++) {
        if (steps[i].take(b, &failure.err) < 0) {
            snprintf(failure.step, sizeof failure.step, "%s", steps[i].name);
            (void)!write(b->report, &failure, sizeof failure);
            _exit(1);
        }
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
fail(struct build_failure *failure, const char *step, const char *advice)
{
    snprintf(failure->step, sizeof failure->step, "%s", step);
    snprintf(failure->advice, sizeof failure->advice, "%s", advice);
    return -1;
}

/* Whoever holds CAP_SYS_ADMIN on the host can take trees for others and drop groups. A root of
 * some user namespace, as in a rootless container, is an ordinary user here. */
static int
is_privileged(void)
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

static int
write_maps(const struct build *b, pid_t pid, struct err *err)
{
    char path[64], map[64];
    scoped(fd_close) int proc = -1;

    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    proc = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0)
        return err_errno(err, "open '%s'", path);
    snprintf(map, sizeof map, "%d %u 1", POLICY_UID, b->uid);
    if (file_write(proc, "uid_map", map) < 0)
        return err_errno(err, "write uid_map '%s'", map);
    if (!b->privileged && file_write(proc, "setgroups", "deny") < 0)
        return err_errno(err, "write setgroups");
    snprintf(map, sizeof map, "%d %u 1", POLICY_UID, b->gid);
    return file_write(proc, "gid_map", map) < 0 ? err_errno(err, "write gid_map '%s'", map) : 0;
}

static const char *
advice_for_clone(int code)
{
    switch (code) {
    case EPERM:
    case EACCES:
        return "this machine refuses user namespaces to you: in a container, run it with "
               "'--security-opt seccomp=unconfined --security-opt systempaths=unconfined'; on "
               "Debian, 'sysctl kernel.unprivileged_userns_clone=1'; on Ubuntu, an AppArmor "
               "profile with 'userns,'";
    case ENOSPC:
    case EUSERS:
        return "the limit of user namespaces is reached: 'sysctl user.max_user_namespaces' must "
               "not be 0";
    case EINVAL:
    case ENOSYS:
        return "this kernel lacks namespaces that husk needs (Linux 5.12 or newer)";
    default:
        return "";
    }
}

static pid_t
start_child(struct build *b, int *pidfd, struct build_failure *failure)
{
    struct clone_args args = {
        .flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                 CLONE_NEWUTS | CLONE_PIDFD,
        .pidfd = (uint64_t)(uintptr_t)pidfd,
        .exit_signal = SIGCHLD,
    };
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);

    if (pid < 0 && errno == ENOSYS) /* Docker's filter says so of clone3 and EPERM of clone */
        pid = (pid_t)syscall(SYS_clone, (unsigned long)args.flags | SIGCHLD, NULL, pidfd, NULL, 0);
    if (pid < 0) {
        err_errno(&failure->err, "make namespaces");
        fail(failure, "namespaces", advice_for_clone(errno));
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
        if (strcmp(said.step, "proc") == 0)
            fail(failure, said.step,
                 "a container that masks parts of /proc allows no new one: run it with "
                 "'--security-opt systempaths=unconfined' (Kubernetes: procMount: Unmasked)");
        else if (strcmp(said.step, "identity") != 0 && said.err.code == EPERM)
            fail(failure, said.step, advice_for_clone(EPERM));
        return -1;
    }
    r = packet_recv(socket, &packet, SANDBOX_BY_INIT, SANDBOX_NEW, &frame, fds, &failure->err);
    if (r == 1 && frame.number == SANDBOX_ALIVE)
        return 0;
    if (r == 0)
        err_set(&failure->err, ECHILD, "pid 1 ended before it was ready");
    return fail(failure, "init", "");
}

static int
prepare(struct build *b, struct build_failure *failure)
{
    if (view_make(b->policy, &b->view, &failure->err) < 0)
        return fail(failure, "trees", "");
    if (b->privileged && view_take(&b->view, 1, b->uid, b->gid, &failure->err) < 0)
        return fail(failure, "trees",
                    failure->err.code == MOUNTS_NO_USERNS ? advice_for_clone(EPERM) : "");
    return 0;
}

int
build_sandbox(const struct policy *policy, struct limits *limits, int program, struct sandbox *ret,
              struct build_failure *failure)
{
    struct build b = {.policy = policy, .limits = limits, .program = program, .root = -1,
                      .privileged = is_privileged()};
    struct sandbox s = SANDBOX_EMPTY;
    int64_t start = now_us();
    int gate[2] = {-1, -1}, report[2] = {-1, -1}, pair[2] = {-1, -1}, r = -1;

    memset(failure, 0, sizeof *failure);
    b.uid = b.privileged ? PRIVILEGED_UID_BASE + (uid_t)getpid() : geteuid();
    b.gid = b.privileged ? PRIVILEGED_UID_BASE + (gid_t)getpid() : getegid();
    if (prepare(&b, failure) < 0)
        goto out;
    if (pipe2(gate, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        err_errno(&failure->err, "make pipes");
        fail(failure, "namespaces", "");
        goto out;
    }
    b.gate = gate[0];
    b.report = report[1];
    b.socket = pair[1];
    s.socket = pair[0];
    s.pid = start_child(&b, &s.pidfd, failure);
    if (s.pid == 0) {
        close(gate[1]);
        run_child(&b);
    }
    fd_close(&report[1]);
    fd_close(&pair[1]);
    if (s.pid < 0) {
        s.pid = 0;
        goto out;
    }
    if (write_maps(&b, s.pid, &failure->err) < 0) {
        fail(failure, "user namespace", advice_for_clone(failure->err.code));
        goto out;
    }
    if (limits_enter(limits, s.pid, &failure->err) < 0) {
        fail(failure, "limits", "");
        goto out;
    }
    fd_close(&gate[1]); /* opens the gate */
    r = await_child(report[0], s.socket, failure);
out:
    fd_close(&gate[0]);
    fd_close(&gate[1]);
    fd_close(&report[0]);
    fd_close(&report[1]);
    fd_close(&pair[1]);
    view_release(&b.view);
    s.took = now_us() - start;
    if (r < 0)
        sandbox_end(&s);
    else
        *ret = s;
    return r;
}

void
sandbox_end(struct sandbox *s)
{
    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    fd_close(&s->pidfd);
    fd_close(&s->socket);
    *s = SANDBOX_EMPTY;
}
