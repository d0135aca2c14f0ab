/* SPDX-License-Identifier: BSD-3-Clause
 *
 * starts.h: exchanges that wait for a kernel to start, restart or end.
 */
#pragma once

#include "serve/kernels.h"

/* Starts what the body asks for; `then` answers when it takes requests. Errors are answered here: 500 with the
 * kernel's own words if it does not start. */
void start_for(struct exchange *x, struct bytes object, void (*then)(struct exchange *x, struct served *k));
/* 200 with the model, when it takes requests again. */
void restart_for(struct exchange *x, struct served *k);
/* 204, when it has ended. */
void stop_for(struct exchange *x, struct served *k);
/* The sandbox of the server's own, whose files /api/contents shows: made when it is first asked for. */
void files_for(struct exchange *x, void (*then)(struct exchange *x, struct served *k));
