/* SPDX-License-Identifier: BSD-3-Clause
 *
 * specs.h: what kernels can be started: python3 and husk, which are the sandbox that the server's own
 * options describe (profile strict, if they name no other), and kernelspecs that `husk install` wrote, each
 * if --spec names it, with its options behind the server's.
 */
#pragma once

#include "serve/server.h"

struct spec {
    char *name, *display_name;
    char *directory;     /* of its resources */
    struct strv options; /* of `husk kernel`, all */
};

int specs_load(struct server *s, struct err *err);
void specs_release(struct server *s);
const struct spec *specs_find(const struct server *s, const char *name);
