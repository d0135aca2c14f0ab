/* SPDX-License-Identifier: BSD-3-Clause */
#include "image/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "image/entry.h"
#include "sandbox/layers.h"

#define BLOCK (1 << 18)
#define ENTRIES_MAX 10000000
#define PROGRESS_MS 2000
#define COST 1024 /* bytes of an entry on disk beside its content */

static void
free_reader(struct archive **a)
{
    if (*a)
        archive_read_free(*a);
}

static void
free_writer(struct archive **a)
{
    if (*a)
        archive_write_free(*a);
}

/* Only what is read by the library itself: no filter starts a program. */
static struct archive *
open_archive(int fd, const char *what, struct err *err)
{
    struct archive *a = archive_read_new();

    if (!a || lseek(fd, 0, SEEK_SET) < 0) {
        err_errno(err, "read '%s'", what);
        free_reader(&a);
        return NULL;
    }
    archive_read_support_format_tar(a);
    archive_read_support_filter_gzip(a);
    archive_read_support_filter_bzip2(a);
    archive_read_support_filter_xz(a);
    archive_read_support_filter_zstd(a);
    if (archive_read_open_fd(a, fd, BLOCK) == ARCHIVE_OK)
        return a;
    err_set(err, EBADMSG, "'%s' is no tar: %s", what, archive_error_string(a));
    free_reader(&a);
    return NULL;
}

/* 1 with the next entry and its verdict, 0 at the end. */
static int
next_entry(struct archive *a, const char *what, struct archive_entry **ret,
           enum entry_verdict *verdict, struct err *err)
{
    int r = archive_read_next_header(a, ret);
    struct entry e;
    const char *why;

    if (r == ARCHIVE_EOF)
        return 0;
    if (r != ARCHIVE_OK)
        return err_set(err, EBADMSG, "'%s' is damaged or no tar: %s", what, archive_error_string(a));
    e = (struct entry){.name = archive_entry_pathname(*ret), .type = archive_entry_filetype(*ret),
                       .link = archive_entry_symlink(*ret), .size = archive_entry_size(*ret)};
    if (archive_entry_hardlink(*ret)) {
        e.type = 0;
        e.link = archive_entry_hardlink(*ret);
    }
    *verdict = entry_judge(&e, &why);
    return *verdict == ENTRY_REFUSE
               ? err_set(err, EBADMSG, "'%s' is not unpacked: entry '%.200s': %s", what,
                         e.name ? e.name : "", why) : 1;
}

/*** Whiteouts ***/

static void
remove_one(int dir, const char *name)
{
    if (unlinkat(dir, name, 0) < 0 && errno == EISDIR)
        (void)tree_remove(dir, name);
}

static int
remove_all(int dir, struct err *err)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!d)
        return err_errno(err, "open a directory of the image");
    while ((e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            remove_one(dir, e->d_name);
    closedir(d);
    return 0;
}

static int
apply_whiteout(int root, const char *path, struct err *err)
{
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    char directory[ENTRY_NAME_MAX], name[256];
    enum entry_whiteout kind = entry_whiteout(path, directory, name);
    scoped(fd_close) int dir = -1;

    if (kind == ENTRY_IS_NONE)
        return 0;
    dir = (int)syscall(SYS_openat2, root, directory, &how, sizeof how);
    if (dir < 0)
        return 0; /* nothing there to be removed */
    if (kind == ENTRY_IS_OPAQUE)
        return remove_all(dir, err);
    if (*name)
        remove_one(dir, name);
    return 0;
}

/*** Looking ***/

static int
is_layout_file(const char *name)
{
    while (strncmp(name, "./", 2) == 0)
        name += 2;
    return strcmp(name, "manifest.json") == 0 || strcmp(name, "oci-layout") == 0;
}

int
archive_check(int fd, const char *what, int below, struct archive_sum *sum, struct err *err)
{
    scoped(free_reader) struct archive *a = open_archive(fd, what, err);
    struct archive_entry *e;
    enum entry_verdict verdict;
    int64_t before = sum->entries;
    int r = a ? 1 : -1;

    while (r > 0 && (r = next_entry(a, what, &e, &verdict, err)) > 0) {
        const char *name = archive_entry_pathname(e);
        sum->bytes += (archive_entry_hardlink(e) ? 0 : archive_entry_size(e)) + COST;
        sum->is_layout |= is_layout_file(name);
        if (++sum->entries > ENTRIES_MAX || sum->bytes > ENTRY_BYTES_MAX)
            r = err_set(err, EFBIG, "'%s' is not unpacked: it is larger than an image may be", what);
        else if (below >= 0 && apply_whiteout(below, name, err) < 0)
            r = -1;
    }
    if (r == 0 && sum->entries == before && below < 0)
        r = err_set(err, EBADMSG, "'%s' is empty", what);
    return r;
}

/*** Unpacking ***/

static void
tell_progress(const char *what, int64_t bytes, int64_t *next)
{
    char size[24];

    if (now_ms() < *next)
        return;
    *next = now_ms() + PROGRESS_MS;
    fprintf(stderr, "husk: unpacking '%s': %s so far\n", what, size_format((uint64_t)bytes, size));
}

static int
copy_content(struct archive *from, struct archive *to, const char *what, int64_t *done,
             int64_t *next, struct err *err)
{
    const void *block;
    size_t len;
    la_int64_t offset;
    int r;

    while ((r = archive_read_data_block(from, &block, &len, &offset)) == ARCHIVE_OK) {
        if (archive_write_data_block(to, block, len, offset) < ARCHIVE_OK)
            return err_set(err, EIO, "unpack '%s': %s", what, archive_error_string(to));
        *done += (int64_t)len;
        tell_progress(what, *done, next);
    }
    return r == ARCHIVE_EOF ? 0 : err_set(err, EBADMSG, "'%s' is damaged: %s", what,
                                          archive_error_string(from));
}

/* Without ARCHIVE_EXTRACT_UNLINK, by which a link on the way would be replaced, not refused.
 * For root, who keeps owners; without root there is one user, who must be able to do what root
 * can do inside. */
static struct archive *
open_disk(void)
{
    struct archive *a = archive_write_disk_new();
    int flags = ARCHIVE_EXTRACT_TIME | ARCHIVE_EXTRACT_PERM |
                ARCHIVE_EXTRACT_SECURE_SYMLINKS | ARCHIVE_EXTRACT_SECURE_NODOTDOT |
                ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS;

    if (a)
        archive_write_disk_set_options(a, flags | (geteuid() == 0 ? ARCHIVE_EXTRACT_OWNER : 0));
    return a;
}

static int
unpack_entry(struct archive *from, struct archive *to, struct archive_entry *e, const char *what,
             int64_t *done, int64_t *next, struct err *err)
{
    mode_t mode = archive_entry_perm(e);
    int r;

    if (geteuid() != 0)
        archive_entry_set_perm(e, mode | (archive_entry_filetype(e) == AE_IFDIR ? 0700 : 0600));
    archive_entry_xattr_clear(e);
    archive_entry_acl_clear(e);
    r = archive_write_header(to, e);
    if (r < ARCHIVE_WARN)
        return err_set(err, EBADMSG, "'%s' is not unpacked: entry '%.200s': %s", what,
                       archive_entry_pathname(e), archive_error_string(to));
    if (!archive_entry_hardlink(e) && archive_entry_size(e) > 0 &&
        copy_content(from, to, what, done, next, err) < 0)
        return -1;
    return archive_write_finish_entry(to) < ARCHIVE_WARN
               ? err_set(err, EIO, "unpack '%s': %s", what, archive_error_string(to)) : 0;
}

static int
is_whiteout(const char *path)
{
    char directory[ENTRY_NAME_MAX], name[256];

    return entry_whiteout(path, directory, name) != ENTRY_IS_NONE;
}

int
archive_unpack(int fd, const char *what, int into, struct err *err)
{
    scoped(free_reader) struct archive *from = open_archive(fd, what, err);
    scoped(free_writer) struct archive *to = open_disk();
    struct archive_entry *e;
    enum entry_verdict verdict;
    int64_t done = 0, next = now_ms() + PROGRESS_MS;
    int r = from ? 1 : -1;

    if (r > 0 && (!to || fchdir(into) < 0))
        return err_errno(err, "unpack '%s'", what);
    while (r > 0 && (r = next_entry(from, what, &e, &verdict, err)) > 0)
        if (verdict == ENTRY_UNPACK && !is_whiteout(archive_entry_pathname(e)) &&
            unpack_entry(from, to, e, what, &done, &next, err) < 0)
            r = -1;
    if (r == 0 && archive_write_close(to) < ARCHIVE_WARN)
        r = err_set(err, EIO, "unpack '%s': %s", what, archive_error_string(to));
    return r;
}
