/* SPDX-License-Identifier: BSD-3-Clause
 *
 * engine.h: the Docker Engine API, version 1.41 (docs.docker.com/reference/api/engine), over the
 * UNIX socket of a daemon on this machine: Docker's, or Podman's, which speaks the same.
 *
 * Which socket: DOCKER_HOST; else the context that DOCKER_CONTEXT or `docker context use` names; else
 * the usual places. A daemon of another machine is refused: a container there cannot see the socket
 * that husk-init is to find.
 */
#pragma once

#include <curl/curl.h>
#include <jansson.h>

#include "base/base.h"
#include "base/err.h"

struct engine {
    CURLM *multi;
    char *socket; /* path of the daemon's */
    int stop;     /* hangs up when nobody wants the answer any more; -1: always wanted */
};
#define ENGINE_EMPTY ((struct engine){.stop = -1})

/* Where the daemon is: a path that the caller frees. NULL with err set. */
char *engine_find(struct err *err);

/* Finds it and tries whether it answers to a connection. */
int engine_open(struct engine *ret, struct err *err);
void engine_close(struct engine *e);

/* Hears a line of an answer that comes bit by bit (pulling). -1 with err set ends the call. */
typedef int engine_line(void *arg, json_t *line, struct err *err);

/* One call. `path` is what follows the version, escaped; `body` may be NULL and stays the caller's.
 * Returns the JSON of the answer, which the caller frees (an empty object for an empty one), or NULL
 * with err set: ENOENT for 404, EEXIST for 409, ECANCELED if `stop` hung up, EHOSTDOWN if the daemon
 * is away, ENOSPC, EIO. */
json_t *engine_call(struct engine *e, const char *method, const char *path, const json_t *body,
                    struct err *err);
/* The same with an answer of many lines. */
int engine_stream(struct engine *e, const char *method, const char *path, engine_line *hear, void *arg,
                  struct err *err);

/* Appends `text` as a part of a path or query. */
int engine_escape(struct buf *path, const char *text);
