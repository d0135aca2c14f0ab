/* SPDX-License-Identifier: BSD-3-Clause
 *
 * http.h: one request and its reply (an exchange). libmicrohttpd parses; routes.def says what there is. A
 * handler answers at once, or leaves the exchange open and answers later: the connection is put aside
 * meanwhile. Whoever keeps an open exchange hears by `gone` if its client does not wait any longer.
 *
 * Errors have Jupyter Server's form: {"message": "...", "reason": null}.
 */
#pragma once

#include "serve/server.h"

#define HTTP_SEGMENTS 6

struct exchange;
struct route {
    const char *method, *path; /* "*": one segment, "**": the rest */
    int access;                /* of routes.def */
    const char *name;          /* of its handler */
    void (*handle)(struct server *s, struct exchange *x);
};
extern const struct route routes[];
extern const size_t routes_count;

struct exchange {
    struct server *server;
    struct MHD_Connection *connection;
    const struct route *route;
    char *path;
    char *segment[HTTP_SEGMENTS]; /* what the stars stand for */
    struct buf body;
    int begun, too_large, suspended, answered, queued;
    unsigned status;
    struct MHD_Response *response;
    void *of;                          /* the handler's */
    void (*gone)(struct exchange *x);  /* its client is gone, and it is not answered */
    /* EARLY: a piece has been added to `body`; 1: no more for now, until exchange_go_on(). The whole of it is there. */
    int (*take_data)(struct exchange *x);
    void (*take_end)(struct exchange *x);
    int paused, ended;
};
/* More of its body can be taken. */
void exchange_go_on(struct exchange *x);

int http_start(struct server *s, struct err *err);
void http_stop(struct server *s);
/* After each turn of the loop: what MHD has to do; returns in how many ms at most it wants to be called again. */
int http_run(struct server *s);

/* Each ends the exchange. */
void answer_json(struct exchange *x, unsigned status, struct buf *json); /* takes the buffer */
void answer_error(struct exchange *x, unsigned status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void answer_empty(struct exchange *x, unsigned status);
void answer_response(struct exchange *x, unsigned status, struct MHD_Response *response); /* takes it */
void response_header(struct MHD_Response *r, const char *name, const char *value);

const char *exchange_query(const struct exchange *x, const char *name); /* NULL: not there */
const char *exchange_header(const struct exchange *x, const char *name);
/* In constant time, whatever is given. */
int http_is_token(const struct server *s, const char *given);
/* A browser says which page asks: one of this server, or one that --allow-origin names. Programs say nothing. */
int exchange_is_our_page(const struct exchange *x);
/* The body as an object of JSON; an empty body is one. -1 when it was answered that it is none. */
int exchange_object(struct exchange *x, struct bytes *ret);
/* Refuses what is not in the list (ends with NULL). -1 when that was answered. */
int exchange_only(struct exchange *x, struct bytes object, const char *const *names);
