/* SPDX-License-Identifier: BSD-3-Clause
 *
 * sessions.h: /api/sessions: a path (of a notebook, a console) and its kernel. One ends with its kernel, and a kernel
 * with the session that is deleted.
 */
#pragma once

#include "serve/server.h"

struct session {
    struct session *next;
    char id[37], kernel[37];
    char *path, *name, *type;
};

void sessions_release(struct server *s);
