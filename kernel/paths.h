/* SPDX-License-Identifier: BSD-3-Clause
 *
 * paths.h: where husk's own parts are, relative to the program that runs; so an installed tree
 * can be moved. And directories of the user.
 */
#pragma once

#include "base/err.h"

/* Finds them all once. */
int paths_find(struct err *err);
const char *paths_program(void);     /* husk itself, also in programs below libexec */
const char *paths_kernel(void);      /* libexec/husk/husk-kernel: what of husk needs many libraries */
const char *paths_launch(void);      /* libexec/husk/husk-launch */
const char *paths_broker(void);      /* libexec/husk/husk-sandbox */
const char *paths_docker(void);      /* libexec/husk/husk-docker, the broker of containers */
const char *paths_init(void);        /* libexec/husk/husk-init */
const char *paths_network(void);     /* libexec/husk/husk-network */
const char *paths_server(void);      /* libexec/husk/husk-serve */
const char *paths_ports(void);       /* libexec/husk/husk-ports */
const char *paths_scope(void);       /* libexec/husk/husk-scope */
const char *paths_unpack(void);      /* libexec/husk/husk-unpack */
const char *paths_interpreter(void); /* lib/husk/interpreter: visible in every sandbox */
const char *paths_agent(void);       /* husk-agent, beside it: executed inside only */
const char *paths_thaw(void);        /* husk-thaw, beside it; where interpreters can be frozen */
const char *paths_glue(void);        /* the script that Python is started with */
const char *paths_probe(void);
const char *paths_logos(void);       /* share/husk/logos */

/* The user's home directory, from HOME or else the user database. */
const char *paths_home(void);
/* Where the private directories of sandboxes lie: "sandboxes" of the state directory. Without namespaces
 * root's sandboxes are other users, who cannot come there: below /var/lib/husk, then. The same. */
char *paths_layers(const char *containment, struct err *err);
/* $XDG_STATE_HOME/husk/NAME, made with mode 0700; NULL and err set on failure. Caller frees. */
char *paths_state(const char *name, struct err *err);
