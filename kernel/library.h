/* SPDX-License-Identifier: BSD-3-Clause
 *
 * library.h: shared libraries that are loaded when they are first needed, dlopen(3).
 *
 * A kernel that only a server or a command speaks to needs neither ZeroMQ nor signatures, and each process pays for what it
 * is linked to before it does anything; another kernel loads them while its sandbox is built. Nothing is unloaded.
 */
#pragma once

#include <stddef.h>

#include "base/err.h"

struct library_call {
    const char *name;
    void **to; /* a pointer to a function; POSIX lets it be written as this */
};

/* All of them, or -1 with err set, and none of `calls` is of use. */
int library_load(const char *file, const struct library_call *calls, size_t n, struct err *err);
