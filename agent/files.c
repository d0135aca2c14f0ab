/* SPDX-License-Identifier: BSD-3-Clause */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent/agent.h"

#define NO_REPLACE 1u /* RENAME_NOREPLACE, which musl does not have */
#define CHUNK (1u << 20)
#define UPLOADS 64
#define DEPTH_MAX 512      /* directories inside each other: each holds a descriptor */
#define LISTING_MAX (32u << 20) /* bytes of JSON */

static void
fail(const struct call *c, const char *what, const char *path)
{
    struct err err;

    if (errno == ENXIO) /* ours, see op_errors.def; the C library's text is about devices */
        err_set(&err, ENXIO, "%s '%s': Not a regular file", what, path);
    else
        err_errno(&err, "%s '%s'", what, path);
    refuse(c->slot, &err);
}

/* The path of the call; -1: it was refused. */
static int
take_path(const struct call *c, const char *name, struct buf *ret)
{
    struct err err;

    if (call_path(c, name, ret, &err) < 0) {
        refuse(c->slot, &err);
        return -1;
    }
    if (!ret->data && (buf_text(ret, ".") < 0 || !buf_string(ret)))
        _exit(1);
    return 0;
}

static const char *
type_name(mode_t mode)
{
    return S_ISREG(mode) ? "file" : S_ISDIR(mode) ? "directory" : S_ISLNK(mode) ? "symlink"
         : S_ISFIFO(mode) ? "fifo" : S_ISSOCK(mode) ? "socket" : "device";
}

static void
add_members(struct buf *json, const char *path, const struct stat *st, const char *target)
{
    const char *slash = strrchr(path, '/');
    char text[96], mode[16];
    struct tm tm = {0}; /* of a time that no calendar has */

    gmtime_r(&st->st_mtim.tv_sec, &tm);
    strftime(text, sizeof text - 8, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + strlen(text), sizeof text - strlen(text), ".%03dZ",
             (int)(st->st_mtim.tv_nsec / 1000000));
    snprintf(mode, sizeof mode, "%03o", (unsigned)st->st_mode & 07777);
    add_path(json, "name", slash && slash[1] ? slash + 1 : path);
    add_path(json, "path", path);
    add_text(json, "type", bytes_of(type_name(st->st_mode)));
    add_int(json, "size", st->st_size);
    add_text(json, "modified_at", bytes_of(text));
    add_text(json, "mode", bytes_of(mode));
    if (target)
        add_path(json, "target", target);
    else
        add_null(json, "target");
}

static void
add_entry(struct buf *json, int dir, const char *name, const char *path, const struct stat *st)
{
    char target[PATH_MAX];
    ssize_t n = S_ISLNK(st->st_mode) ? readlinkat(dir, name, target, sizeof target - 1) : -1;

    if (n >= 0)
        target[n] = 0;
    add_members(json, path, st, n >= 0 ? target : NULL);
}

/*** Read ***/

/* A regular file, or errno: a FIFO would wait, a device is none of anybody's. */
static int
open_file(const char *path, int flags, struct stat *st)
{
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0)
        return -1;
    if (fstat(fd, st) == 0 && S_ISREG(st->st_mode))
        return fd;
    errno = S_ISDIR(st->st_mode) ? EISDIR : ENXIO;
    fd_close(&fd);
    return -1;
}

/* `size`: what the file says, and no more of it is read; 0, as files of /proc say: until its end. */
static int
read_range(int fd, int64_t offset, int64_t length, int64_t size, struct buf *ret)
{
    ssize_t n = 1;

    while (length > 0 && n != 0 && !(size > 0 && offset >= size)) {
        size_t want = length > CHUNK ? CHUNK : (size_t)length;
        if (size > offset && (int64_t)want > size - offset)
            want = (size_t)(size - offset);
        if (buf_reserve(ret, want) < 0)
            return -1;
        n = pread(fd, ret->data + ret->len, want, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        ret->len += (size_t)n;
        offset += n;
        length -= n;
    }
    return 0;
}

static void
read_file(const struct call *c, int as_text, int64_t standard)
{
    static struct buf data; /* of one call after the other */
    scoped(buf_release) struct buf path = {0}, json = {0};
    scoped(fd_close) int fd = -1;
    int64_t offset = call_int(c, "offset", 0), length = call_int(c, "length", standard);
    struct bytes buffer;
    struct stat st = {0};
    struct err err;

    if (take_path(c, "path", &path) < 0)
        return;
    fd = open_file((char *)path.data, O_RDONLY, &st);
    if (fd < 0) {
        fail(c, "read", (char *)path.data);
        return;
    }
    offset = offset < 0 ? 0 : offset;
    if (length < 0 && st.st_size - offset > AGENT_READ_MAX) {
        err_set(&err, EFBIG, "'%s' has %lld bytes, and %u can be read at a time: say offset and length",
                (char *)path.data, (long long)st.st_size, AGENT_READ_MAX);
        refuse(c->slot, &err);
        return;
    }
    /* The size of a file of /proc is 0, and it has content all the same. */
    length = length < 0 || length > AGENT_READ_MAX ? AGENT_READ_MAX : length;
    data.len = 0;
    if (read_range(fd, offset, length, st.st_size, &data) < 0) {
        fail(c, "read", (char *)path.data);
        return;
    }
    buffer = (struct bytes){data.data, data.len};
    add_open(&json);
    if (as_text)
        add_text(&json, "text", buffer);
    add_int(&json, "size", st.st_size > offset + (int64_t)data.len ? st.st_size : offset + (int64_t)data.len);
    add_int(&json, "offset", offset);
    add_int(&json, "length", (int64_t)data.len);
    /* A file of /proc says nothing by its size: less than was asked for is its end. */
    add_bool(&json, "eof", (int64_t)data.len < length ||
                               (st.st_size > 0 && offset + (int64_t)data.len >= st.st_size));
    add_close(&json);
    answer(c->slot, &json, &buffer, as_text ? 0 : 1);
    if (data.size > KEEP_MAX)
        buf_release(&data);
}

void
files_read(const struct call *c)
{
    read_file(c, 0, -1);
}

void
files_read_text(const struct call *c)
{
    read_file(c, 1, -1);
}

void
files_download(const struct call *c)
{
    read_file(c, 0, 4 << 20);
}

/*** Write ***/

static int
make_parents(const char *path, mode_t mode)
{
    char way[PATH_MAX];

    if (strlen(path) >= sizeof way) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(way, path);
    for (char *at = way + 1; (at = strchr(at, '/')); at++) {
        *at = 0;
        if (mkdir(way, mode) < 0 && errno != EEXIST)
            return -1;
        *at = '/';
    }
    return 0;
}

/* A file that becomes another one at once, when it is whole. */
struct fresh {
    char temporary[PATH_MAX + 16], target[PATH_MAX];
    int fd;
    unsigned mode;
    int64_t size;
};

static int
fresh_open(struct fresh *f, const char *path, unsigned mode, int has_mode)
{
    struct stat st;
    char *slash;

    f->fd = -1;
    f->size = 0;
    /* Through links: it is the file that changes, not the link. */
    if (!realpath(path, f->target)) {
        if (errno != ENOENT)
            return -1;
        if (strlen(path) >= sizeof f->target) {
            errno = ENAMETOOLONG;
            return -1;
        }
        strcpy(f->target, path);
    } else if (stat(f->target, &st) == 0) {
        if (!S_ISREG(st.st_mode)) {
            errno = S_ISDIR(st.st_mode) ? EISDIR : ENXIO;
            return -1;
        }
        if (access(f->target, W_OK) < 0)
            return -1;
        mode = has_mode ? mode : st.st_mode & 07777;
    }
    f->mode = mode;
    slash = strrchr(f->target, '/');
    if (slash && !slash[1]) {
        errno = EISDIR;
        return -1;
    }
    snprintf(f->temporary, sizeof f->temporary, "%.*s.husk-XXXXXX",
             slash ? (int)(slash + 1 - f->target) : 0, f->target);
    f->fd = mkostemp(f->temporary, O_CLOEXEC);
    return f->fd < 0 ? -1 : 0;
}

static int
fresh_write(struct fresh *f, const void *data, size_t len)
{
    if (fd_write_all(f->fd, data, len) < 0)
        return -1;
    f->size += (int64_t)len;
    return 0;
}

static void
fresh_drop(struct fresh *f)
{
    int why = errno;

    if (f->fd >= 0)
        unlink(f->temporary);
    fd_close(&f->fd);
    errno = why;
}

static int
fresh_done(struct fresh *f)
{
    if (fchmod(f->fd, f->mode) < 0 || rename(f->temporary, f->target) < 0) {
        fresh_drop(f);
        return -1;
    }
    fd_close(&f->fd);
    return 0;
}

static void
answer_size(const struct call *c, const char *path, int64_t size)
{
    scoped(buf_release) struct buf json = {0};

    add_open(&json);
    add_path(&json, "path", path);
    add_int(&json, "size", size);
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

static int
has_mode(const struct call *c)
{
    struct bytes unused;

    return json_get(c->params, "mode", &unused) == J_STRING;
}

void
files_write(const struct call *c)
{
    scoped(buf_release) struct buf path = {0}, hold = {0};
    struct bytes data;
    struct fresh f;
    struct err err;
    unsigned mode;

    if (take_path(c, "path", &path) < 0)
        return;
    if (call_data(c, "data", &hold, &data, &err) < 0 || call_mode(c, 0644, &mode, &err) < 0) {
        refuse(c->slot, &err);
        return;
    }
    if ((call_bool(c, "parents", 0) && make_parents((char *)path.data, 0755) < 0) ||
        fresh_open(&f, (char *)path.data, mode, has_mode(c)) < 0) {
        fail(c, "write", (char *)path.data);
        return;
    }
    if (fresh_write(&f, data.data, data.len) < 0 || fresh_done(&f) < 0) {
        fresh_drop(&f);
        fail(c, "write", (char *)path.data);
        return;
    }
    answer_size(c, (char *)path.data, f.size);
}

void
files_append(const struct call *c)
{
    scoped(buf_release) struct buf path = {0}, hold = {0};
    scoped(fd_close) int fd = -1;
    struct stat st = {0};
    struct bytes data;
    struct err err;
    unsigned mode;

    if (take_path(c, "path", &path) < 0)
        return;
    if (call_data(c, "data", &hold, &data, &err) < 0 || call_mode(c, 0644, &mode, &err) < 0) {
        refuse(c->slot, &err);
        return;
    }
    if (call_bool(c, "parents", 0) && make_parents((char *)path.data, 0755) < 0) {
        fail(c, "append to", (char *)path.data);
        return;
    }
    fd = open((char *)path.data, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, mode);
    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        fd_close(&fd);
        errno = ENXIO;
    }
    if (fd < 0 || fd_write_all(fd, data.data, data.len) < 0) {
        int why = errno;
        if (fd >= 0) /* nothing of it, then */
            (void)!ftruncate(fd, st.st_size);
        errno = why;
        fail(c, "append to", (char *)path.data);
        return;
    }
    answer_size(c, (char *)path.data, st.st_size + (int64_t)data.len);
}

/*** Upload ***/

struct upload {
    struct fresh file;
    unsigned number; /* 0: free */
    uint32_t caller;
    int64_t touched; /* ms */
};
static struct upload uploads[UPLOADS];
static unsigned upload_counter;

static void
drop_upload(struct upload *u)
{
    fresh_drop(&u->file);
    u->number = 0;
}

int64_t
uploads_tick(int64_t now)
{
    int64_t next = 0;

    for (struct upload *u = uploads; u < uploads + UPLOADS; u++) {
        if (u->number && now >= u->touched + LEASE_MS)
            drop_upload(u);
        if (u->number && (!next || u->touched + LEASE_MS < next))
            next = u->touched + LEASE_MS;
    }
    return next;
}

void
uploads_gone(uint32_t caller)
{
    for (struct upload *u = uploads; u < uploads + UPLOADS; u++)
        if (u->number && u->caller == caller)
            drop_upload(u);
}

/* A free place, or that of the upload that has waited longest: its client may be gone. */
static struct upload *
place_upload(void)
{
    struct upload *oldest = uploads;

    for (struct upload *u = uploads; u < uploads + UPLOADS; u++) {
        if (!u->number)
            return u;
        if (u->touched < oldest->touched || (u->touched == oldest->touched && u->number < oldest->number))
            oldest = u;
    }
    drop_upload(oldest);
    return oldest;
}

static struct upload *
begin_upload(const struct call *c, const struct buf *path, unsigned mode)
{
    struct upload *u = place_upload();

    if ((call_bool(c, "parents", 0) && make_parents((char *)path->data, 0755) < 0) ||
        fresh_open(&u->file, (char *)path->data, mode, has_mode(c)) < 0)
        return NULL;
    u->number = ++upload_counter;
    u->caller = c->caller;
    return u;
}

static struct upload *
find_upload(const struct buf *id)
{
    for (struct upload *u = uploads; u < uploads + UPLOADS; u++) {
        char name[16];
        snprintf(name, sizeof name, "u%u", u->number);
        if (u->number && strcmp(name, (char *)id->data) == 0)
            return u;
    }
    errno = ESRCH;
    return NULL;
}

static int
go_on(const struct call *c, struct upload *u, struct bytes data)
{
    u->touched = now_ms();
    if (call_bool(c, "abort", 0)) {
        drop_upload(u);
        return 0;
    }
    if (fd_write_sparse(u->file.fd, data.data, data.len) < 0) {
        drop_upload(u);
        return -1;
    }
    u->file.size += (int64_t)data.len;
    if (!call_bool(c, "done", 0))
        return 0;
    if (ftruncate(u->file.fd, u->file.size) < 0) { /* it may end with a hole */
        drop_upload(u);
        return -1;
    }
    u->number = 0;
    return fresh_done(&u->file);
}

void
files_upload(const struct call *c)
{
    scoped(buf_release) struct buf path = {0}, id = {0}, hold = {0}, json = {0};
    struct bytes data;
    struct upload *u;
    struct err err;
    unsigned mode;
    char name[16];

    if (call_path(c, "path", &path, &err) < 0 || call_text(c, "upload", &id, &err) < 0 ||
        call_data(c, "data", &hold, &data, &err) < 0 || call_mode(c, 0644, &mode, &err) < 0 ||
        (!path.data == !id.data && err_set(&err, EINVAL, "say either 'path', to begin, or 'upload'") < 0)) {
        refuse(c->slot, &err);
        return;
    }
    u = path.data ? begin_upload(c, &path, mode) : find_upload(&id);
    if (u)
        snprintf(name, sizeof name, "u%u", u->number);
    if (!u || go_on(c, u, data) < 0) {
        fail(c, "upload", (char *)(path.data ? path.data : id.data));
        return;
    }
    add_open(&json);
    add_text(&json, "upload", bytes_of(name));
    add_int(&json, "received", u->file.size);
    add_int(&json, "size", u->file.size);
    add_path(&json, "path", u->file.target);
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

/*** Directories ***/

struct listing {
    struct buf json;
    int64_t left, depth;
    int recursive;
    int follow;    /* links are told as what they lead to */
    int full;      /* no more entries */
    int truncated; /* something is left out */
};

static int list_directory(struct listing *l, int dir, const char *path, int depth);

static void
list_entry(struct listing *l, int dir, const char *name, const char *path, int depth)
{
    struct stat st, target;
    int below, is_link;

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return; /* gone meanwhile */
    is_link = S_ISLNK(st.st_mode);
    if (l->follow && is_link && fstatat(dir, name, &target, 0) == 0)
        st = target;
    if (l->left-- <= 0 || l->json.len > LISTING_MAX) {
        l->full = l->truncated = 1;
        return;
    }
    if (l->json.data[l->json.len - 1] != '[' && buf_text(&l->json, ",") < 0)
        _exit(1);
    add_open(&l->json);
    add_entry(&l->json, dir, name, path, &st);
    add_close(&l->json);
    if (!l->recursive || is_link || !S_ISDIR(st.st_mode))
        return;
    below = depth + 1 < l->depth ? openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (below < 0 || list_directory(l, below, path, depth + 1) < 0)
        l->truncated = 1; /* one that may not be read is an entry all the same */
}

/* Takes the descriptor. */
static int
list_directory(struct listing *l, int dir, const char *path, int depth)
{
    DIR *d = fdopendir(dir);
    struct dirent *e;

    if (!d) {
        fd_close(&dir);
        return -1;
    }
    while (!l->full && (e = readdir(d))) {
        scoped(buf_release) struct buf below = {0};
        if (is_dots(e->d_name))
            continue;
        if (buf_printf(&below, "%s%s%s", strcmp(path, ".") == 0 ? "" : path,
                       strcmp(path, ".") == 0 || path[strlen(path) - 1] == '/' ? "" : "/", e->d_name) < 0 ||
            !buf_string(&below))
            _exit(1);
        list_entry(l, dirfd(d), e->d_name, (char *)below.data, depth);
    }
    closedir(d);
    return 0;
}

void
files_list(const struct call *c)
{
    scoped(buf_release) struct buf path = {0};
    struct listing l = {.recursive = call_bool(c, "recursive", 0), .follow = call_bool(c, "follow", 0),
                        .left = call_int(c, "limit", 10000), .depth = call_int(c, "depth", 64)};
    int dir;

    if (take_path(c, "path", &path) < 0)
        return;
    l.depth = l.depth > DEPTH_MAX ? DEPTH_MAX : l.depth;
    dir = open((char *)path.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK);
    add_open(&l.json);
    add_name(&l.json, "entries");
    if (buf_text(&l.json, "[") < 0)
        _exit(1);
    if (dir < 0 || list_directory(&l, dir, (char *)path.data, 0) < 0) {
        fail(c, "list", (char *)path.data);
        buf_release(&l.json);
        return;
    }
    if (buf_text(&l.json, "]") < 0)
        _exit(1);
    add_bool(&l.json, "truncated", l.truncated);
    add_close(&l.json);
    answer(c->slot, &l.json, NULL, 0);
    buf_release(&l.json);
}

void
files_stat(const struct call *c)
{
    scoped(buf_release) struct buf path = {0}, json = {0};
    struct stat st;

    if (take_path(c, "path", &path) < 0)
        return;
    if (fstatat(AT_FDCWD, (char *)path.data, &st,
                call_bool(c, "follow", 0) ? 0 : AT_SYMLINK_NOFOLLOW) < 0) {
        fail(c, "look at", (char *)path.data);
        return;
    }
    add_open(&json);
    add_entry(&json, AT_FDCWD, (char *)path.data, (char *)path.data, &st);
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

void
files_exists(const struct call *c)
{
    scoped(buf_release) struct buf path = {0}, json = {0};
    struct stat st;
    int there;

    if (take_path(c, "path", &path) < 0)
        return;
    there = fstatat(AT_FDCWD, (char *)path.data, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (!there && errno != ENOENT && errno != ENOTDIR) {
        fail(c, "look at", (char *)path.data);
        return;
    }
    add_open(&json);
    add_bool(&json, "exists", there);
    if (there)
        add_text(&json, "type", bytes_of(type_name(st.st_mode)));
    else
        add_null(&json, "type");
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

void
files_mkdir(const struct call *c)
{
    scoped(buf_release) struct buf path = {0}, json = {0};
    int parents = call_bool(c, "parents", 1);
    struct stat st;
    struct err err;
    unsigned mode;

    if (take_path(c, "path", &path) < 0)
        return;
    if (call_mode(c, 0755, &mode, &err) < 0) {
        refuse(c->slot, &err);
        return;
    }
    if ((parents && make_parents((char *)path.data, 0755) < 0) ||
        (mkdir((char *)path.data, mode) < 0 &&
         !(parents && errno == EEXIST && stat((char *)path.data, &st) == 0 && S_ISDIR(st.st_mode)))) {
        fail(c, "make", (char *)path.data);
        return;
    }
    add_open(&json);
    add_path(&json, "path", (char *)path.data);
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

void
files_chmod(const struct call *c)
{
    scoped(buf_release) struct buf path = {0}, json = {0};
    struct err err;
    unsigned mode;
    char text[16];

    if (take_path(c, "path", &path) < 0)
        return;
    if (call_mode(c, 0, &mode, &err) < 0) {
        refuse(c->slot, &err);
        return;
    }
    if (chmod((char *)path.data, mode) < 0) {
        fail(c, "change the mode of", (char *)path.data);
        return;
    }
    snprintf(text, sizeof text, "%03o", mode);
    add_open(&json);
    add_path(&json, "path", (char *)path.data);
    add_text(&json, "mode", bytes_of(text));
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

/*** Trees ***/

struct copy {
    int64_t entries, bytes;
};

static int
copy_file(int from, const char *name, int to, const char *new_name, const struct stat *st, struct copy *sum)
{
    scoped(fd_close) int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    scoped(fd_close) int out = -1;
    ssize_t n = 1;

    if (in < 0)
        return -1;
    out = openat(to, new_name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK,
                 st->st_mode & 0777);
    if (out < 0)
        return -1;
    if (ftruncate(out, 0) < 0 && errno != EINVAL) /* a device has no length */
        return -1;
    while (n > 0 && (n = copy_file_range(in, NULL, out, NULL, 1 << 30, 0)) > 0)
        sum->bytes += n;
    if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == EPERM || errno == ENOSYS || errno == EOPNOTSUPP)) {
        static uint8_t data[CHUNK];
        while ((n = read(in, data, sizeof data)) > 0) {
            if (fd_write_all(out, data, (size_t)n) < 0)
                return -1;
            sum->bytes += n;
        }
    }
    return n < 0 ? -1 : fchmod(out, st->st_mode & 0777);
}

static int copy_entry(int from, const char *name, int to, const char *new_name, struct copy *sum, int depth);

/* Takes `from`. */
static int
copy_directory(int from, int to, struct copy *sum, int depth)
{
    DIR *d = fdopendir(from);
    struct dirent *e;
    int r = 0;

    if (!d) {
        fd_close(&from);
        return -1;
    }
    while (r == 0 && (e = readdir(d)))
        if (!is_dots(e->d_name))
            r = copy_entry(dirfd(d), e->d_name, to, e->d_name, sum, depth + 1);
    closedir(d);
    return r;
}

static int
copy_entry(int from, const char *name, int to, const char *new_name, struct copy *sum, int depth)
{
    struct stat st;
    char target[PATH_MAX];
    ssize_t n;
    int in, out, r;

    if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    sum->entries++;
    if (S_ISREG(st.st_mode))
        return copy_file(from, name, to, new_name, &st, sum);
    if (S_ISLNK(st.st_mode)) {
        n = readlinkat(from, name, target, sizeof target - 1);
        if (n < 0)
            return -1;
        target[n] = 0;
        return symlinkat(target, to, new_name);
    }
    if (S_ISFIFO(st.st_mode))
        return mkfifoat(to, new_name, st.st_mode & 0777);
    if (!S_ISDIR(st.st_mode) || depth > 512) {
        errno = S_ISDIR(st.st_mode) ? ENAMETOOLONG : ENXIO;
        return -1;
    }
    if (mkdirat(to, new_name, 0700) < 0 && errno != EEXIST)
        return -1;
    in = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    out = in < 0 ? -1 : openat(to, new_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (out < 0) {
        fd_close(&in);
        return -1;
    }
    r = copy_directory(in, out, sum, depth);
    if (r == 0)
        r = fchmod(out, st.st_mode & 0777);
    fd_close(&out);
    return r;
}

/* `dst`, or below it under its own name if it is a directory. */
static int
name_target(const char *src, struct buf *dst)
{
    struct stat st;
    char base[NAME_MAX + 1];
    size_t len = strlen(src);

    while (len > 1 && src[len - 1] == '/')
        len--;
    if (stat((char *)dst->data, &st) < 0 || !S_ISDIR(st.st_mode))
        return 0;
    for (size_t from = len; from > 0; from--)
        if (src[from - 1] == '/') {
            snprintf(base, sizeof base, "%.*s", (int)(len - from), src + from);
            return buf_printf(dst, "/%s", base) < 0 || !buf_string(dst) ? -1 : 0;
        }
    snprintf(base, sizeof base, "%.*s", (int)len, src);
    return buf_printf(dst, "/%s", base) < 0 || !buf_string(dst) ? -1 : 0;
}

/* Is `dst` `src` itself, or below it? A copy would empty the one, and never end with the other. */
static int
lies_within(const char *src, const char *dst)
{
    scoped(str_free) char *from = realpath(src, NULL), *to = realpath(dst, NULL);
    char way[PATH_MAX], *slash;
    struct stat a, b;

    if (!from || stat(src, &a) < 0)
        return 0;
    if (stat(dst, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return 1;
    if (!to && strlen(dst) < sizeof way) { /* what is to be made lies where its directory does */
        strcpy(way, dst);
        slash = strrchr(way, '/');
        if (slash)
            slash[slash == way] = 0;
        to = realpath(slash ? way : ".", NULL);
    }
    return to && S_ISDIR(a.st_mode) && strncmp(to, from, strlen(from)) == 0 &&
           (to[strlen(from)] == '/' || !to[strlen(from)] || strcmp(from, "/") == 0);
}

void
files_copy(const struct call *c)
{
    scoped(buf_release) struct buf src = {0}, dst = {0}, json = {0};
    struct copy sum = {0};
    struct err err;

    if (take_path(c, "source", &src) < 0 || take_path(c, "destination", &dst) < 0)
        return;
    if (name_target((char *)src.data, &dst) < 0)
        _exit(1);
    if (lies_within((char *)src.data, (char *)dst.data)) {
        err_set(&err, EINVAL, "'%s' cannot be copied into itself", (char *)src.data);
        refuse(c->slot, &err);
        return;
    }
    if (copy_entry(AT_FDCWD, (char *)src.data, AT_FDCWD, (char *)dst.data, &sum, 0) < 0) {
        fail(c, "copy", (char *)src.data);
        return;
    }
    add_open(&json);
    add_path(&json, "path", (char *)dst.data);
    add_int(&json, "entries", sum.entries);
    add_int(&json, "bytes", sum.bytes);
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

/* Empties and removes `name` in dir. Any depth: one descriptor at a time, back by "..". What is
 * moved about meanwhile is the sandbox's own affair. */
static int
remove_tree(int dir, const char *name, int64_t *removed)
{
    scoped(fd_close) int at = -1;
    int depth = 0;

    if (unlinkat(dir, name, 0) == 0) {
        (*removed)++;
        return 0;
    }
    if (errno != EISDIR && errno != EPERM)
        return -1;
    at = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    while (at >= 0) {
        char down[NAME_MAX + 1] = "";
        DIR *d = fdopendir(fcntl(at, F_DUPFD_CLOEXEC, 3));
        struct dirent *e;
        int next;
        if (!d)
            return -1;
        rewinddir(d);
        while (!*down && (e = readdir(d))) {
            if (is_dots(e->d_name))
                continue;
            if (unlinkat(at, e->d_name, 0) == 0 || unlinkat(at, e->d_name, AT_REMOVEDIR) == 0)
                (*removed)++;
            else if (errno == ENOTEMPTY || errno == EEXIST)
                snprintf(down, sizeof down, "%s", e->d_name);
            else {
                closedir(d);
                return -1;
            }
        }
        closedir(d);
        if (!*down && depth == 0)
            break;
        next = openat(at, *down ? down : "..", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        depth += *down ? 1 : -1;
        fd_close(&at);
        at = next;
    }
    if (at < 0 || unlinkat(dir, name, AT_REMOVEDIR) < 0)
        return -1;
    (*removed)++;
    return 0;
}

/* "/", or a path that ends with "." or "..": as rm(1), before anything in it is gone. */
static int
has_no_name(const char *path)
{
    size_t len = strlen(path), from;

    while (len > 0 && path[len - 1] == '/')
        len--;
    for (from = len; from > 0 && path[from - 1] != '/'; from--)
        ;
    return len == 0 || (len - from <= 2 && strncmp(path + from, "..", len - from) == 0);
}

void
files_remove(const struct call *c)
{
    scoped(buf_release) struct buf path = {0}, json = {0};
    int64_t removed = 0;
    struct err err;
    struct stat st;
    int r;

    if (take_path(c, "path", &path) < 0)
        return;
    if (has_no_name((char *)path.data)) {
        err_set(&err, EINVAL, "'%s' has no name that could be removed", (char *)path.data);
        refuse(c->slot, &err);
        return;
    }
    r = fstatat(AT_FDCWD, (char *)path.data, &st, AT_SYMLINK_NOFOLLOW);
    if (r == 0 && call_bool(c, "recursive", 0)) {
        r = remove_tree(AT_FDCWD, (char *)path.data, &removed);
    } else if (r == 0) {
        r = unlinkat(AT_FDCWD, (char *)path.data, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
        removed = r == 0;
    }
    if (r < 0 && !(errno == ENOENT && call_bool(c, "missing_ok", 0))) {
        fail(c, "remove", (char *)path.data);
        return;
    }
    add_open(&json);
    add_int(&json, "removed", removed);
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}

void
files_move(const struct call *c)
{
    scoped(buf_release) struct buf src = {0}, dst = {0}, json = {0};
    struct copy sum = {0};
    int64_t removed = 0;
    struct stat st;
    int r;

    if (take_path(c, "source", &src) < 0 || take_path(c, "destination", &dst) < 0)
        return;
    if (name_target((char *)src.data, &dst) < 0)
        _exit(1);
    r = (int)syscall(SYS_renameat2, AT_FDCWD, (char *)src.data, AT_FDCWD, (char *)dst.data,
                     call_bool(c, "overwrite", 1) ? 0 : NO_REPLACE);
    if (r < 0 && errno == EXDEV && !call_bool(c, "overwrite", 1) && lstat((char *)dst.data, &st) == 0)
        errno = EEXIST;
    if (r < 0 && errno == EEXIST) {
        fail(c, "move to", (char *)dst.data);
        return;
    }
    if (r < 0 && errno == EXDEV) { /* between two mounts */
        r = copy_entry(AT_FDCWD, (char *)src.data, AT_FDCWD, (char *)dst.data, &sum, 0);
        r = r < 0 ? r : remove_tree(AT_FDCWD, (char *)src.data, &removed);
    }
    if (r < 0) {
        fail(c, "move", (char *)src.data);
        return;
    }
    add_open(&json);
    add_path(&json, "path", (char *)dst.data);
    add_close(&json);
    answer(c->slot, &json, NULL, 0);
}
