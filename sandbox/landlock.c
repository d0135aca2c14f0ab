/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Rights by the ABI that brought them (linux/landlock.h); older headers lack the newer names. */
#define FS_EXECUTE (1ull << 0)
#define FS_WRITE_FILE (1ull << 1)
#define FS_READ_FILE (1ull << 2)
#define FS_READ_DIR (1ull << 3)
#define FS_REMOVE_FILE (1ull << 5)
#define FS_MAKE_CHAR (1ull << 6)
#define FS_MAKE_REG (1ull << 8)
#define FS_MAKE_BLOCK (1ull << 11)
#define FS_ABI1 ((1ull << 13) - 1)
#define FS_REFER (1ull << 13)     /* ABI 2 */
#define FS_TRUNCATE (1ull << 14)  /* ABI 3 */
#define FS_IOCTL_DEV (1ull << 15) /* ABI 5 */
#define FS_OF_FILES (FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV)
#define SCOPE_ABSTRACT_UNIX 1ull /* ABI 6 */
#define SCOPE_SIGNAL 2ull
#define NET_BIND_TCP 1ull /* ABI 4 */
#define NET_CONNECT_TCP 2ull
#define ALONE_ABI 6 /* what bears the whole weight must know all of the above */

struct ruleset {
    uint64_t fs, net, scoped;
};

static uint64_t
known_rights(int abi)
{
    return FS_ABI1 | (abi >= 2 ? FS_REFER : 0) | (abi >= 3 ? FS_TRUNCATE : 0) |
           (abi >= 5 ? FS_IOCTL_DEV : 0);
}

static uint64_t
rights_of(uint64_t wish)
{
    if (wish == LANDLOCK_WRITE)
        return ~0ull;
    if (wish == LANDLOCK_CHANGE)
        return ~(FS_MAKE_CHAR | FS_MAKE_BLOCK | FS_IOCTL_DEV);
    if (wish == LANDLOCK_LIST)
        return FS_READ_DIR;
    if (wish == LANDLOCK_SHARED_MEMORY)
        return FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE | FS_MAKE_REG | FS_REMOVE_FILE;
    if (wish == LANDLOCK_USE)
        return FS_READ_FILE | FS_READ_DIR | FS_WRITE_FILE | FS_TRUNCATE | FS_IOCTL_DEV;
    return FS_READ_FILE | FS_READ_DIR | FS_EXECUTE;
}

/* What is not there, or behind a link or a directory that is closed to us, gets no rule: less can be
 * reached. */
static int
can_be_left_out(int code)
{
    return code == ENOENT || code == ENOTDIR || code == ELOOP || code == EACCES;
}

static int
add_rule(int set, const struct join_rule *rule, uint64_t known, struct err *err)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC};
    struct landlock_path_beneath_attr attr = {
        .allowed_access = rights_of(rule->rights & ~(uint64_t)LANDLOCK_PLAIN) & known};
    scoped(fd_close) int fd = -1;
    struct stat st;

    /* A cell of before may have put a link where it can write, and waits for the next rule. */
    if (rule->rights & LANDLOCK_PLAIN) {
        how.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
        fd = (int)syscall(SYS_openat2, AT_FDCWD, rule->path, &how, sizeof how);
    } else {
        fd = open(rule->path, O_PATH | O_CLOEXEC);
    }
    if (fd < 0 && can_be_left_out(errno))
        return 0;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(err, "open '%s'", rule->path);
    if (!S_ISDIR(st.st_mode))
        attr.allowed_access &= FS_OF_FILES;
    attr.parent_fd = fd;
    if (syscall(SYS_landlock_add_rule, set, LANDLOCK_RULE_PATH_BENEATH, &attr, 0) < 0)
        return err_errno(err, "allow '%s'", rule->path);
    return 0;
}

int
landlock_enter(const struct join_rule *rule, size_t nrules, int alone, struct err *err)
{
    int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    struct ruleset want = {.fs = known_rights(abi),
                           .net = alone ? NET_BIND_TCP | NET_CONNECT_TCP : 0,
                           .scoped = abi >= 6 ? SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL : 0};
    scoped(fd_close) int set = -1;

    if (abi < 1)
        return err_errno(err, "use Landlock");
    if (alone && abi < ALONE_ABI)
        return err_set(err, EOPNOTSUPP, "containment landlock needs ABI %d of Landlock (Linux 6.12); "
                                        "this kernel has %d", ALONE_ABI, abi);
    set = (int)syscall(SYS_landlock_create_ruleset, &want,
                       abi >= 6 ? sizeof want : sizeof want.fs, 0);
    if (set < 0)
        return err_errno(err, "make Landlock rules");
    for (size_t i = 0; i < nrules; i++)
        if (add_rule(set, &rule[i], want.fs, err) < 0)
            return -1;
    if (syscall(SYS_landlock_restrict_self, set, 0) < 0)
        return err_errno(err, "enter Landlock");
    return 0;
}
