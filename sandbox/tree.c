/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef OPEN_TREE_CLOEXEC
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x4
#endif

int
tree_take(int fd, const char *path, unsigned flags)
{
    return (int)syscall(SYS_open_tree, fd, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);
}

int
tree_set(int fd, const char *path, unsigned flags, struct attributes attr)
{
    return (int)syscall(SYS_mount_setattr, fd, path, flags, &attr, sizeof attr);
}

int
tree_attach(int tree, int dir, const char *path)
{
    return (int)syscall(SYS_move_mount, tree, "", dir, path, MOVE_MOUNT_F_EMPTY_PATH);
}

int
tree_mapping(uid_t uid, gid_t gid, uid_t as_uid, gid_t as_gid, unsigned count, int *refused,
             struct err *err)
{
    char path[64], line[64];
    int fd = -1, status, r = -1;
    int gate[2];
    pid_t pid;

    if (pipe2(gate, O_CLOEXEC) < 0)
        return err_errno(err, "make a pipe");
    pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        char c;
        close(gate[1]);
        _exit(read(gate[0], &c, 1) == 0 ? 0 : 1);
    }
    close(gate[0]);
    if (pid < 0) {
        err_errno(err, "make a user namespace for an id-mapped mount");
        *refused = 1;
        goto out;
    }
    snprintf(path, sizeof path, "/proc/%d/uid_map", (int)pid);
    snprintf(line, sizeof line, "%u %u %u", uid, as_uid, count);
    if (file_write(AT_FDCWD, path, line) < 0) {
        err_errno(err, "write '%s'", path);
        goto out;
    }
    snprintf(path, sizeof path, "/proc/%d/gid_map", (int)pid);
    snprintf(line, sizeof line, "%u %u %u", gid, as_gid, count);
    if (file_write(AT_FDCWD, path, line) < 0) {
        err_errno(err, "write '%s'", path);
        goto out;
    }
    snprintf(path, sizeof path, "/proc/%d/ns/user", (int)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    r = fd < 0 ? err_errno(err, "open '%s'", path) : 0;
out:
    close(gate[1]);
    if (pid > 0)
        waitpid(pid, &status, 0);
    return r < 0 ? -1 : fd;
}
