/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/grants.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sandbox/landlock.h"

/* What Python and its packages look at. Of /proc only what tells of the machine and of the process
 * itself, by name: `net` below /proc/self would show the network of everybody, and so would `task`.
 * A process that the interpreter starts has another /proc/self, and none of it. */
static const struct {
    uint64_t rights;
    const char *path;
} fixed[] = {
    {LANDLOCK_USE, "/dev/null"}, {LANDLOCK_USE, "/dev/zero"}, {LANDLOCK_USE, "/dev/full"},
    {LANDLOCK_USE, "/dev/random"}, {LANDLOCK_USE, "/dev/urandom"},
    /* multiprocessing makes its semaphores here, and so does everybody: names are not told. */
    {LANDLOCK_SHARED_MEMORY, "/dev/shm"},
    {LANDLOCK_READ, "/etc/localtime"},
    {LANDLOCK_READ, "/proc/cpuinfo"}, {LANDLOCK_READ, "/proc/meminfo"}, {LANDLOCK_READ, "/proc/stat"},
    {LANDLOCK_READ, "/proc/loadavg"}, {LANDLOCK_READ, "/proc/uptime"}, {LANDLOCK_READ, "/proc/version"},
    {LANDLOCK_READ, "/proc/filesystems"}, {LANDLOCK_READ, "/proc/sys/vm/overcommit_memory"},
    {LANDLOCK_READ, "/proc/self/cgroup"}, {LANDLOCK_READ, "/proc/self/cmdline"},
    {LANDLOCK_READ, "/proc/self/fd"}, {LANDLOCK_READ, "/proc/self/fdinfo"},
    {LANDLOCK_READ, "/proc/self/io"}, {LANDLOCK_READ, "/proc/self/limits"},
    {LANDLOCK_READ, "/proc/self/maps"}, {LANDLOCK_READ, "/proc/self/smaps"},
    {LANDLOCK_READ, "/proc/self/smaps_rollup"}, {LANDLOCK_READ, "/proc/self/stat"},
    {LANDLOCK_READ, "/proc/self/statm"}, {LANDLOCK_READ, "/proc/self/status"},
};

struct grants {
    struct buf *rules;
    size_t *nparts;
    struct strv kept;   /* paths that stay read-only in the tree at hand */
    struct strv masked; /* paths that are not given at all */
    uint64_t flags;     /* for each rule of it */
};

static int
give(struct grants *g, uint64_t rights, const char *path)
{
    return landlock_add(g->rules, g->nparts, rights | g->flags, path);
}

static int
holds_one(const char *path, const struct strv *of)
{
    for (size_t i = 0; i < of->len; i++)
        if (path_within(of->item[i], path) && strcmp(of->item[i], path) != 0)
            return 1;
    return 0;
}

static int give_tree(struct grants *g, const char *path, int writable);

static int
give_entries(struct grants *g, const char *path, int writable)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = 0;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    char entry[PATH_MAX];
    struct dirent *d;

    if (!dir) {
        fd_close(&fd);
        return 0; /* nothing of it is given */
    }
    while (r == 0 && (d = readdir(dir)))
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0 &&
            snprintf(entry, sizeof entry, "%s/%s", path, d->d_name) < (int)sizeof entry)
            r = give_tree(g, entry, writable);
    closedir(dir);
    return r;
}

/* As deep as something lies that is guarded, and no deeper. */
static int
give_tree(struct grants *g, const char *path, int writable)
{
    int part;

    if (strv_has(&g->masked, path))
        return 0;
    writable = writable && !strv_has(&g->kept, path);
    part = holds_one(path, &g->masked);
    if (!part && !(writable && holds_one(path, &g->kept)))
        return give(g, writable ? LANDLOCK_WRITE : LANDLOCK_READ, path);
    if (give(g, part ? LANDLOCK_LIST : LANDLOCK_READ, path) < 0)
        return -1;
    return give_entries(g, path, writable);
}

static int
keep(struct strv *v, const char *path, const char *tree)
{
    if (!path_within(path, tree) || strcmp(path, tree) == 0 ||
        faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    return strv_add(v, path);
}

static int
list_kept(struct grants *g, const struct policy *p, const char *tree)
{
    char path[PATH_MAX];
    const char *name;
    int r = 0;

    for (size_t i = 0; r == 0 && (name = mounts_guarded(i)); i++)
        if (snprintf(path, sizeof path, "%s/%s", tree, name) < (int)sizeof path)
            r = keep(&g->kept, path, tree);
    for (size_t i = 0; r == 0 && i < p->guards.len; i++)
        r = keep(&g->kept, p->guards.item[i], tree);
    for (size_t i = 0; r == 0 && i < p->paths.len; i++)
        r = keep(&g->kept, p->paths.item[i], tree);
    return r;
}

/* A directory or file of the host. Sets *partly if it could not be given whole. */
static int
give_shared(struct grants *g, const struct policy *p, const char *tree, int writable, int *partly)
{
    int r = 0;

    strv_release(&g->kept);
    strv_release(&g->masked);
    for (size_t i = 0; r == 0 && i < p->masks.len; i++)
        r = keep(&g->masked, p->masks.item[i], tree);
    if (r == 0 && writable)
        r = list_kept(g, p, tree);
    *partly = holds_one(tree, &g->kept) || holds_one(tree, &g->masked);
    return r < 0 ? -1 : give_tree(g, tree, writable);
}

static int
lies_where_cells_write(const struct policy *p, const char *path)
{
    int found = !p->private_workdir && path_within(path, p->workdir);

    for (size_t i = 0; i < p->nmounts; i++)
        found |= p->mounts[i].writable && path_within(path, p->mounts[i].source);
    return found;
}

static int
give_host(struct grants *g, const struct policy *p, int *partly)
{
    int r = 0, other;

    for (size_t i = 0; r == 0 && i < p->paths.len; i++) {
        if (!p->private_workdir && strcmp(p->paths.item[i], p->workdir) == 0)
            continue; /* it is given below, with its guards */
        g->flags = lies_where_cells_write(p, p->paths.item[i]) ? LANDLOCK_PLAIN : 0;
        r = give_shared(g, p, p->paths.item[i], 0, &other);
    }
    g->flags = LANDLOCK_PLAIN;
    for (size_t i = 0; r == 0 && i < p->nmounts; i++)
        r = give_shared(g, p, p->mounts[i].source, p->mounts[i].writable, &other);
    if (r == 0 && !p->private_workdir)
        r = give_shared(g, p, p->workdir, 1, partly);
    g->flags = 0;
    return r;
}

int
grants_make(const struct policy *p, struct buf *ret, size_t *nparts, int *partly, struct err *err)
{
    struct grants g = {.rules = ret, .nparts = nparts};
    const char *own[] = {p->home_layer, p->tmp_layer, p->private_workdir ? p->state : NULL};
    const char *path;
    int r = 0;

    *nparts = 0;
    *partly = 0;
    for (size_t i = 0; r == 0 && i < countof(fixed); i++)
        r = give(&g, fixed[i].rights, fixed[i].path);
    for (size_t i = 0; r == 0 && (path = mounts_system(i)); i++)
        r = give(&g, LANDLOCK_READ, path);
    for (size_t i = 0; r == 0 && i < countof(own); i++)
        r = own[i] ? give(&g, LANDLOCK_WRITE, own[i]) : 0;
    if (r == 0)
        r = give_host(&g, p, partly);
    strv_release(&g.kept);
    strv_release(&g.masked);
    return r < 0 ? err_errno(err, "list what may be reached") : 0;
}
