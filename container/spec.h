/* SPDX-License-Identifier: BSD-3-Clause
 *
 * spec.h: what the engine is asked for: from a policy and its view to the body of
 * POST /containers/create. Everything that can be taken from a container is taken: capabilities, new
 * privileges, system calls, network, the right to change its image, more memory, processes and files
 * than were said.
 */
#pragma once

#include <jansson.h>

#include "sandbox/limits.h"
#include "sandbox/mounts.h"

/* Where husk-init finds the broker, inside. */
#define SPEC_DIRECTORY "/run/husk"
#define SPEC_SOCKET "socket"

#define SPEC_NETWORK "network" /* the socket of husk-loopback, beside it */

/* Labels of a container: who runs husk, and the process that looks after it ("PID START", proc(5)). */
#define SPEC_LABEL_USER "org.husk.user"
#define SPEC_LABEL_OWNER "org.husk.owner"
#define SPEC_LABEL_ID "org.husk.id"

struct spec {
    const struct policy *policy;
    const struct mount_view *view; /* view_look() has */
    const char *init;              /* paths on this machine */
    const char *directory;         /* appears as SPEC_DIRECTORY */
    const char *profile;           /* for system calls: text */
    const char *owner;
};

/* The caller frees it. NULL with err set. */
json_t *spec_make(const struct spec *spec, struct err *err);
/* The container that makes the network of `container`: `program` is husk-loopback. */
json_t *spec_make_network(const struct spec *spec, const char *program, const char *container, struct err *err);
