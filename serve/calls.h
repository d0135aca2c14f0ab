/* SPDX-License-Identifier: BSD-3-Clause
 *
 * calls.h: what the server asks a kernel itself: one request, its reply, and the events of it, if wanted.
 */
#pragma once

#include "serve/kernels.h"

struct call {
    struct party party;
    char id[37]; /* of its message */
    void (*done)(void *of, struct heard *h);  /* the reply; NULL: the kernel is gone. The call ends with it */
    void (*event)(void *of, struct heard *h); /* what is published with this request as its parent; or NULL */
    void *of;
    int stays; /* events come after the reply, too, until call_forget() */
};

/* Sends it on the control channel. The call ends with `done` or with call_forget(), and is released then. */
struct call *call_start(struct served *k, const char *type, struct bytes content, const struct bytes *buffers, size_t n,
                        void (*done)(void *of, struct heard *h), void (*event)(void *of, struct heard *h), void *of);
/* Nobody waits for it any longer. */
void call_forget(struct call *c);

/* sandbox_request: `params` is an object of JSON. */
struct call *call_operation(struct served *k, const char *method, struct bytes params, const struct bytes *buffers,
                            size_t n, void (*done)(void *of, struct heard *h), void (*event)(void *of, struct heard *h),
                            void *of);
