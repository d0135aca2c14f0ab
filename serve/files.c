/* SPDX-License-Identifier: BSD-3-Clause
 *
 * files.c: files of a sandbox as bodies, in pieces: neither side ever holds more than a few of them.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "serve/feed.h"
#include "serve/handlers.h"
#include "serve/operations.h"

#define PIECE (512u << 10)
#define AHEAD 4 /* pieces that are asked for before they are sent; and that are sent before they are written */

/* A kernel may end while a client takes its time. NULL: it has. */
static struct served *
alive(const struct exchange *x, const char *kernel)
{
    struct served *k = served_find(x->server, kernel);

    return k && k->front.socket >= 0 ? k : NULL;
}

/* Of the query. NULL: answered. */
static const char *
path_of(struct exchange *x)
{
    const char *path = exchange_query(x, "path");

    if (!path || !*path)
        answer_error(x, 400, "which file? ?path=...");
    return path && *path ? path : NULL;
}

/*** Down ***/

struct download {
    struct exchange *x;     /* until the reply begins; then the feed has it */
    struct server *server;
    char kernel[37];
    struct feed *feed;
    struct call *call[AHEAD]; /* in the order in which they were asked */
    char *path;
    uint64_t first, at, end, size; /* of the file: what is sent, what is asked for next */
    int partial, failed;
};

static void
free_download(struct download *d)
{
    for (int i = 0; i < AHEAD; i++)
        if (d->call[i])
            call_forget(d->call[i]);
    free(d->path);
    free(d);
}

static void ask_more(void *of);

static void
on_piece(void *of, struct heard *h)
{
    struct download *d = of;
    struct bytes result, piece = {0};

    memmove(d->call, d->call + 1, (AHEAD - 1) * sizeof d->call[0]);
    d->call[AHEAD - 1] = NULL;
    if (!h || json_get(h->message.part[3], "result", &result) != J_OBJECT || !h->message.buffers) {
        d->failed = 1; /* it is no longer what it was: the length was promised */
        feed_end(d->feed, 1);
        return;
    }
    piece = h->message.buffer[0];
    if (piece.len)
        feed_add(d->feed, piece.data, piece.len);
    ask_more(d);
}

static void
ask_more(void *of)
{
    struct download *d = of;
    struct served *k = served_find(d->server, d->kernel);
    int n = 0;

    if (!k || k->front.socket < 0) {
        d->failed = 1;
        feed_end(d->feed, d->at < d->end);
    }
    while (n < AHEAD && d->call[n])
        n++;
    while (!d->failed && n < AHEAD && d->at < d->end && feed_waiting(d->feed) + (size_t)n * PIECE < AHEAD * PIECE) {
        scoped(buf_release) struct buf params = {0};
        uint64_t len = d->end - d->at < PIECE ? d->end - d->at : PIECE;
        if (buf_text(&params, "{\"path\":") < 0 || json_quote_path(bytes_of(d->path), &params) < 0 ||
            buf_printf(&params, ",\"offset\":%" PRIu64 ",\"length\":%" PRIu64 "}", d->at, len) < 0)
            abort();
        d->at += len;
        d->call[n++] = call_operation(k, "files.download", (struct bytes){params.data, params.len}, NULL, 0, on_piece,
                                      NULL, d);
    }
}

static void
on_sent(void *of)
{
    free_download(of);
}

/* Of "bytes=FIRST-LAST", "bytes=FIRST-" and "bytes=-COUNT"; several ranges are as none. -1: not to be satisfied. */
static int
read_range(const char *range, struct download *d)
{
    unsigned long long a, b;
    char rest;

    if (!range || strncmp(range, "bytes=", 6) != 0 || strchr(range, ','))
        return 0;
    range += 6;
    if (sscanf(range, "-%llu%c", &a, &rest) == 1) {
        if (a == 0 || d->size == 0)
            return -1;
        d->first = a < d->size ? d->size - a : 0;
    } else if (sscanf(range, "%llu-%llu%c", &a, &b, &rest) == 2) {
        if (b < a)
            return 0;
        if (a >= d->size)
            return -1;
        d->first = a;
        d->end = b < d->size - 1 ? b + 1 : d->size;
    } else if (sscanf(range, "%llu%c%c", &a, &rest, &rest) == 2 && rest == '-') {
        if (a >= d->size)
            return -1;
        d->first = a;
    } else {
        return 0;
    }
    d->partial = 1;
    return 0;
}

static void
set_headers(struct MHD_Response *r, void *of)
{
    const struct download *d = of;
    char text[96];

    response_header(r, "Accept-Ranges", "bytes");
    if (!d->partial)
        return;
    snprintf(text, sizeof text, "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, d->first, d->end - 1, d->size);
    response_header(r, "Content-Range", text);
}

static void
on_stat(void *of, struct heard *h)
{
    struct download *d = of;
    struct exchange *x = d->x;
    struct bytes result, type, size;
    int64_t n = 0;
    char text[48];

    d->call[0] = NULL;
    x->gone = NULL;
    if (operation_result(x, h, &result) < 0) {
        free_download(d);
        return;
    }
    if (json_get(result, "type", &type) != J_STRING || !json_string_is(type, "file") ||
        json_get(result, "size", &size) != J_NUMBER || json_int64(size, &n) < 0 || n < 0) {
        answer_error(x, 400, "'%s' is no file", d->path);
        free_download(d);
        return;
    }
    d->size = d->end = (uint64_t)n;
    if (read_range(exchange_header(x, "Range"), d) < 0) {
        answer_error(x, 416, "the file has %" PRIu64 " bytes", d->size);
        snprintf(text, sizeof text, "bytes */%" PRIu64, d->size);
        response_header(x->response, "Content-Range", text);
        free_download(d);
        return;
    }
    d->at = d->first;
    d->feed = feed_answer(x, d->partial ? 206 : 200, d->end - d->first, "application/octet-stream", set_headers, ask_more,
                          on_sent, d);
    ask_more(d);
}

static void
forget_download(struct exchange *x)
{
    free_download(x->of);
}

void
get_file(struct server *s, struct exchange *x)
{
    struct served *k = operation_kernel(s, x);
    const char *path = k ? path_of(x) : NULL;
    scoped(buf_release) struct buf params = {0};
    struct download *d;

    if (!path)
        return;
    d = calloc(1, sizeof *d);
    if (!d || !(d->path = strdup(path)))
        abort();
    d->x = x;
    d->server = s;
    memcpy(d->kernel, k->id, sizeof d->kernel);
    if (buf_text(&params, "{\"follow\":true,\"path\":") < 0 || json_quote_path(bytes_of(path), &params) < 0 ||
        buf_text(&params, "}") < 0)
        abort();
    x->of = d;
    x->gone = forget_download;
    d->call[0] = call_operation(k, "files.stat", (struct bytes){params.data, params.len}, NULL, 0, on_stat, NULL, d);
}

/*** Up ***/

struct upload {
    struct exchange *x;
    char kernel[37];
    struct call *first; /* until it has an id */
    struct buf id;      /* a string of JSON */
    int under_way;      /* pieces that are not written yet */
    int complete;       /* the whole body is here */
    int failed;         /* it has been, or will be, answered */
    int gone;           /* its client is; it is released with its last piece */
    struct buf error;
    unsigned status;
};

static void
free_upload(struct upload *u)
{
    buf_release(&u->id);
    buf_release(&u->error);
    free(u);
}

/* A reply can be sent when the body has been read, not before. */
static void
fail(struct upload *u, struct heard *h)
{
    struct exchange *x = u->x;
    struct bytes unused;

    u->failed = 1;
    if (u->gone)
        return;
    x->gone = NULL;
    x->body.len = 0;
    (void)operation_result(x, h, &unused);
    exchange_go_on(x);
}

static void on_written(void *of, struct heard *h);

static void
send_piece(struct upload *u, int last)
{
    scoped(buf_release) struct buf params = {0};
    struct bytes piece = {u->x->body.data, u->x->body.len};
    struct served *k = alive(u->x, u->kernel);

    if (!k) {
        fail(u, NULL);
        return;
    }
    if (buf_printf(&params, "{\"upload\":%.*s%s}", (int)u->id.len, (const char *)u->id.data,
                   last ? ",\"done\":true" : "") < 0)
        abort();
    u->under_way++;
    (void)call_operation(k, "files.upload", (struct bytes){params.data, params.len}, &piece, piece.len ? 1 : 0,
                         on_written, NULL, u);
    u->x->body.len = 0;
}

static void
abort_upload(struct upload *u)
{
    scoped(buf_release) struct buf params = {0};
    struct served *k = alive(u->x, u->kernel);

    if (!u->id.len || !k)
        return;
    if (buf_printf(&params, "{\"upload\":%.*s,\"abort\":true}", (int)u->id.len, (const char *)u->id.data) < 0)
        abort();
    (void)call_operation(k, "files.upload", (struct bytes){params.data, params.len}, NULL, 0, NULL, NULL, NULL);
}

/* What can be done now: the last piece goes when all others are written. */
static void
go_on(struct upload *u)
{
    if (u->failed || !u->id.len)
        return;
    if (u->complete && !u->under_way) {
        u->complete = 2;
        send_piece(u, 1);
    } else if (!u->complete && u->x->body.len >= PIECE && u->under_way < AHEAD) {
        send_piece(u, 0);
    }
    if (!u->complete && u->x->body.len < PIECE)
        exchange_go_on(u->x);
}

static void
on_written(void *of, struct heard *h)
{
    struct upload *u = of;
    struct bytes result;
    struct buf b = {0};

    u->under_way--;
    if (u->gone || u->failed) {
        if (!u->under_way)
            free_upload(u);
        return;
    }
    if (!h || json_get(h->message.part[3], "result", &result) != J_OBJECT) {
        fail(u, h);
        if (!u->under_way)
            free_upload(u);
        return;
    }
    if (u->complete < 2) {
        go_on(u);
        return;
    }
    u->x->gone = NULL;
    if (buf_add(&b, result.data, result.len) < 0)
        abort();
    answer_json(u->x, 201, &b);
    free_upload(u);
}

static void
on_begun(void *of, struct heard *h)
{
    struct upload *u = of;
    struct bytes result, id;

    u->first = NULL;
    if (!h || json_get(h->message.part[3], "result", &result) != J_OBJECT ||
        json_get(result, "upload", &id) != J_STRING || buf_add(&u->id, id.data, id.len) < 0) {
        fail(u, h);
        free_upload(u);
        return;
    }
    go_on(u);
}

static int
take_data(struct exchange *x)
{
    struct upload *u = x->of;

    if (x->answered) {
        x->body.len = 0; /* it was refused; what is still sent is read and forgotten */
        return 0;
    }
    go_on(u);
    return x->body.len >= PIECE;
}

static void
take_end(struct exchange *x)
{
    struct upload *u = x->of;

    if (x->answered)
        return;
    u->complete = 1;
    go_on(u);
}

static void
forget_upload(struct exchange *x)
{
    struct upload *u = x->of;

    if (u->first)
        call_forget(u->first);
    abort_upload(u);
    u->gone = 1;
    if (!u->under_way)
        free_upload(u);
}

void
put_file(struct server *s, struct exchange *x)
{
    struct served *k = operation_kernel(s, x);
    const char *path = k ? path_of(x) : NULL, *mode = exchange_query(x, "mode"), *parents = exchange_query(x, "parents");
    scoped(buf_release) struct buf params = {0};
    struct upload *u;
    int bad;

    if (!path)
        return;
    bad = buf_text(&params, "{\"path\":") < 0 || json_quote_path(bytes_of(path), &params) < 0;
    if (mode)
        bad = bad || buf_text(&params, ",\"mode\":") < 0 || json_quote(bytes_of(mode), &params) < 0;
    if (parents && strcmp(parents, "0") != 0 && strcmp(parents, "false") != 0)
        bad = bad || buf_text(&params, ",\"parents\":true") < 0;
    if (bad || buf_text(&params, "}") < 0 || !(u = calloc(1, sizeof *u)))
        abort();
    *u = (struct upload){.x = x};
    memcpy(u->kernel, k->id, sizeof u->kernel);
    x->of = u;
    x->gone = forget_upload;
    x->take_data = take_data;
    x->take_end = take_end;
    u->first = call_operation(k, "files.upload", (struct bytes){params.data, params.len}, NULL, 0, on_begun, NULL, u);
}
