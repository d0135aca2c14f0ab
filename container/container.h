/* SPDX-License-Identifier: BSD-3-Clause
 *
 * container.h: one container: it is made, started, watched and removed. What an engine is asked for
 * is spec.h's; how it is asked, engine.h's.
 */
#pragma once

#include <limits.h>
#include <stdio.h>

#include "container/engine.h"
#include "container/spec.h"
#include "sandbox/relay.h"

struct container {
    struct engine engine;
    char id[72];  /* as the engine names it; "": none */
    int listener; /* where husk-init connects; -1 */
    char owner[48];
};
#define CONTAINER_EMPTY ((struct container){.engine = ENGINE_EMPTY, .listener = -1})

/* A file of husk's own, by its path below the prefix. */
int container_installed(const char *name, char into[static PATH_MAX], struct err *err);

/* Sees to it that the engine has the image, as `pull` says, and appends the environment that it has to
 * *environment (each string ends in NUL). */
int container_find_image(struct container *c, const struct policy *policy, struct buf *environment,
                         struct err *err);

/* Makes and starts it, waits until its husk-init is there and has compared the mounts. `layer` is the
 * directory of this sandbox's own. On failure *failure names the step, and container_remove() is due. */
int container_start(struct container *c, const struct policy *policy, struct mount_view *view,
                    const struct layers *layers, const char *init, struct sandbox *ret,
                    struct build_failure *failure);

/* What the policy allows: the sockets that listen inside wait in sandbox->sockets (uplink.h). */
int container_make_network(struct container *c, const struct policy *policy, const struct layers *layers,
                           struct sandbox *sandbox, struct build_failure *failure);

/* Whether the engine says that it ended for a reason; *err is then about that. */
void container_explain_end(struct container *c, struct err *err);

/* Asks the engine to remove it and waits until it is gone. */
void container_remove(struct container *c);

/* Removes the containers of this user whose owner is gone, and prints the id of each to `tell`, if that is
 * not NULL. */
int container_sweep(struct engine *engine, FILE *tell, struct err *err);
