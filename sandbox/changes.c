/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/changes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "sandbox/walk.h"

#define TRIES 20                /* walks of a tree that others change */
#define PIECE (256u << 10)      /* bytes: then they are written */
#define FILE_MAX_BYTES (48u << 20) /* of entries; what is beyond is counted and not listed */

enum { CHANGED_DISTURBED = 1, CHANGED_FAILED }; /* exit status of the walker */

struct list {
    struct buf out;
    int file;
    const char *prefix; /* inside */
    int lower;          /* the image, or -1 */
    uint32_t limit, entries;
    int64_t written;
    int64_t added, changed, removed, bytes;
    int truncated;
};

static const char *
type_name(mode_t mode)
{
    return S_ISREG(mode) ? "file" : S_ISDIR(mode) ? "directory" : S_ISLNK(mode) ? "symlink" : "other";
}

static int
flush(struct list *l)
{
    int r = fd_write_all(l->file, l->out.data, l->out.len);

    l->written += (int64_t)l->out.len;
    l->out.len = 0;
    return r;
}

static int
add(struct list *l, struct bytes path, const char *change, const char *type, int64_t size)
{
    if (l->entries == l->limit || l->written > FILE_MAX_BYTES) {
        l->truncated = 1;
        return 0;
    }
    l->entries++;
    if (buf_printf(&l->out, "%s\t%s\t%lld\t%s/", change, type, (long long)size, l->prefix) < 0 ||
        buf_add(&l->out, path.data, path.len) < 0 || buf_add(&l->out, "", 1) < 0)
        return -1;
    return l->out.len > PIECE ? flush(l) : 0;
}

/* Whether the image has it: 1 and its mode. The image is nobody's to trust: no link is followed. */
static int
is_below(const struct list *l, const char *path, mode_t *mode)
{
    struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    scoped(fd_close) int fd =
        l->lower < 0 ? -1 : (int)syscall(SYS_openat2, l->lower, path, &how, sizeof how);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return 0;
    *mode = st.st_mode;
    return 1;
}

/* It took the place of what the image has there. The second name is that of overlays without privileges. */
static int
is_opaque(const struct walk_entry *e)
{
    scoped(fd_close) int fd = openat(e->dir, e->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    char value = 0;

    return fd >= 0 && (fgetxattr(fd, "trusted.overlay.opaque", &value, 1) == 1 ||
                       fgetxattr(fd, "user.overlay.opaque", &value, 1) == 1) && value == 'y';
}

static int
visit(void *arg, const struct walk_entry *e)
{
    struct list *l = arg;
    mode_t before = 0;
    int was_there = is_below(l, (const char *)e->path.data, &before);
    int64_t size = S_ISREG(e->st->st_mode) || S_ISLNK(e->st->st_mode) ? e->st->st_size : 0;

    if (l->lower >= 0 && S_ISCHR(e->st->st_mode) && e->st->st_rdev == makedev(0, 0)) {
        if (!was_there)
            return 1;
        l->removed++;
        return add(l, e->path, "removed", type_name(before), 0) < 0 ? -1 : 1;
    }
    /* A directory is copied up when something in it changes. */
    if (was_there && S_ISDIR(before) && S_ISDIR(e->st->st_mode) && !is_opaque(e))
        return 1;
    l->bytes += S_ISREG(e->st->st_mode) ? size : 0;
    *(was_there ? &l->changed : &l->added) += 1;
    return add(l, e->path, was_there ? "changed" : "added", type_name(e->st->st_mode), size) < 0 ? -1 : 1;
}

/* One directory of the layer, if it has it. */
static int
look(struct list *l, const struct layers *layers, const char *name, const char *inside, const char *image)
{
    scoped(fd_close) int dir = openat(layers->lock, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int r;

    if (dir < 0)
        return errno == ENOENT ? 0 : -1;
    l->prefix = inside;
    l->lower = image ? open(image, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (image && l->lower < 0)
        return -1;
    r = walk_tree(dir, visit, l);
    fd_close(&l->lower);
    return r;
}

static int
add_elsewhere(struct list *l, const char *path)
{
    return !path ? 0 : buf_printf(&l->out, "elsewhere\t-\t0\t%s", path) < 0 ? -1 : buf_add(&l->out, "", 1);
}

static int
add_uncompared(struct list *l, const struct policy *p)
{
    int in_memory = p->profile != PROFILE_IMAGE && !p->tmp_layer, bad;

    bad = add_elsewhere(l, p->profile == PROFILE_NOTEBOOK ? p->workdir : NULL) < 0 ||
          add_elsewhere(l, in_memory ? "/tmp" : NULL) < 0;
    for (size_t i = 0; !bad && i < p->nmounts; i++)
        bad = add_elsewhere(l, p->mounts[i].writable ? p->mounts[i].target : NULL) < 0;
    return bad ? -1 : 0;
}

static int
list_all(const struct policy *p, const struct layers *layers, struct list *l)
{
    int image = p->profile == PROFILE_IMAGE;

    if (ftruncate(l->file, 0) < 0 || lseek(l->file, 0, SEEK_SET) < 0 || add_uncompared(l, p) < 0 ||
        (image ? look(l, layers, "root/u", "", p->image) : look(l, layers, "home", p->home, NULL)) < 0 ||
        look(l, layers, "workspace", p->workdir, NULL) < 0 || look(l, layers, "tmp", "/tmp", NULL) < 0 ||
        buf_printf(&l->out, "sums\t%lld\t%lld\t%lld\t%lld\t%s", (long long)l->added, (long long)l->changed,
                   (long long)l->removed, (long long)l->bytes, l->truncated ? "some" : "all") < 0 ||
        buf_add(&l->out, "", 1) < 0)
        return -1;
    return flush(l);
}

static int
work(const struct policy *p, const struct layers *layers, pid_t pid1, int file, uint32_t limit)
{
    int r = walk_become_reader(pid1);

    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* a change of rights clears it */
    if (r < 0)
        return CHANGED_FAILED;
    for (int tries = 0; tries < TRIES; tries++) {
        struct list l = {.file = file, .lower = -1, .limit = limit};
        r = list_all(p, layers, &l);
        buf_release(&l.out);
        if (r == 0)
            return 0;
    }
    return CHANGED_DISTURBED;
}

int
changes_start(struct changes *c, const struct policy *policy, const struct layers *layers, pid_t pid1,
              uint32_t slot, uint32_t limit, struct err *err)
{
    if (c->walker)
        return err_set(err, EAGAIN, "another comparison is under way");
    c->file = memfd_create("changes", MFD_CLOEXEC);
    c->walker = c->file < 0 ? -1 : fork();
    if (c->walker == 0)
        _exit(work(policy, layers, pid1, c->file, limit));
    c->ended = c->walker < 0 ? -1 : (int)syscall(SYS_pidfd_open, c->walker, 0);
    c->slot = slot;
    if (c->ended < 0) {
        err_errno(err, "look for changes");
        if (c->walker < 0)
            c->walker = 0;
        changes_end(c);
        return -1;
    }
    return 0;
}

int
changes_take(struct changes *c, struct err *err)
{
    int status = 0, file = c->file;

    while (waitpid(c->walker, &status, 0) < 0 && errno == EINTR)
        ;
    c->walker = 0;
    c->file = -1;
    changes_end(c);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return file;
    fd_close(&file);
    return WIFEXITED(status) && WEXITSTATUS(status) == CHANGED_DISTURBED
               ? err_set(err, EAGAIN, "it changed again and again while it was looked at")
               : err_set(err, EIO, "what changed cannot be read");
}

void
changes_end(struct changes *c)
{
    pid_end(&c->walker);
    fd_close(&c->ended);
    fd_close(&c->file);
}
