/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/errand.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "serve/entries.h"
#include "serve/operations.h"

/*** Operations ***/

static void
release(struct errand *e)
{
    if (e->call)
        call_forget(e->call);
    free(e->top);
    free(e->path);
    free(e->checkpoint);
    free(e->other);
    buf_release(&e->stat);
    buf_release(&e->data);
    free(e);
}

static void
forget(struct exchange *x)
{
    release(x->of);
}

struct errand *
errand_new(struct exchange *x, const struct served *k)
{
    struct errand *e = calloc(1, sizeof *e);

    if (!e || !(e->top = strdup(k->directory)))
        abort();
    e->x = x;
    memcpy(e->kernel, k->id, sizeof e->kernel);
    x->of = e;
    x->gone = forget;
    return e;
}

void
errand_finish(struct errand *e)
{
    e->x->gone = NULL;
    release(e);
}

void
errand_fail(struct errand *e, unsigned status, const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    answer_error(e->x, status, "%s", text);
    errand_finish(e);
}

static void
on_reply(void *of, struct heard *h)
{
    struct errand *e = of;
    struct bytes result, code;

    e->call = NULL;
    if (h && e->otherwise && json_get(h->message.part[3], "result", &result) != J_OBJECT &&
        json_get(h->message.part[3], "code", &code) == J_STRING && e->otherwise(e, code))
        return;
    if (operation_result(e->x, h, &result) < 0)
        errand_finish(e);
    else
        e->then(e, result, h->message.buffers ? h->message.buffer[0] : (struct bytes){0});
}

/* `params`: the members of its object. */
static void
ask(struct errand *e, const char *method, struct buf *params, const struct bytes *data, errand_step *then,
    errand_refusal *otherwise)
{
    scoped(buf_release) struct buf object = {0};
    struct served *k = served_find(e->x->server, e->kernel);

    if (!k || k->front.socket < 0) {
        errand_fail(e, 503, "the kernel has ended");
        return;
    }
    if (buf_printf(&object, "{%s}", buf_string(params)) < 0)
        abort();
    e->then = then;
    e->otherwise = otherwise;
    e->call = call_operation(k, method, (struct bytes){object.data, object.len}, data, data ? 1 : 0, on_reply, NULL, e);
}

static void
add_text(struct buf *b, const char *text)
{
    if (buf_text(b, text) < 0)
        abort();
}

/* "NAME":"the path inside"; members that follow begin with a comma. */
static void
add_path(struct buf *params, const struct errand *e, const char *name, const char *path)
{
    scoped(buf_release) struct buf whole = {0};

    if (buf_printf(&whole, "%s%s%s", e->top, *path ? "/" : "", path) < 0 ||
        buf_printf(params, "%s\"%s\":", params->len ? "," : "", name) < 0 ||
        json_quote_path((struct bytes){whole.data, whole.len}, params) < 0)
        abort();
}

void
errand_ask_about(struct errand *e, const char *method, const char *path, const char *more, const struct bytes *data, errand_step *then,
          errand_refusal *otherwise)
{
    scoped(buf_release) struct buf params = {0};

    add_path(&params, e, "path", path);
    add_text(&params, more);
    ask(e, method, &params, data, then, otherwise);
}

void
errand_ask_with_two(struct errand *e, const char *method, const char *from, const char *to, const char *more, errand_step *then,
             errand_refusal *otherwise)
{
    scoped(buf_release) struct buf params = {0};

    add_path(&params, e, "source", from);
    add_path(&params, e, "destination", to);
    add_text(&params, more);
    ask(e, method, &params, NULL, then, otherwise);
}

int
errand_is_missing(struct bytes code)
{
    return json_string_is(code, "not_found") || json_string_is(code, "not_a_directory");
}

int
errand_say_missing(struct errand *e, struct bytes code)
{
    if (!errand_is_missing(code))
        return 0;
    errand_fail(e, 404, "No such file or directory: %s", e->path);
    return 1;
}

void
errand_note_stat(struct errand *e, const char *path, struct bytes result)
{
    e->stat.len = 0;
    if (buf_add(&e->stat, result.data, result.len) < 0)
        abort();
    e->exists = 1;
    e->kind = entry_kind_of(path, result);
}

/*** Replies ***/

/* "/api/contents/a%20b", as a header has it. */
static void
add_location(const struct errand *e, const char *path, const char *more, struct buf *b)
{
    const char *kernel = e->x->route->path + strlen("/api/");

    if ((*kernel == 'k' ? buf_printf(b, "/api/kernels/%s/contents/", e->kernel) : buf_text(b, "/api/contents/")) < 0)
        abort();
    for (const char *c = path; *c; c++)
        if (buf_printf(b, isalnum((unsigned char)*c) || strchr("/-_.~", *c) ? "%c" : "%%%02X", (unsigned char)*c) < 0)
            abort();
    add_text(b, more);
}

void
errand_answer_at(struct errand *e, unsigned status, struct buf *json, const char *path, const char *more)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(json->len, json->data, MHD_RESPMEM_MUST_FREE);
    scoped(buf_release) struct buf location = {0};

    if (!r)
        abort();
    add_location(e, path, more, &location);
    response_header(r, "Content-Type", "application/json");
    response_header(r, "Location", buf_string(&location));
    answer_response(e->x, status, r);
    errand_finish(e);
}

/* The model of what is at `path` now, without its content. */
static void
answer_stat(struct errand *e, unsigned status, const char *path, struct bytes stat)
{
    struct buf b = {0};

    entry_add_model(&(struct entry){.kind = entry_kind_of(path, stat), .path = path, .stat = stat}, &b);
    errand_answer_at(e, status, &b, path, "");
}

static void
on_made(struct errand *e, struct bytes result, struct bytes data)
{
    answer_stat(e, 201, e->other ? e->other : e->path, result);
}

void
errand_on_changed(struct errand *e, struct bytes result, struct bytes data)
{
    answer_stat(e, 200, e->other ? e->other : e->path, result);
}

void
errand_say_made(struct errand *e, struct bytes result, struct bytes data)
{
    errand_ask_about(e, "files.stat", e->other ? e->other : e->path, ",\"follow\":true", NULL, on_made, NULL);
}

void
errand_say_changed(struct errand *e, struct bytes result, struct bytes data)
{
    errand_ask_about(e, "files.stat", e->other ? e->other : e->path, ",\"follow\":true", NULL, errand_on_changed, NULL);
}

void
errand_say_done(struct errand *e, struct bytes result, struct bytes data)
{
    answer_empty(e->x, 204);
    errand_finish(e);
}

/*** What the body says ***/

char *
errand_text(const struct errand *e, const char *name)
{
    scoped(buf_release) struct buf text = {0};
    struct bytes value;

    if (json_get(e->body, name, &value) != J_STRING)
        return NULL;
    if (json_unescape(value, &text) < 0 || !buf_string(&text))
        abort();
    json_surrogates_to_bytes(&text);
    return strdup((char *)text.data);
}

char *
errand_path(const char *given)
{
    char *path = malloc(strlen(given) + 1), *end = path;

    if (!path)
        abort();
    for (const char *at = given; *at;) {
        size_t len;
        at += strspn(at, "/");
        len = strcspn(at, "/");
        if (len == 2 && strncmp(at, "..", 2) == 0) {
            free(path);
            return NULL;
        }
        if (len && end > path)
            *end++ = '/';
        memcpy(end, at, len);
        end += len;
        at += len;
    }
    *end = 0;
    return path;
}
