/* SPDX-License-Identifier: BSD-3-Clause
 *
 * archive.h: one tar, looked through and unpacked (libarchive).
 */
#pragma once

#include <stdint.h>

#include "base/err.h"

struct archive_sum {
    int64_t bytes;   /* that it needs unpacked */
    int64_t entries;
    int is_layout;   /* it is no root file system, but the layers of one: docker save or OCI */
};

/* Looks at every entry of the tar `fd` (compressed or not), `what` for messages; refuses it as a
 * whole. With `below` not -1: applies its whiteouts to that directory. *ret is added to. */
int archive_check(int fd, const char *what, int below, struct archive_sum *ret, struct err *err);

/* Unpacks it below the directory `into`, no link followed. Each entry is judged again. */
int archive_unpack(int fd, const char *what, int into, struct err *err);
