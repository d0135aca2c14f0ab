/* SPDX-License-Identifier: BSD-3-Clause
 *
 * husk-unpack FILE IMAGES: makes a root file system of a tar, or of the layers in a tar or a
 * directory, and says its name below the directory IMAGES: "=NAME" on stdout, or what was wrong.
 *
 * Started by husk, and the only program that links libarchive: what it reads was written by
 * somebody else. Before it reads a byte of that it binds itself (Landlock) to reading FILE and
 * writing below IMAGES. An image appears whole, by rename, or not at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/base.h"
#include "image/archive.h"
#include "image/digest.h"
#include "image/layout.h"
#include "sandbox/landlock.h"
#include "sandbox/layers.h"

#define WORK "work" /* below IMAGES; whoever holds the lock of IMAGES owns it */

struct unpack {
    const char *what; /* FILE, for messages */
    int source;       /* the file or the layout directory */
    int is_directory;
    int images; /* the directory, locked */
    int work;   /* below it: `layout` and `root` */
    char name[128];
};

/* Nothing else of the machine can be read or changed from here on. */
static int
confine(char *source, char *images, struct err *err)
{
    const struct join_rule rules[] = {{LANDLOCK_READ, source}, {LANDLOCK_WRITE, images}};

    setlocale(LC_CTYPE, "C.UTF-8"); /* names in archives are UTF-8; reads files itself */
    umask(022);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_errno(err, "set no_new_privs");
    return landlock_enter(rules, countof(rules), 0, err);
}

static int
check_space(const struct unpack *u, int64_t bytes, struct err *err)
{
    struct statvfs fs;
    char needs[24], has[24];

    if (fstatvfs(u->images, &fs) < 0)
        return err_errno(err, "look at the free space");
    if ((uint64_t)bytes < (uint64_t)fs.f_bavail * fs.f_frsize)
        return 0;
    return err_set(err, ENOSPC, "'%s' needs %s unpacked, and %s are free", u->what,
                   size_format((uint64_t)bytes, needs),
                   size_format((uint64_t)fs.f_bavail * fs.f_frsize, has));
}

static int
make_directory(int dir, const char *name, mode_t mode, struct err *err)
{
    int fd = mkdirat(dir, name, mode) < 0 ? -1 : openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? err_errno(err, "make '%s'", name) : fd;
}

/*** Layers ***/

static int
apply_layer(struct unpack *u, int layout, const char *name, int first, int root, struct err *err)
{
    scoped(fd_close) int fd = layout_open(layout, u->what, name, err);
    struct archive_sum sum = {0};

    if (fd < 0 || archive_check(fd, u->what, first ? -1 : root, &sum, err) < 0 ||
        check_space(u, sum.bytes, err) < 0)
        return -1;
    return archive_unpack(fd, u->what, root, err);
}

static int
apply_layers(struct unpack *u, int layout, int root, struct err *err)
{
    scoped(strv_release) struct strv layers = {0};

    if (layout_layers(layout, u->what, &layers, err) < 0)
        return -1;
    for (size_t i = 0; i < layers.len; i++)
        if (apply_layer(u, layout, layers.item[i], i == 0, root, err) < 0)
            return -1;
    return 0;
}

static int
unpack_file(struct unpack *u, int root, struct err *err)
{
    struct archive_sum sum = {0};
    scoped(fd_close) int layout = -1;

    if (archive_check(u->source, u->what, -1, &sum, err) < 0 || check_space(u, sum.bytes, err) < 0)
        return -1;
    if (!sum.is_layout)
        return archive_unpack(u->source, u->what, root, err);
    layout = make_directory(u->work, "layout", 0700, err);
    if (layout < 0 || archive_unpack(u->source, u->what, layout, err) < 0)
        return -1;
    return apply_layers(u, layout, root, err);
}

static int
check_root(const struct unpack *u, int root, struct err *err)
{
    if (faccessat(root, "usr", F_OK, AT_SYMLINK_NOFOLLOW) < 0 &&
        faccessat(root, "bin", F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return err_set(err, EINVAL, "'%s' holds no root file system, neither 'usr' nor 'bin'", u->what);
    /* An archive can give the top any owner and mode. */
    if (fchown(root, geteuid(), getegid()) < 0 || fchmod(root, 0755) < 0)
        return err_errno(err, "give the image to its owner");
    return 0;
}

static int
make_image(struct unpack *u, struct err *err)
{
    scoped(fd_close) int root = -1;
    int r;

    (void)tree_remove(u->images, WORK); /* of one that was killed */
    u->work = make_directory(u->images, WORK, 0700, err);
    if (u->work < 0 || (root = make_directory(u->work, "root", 0755, err)) < 0)
        return -1;
    r = u->is_directory ? apply_layers(u, u->source, root, err) : unpack_file(u, root, err);
    if (r == 0)
        r = check_root(u, root, err);
    if (r == 0 && (syncfs(root) < 0 || renameat(u->work, "root", u->images, u->name) < 0))
        r = err_errno(err, "keep the image");
    fd_close(&u->work);
    (void)tree_remove(u->images, WORK);
    return r;
}

/*** Names ***/

/* "sha256-HEX", remembered as the target of a link that is named after what changes whenever the
 * content does: a large file is not read at each start. */
static int
find_name(struct unpack *u, struct err *err)
{
    scoped(fd_close) int index = -1;
    char memo[160], digest[DIGEST_HEX];
    struct stat st;
    ssize_t n;

    if (u->is_directory)
        index = layout_open(u->source, u->what, "index.json", err);
    if ((u->is_directory && index < 0) || fstat(u->is_directory ? index : u->source, &st) < 0)
        return u->is_directory && index < 0 ? -1 : err_errno(err, "look at '%s'", u->what);
    snprintf(memo, sizeof memo, "file-%llx-%llu-%lld-%lld.%09ld-%lld.%09ld", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino, (long long)st.st_size, (long long)st.st_mtim.tv_sec,
             st.st_mtim.tv_nsec, (long long)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
    n = readlinkat(u->images, memo, u->name, sizeof u->name - 1);
    if (n > 0) {
        u->name[n] = 0;
        return 0;
    }
    if (digest_of(u->is_directory ? index : u->source, digest, err) < 0)
        return -1;
    snprintf(u->name, sizeof u->name, "sha256-%s", digest);
    return symlinkat(u->name, u->images, memo) < 0 ? err_errno(err, "remember '%s'", memo) : 0;
}

static int
open_all(struct unpack *u, char *source, char *images, struct err *err)
{
    struct stat st;

    u->source = open(source, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (u->source < 0 || fstat(u->source, &st) < 0)
        return err_errno(err, "open '%s'", source);
    u->is_directory = S_ISDIR(st.st_mode);
    u->images = open(images, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (u->images < 0)
        return err_errno(err, "open '%s'", images);
    if (confine(source, images, err) < 0)
        return -1;
    if (flock(u->images, LOCK_EX | LOCK_NB) < 0) {
        fprintf(stderr, "husk: waiting for another image to be unpacked\n");
        if (flock(u->images, LOCK_EX) < 0)
            return err_errno(err, "lock '%s'", images);
    }
    return 0;
}

static int
run(struct unpack *u, char *source, char *images, struct err *err)
{
    if (open_all(u, source, images, err) < 0 || find_name(u, err) < 0)
        return -1;
    if (faccessat(u->images, u->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    return make_image(u, err);
}

int
main(int argc, char **argv)
{
    struct unpack u = {.source = -1, .images = -1, .work = -1};
    struct err err = {0};
    int r;

    if (argc != 3) {
        fprintf(stderr, "husk-unpack is started by husk and not by hand\n");
        return 100;
    }
    u.what = argv[1];
    r = run(&u, argv[1], argv[2], &err);
    if (r < 0)
        printf("%s\n", err.text);
    else
        printf("=%s\n", u.name);
    /* Without what else happens at the end: a sanitizer would look for leaks in /proc, which is closed. */
    _exit(fflush(stdout) != 0 || r < 0);
}
