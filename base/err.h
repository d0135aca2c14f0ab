/* SPDX-License-Identifier: BSD-3-Clause
 *
 * err.h: the one error idiom of husk.
 *
 * A function that can fail returns 0 (or a count) on success and -1 on failure, and takes a
 * caller-owned `struct err *` as its last parameter. The text is made once, where errno is
 * fresh; callers pass it on or put context in front of it. Nothing is allocated, so an error
 * can be reported when memory is short and after fork().
 *
 * Text: lower case, no full stop, the subject in quotes: "open '/x': Permission denied", where
 * what follows the last colon is the C library's.
 */
#pragma once

#define ERR_TEXT 512 /* bytes, with the NUL; longer text is cut */

struct err {
    int code;            /* an errno value, or 0 if no error happened */
    char text[ERR_TEXT]; /* one line for a person */
};

/* Each returns -1, so that a failing function can end in `return err_set(...)`. */
int err_set(struct err *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* As err_set, with the present errno as code and its text after a colon. */
int err_errno(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts context and ": " in front of an error that was set below. */
int err_wrap(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
