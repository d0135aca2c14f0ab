/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/layers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRASH "trash-" /* a directory that is being removed, by whoever comes first */

/*** Removal ***/

static int
is_directory(int dir, const char *name)
{
    struct stat st;

    return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* By descriptor: a broker that is killed lets go of its lock a moment before its sandbox dies, and a
 * process in there may put a link here just now. */
static void
take_rights(int dir, const char *name)
{
    scoped(fd_close) int fd = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    char path[32];

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (fd >= 0)
        (void)chmod(path, 0700);
}

/* Its owner may have taken all rights from it. */
static DIR *
open_directory(int dir, const char *name)
{
    int fd;
    DIR *d;

    take_rights(dir, name);
    fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0)
        close(fd);
    return d;
}

/* Moves a directory up to the top, under a name that is free there. */
static int
lift(int from, const char *name, int top, unsigned long *count)
{
    char fresh[32];
    int r;

    take_rights(from, name); /* its ".." changes: that wants the right to write */
    do {
        snprintf(fresh, sizeof fresh, ".%lu", ++*count);
        r = renameat2(from, name, top, fresh, RENAME_NOREPLACE);
    } while (r < 0 && errno == EEXIST);
    return r;
}

/* Empties a directory that lies at the top: what is no directory goes, what is one moves up. So
 * no depth is ever walked, and the tree gets flatter until it is gone. */
static int
empty(int top, const char *name, unsigned long *count)
{
    DIR *dir = open_directory(top, name);
    struct dirent *d;
    int done = 0;

    if (!dir)
        return 0;
    while ((d = readdir(dir))) {
        if (is_dots(d->d_name))
            continue;
        if (unlinkat(dirfd(dir), d->d_name, 0) == 0)
            done++;
        else if (is_directory(dirfd(dir), d->d_name))
            done += lift(dirfd(dir), d->d_name, top, count) == 0;
    }
    closedir(dir);
    return done;
}

int
tree_remove(int base, const char *name)
{
    DIR *top = open_directory(base, name);
    unsigned long count = 0;
    int progress = 1;

    while (top && progress) {
        struct dirent *d;
        progress = 0;
        rewinddir(top);
        while ((d = readdir(top))) {
            if (is_dots(d->d_name))
                continue;
            if (unlinkat(dirfd(top), d->d_name, 0) == 0)
                progress++;
            else if (is_directory(dirfd(top), d->d_name))
                progress += empty(dirfd(top), d->d_name, &count) +
                            (unlinkat(dirfd(top), d->d_name, AT_REMOVEDIR) == 0);
        }
    }
    if (top)
        closedir(top);
    return unlinkat(base, name, AT_REMOVEDIR);
}

/*** Layers ***/

static int
make_one(const struct layers *l, const char *name, char **ret, const struct policy *p,
         struct err *err)
{
    char path[PATH_MAX];

    if (mkdirat(l->lock, name, 0700) < 0)
        return err_errno(err, "make '%s/%s/%s'", p->layers, l->name, name);
    if (policy_has_user(p) &&
        fchownat(l->lock, name, p->uid, p->gid, AT_SYMLINK_NOFOLLOW) < 0)
        return err_errno(err, "give '%s/%s/%s' to the sandbox", p->layers, l->name, name);
    if (snprintf(path, sizeof path, "%s/%s/%s", p->layers, l->name, name) >= (int)sizeof path)
        return err_set(err, ENAMETOOLONG, "'%s' is too long", p->layers);
    free(*ret);
    *ret = strdup(path);
    return *ret ? 0 : err_errno(err, "keep '%s'", path);
}

/* The root of an image: what is changed in it, and what overlayfs needs beside that. Its home
 * directory is a part of it. */
static int
make_root(struct policy *p, const struct layers *l, struct err *err)
{
    if (make_one(l, "root", &p->root_layer, p, err) < 0)
        return -1;
    if (mkdirat(l->lock, "root/u", 0755) < 0 || mkdirat(l->lock, "root/w", 0755) < 0)
        return err_errno(err, "make '%s/u'", p->root_layer);
    /* Whatever the umask: this is the mode that '/' has inside. */
    return fchmodat(l->lock, "root/u", 0755, 0) < 0 ? err_errno(err, "make '%s/u'", p->root_layer) : 0;
}

/* The one that stays is not taken where it is asked for a private one, nor where its owner is
 * another user than the sandbox. */
static int
own_workspace(const struct policy *p)
{
    return p->profile != PROFILE_NOTEBOOK ||
           (policy_has_user(p) && p->private_workdir && p->uid != geteuid());
}

static int
make_private(struct policy *p, const struct layers *l, struct err *err)
{
    int r;

    if (p->container && p->profile == PROFILE_IMAGE) /* all of it is the container's own */
        return 0;
    r = p->profile == PROFILE_IMAGE ? make_root(p, l, err)
                                    : make_one(l, "home", &p->home_layer, p, err);

    if (r == 0 && own_workspace(p))
        r = make_one(l, "workspace", &p->state, p, err);
    return r;
}

static int
set_path(char **path, const char *value, struct err *err)
{
    char *copy = strdup(value);

    if (!copy)
        return err_errno(err, "keep '%s'", value);
    free(*path);
    *path = copy;
    return 0;
}

/* Without mounts. The user of the sandbox must get through to its directories, and nobody else. */
static int
make_own(const struct layers *l, struct policy *p, struct err *err)
{
    if (fchown(l->lock, (uid_t)-1, p->gid) < 0 || fchmod(l->lock, 0710) < 0)
        return err_errno(err, "let the sandbox into '%s/%s'", p->layers, l->name);
    if (make_one(l, "tmp", &p->tmp_layer, p, err) < 0 || set_path(&p->home, p->home_layer, err) < 0)
        return -1;
    return p->private_workdir ? set_path(&p->workdir, p->state, err) : 0;
}

int
layers_make(struct policy *p, struct layers *ret, struct err *err)
{
    struct layers l = LAYERS_EMPTY;
    int r = -1;

    if (!p->layers) {
        *ret = l;
        return 0;
    }
    snprintf(l.name, sizeof l.name, "%d-%s", (int)getpid(), p->id);
    l.base = open(p->layers, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    /* While the base is locked nobody takes a directory that is not locked yet for a left one. */
    if (l.base < 0 || flock(l.base, LOCK_EX) < 0 || mkdirat(l.base, l.name, 0700) < 0)
        err_errno(err, "make a directory below '%s'", p->layers);
    else if ((l.lock = openat(l.base, l.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0 ||
             flock(l.lock, LOCK_EX | LOCK_NB) < 0)
        err_errno(err, "lock '%s/%s'", p->layers, l.name);
    else if (make_private(p, &l, err) == 0 &&
             (p->level == LEVEL_FULL || make_own(&l, p, err) == 0))
        r = 0;
    if (l.base >= 0)
        flock(l.base, LOCK_UN);
    if (r < 0)
        layers_release(&l);
    else
        *ret = l;
    return r;
}

/* Takes a directory that nobody holds out of the way, so that nobody else takes it. */
static int
claim(int base, const char *name, char into[static NAME_MAX + 1])
{
    scoped(fd_close) int fd = openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -1;
    snprintf(into, NAME_MAX + 1, TRASH "%d-%.90s", (int)getpid(), name);
    return renameat(base, name, base, into);
}

/* How many are left. */
static int
sweep(const struct layers *l)
{
    char trash[NAME_MAX + 1];
    int left = 0;
    struct dirent *d;
    int fd = openat(l->base, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    while (dir && (d = readdir(dir))) {
        if (is_dots(d->d_name))
            continue;
        if (strncmp(d->d_name, TRASH, strlen(TRASH)) == 0) {
            left += tree_remove(l->base, d->d_name) < 0;
        } else if (flock(l->base, LOCK_EX) == 0) {
            int r = claim(l->base, d->d_name, trash);
            flock(l->base, LOCK_UN);
            if (r == 0)
                left += tree_remove(l->base, trash) < 0;
        }
    }
    if (dir)
        closedir(dir);
    return left;
}

/* What belongs to other users of an image only their root can remove. */
static int
become_their_root(void)
{
    struct subordinate ids;

    if (geteuid() == 0)
        return -1;
    subordinate_find(&ids);
    return subordinate_enter(&ids);
}

void
layers_sweep(const struct layers *l)
{
    if (sweep(l) > 0 && become_their_root() == 0)
        (void)sweep(l);
}

static void
remove_as_their_root(const struct layers *l)
{
    pid_t child = fork();

    if (child == 0)
        _exit(become_their_root() < 0 || tree_remove(l->base, l->name) < 0);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
}

void
layers_release(struct layers *l)
{
    int saved = errno;

    if (l->base >= 0 && *l->name)
        if (tree_remove(l->base, l->name) < 0 && errno != ENOENT)
            remove_as_their_root(l);
    fd_close(&l->lock);
    fd_close(&l->base);
    errno = saved;
}
