/* SPDX-License-Identifier: BSD-3-Clause
 *
 * api.c: the server itself, and its kernels.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "serve/calls.h"
#include "serve/handlers.h"
#include "serve/starts.h"

#define API_VERSION "2.0.0-husk-" HUSK_VERSION /* clients ask whether it begins with 2 or more */

/*** The server ***/

void
get_version(struct server *s, struct exchange *x)
{
    struct buf b = {0};

    if (buf_text(&b, "{\"version\": \"" API_VERSION "\"}") < 0)
        abort();
    answer_json(x, 200, &b);
}

void
get_status(struct server *s, struct exchange *x)
{
    char date[32];
    struct buf b = {0};

    if (buf_printf(&b, "{\"started\": \"%s\", \"last_activity\": \"%s\", \"connections\": %zu, \"kernels\": %zu}",
                   s->started, clock_text(s->last_activity, date), s->count.sockets, s->kernel_count) < 0)
        abort();
    answer_json(x, 200, &b);
}

/* Whoever knows the token is the one user. */
void
get_me(struct server *s, struct exchange *x)
{
    struct buf b = {0};

    if (buf_text(&b, "{\"identity\": {\"username\": \"husk\", \"name\": \"husk\", \"display_name\": \"husk\", "
                     "\"initials\": \"h\", \"avatar_url\": null, \"color\": null}, \"permissions\": {}}") < 0)
        abort();
    answer_json(x, 200, &b);
}

/*** Kernels ***/

void
get_kernels(struct server *s, struct exchange *x)
{
    struct buf b = {0};

    if (buf_text(&b, "[") < 0)
        abort();
    for (const struct served *k = served_next(s, NULL); k; k = served_next(s, k)) {
        if (b.len > 1 && buf_text(&b, ", ") < 0)
            abort();
        served_model(k, &b);
    }
    if (buf_text(&b, "]") < 0)
        abort();
    answer_json(x, 200, &b);
}

void
get_kernel(struct server *s, struct exchange *x)
{
    struct served *k = served_of(s, x, x->segment[0]);
    struct buf b = {0};

    if (!k)
        return;
    served_model(k, &b);
    answer_json(x, 200, &b);
}

static void
say_started(struct exchange *x, struct served *k)
{
    struct buf b = {0};
    char location[80];

    served_model(k, &b);
    snprintf(location, sizeof location, "/api/kernels/%s", k->id);
    answer_json_at(x, 201, &b, location);
}

void
post_kernel(struct server *s, struct exchange *x)
{
    struct bytes object;

    if (exchange_object(x, &object) == 0)
        start_for(x, object, say_started);
}

void
delete_kernel(struct server *s, struct exchange *x)
{
    struct served *k = served_of(s, x, x->segment[0]);

    if (k)
        stop_for(x, k, NULL);
}

void
post_restart(struct server *s, struct exchange *x)
{
    struct served *k = served_of(s, x, x->segment[0]);

    if (k)
        restart_for(x, k);
}

static void
on_interrupted(void *of, struct heard *h)
{
    struct exchange *x = of;

    x->gone = NULL;
    if (h)
        answer_empty(x, 204);
    else
        answer_error(x, 500, "the kernel has ended");
}

static void
forget_call(struct exchange *x)
{
    call_forget(x->of);
}

void
post_interrupt(struct server *s, struct exchange *x)
{
    struct served *k = served_of(s, x, x->segment[0]);

    if (!k)
        return;
    if (k->front.socket < 0) {
        answer_error(x, 500, "the kernel is dead");
        return;
    }
    x->gone = forget_call;
    x->of = call_start(k, "interrupt_request", BYTES("{}"), NULL, 0, on_interrupted, NULL, x);
}
