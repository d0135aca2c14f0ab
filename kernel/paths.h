/* SPDX-License-Identifier: BSD-3-Clause
 *
 * paths.h: where husk's own parts are, relative to the program that runs; so an installed tree
 * can be moved. And directories of the user.
 */
#pragma once

#include "base/err.h"

/* Finds them all once. */
int paths_find(struct err *err);
const char *paths_program(void);     /* husk itself */
const char *paths_broker(void);      /* libexec/husk/husk-sandbox */
const char *paths_init(void);        /* libexec/husk/husk-init */
const char *paths_interpreter(void); /* lib/husk/interpreter: visible in every sandbox */
const char *paths_glue(void);        /* the script that Python is started with */
const char *paths_probe(void);
const char *paths_logos(void);       /* share/husk/logos */

/* The user's home directory, from HOME or else the user database. */
const char *paths_home(void);
/* $XDG_STATE_HOME/husk/NAME, made with mode 0700; NULL and err set on failure. Caller frees. */
char *paths_state(const char *name, struct err *err);
