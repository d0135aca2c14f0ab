/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/mounts.h"
#include "sandbox/tree.h"

/* Above the users of build.c's single ids, below those that some programs take for negative. */
#define FIRST_ID 0x71000000u
#define RANGES 3840

/*** Ids ***/

int
overlay_claim_ids(const struct policy *p, uid_t *ret, struct err *err)
{
    scoped(fd_close) int dir = open(p->layers, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = openat(dir, "ranges", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd < 0)
        return err_errno(err, "open '%s/ranges'", p->layers);
    /* The lock of a byte is that of a range. The file stays open: the lock ends with us. */
    for (unsigned i = 0; i < RANGES; i++) {
        unsigned n = ((unsigned)getpid() + i) % RANGES;
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = n, .l_len = 1};
        if (fcntl(fd, F_OFD_SETLK, &lock) == 0) {
            *ret = FIRST_ID + n * OVERLAY_IDS;
            return 0;
        }
    }
    close(fd);
    return err_set(err, EAGAIN, "all ranges of user ids are taken");
}

/*** Trees ***/

static int
take_image(const struct policy *p, int map, uid_t base, struct overlay *o, struct err *err)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    struct attributes attr = {.set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV};
    scoped(fd_close) int fd = (int)syscall(SYS_openat2, AT_FDCWD, p->image, &how, sizeof how);
    scoped(fd_close) int mapping = -1;

    if (fd < 0)
        return err_errno(err, "open '%s'", p->image);
    /* Without what is mounted below it: that is no part of the image. */
    o->lower = tree_take(fd, "", AT_EMPTY_PATH);
    if (o->lower < 0)
        return err_errno(err, "take '%s' (nothing may be mounted below it)", p->image);
    if (map) {
        mapping = tree_mapping(0, 0, base, base, OVERLAY_IDS, &o->no_userns, err);
        if (mapping < 0)
            return -1;
        attr.set |= ATTR_IDMAP;
        attr.userns = (uint64_t)mapping;
    }
    return tree_set(o->lower, "", AT_EMPTY_PATH, attr) < 0
               ? err_errno(err, "restrict and id-map '%s'", p->image) : 0;
}

static int
give(int dir, const char *name, uid_t to, struct err *err)
{
    return fchownat(dir, name, to, to, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0
               ? err_errno(err, "give the layer to user %u", to) : 0;
}

static int
take_layer(const struct policy *p, int map, uid_t base, struct overlay *o, struct err *err)
{
    struct attributes attr = {.set = ATTR_NOSUID | ATTR_NODEV};
    scoped(fd_close) int fd = open(p->root_layer, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    scoped(fd_close) int work = open(p->state, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0 || work < 0)
        return err_errno(err, "open '%s'", fd < 0 ? p->root_layer : p->state);
    if (map && (give(work, "", base, err) < 0 || give(fd, "u", base, err) < 0 ||
                give(fd, "w", base, err) < 0 || give(fd, "", base, err) < 0))
        return -1;
    o->layer = tree_take(fd, "", AT_EMPTY_PATH);
    if (o->layer < 0 || tree_set(o->layer, "", AT_EMPTY_PATH, attr) < 0)
        return err_errno(err, "take '%s'", p->root_layer);
    return 0;
}

int
overlay_take(const struct policy *p, int map, uid_t base, struct overlay *ret, struct err *err)
{
    if (take_image(p, map, base, ret, err) < 0)
        return -1;
    return take_layer(p, map, base, ret, err);
}

void
overlay_release(struct overlay *o)
{
    fd_close(&o->lower);
    fd_close(&o->layer);
}

int
overlay_mount(const struct overlay *o, int stage, int *ret, struct err *err)
{
    /* The layer is thrown away: what a crash of the machine leaves of it is nobody's. */
    static const char options[] = "lowerdir=l,upperdir=d/u,workdir=d/w,userxattr,volatile";

    if (mkdirat(stage, "l", 0700) < 0 || mkdirat(stage, "d", 0700) < 0 ||
        mkdirat(stage, "r", 0700) < 0 || tree_attach(o->lower, stage, "l") < 0 ||
        tree_attach(o->layer, stage, "d") < 0)
        return err_errno(err, "attach the image and its layer");
    if (fchdir(stage) < 0 || mount("overlay", "r", "overlay", MS_NOSUID | MS_NODEV, options) < 0)
        return err_errno(err, "mount an overlay (needs Linux 5.11, and with root 5.19; the state "
                              "directory must not lie on an overlay itself, nor on a network)");
    *ret = openat(stage, "r", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return *ret < 0 ? err_errno(err, "open the new root") : 0;
}

/*** Files ***/

/* In place of what the image has there, which may be a link to anywhere. */
static int
put(int dir, const char *name, const char *text, struct err *err)
{
    scoped(fd_close) int fd = -1;

    if (unlinkat(dir, name, 0) < 0 && errno != ENOENT)
        return err_errno(err, "replace '%s' of the image", name);
    fd = openat(dir, name, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0644);
    return fd < 0 || fd_write_all(fd, text, strlen(text)) < 0 ? err_errno(err, "write '%s'", name) : 0;
}

int
overlay_etc(const struct policy *p, int root, int one_user, struct err *err)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH};
    scoped(fd_close) int etc = -1, apt = -1;
    struct names_of_etc names;

    mounts_names(p, &names);
    if (mkdirat(root, "etc", 0755) < 0 && errno != EEXIST)
        return err_errno(err, "make '/etc'");
    etc = (int)syscall(SYS_openat2, root, "etc", &how, sizeof how);
    if (etc < 0)
        return err_errno(err, "open '/etc' of the image");
    if (put(etc, "hosts", names.hosts, err) < 0 || put(etc, "hostname", names.hostname, err) < 0 ||
        put(etc, "resolv.conf", names.resolv_conf, err) < 0)
        return -1;
    apt = one_user ? (int)syscall(SYS_openat2, etc, "apt/apt.conf.d", &how, sizeof how) : -1;
    return apt < 0 ? 0 : put(apt, "99husk", "APT::Sandbox::User \"root\";\n", err);
}
