/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base.h: ownership and small tools that every part uses. Depends on libc only.
 *
 * `scoped(fn) T x` calls fn(&x) when x leaves its scope. Such functions accept the empty
 * value, empty the variable, and keep errno.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define scoped(fn) __attribute__((cleanup(fn)))
#define countof(array) (sizeof(array) / sizeof(array)[0])

/* Bytes that somebody else owns. */
struct bytes {
    const uint8_t *data;
    size_t len;
};
#define BYTES(literal) ((struct bytes){(const uint8_t *)(literal), sizeof(literal) - 1})
struct bytes bytes_of(const char *text); /* the string without its NUL */
int bytes_equal(struct bytes a, const char *text);

/* A growing byte buffer. Zero it to start; buf_release() to end. Growth that fails aborts
 * only where the caller cannot go on: every append returns 0, or -1 with errno ENOMEM, and
 * then leaves the buffer as it was. */
struct buf {
    uint8_t *data;
    size_t len;  /* bytes in use */
    size_t size; /* bytes allocated */
};
int buf_reserve(struct buf *buf, size_t more);
int buf_add(struct buf *buf, const void *data, size_t len);
int buf_text(struct buf *buf, const char *text);
int buf_printf(struct buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_consume(struct buf *buf, size_t len); /* drops bytes at the front */
void buf_release(struct buf *buf);
/* The text so far, NUL-terminated. Borrowed until the next call on buf. NULL without memory. */
const char *buf_string(struct buf *buf);

/* A NULL-terminated vector of strings that it owns. Zero it to start. */
struct strv {
    char **item;
    size_t len;
};
int strv_add(struct strv *v, const char *text);
int strv_addf(struct strv *v, const char *format, ...) __attribute__((format(printf, 2, 3)));
int strv_has(const struct strv *v, const char *text);
void strv_release(struct strv *v);

void fd_close(int *fd); /* -1 is the empty value */
void str_free(char **text);
void pid_end(pid_t *pid); /* kills a child and waits for it; 0 is the empty value */
pid_t pid_parent(const char *pid); /* of a name in /proc; 0 if it is no process, or a dead one */
int is_dots(const char *name); /* "." or "..", which readdir(3) gives too */
int fd_nonblock(int fd);
int fd_send(int socket, int fd); /* a copy of it, with one byte (unix(7), SCM_RIGHTS); errno */
int fd_write_all(int fd, const void *data, size_t len);
/* The same, but goes past blocks of zeros: who sets the size of the file at its end makes holes of them. */
int fd_write_sparse(int fd, const void *data, size_t len);
int is_zero(const uint8_t *data, size_t len); /* each byte; len is not 0 */
/* Reads a whole file of at most `max` bytes. On failure -1 and errno (EFBIG when longer). */
int file_read(int dir, const char *path, size_t max, struct buf *ret);
int file_write(int dir, const char *path, const char *text); /* an existing file */

/* "4096", "512k", "2g", "1GiB": bytes. -1 and errno EINVAL when it is no size. */
int size_parse(const char *text, uint64_t *ret);
/* 536870912 -> "512 MiB". Returns `into`. */
const char *size_format(uint64_t bytes, char into[static 24]);

int64_t now_ms(void); /* CLOCK_MONOTONIC, milliseconds */
int64_t now_us(void);

int64_t clock_us(void); /* CLOCK_REALTIME, microseconds */
/* "2026-11-24T10:00:00.123456Z", as Jupyter writes it. */
const char *clock_text(int64_t us, char into[static 32]);
