/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/loopback.h"
#include "sandbox/tree.h"

#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x4
#endif
#ifndef MOVE_MOUNT_T_EMPTY_PATH
#define MOVE_MOUNT_T_EMPTY_PATH 0x40
#endif

#define NULL_DEVICE "/dev/null" /* over a file: with nodev it cannot even be opened */

/*** The list ***/

/* Directories of the system at the top; on merged-usr systems most are symbolic links. */
static const char *const system_top[] = {"/usr",   "/bin",   "/sbin",  "/lib",
                                         "/lib32", "/lib64", "/libx32"};

/* What programs need of /etc and what tells nothing about the host's users and services.
 * The rest of /etc does not exist inside. */
static const char *const system_etc[] = {
    "/etc/alternatives", "/etc/bash.bashrc", "/etc/ca-certificates", "/etc/ca-certificates.conf",
    "/etc/debian_version", "/etc/fonts", "/etc/gai.conf", "/etc/inputrc", "/etc/ld.so.cache",
    "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/locale.alias", "/etc/magic", "/etc/manpath.config",
    "/etc/matplotlibrc", "/etc/mime.types", "/etc/os-release", "/etc/pki/ca-trust",
    "/etc/pki/tls/certs", "/etc/protocols", "/etc/python3", "/etc/services", "/etc/shells",
    "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/terminfo", "/etc/timezone",
    "/usr/share/zoneinfo"};

const char *
mounts_system(size_t i)
{
    if (i < countof(system_top))
        return system_top[i];
    i -= countof(system_top);
    return i < countof(system_etc) ? system_etc[i] : NULL;
}

static struct mount_entry *
add_entry(struct mount_view *view, enum mount_kind kind, const char *source, const char *target)
{
    struct mount_entry *e =
        realloc(view->entry, (view->len + 1) * sizeof *e);

    if (!e)
        return NULL;
    view->entry = e;
    e += view->len;
    *e = (struct mount_entry){.kind = kind, .mode = 0755, .tree = -1};
    e->target = strdup(target);
    e->source = source ? strdup(source) : NULL;
    if (!e->target || (source && !e->source)) {
        free(e->target);
        free(e->source);
        return NULL;
    }
    view->len++;
    return e;
}

static int
add_memory(struct mount_view *view, const char *target, uint64_t size, unsigned mode)
{
    struct mount_entry *e = add_entry(view, MOUNT_MEMORY, NULL, target);

    if (!e)
        return -1;
    e->size = size;
    e->mode = mode;
    return 0;
}

static int
add_system(struct mount_view *view)
{
    for (size_t i = 0; i < countof(system_top); i++) {
        char target[256];
        ssize_t len = readlink(system_top[i], target, sizeof target - 1);
        struct mount_entry *e;

        if (len > 0) {
            target[len] = 0;
            if (strv_add(&view->links, target) < 0 || strv_add(&view->links, system_top[i]) < 0)
                return -1;
            continue;
        }
        if (!(e = add_entry(view, MOUNT_READ_ONLY, system_top[i], system_top[i])))
            return -1;
        e->optional = 1;
    }
    for (size_t i = 0; i < countof(system_etc); i++) {
        struct mount_entry *e;
        if (path_within(system_etc[i], system_top[0]))
            continue; /* it is seen with that */
        if (!(e = add_entry(view, MOUNT_READ_ONLY, system_etc[i], system_etc[i])))
            return -1;
        e->optional = 1;
    }
    return 0;
}

static int
covered(const struct policy *p, const char *path)
{
    for (size_t i = 0; !policy_has_root(p) && i < countof(system_top); i++)
        if (path_within(path, system_top[i]))
            return 1;
    for (size_t i = 0; i < p->paths.len; i++)
        if (strcmp(p->paths.item[i], path) != 0 && path_within(path, p->paths.item[i]) &&
            !(path_within(p->workdir, p->paths.item[i]) && path_within(path, p->workdir)))
            return 1;
    return 0;
}

static int
add_paths(struct mount_view *view, const struct policy *p)
{
    for (size_t i = 0; i < p->paths.len; i++) {
        const char *path = p->paths.item[i];
        struct mount_entry *e;

        /* The working directory stays writable though Python has it on its path, too. */
        if (covered(p, path) || (!p->private_workdir && strcmp(path, p->workdir) == 0))
            continue;
        if (!(e = add_entry(view, MOUNT_READ_ONLY, path, path)))
            return -1;
        e->optional = 1;
        e->mapped = 1;
        e->no_symlinks = !p->private_workdir && path_within(path, p->workdir);
    }
    return 0;
}

/* What lies in a working directory and runs later on the host, or says what runs. Read-only for
 * cells where it exists; what does not exist cannot be guarded without making it. */
static const char *const guarded[] = {
    ".git", /* all of it: `commondir` sends git to any other directory for config and hooks */
    ".envrc", ".vscode", ".idea", ".bashrc", ".bash_profile", ".profile", ".zshrc",
    ".pre-commit-config.yaml"};

const char *
mounts_guarded(size_t i)
{
    return i < countof(guarded) ? guarded[i] : NULL;
}

static int
add_shared(struct mount_view *view, enum mount_kind kind, const char *source, const char *target)
{
    struct mount_entry *e = add_entry(view, kind, source, target);

    if (!e)
        return -1;
    e->optional = 1;
    e->mapped = 1;
    e->no_symlinks = 1;
    return 0;
}

/* A directory of the host that the sandbox may write. */
struct shared {
    const char *source, *target;
};

/* Where `path` of the host appears, if it lies below a shared directory. */
static int
appears(const struct shared *s, const char *path, char into[static PATH_MAX])
{
    if (!path_within(path, s->source) || strcmp(path, s->source) == 0)
        return 0;
    return snprintf(into, PATH_MAX, "%s%s", s->target, path + strlen(s->source)) < PATH_MAX;
}

static int
add_guards(struct mount_view *view, const struct policy *p, const struct shared *s)
{
    char path[PATH_MAX], inside[PATH_MAX];
    int r = 0;

    for (size_t i = 0; r == 0 && i < countof(guarded); i++) {
        if (snprintf(path, sizeof path, "%s/%s", s->source, guarded[i]) >= (int)sizeof path)
            return -1;
        if (appears(s, path, inside))
            r = add_shared(view, MOUNT_READ_ONLY, path, inside);
    }
    for (size_t i = 0; r == 0 && i < p->guards.len; i++)
        if (appears(s, p->guards.item[i], inside))
            r = add_shared(view, MOUNT_READ_ONLY, p->guards.item[i], inside);
    for (size_t i = 0; r == 0 && i < p->masks.len; i++)
        if (appears(s, p->masks.item[i], inside) &&
            !add_entry(view, MOUNT_READ_ONLY, NULL_DEVICE, inside))
            r = -1;
    return r;
}

static int
has_target(const struct mount_view *view, const char *path)
{
    for (size_t i = 0; i < view->len; i++)
        if (strcmp(view->entry[i].target, path) == 0)
            return 1;
    return 0;
}

/* rename(2) refuses a mount point, but not a directory above one: a cell would rename it, and
 * put its own tree at the guarded path. So every directory between the shared directory and what
 * is read-only in it becomes a mount of itself. */
static int
add_pins(struct mount_view *view, const struct shared *s)
{
    size_t len = view->len;
    char target[PATH_MAX], source[PATH_MAX];

    for (size_t i = 0; i < len; i++) {
        if (view->entry[i].kind != MOUNT_READ_ONLY ||
            !path_within(view->entry[i].target, s->target) ||
            faccessat(AT_FDCWD, view->entry[i].source, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        snprintf(target, sizeof target, "%s", view->entry[i].target);
        for (;;) {
            *strrchr(target, '/') = 0;
            if (strlen(target) <= strlen(s->target))
                break;
            snprintf(source, sizeof source, "%s%s", s->source, target + strlen(s->target));
            if (!has_target(view, target) && add_shared(view, MOUNT_READ_WRITE, source, target) < 0)
                return -1;
        }
    }
    return 0;
}

/* The working directory and the mounts that were asked for. */
static int
add_workdir(struct mount_view *view, const struct policy *p)
{
    const struct shared s = {p->workdir, p->workdir};
    struct mount_entry *e;

    if (p->container && p->profile == PROFILE_IMAGE)
        return 0; /* a part of the container's own root */
    e = add_entry(view, MOUNT_READ_WRITE, p->private_workdir ? p->state : p->workdir, p->workdir);
    if (!e)
        return -1;
    e->mapped = 1;
    if (p->private_workdir)
        return 0;
    return add_guards(view, p, &s) < 0 || add_pins(view, &s) < 0 ? -1 : 0;
}

static int
add_mounts(struct mount_view *view, const struct policy *p)
{
    for (size_t i = 0; i < p->nmounts; i++) {
        const struct policy_mount *m = &p->mounts[i];
        const struct shared s = {m->source, m->target};
        struct mount_entry *e = add_entry(view, m->writable ? MOUNT_READ_WRITE : MOUNT_READ_ONLY,
                                          m->source, m->target);
        if (!e)
            return -1;
        e->mapped = 1;
        e->no_symlinks = 1;
        if (m->writable && (add_guards(view, p, &s) < 0 || add_pins(view, &s) < 0))
            return -1;
    }
    return 0;
}

/* On disk, if there is a directory for it. */
static int
add_home(struct mount_view *view, const struct policy *p)
{
    struct mount_entry *e;

    if (!p->home_layer)
        return add_memory(view, p->home, p->tmp_size, 0777);
    e = add_entry(view, MOUNT_READ_WRITE, p->home_layer, p->home);
    if (!e)
        return -1;
    e->mapped = 1;
    e->no_symlinks = 1;
    return 0;
}

/* What an image that is changed brings along itself. */
static int
add_host(struct mount_view *view, const struct policy *p)
{
    return (!p->container && add_system(view) < 0) ||
                   add_memory(view, "/var/tmp", p->tmp_size / 2, 01777) < 0 || add_home(view, p) < 0
               ? -1 : 0;
}

static int
by_target(const void *a, const void *b)
{
    const struct mount_entry *x = a, *y = b;

    return strcmp(x->target, y->target);
}

/* Two entries of one target: the later in the list wins (the working directory over the home). */
static void
drop_hidden(struct mount_view *view)
{
    size_t kept = 0;

    for (size_t i = 0; i < view->len; i++) {
        int again = 0;
        for (size_t k = i + 1; k < view->len; k++)
            again |= strcmp(view->entry[i].target, view->entry[k].target) == 0;
        if (again) {
            free(view->entry[i].source);
            free(view->entry[i].target);
        } else {
            view->entry[kept++] = view->entry[i];
        }
    }
    view->len = kept;
}

int
view_make(const struct policy *p, struct mount_view *ret, struct err *err)
{
    scoped(view_release) struct mount_view view = {0};

    if ((p->profile != PROFILE_IMAGE && add_host(&view, p) < 0) ||
        add_memory(&view, "/tmp", p->tmp_size, 01777) < 0 ||
        add_memory(&view, "/run", 16 << 20, p->profile == PROFILE_IMAGE ? 0755 : 01777) < 0 ||
        add_paths(&view, p) < 0 || add_workdir(&view, p) < 0 || add_mounts(&view, p) < 0)
        return err_errno(err, "list the mounts");
    drop_hidden(&view);
    /* A directory sorts before what lies in it: so it is mounted first. */
    qsort(view.entry, view.len, sizeof *view.entry, by_target);
    *ret = view;
    view = (struct mount_view){0}; /* moved to the caller */
    return 0;
}

void
view_release(struct mount_view *view)
{
    for (size_t i = 0; i < view->len; i++) {
        free(view->entry[i].source);
        free(view->entry[i].target);
        fd_close(&view->entry[i].tree);
    }
    free(view->entry);
    strv_release(&view->links);
    *view = (struct mount_view){0};
}

/*** Taking ***/

struct mapping {
    uid_t uid;
    gid_t gid;
    int fd;
    int refused; /* 1: it was the user namespace that could not be made */
};

static int
map_tree(const struct mount_entry *e, const struct stat *st, uid_t uid, gid_t gid,
         struct mapping *cache, struct err *err)
{
    struct attributes attr = {.set = ATTR_IDMAP};

    if (st->st_uid == uid)
        return 0;
    if (cache->fd < 0 || cache->uid != st->st_uid || cache->gid != st->st_gid) {
        fd_close(&cache->fd);
        cache->fd = tree_mapping(st->st_uid, st->st_gid, uid, gid, 1, &cache->refused, err);
        if (cache->fd < 0)
            return -1;
        cache->uid = st->st_uid;
        cache->gid = st->st_gid;
    }
    attr.userns = (uint64_t)cache->fd;
    if (tree_set(e->tree, "", AT_EMPTY_PATH | AT_RECURSIVE, attr) == 0)
        return 0;
    /* A read-only tree may still be readable by everybody; a working directory would not be
     * writable, and its files would belong to nobody. */
    if (e->kind == MOUNT_READ_ONLY)
        return 0;
    return err_errno(err,
                     "id-map '%s' (its file system cannot; run husk as the owner of the directory)",
                     e->source);
}

/* O_PATH; -1 with err->code 0: it is left out. */
static int
open_entry(const struct mount_entry *e, struct stat *st, struct err *err)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS};
    int fd;

    if (e->no_symlinks)
        how.resolve |= RESOLVE_NO_SYMLINKS;
    err->code = 0;
    fd = (int)syscall(SYS_openat2, AT_FDCWD, e->source, &how, sizeof how);
    if (fd < 0 && e->optional && (errno == ENOENT || errno == ENOTDIR || errno == EACCES ||
                                  (errno == ELOOP && e->no_symlinks)))
        return -1;
    if (fd < 0 || fstat(fd, st) < 0) {
        err_errno(err, "open '%s'", e->source);
    } else if (S_ISDIR(st->st_mode) || S_ISREG(st->st_mode) || strcmp(e->source, NULL_DEVICE) == 0) {
        return fd;
    } else if (!e->optional) {
        err_set(err, EINVAL, "'%s' is no directory", e->source);
    }
    fd_close(&fd);
    return -1;
}

static int
take_entry(struct mount_entry *e, int map, uid_t uid, gid_t gid, struct mapping *cache,
           struct err *err)
{
    /* Private: what is mounted below later, on the host, comes with flags of its own. All other
     * mounts of the sandbox are its own, or went with the old root. */
    struct attributes attr = {.set = ATTR_NOSUID | ATTR_NODEV, .propagation = MS_PRIVATE};
    struct stat st;
    scoped(fd_close) int fd = open_entry(e, &st, err);

    if (fd < 0)
        return err->code ? -1 : 0;
    e->tree = tree_take(fd, "", AT_EMPTY_PATH | AT_RECURSIVE);
    if (e->tree < 0)
        return err_errno(err, "take '%s'", e->source);
    if (e->kind == MOUNT_READ_ONLY)
        attr.set |= ATTR_RDONLY;
    if (tree_set(e->tree, "", AT_EMPTY_PATH | AT_RECURSIVE, attr) < 0)
        return err_errno(err, "restrict '%s'", e->source);
    return map && e->mapped ? map_tree(e, &st, uid, gid, cache, err) : 0;
}

int
view_look(struct mount_view *view, struct err *err)
{
    struct stat st;

    for (size_t i = 0; i < view->len; i++) {
        struct mount_entry *e = &view->entry[i];
        if (!e->source)
            continue;
        e->tree = open_entry(e, &st, err);
        if (e->tree < 0 && err->code)
            return -1;
    }
    return 0;
}

int
view_take(struct mount_view *view, int map, uid_t uid, gid_t gid, struct err *err)
{
    struct mapping cache = {.fd = -1};
    int r = 0;

    for (size_t i = 0; r == 0 && i < view->len; i++)
        if (view->entry[i].source && view->entry[i].tree < 0)
            r = take_entry(&view->entry[i], map, uid, gid, &cache, err);
    fd_close(&cache.fd);
    view->no_userns = cache.refused;
    return r;
}

/*** Attaching ***/

/* Where mount points are made. What lies in one directory comes one after the other, and a directory before
 * what lies in it, so the last one is kept. */
struct place {
    int root; /* borrowed */
    int dir;  /* of the last point, or -1 */
    char path[PATH_MAX]; /* to it, with the slash at its end */
};

static void
place_release(struct place *p)
{
    fd_close(&p->dir);
}

/* Makes it, if it is not there. Follows no symbolic link: another sandbox may be writing in the same
 * directory just now. */
static int
open_name(int dir, const char *name, int directory)
{
    if (!directory)
        return openat(dir, name, O_CREAT | O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (mkdirat(dir, name, 0755) < 0 && errno != EEXIST && errno != EROFS)
        return -1;
    return openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* The directory that `path` lies in, and those above it. */
static int
open_parent(struct place *p, const char *path, struct err *err)
{
    size_t used = (size_t)(strrchr(path, '/') - path) + 1;
    scoped(fd_close) int dir = -1;
    char name[NAME_MAX + 1];

    if (p->dir >= 0 && strlen(p->path) == used && strncmp(path, p->path, used) == 0)
        return 0;
    dir = fcntl(p->root, F_DUPFD_CLOEXEC, 3);
    for (size_t at = 1; at < used;) {
        size_t len = strcspn(path + at, "/");
        int next;
        if (len > NAME_MAX || used >= sizeof p->path)
            return err_set(err, ENAMETOOLONG, "make '%s'", path);
        snprintf(name, sizeof name, "%.*s", (int)len, path + at);
        next = open_name(dir, name, 1);
        if (next < 0)
            return err_errno(err, "make '%s'", path);
        fd_close(&dir);
        dir = next;
        at += len + 1;
    }
    fd_close(&p->dir);
    p->dir = dir;
    dir = -1; /* moved */
    snprintf(p->path, sizeof p->path, "%.*s", (int)used, path);
    return 0;
}

/* A descriptor of the mount point itself, made as its kind asks. Inside a shared tree everything exists already,
 * or is made there. */
static int
open_point(struct place *p, const char *path, int directory, struct err *err)
{
    int fd;

    if (open_parent(p, path, err) < 0)
        return -1;
    fd = open_name(p->dir, strrchr(path, '/') + 1, directory);
    return fd < 0 ? err_errno(err, "make '%s'", path) : fd;
}

static int
make_directory(int root, const char *path, struct err *err)
{
    scoped(fd_close) int there = -1;

    if (mkdirat(root, path + 1, 0755) == 0)
        return 0;
    /* An image may have anything by that name. */
    there = errno == EEXIST ? openat(root, path + 1, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    return there < 0 ? err_errno(err, "make '%s'", path) : 0;
}

/* mount(2) onto a path below root: by /proc/self/fd, so that the descriptor says which root. */
static int
mount_at(int root, const char *path, const char *type, unsigned long flags, const char *data,
         struct err *err)
{
    if (fchdir(root) < 0)
        return err_errno(err, "enter the new root");
    if (mount(type, path + 1, type, flags, data) < 0)
        return err_errno(err, "mount %s at '%s'", type, path);
    return 0;
}

static int
attach_memory(const struct mount_entry *e, struct place *place, struct err *err)
{
    scoped(fd_close) int point = open_point(place, e->target, 1, err);
    char data[96];

    /* Inodes cost memory too, and the size option does not count them. */
    snprintf(data, sizeof data, "mode=%o,size=%llu,nr_inodes=%llu", e->mode,
             (unsigned long long)e->size, (unsigned long long)(e->size >> 12) + 1024);
    return point < 0 ? -1 : mount_at(place->root, e->target, "tmpfs", MS_NOSUID | MS_NODEV, data, err);
}

int
view_attach(const struct mount_view *view, int root, struct err *err)
{
    scoped(place_release) struct place place = {.root = root, .dir = -1};
    struct stat st;

    for (size_t i = 0; i + 1 < view->links.len; i += 2)
        if (symlinkat(view->links.item[i], root, view->links.item[i + 1] + 1) < 0)
            return err_errno(err, "link '%s'", view->links.item[i + 1]);
    for (size_t i = 0; i < view->len; i++) {
        const struct mount_entry *e = &view->entry[i];
        scoped(fd_close) int point = -1;
        if (e->kind == MOUNT_MEMORY) {
            if (attach_memory(e, &place, err) < 0)
                return -1;
            continue;
        }
        if (e->tree < 0)
            continue;
        if (fstat(e->tree, &st) < 0)
            return err_errno(err, "look at '%s'", e->source);
        point = open_point(&place, e->target, S_ISDIR(st.st_mode), err);
        if (point < 0)
            return err_wrap(err, "show '%s'", e->source);
        if (syscall(SYS_move_mount, e->tree, "", point, "",
                    MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
            return err_errno(err, "attach '%s'", e->target);
    }
    return 0;
}

/*** The made parts ***/

int
mounts_stage(int *ret, struct err *err)
{
    int fd;

    /* Any directory that exists everywhere will do: what it hides is seen by this process
     * only, and all trees have been taken. */
    if (mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m,nr_inodes=4096") < 0)
        return err_errno(err, "mount a tmpfs for the new root");
    fd = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, "open the new root");
    *ret = fd;
    return 0;
}

/* A bind of one path onto another below root, made read-only and harmless before it is seen. */
static int
cover(int root, const char *source, const char *path, struct err *err)
{
    struct attributes attr = {.set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC};
    int from = *source == '/' ? AT_FDCWD : root;
    scoped(fd_close) int tree = tree_take(from, source, AT_RECURSIVE);

    if (tree < 0 || tree_set(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, attr) < 0 ||
        tree_attach(tree, root, path) < 0)
        return err_errno(err, "cover '/%s'", path);
    return 0;
}

/* What covers one path covers another as well: a bind has the flags of the mount that it is made
 * of. A call in place of four, or of another file system in memory. */
static int
cover_alike(int root, const char *covered, const char *path, struct err *err)
{
    if (fchdir(root) < 0)
        return err_errno(err, "enter the new root");
    return mount(covered, path, NULL, MS_BIND, NULL) < 0 ? err_errno(err, "cover '/%s'", path) : 0;
}

/* Those of the paths that exist, each with an empty file or directory that nobody can open or
 * write: the first is made, the others are the same. */
static int
mask_all(int root, const char *const *paths, size_t n, int directories, struct err *err)
{
    const char *first = NULL;
    char path[64];
    int r = 0;

    for (size_t i = 0; r == 0 && i < n; i++) {
        if (faccessat(root, paths[i], F_OK, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        snprintf(path, sizeof path, "/%s", paths[i]);
        if (first)
            r = cover_alike(root, first, paths[i], err);
        else if (directories)
            r = mount_at(root, path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
                         "size=4k,nr_inodes=2", err);
        else
            r = cover(root, NULL_DEVICE, paths[i], err);
        first = first ? first : paths[i];
    }
    return r;
}

static int
is_null_device(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3);
}

int
mounts_proc(int root, struct err *err)
{
    static const char *const files[] = {"proc/kcore",         "proc/keys",        "proc/kmsg",
                                        "proc/timer_list",    "proc/sched_debug", "proc/kpagecount",
                                        "proc/latency_stats", "proc/kpageflags",  "proc/kpagecgroup",
                                        "proc/config.gz",     "proc/sysrq-trigger", "proc/vmallocinfo",
                                        "proc/slabinfo",      "proc/modules",     "proc/kallsyms"};
    static const char *const directories[] = {"proc/acpi", "proc/scsi", "proc/asound", "proc/driver",
                                              "proc/fs", "proc/pressure"};
    static const char *const frozen[] = {"proc/sys", "proc/bus", "proc/irq"};

    if (make_directory(root, "/proc", err) < 0 ||
        mount_at(root, "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, err) < 0)
        return -1;
    /* CVE-2025-31133: a /dev/null that is something else would be bound in its place. */
    if (!is_null_device(NULL_DEVICE))
        return err_set(err, EINVAL, "'" NULL_DEVICE "' is not the null device");
    if (mask_all(root, files, countof(files), 0, err) < 0 ||
        mask_all(root, directories, countof(directories), 1, err) < 0)
        return -1;
    for (size_t i = 0; i < countof(frozen); i++)
        if (faccessat(root, frozen[i], F_OK, AT_SYMLINK_NOFOLLOW) == 0 &&
            cover(root, frozen[i], frozen[i], err) < 0)
            return -1;
    return 0;
}

int
mounts_dev(int root, uint64_t shm_size, struct err *err)
{
    static const char *const devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
    static const char *const links[][2] = {{"/proc/self/fd", "dev/fd"},
                                           {"/proc/self/fd/0", "dev/stdin"},
                                           {"/proc/self/fd/1", "dev/stdout"},
                                           {"/proc/self/fd/2", "dev/stderr"},
                                           {"pts/ptmx", "dev/ptmx"}};
    struct attributes attr = {.set = ATTR_NOSUID | ATTR_NOEXEC};
    char data[96];

    if (make_directory(root, "/dev", err) < 0 ||
        mount_at(root, "/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k,nr_inodes=64",
                 err) < 0)
        return -1;
    for (size_t i = 0; i < countof(devices); i++) {
        char source[32];
        scoped(fd_close) int tree = -1, point = -1;
        snprintf(source, sizeof source, "/dev/%s", devices[i]);
        point = openat(root, source + 1, O_CREAT | O_EXCL | O_RDONLY | O_NOFOLLOW | O_CLOEXEC, 0644);
        tree = tree_take(AT_FDCWD, source, 0);
        if (point < 0 || tree < 0 || tree_set(tree, "", AT_EMPTY_PATH, attr) < 0 ||
            tree_attach(tree, root, source + 1) < 0)
            return err_errno(err, "show '%s'", source);
    }
    for (size_t i = 0; i < countof(links); i++)
        if (symlinkat(links[i][0], root, links[i][1]) < 0)
            return err_errno(err, "link '/%s'", links[i][1]);
    snprintf(data, sizeof data, "mode=1777,size=%llu,nr_inodes=65536", (unsigned long long)shm_size);
    if (make_directory(root, "/dev/pts", err) < 0 || make_directory(root, "/dev/shm", err) < 0 ||
        make_directory(root, "/dev/mqueue", err) < 0 ||
        mount_at(root, "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
                 "newinstance,ptmxmode=0666,mode=620", err) < 0 ||
        mount_at(root, "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, data, err) < 0 ||
        mount_at(root, "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, err) < 0)
        return -1;
    return 0;
}

static int
make_file(int root, const char *path, const char *text, struct err *err)
{
    scoped(fd_close) int fd =
        openat(root, path, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644);

    if (fd < 0 || fd_write_all(fd, text, strlen(text)) < 0)
        return err_errno(err, "write '/%s'", path);
    return 0;
}

void
mounts_names(const struct policy *policy, struct names_of_etc *ret)
{
    snprintf(ret->hosts, sizeof ret->hosts, "127.0.0.1 localhost %s\n::1 localhost ip6-localhost\n",
             policy->hostname);
    snprintf(ret->hostname, sizeof ret->hostname, "%s\n", policy->hostname);
    ret->resolv_conf = rules_any(&policy->rules) ? "nameserver " LOOPBACK_RESOLVER "\n"
                                         : "# this sandbox has no network\n";
}

int
mounts_etc(const struct policy *policy, int root, struct err *err)
{
    char passwd[4600], group[128], zone[PATH_MAX];
    struct names_of_etc names;
    ssize_t len = readlink("/etc/localtime", zone, sizeof zone - 1);

    snprintf(passwd, sizeof passwd,
             "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n"
             "%s:x:%d:%d::%s:/bin/bash\n"
             "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
             POLICY_USER, POLICY_UID, POLICY_UID, policy->home);
    snprintf(group, sizeof group, "root:x:0:\n%s:x:%d:\nnogroup:x:65534:\n", POLICY_USER, POLICY_UID);
    mounts_names(policy, &names);
    if (make_directory(root, "/etc", err) < 0 ||
        make_file(root, "etc/passwd", passwd, err) < 0 ||
        make_file(root, "etc/group", group, err) < 0 ||
        make_file(root, "etc/hosts", names.hosts, err) < 0 ||
        make_file(root, "etc/hostname", names.hostname, err) < 0 ||
        make_file(root, "etc/resolv.conf", names.resolv_conf, err) < 0 ||
        make_file(root, "etc/nsswitch.conf",
                  "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n"
                  "protocols: files\n",
                  err) < 0)
        return -1;
    if (len > 0) {
        zone[len] = 0;
        if (symlinkat(zone, root, "etc/localtime") < 0)
            return err_errno(err, "link '/etc/localtime'");
    }
    if (symlinkat("/proc/self/mounts", root, "etc/mtab") < 0)
        return err_errno(err, "link '/etc/mtab'");
    if (symlinkat("/run", root, "var/run") < 0 || mkdirat(root, "var/lib", 0755) < 0 ||
        mkdirat(root, "var/cache", 0755) < 0)
        return err_errno(err, "make '/var'");
    return 0;
}

int
mounts_pivot(int root, struct err *err)
{
    /* pivot_root(".", ".") puts the old root on top of the new one; taking it away leaves no
     * directory of the host behind (as runc and LXC do). */
    if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
        return err_errno(err, "change the root");
    if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        return err_errno(err, "let go of the old root");
    return 0;
}

int
mounts_seal(struct err *err)
{
    struct attributes attr = {.set = ATTR_RDONLY};

    return tree_set(AT_FDCWD, "/", 0, attr) < 0 ? err_errno(err, "make the root read-only") : 0;
}
