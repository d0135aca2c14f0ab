/* SPDX-License-Identifier: BSD-3-Clause
 *
 * handlers.h: what routes.def names. Each answers its exchange, now or later.
 */
#pragma once

#include "serve/http.h"

#define ROUTE(method, path, access, handler) void handler(struct server *s, struct exchange *x);
#include "serve/routes.def"
#undef ROUTE
