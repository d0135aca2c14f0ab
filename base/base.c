/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>
#include <time.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOLE 65536 /* bytes of zeros that become one */

struct bytes
bytes_of(const char *text)
{
    return (struct bytes){(const uint8_t *)text, strlen(text)};
}

int
bytes_equal(struct bytes a, const char *text)
{
    return a.len == strlen(text) && memcmp(a.data, text, a.len) == 0;
}

int
buf_reserve(struct buf *buf, size_t more)
{
    size_t want, size = buf->size ? buf->size : 256;
    uint8_t *data;

    if (__builtin_add_overflow(buf->len, more, &want)) {
        errno = ENOMEM;
        return -1;
    }
    if (want <= buf->size)
        return 0;
    while (size < want && size <= SIZE_MAX / 2)
        size *= 2;
    if (size < want)
        size = want;
    data = realloc(buf->data, size);
    if (!data)
        return -1;
    buf->data = data;
    buf->size = size;
    return 0;
}

int
buf_add(struct buf *buf, const void *data, size_t len)
{
    if (len == 0)
        return 0;
    if (buf_reserve(buf, len) < 0)
        return -1;
    memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    return 0;
}

int
buf_text(struct buf *buf, const char *text)
{
    return buf_add(buf, text, strlen(text));
}

int
buf_printf(struct buf *buf, const char *format, ...)
{
    va_list args, again;
    int len, r = -1;

    va_start(args, format);
    va_copy(again, args);
    len = vsnprintf(NULL, 0, format, args);
    if (len >= 0 && buf_reserve(buf, (size_t)len + 1) == 0) {
        vsnprintf((char *)buf->data + buf->len, (size_t)len + 1, format, again);
        buf->len += (size_t)len;
        r = 0;
    }
    va_end(again);
    va_end(args);
    return r;
}

void
buf_consume(struct buf *buf, size_t len)
{
    if (!len)
        return; /* often, and a memmove(3) of nothing over nothing costs as much as any */
    if (len >= buf->len) {
        buf->len = 0;
        return;
    }
    memmove(buf->data, buf->data + len, buf->len - len);
    buf->len -= len;
}

void
buf_release(struct buf *buf)
{
    int saved = errno;

    free(buf->data);
    *buf = (struct buf){0};
    errno = saved;
}

const char *
buf_string(struct buf *buf)
{
    if (buf_reserve(buf, 1) < 0)
        return NULL;
    buf->data[buf->len] = 0;
    return (const char *)buf->data;
}

static int
strv_take(struct strv *v, char *text)
{
    char **item;

    if (!text)
        return -1;
    item = realloc(v->item, (v->len + 2) * sizeof *item);
    if (!item) {
        free(text);
        return -1;
    }
    v->item = item;
    v->item[v->len++] = text;
    v->item[v->len] = NULL;
    return 0;
}

int
strv_add(struct strv *v, const char *text)
{
    return strv_take(v, strdup(text));
}

int
strv_addf(struct strv *v, const char *format, ...)
{
    va_list args;
    char *text = NULL;
    int len;

    va_start(args, format);
    len = vasprintf(&text, format, args);
    va_end(args);
    return strv_take(v, len < 0 ? NULL : text);
}

int
strv_has(const struct strv *v, const char *text)
{
    for (size_t i = 0; i < v->len; i++)
        if (strcmp(v->item[i], text) == 0)
            return 1;
    return 0;
}

void
strv_release(struct strv *v)
{
    int saved = errno;

    for (size_t i = 0; i < v->len; i++)
        free(v->item[i]);
    free(v->item);
    *v = (struct strv){0};
    errno = saved;
}

void
fd_close(int *fd)
{
    int saved = errno;

    if (*fd >= 0)
        close(*fd); /* never retried: on Linux the descriptor is gone even after EINTR */
    *fd = -1;
    errno = saved;
}

pid_t
pid_parent(const char *pid)
{
    char path[64], text[512], *at;
    scoped(fd_close) int fd = -1;
    ssize_t n;

    snprintf(path, sizeof path, "/proc/%.16s/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (n <= 0)
        return 0;
    text[n] = 0;
    at = strrchr(text, ')'); /* the name before it may hold anything */
    return at && strlen(at) > 4 && at[2] != 'Z' ? (pid_t)atoi(at + 4) : 0;
}

void
pid_end(pid_t *pid)
{
    int saved = errno;

    if (*pid > 0) {
        kill(*pid, SIGKILL);
        while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    *pid = 0;
    errno = saved;
}

int
is_dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

void
str_free(char **text)
{
    int saved = errno;

    free(*text);
    *text = NULL;
    errno = saved;
}

int
fd_nonblock(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

int
fd_send(int socket, int fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    char byte = 0;
    struct iovec part = {&byte, 1};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                       .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(socket, &m, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

int
fd_write_all(int fd, const void *data, size_t len)
{
    const uint8_t *at = data;

    while (len) {
        ssize_t n = write(fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

int
is_zero(const uint8_t *data, size_t len)
{
    return *data == 0 && memcmp(data, data + 1, len - 1) == 0;
}

int
fd_write_sparse(int fd, const void *data, size_t len)
{
    const uint8_t *at = data;

    for (size_t n; len; at += n, len -= n) {
        n = len < HOLE ? len : HOLE;
        if (is_zero(at, n) ? lseek(fd, (off_t)n, SEEK_CUR) < 0 : fd_write_all(fd, at, n) < 0)
            return -1;
    }
    return 0;
}

int
file_read(int dir, const char *path, size_t max, struct buf *ret)
{
    scoped(fd_close) int fd = openat(dir, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n;

    if (fd < 0)
        return -1;
    for (;;) {
        if (buf_reserve(ret, 4096) < 0)
            return -1;
        n = read(fd, ret->data + ret->len, 4096);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return (int)n;
        ret->len += (size_t)n;
        if (ret->len > max) {
            errno = EFBIG;
            return -1;
        }
    }
}

int
file_write(int dir, const char *path, const char *text)
{
    scoped(fd_close) int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
    size_t len = strlen(text);

    if (fd < 0)
        return -1;
    /* One write: files of /proc and of a cgroup take a value whole or not at all. */
    return write(fd, text, len) == (ssize_t)len ? 0 : -1;
}

int
size_parse(const char *text, uint64_t *ret)
{
    static const char units[] = "kmgt";
    unsigned long long number;
    const char *unit;
    char *end;
    int shift = 0;

    errno = 0;
    number = strtoull(text, &end, 10);
    if (errno || *text < '0' || *text > '9') /* no sign and no space, which strtoull would take */
        goto bad;
    if (*end) {
        unit = strchr(units, *end | 0x20);
        if (!unit && (strcasecmp(end, "b") != 0))
            goto bad;
        if (unit) {
            shift = 10 * (int)(unit - units + 1);
            end++;
            if (*end && strcasecmp(end, "b") != 0 && strcasecmp(end, "ib") != 0)
                goto bad;
        }
    }
    if (shift && number > (UINT64_MAX >> shift))
        goto bad;
    *ret = (uint64_t)number << shift;
    return 0;
bad:
    errno = EINVAL;
    return -1;
}

const char *
size_format(uint64_t bytes, char into[static 24])
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < countof(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(into, 24, value == (double)(uint64_t)value ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return into;
}

int64_t
now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t
clock_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Four of them for each cell: the calendar is asked once a second, and nothing is formatted. */
const char *
clock_text(int64_t us, char into[static 32])
{
    static _Thread_local struct {
        time_t second;
        char text[sizeof "2026-11-24T10:00:00"];
    } last;
    time_t second = us / 1000000;
    long rest = (long)(us % 1000000);
    size_t len = sizeof last.text - 1;
    struct tm tm;

    if (second != last.second || !*last.text) {
        gmtime_r(&second, &tm);
        strftime(last.text, sizeof last.text, "%Y-%m-%dT%H:%M:%S", &tm);
        last.second = second;
    }
    memcpy(into, last.text, len);
    into[len] = '.';
    for (size_t at = len + 6; at > len; at--) {
        into[at] = (char)('0' + rest % 10);
        rest /= 10;
    }
    memcpy(into + len + 7, "Z", 2);
    return into;
}

int64_t
now_ms(void)
{
    return now_us() / 1000;
}
