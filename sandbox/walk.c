/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/walk.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEPTH_MAX 1000000 /* directories in each other */

struct level {
    ino_t inode;
    dev_t device;
    off_t at;    /* where the directory is read on */
    size_t path; /* bytes of the path to it */
};

struct walk {
    struct level *level;
    size_t depth, room;
    struct buf path; /* of the directory that is open */
    walk_visit *visit;
    void *arg;
};

static int
push(struct walk *w, const struct stat *st)
{
    if (w->depth == w->room) {
        size_t room = w->room ? 2 * w->room : 64;
        struct level *more = room > DEPTH_MAX ? NULL : realloc(w->level, room * sizeof *more);
        if (!more)
            return -1;
        w->level = more;
        w->room = room;
    }
    w->level[w->depth++] = (struct level){st->st_ino, st->st_dev, 0, w->path.len};
    return 0;
}

/* Shows one entry, and leaves its path as that of a directory that is gone into. */
static int
show(struct walk *w, int dir, const char *name, const struct stat *st)
{
    struct walk_entry entry = {.dir = dir, .name = name, .st = st};
    int r;

    if (buf_text(&w->path, name) < 0 || !buf_string(&w->path))
        return -1;
    entry.path = (struct bytes){w->path.data, w->path.len};
    r = w->visit(w->arg, &entry);
    return r == 1 && S_ISDIR(st->st_mode) && buf_text(&w->path, "/") < 0 ? -1 : r;
}

/* Reads on in a directory until another one is found in it: 1 with its descriptor, 0 at the end. */
static int
next_directory(struct walk *w, DIR *dir, struct stat *st, int *ret)
{
    size_t here = w->level[w->depth - 1].path;
    struct dirent *d;

    while ((d = readdir(dir))) {
        int r;
        w->path.len = here;
        if (is_dots(d->d_name) || fstatat(dirfd(dir), d->d_name, st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        r = show(w, dirfd(dir), d->d_name, st);
        if (r < 0)
            return -1;
        if (r == 0 || !S_ISDIR(st->st_mode))
            continue;
        *ret = openat(dirfd(dir), d->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (*ret >= 0 && fstat(*ret, st) == 0)
            return 1;
        fd_close(ret); /* it has gone meanwhile */
    }
    return 0;
}

/* The directory above, if it is still the one that we came from. */
static int
go_up(const struct walk *w, int dir)
{
    const struct level *above = &w->level[w->depth - 1];
    int fd = openat(dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st;

    if (fd >= 0 && (fstat(fd, &st) < 0 || st.st_ino != above->inode || st.st_dev != above->device))
        fd_close(&fd);
    return fd;
}

/* Goes on with `fd`, which it owns. */
static int
step(struct walk *w, int *fd)
{
    struct level *here = &w->level[w->depth - 1];
    DIR *dir = fdopendir(*fd);
    struct stat st;
    int next = -1, r;

    if (!dir)
        return -1;
    if (here->at)
        seekdir(dir, here->at);
    r = next_directory(w, dir, &st, &next);
    if (r > 0) {
        here->at = telldir(dir);
        r = push(w, &st);
    } else if (r == 0 && --w->depth > 0) {
        next = go_up(w, dirfd(dir));
        r = next < 0 ? -1 : 0;
    }
    closedir(dir);
    *fd = next;
    return r;
}

int
walk_tree(int dir, walk_visit *visit, void *arg)
{
    struct walk w = {.visit = visit, .arg = arg};
    struct stat st;
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = -1;

    if (fd >= 0 && fstat(fd, &st) == 0 && push(&w, &st) == 0)
        for (r = 0; r == 0 && w.depth > 0;)
            r = step(&w, &fd);
    fd_close(&fd);
    free(w.level);
    buf_release(&w.path);
    return r;
}

/* Where the sandbox has no users of its own, its files are ours, and a cell may have closed some: the root of a
 * namespace of our own opens them. If none can be had, what is closed cannot be looked at. */
static void
become_root_of_ours(void)
{
    char map[40];
    uid_t uid = geteuid();
    gid_t gid = getegid();

    if (unshare(CLONE_NEWUSER) < 0)
        return;
    snprintf(map, sizeof map, "%u %u 1", uid, uid);
    (void)file_write(AT_FDCWD, "/proc/self/uid_map", map);
    (void)file_write(AT_FDCWD, "/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "%u %u 1", gid, gid);
    (void)file_write(AT_FDCWD, "/proc/self/gid_map", map);
}

int
walk_become_reader(pid_t pid1)
{
    scoped(fd_close) int fd = geteuid() == 0 ? -1 : (int)syscall(SYS_pidfd_open, pid1, 0);

    if (geteuid() == 0)
        return 0;
    if (fd < 0)
        return -1;
    if (setns(fd, CLONE_NEWUSER) < 0)
        become_root_of_ours();
    return 0;
}
