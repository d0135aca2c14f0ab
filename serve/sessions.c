/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/sessions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "serve/handlers.h"
#include "serve/starts.h"

/*** The table ***/

static void
free_session(struct session *one)
{
    free(one->path);
    free(one->name);
    free(one->type);
    free(one);
}

void
sessions_release(struct server *s)
{
    while (s->sessions) {
        struct session *one = s->sessions;
        s->sessions = one->next;
        free_session(one);
    }
}

/* Those whose kernel has ended go. */
static void
sweep(struct server *s)
{
    for (struct session **at = &s->sessions; *at;) {
        struct session *one = *at;
        if (served_find(s, one->kernel)) {
            at = &one->next;
        } else {
            *at = one->next;
            free_session(one);
        }
    }
}

static struct session *
find(struct server *s, struct exchange *x)
{
    sweep(s);
    for (struct session *one = s->sessions; one; one = one->next)
        if (strcmp(one->id, x->segment[0]) == 0)
            return one;
    answer_error(x, 404, "Session not found: session_id='%s'", x->segment[0]);
    return NULL;
}

static void
add_text(struct buf *b, const char *name, const char *text)
{
    if (buf_printf(b, "\"%s\": ", name) < 0 || json_quote(bytes_of(text), b) < 0)
        abort();
}

static void
add_model(struct server *s, const struct session *one, struct buf *b)
{
    const struct served *k = served_find(s, one->kernel);
    int bad = buf_printf(b, "{\"id\": \"%s\", ", one->id) < 0;

    add_text(b, "path", one->path);
    bad = bad || buf_text(b, ", ") < 0;
    add_text(b, "name", one->name);
    bad = bad || buf_text(b, ", ") < 0;
    add_text(b, "type", one->type);
    bad = bad || buf_text(b, ", \"kernel\": ") < 0;
    if (k)
        served_model(k, b);
    else
        bad = bad || buf_text(b, "null") < 0;
    if (strcmp(one->type, "notebook") == 0) { /* as before sessions had types; clients still read it */
        bad = bad || buf_text(b, ", \"notebook\": {") < 0;
        add_text(b, "path", one->path);
        bad = bad || buf_text(b, ", ") < 0;
        add_text(b, "name", one->name);
        bad = bad || buf_text(b, "}") < 0;
    }
    if (bad || buf_text(b, "}") < 0)
        abort();
}

static void
answer_session(struct exchange *x, unsigned status, const struct session *one)
{
    struct buf b = {0};
    char location[80];

    add_model(x->server, one, &b);
    snprintf(location, sizeof location, "/api/sessions/%s", one->id);
    answer_json_at(x, status, &b, status == 201 ? location : NULL);
}

/*** Bodies ***/

struct wanted {
    char *path, *name, *type; /* NULL: not said */
    struct bytes kernel;      /* an object; empty: not said */
};

static void
wanted_release(struct wanted *w)
{
    str_free(&w->path);
    str_free(&w->name);
    str_free(&w->type);
}

static int
take_text(struct exchange *x, struct bytes object, const char *name, char **ret)
{
    scoped(buf_release) struct buf text = {0};
    struct bytes value;
    enum json_type type = json_get(object, name, &value);

    if (type == J_NONE || type == J_NULL)
        return 0;
    if (type != J_STRING || json_unescape(value, &text) < 0 || !buf_string(&text)) {
        answer_error(x, 400, "'%s' is no text", name);
        return -1;
    }
    *ret = strdup((char *)text.data);
    return 0;
}

static int
read_body(struct exchange *x, struct wanted *ret)
{
    static const char *const names[] = {"path", "name", "type", "kernel", "id", "notebook", NULL};
    struct bytes object, notebook;
    enum json_type type;

    if (exchange_object(x, &object) < 0 || exchange_only(x, object, names) < 0 ||
        take_text(x, object, "path", &ret->path) < 0 || take_text(x, object, "name", &ret->name) < 0 ||
        take_text(x, object, "type", &ret->type) < 0)
        return -1;
    if (!ret->path && json_get(object, "notebook", &notebook) == J_OBJECT &&
        (take_text(x, notebook, "path", &ret->path) < 0 || (!ret->name && take_text(x, notebook, "name", &ret->name) < 0)))
        return -1;
    type = json_get(object, "kernel", &ret->kernel);
    if (type == J_OBJECT)
        return 0;
    ret->kernel = (struct bytes){0};
    if (type == J_NONE || type == J_NULL)
        return 0;
    answer_error(x, 400, "'kernel' is no object");
    return -1;
}

/* The kernel that a body names by its id. 1 with *ret (or answered: NULL), 0 if it names none. */
static int
named_kernel(struct exchange *x, struct bytes kernel, int may_be_new, struct served **ret)
{
    scoped(str_free) char *id = NULL;

    *ret = NULL;
    if (!kernel.len)
        return 0;
    if (take_text(x, kernel, "id", &id) < 0)
        return 1;
    if (!id || (may_be_new && wish_is_id(id) && !served_find(x->server, id)))
        return 0; /* it is to be the id of a new one */
    *ret = served_of(x->server, x, id);
    return 1;
}

/*** Requests ***/

void
get_sessions(struct server *s, struct exchange *x)
{
    struct buf b = {0};

    sweep(s);
    if (buf_text(&b, "[") < 0)
        abort();
    for (const struct session *one = s->sessions; one; one = one->next) {
        if (one != s->sessions && buf_text(&b, ", ") < 0)
            abort();
        add_model(s, one, &b);
    }
    if (buf_text(&b, "]") < 0)
        abort();
    answer_json(x, 200, &b);
}

void
get_session(struct server *s, struct exchange *x)
{
    struct session *one = find(s, x);

    if (one)
        answer_session(x, 200, one);
}

static struct session *
make(struct server *s, struct wanted *w, const struct served *k)
{
    struct session *one = calloc(1, sizeof *one);
    const char *slash = strrchr(w->path, '/');

    if (!one)
        abort();
    uuid_new(one->id);
    memcpy(one->kernel, k->id, sizeof one->kernel);
    one->path = strdup(w->path);
    one->name = strdup(w->name ? w->name : slash ? slash + 1 : w->path);
    one->type = strdup(w->type ? w->type : "notebook");
    if (!one->path || !one->name || !one->type)
        abort();
    one->next = s->sessions;
    s->sessions = one;
    return one;
}

static void
say_started(struct exchange *x, struct served *k)
{
    scoped(wanted_release) struct wanted w = {0};

    if (read_body(x, &w) == 0)
        answer_session(x, 201, make(x->server, &w, k));
}

void
post_session(struct server *s, struct exchange *x)
{
    scoped(wanted_release) struct wanted w = {0};
    struct served *k;

    if (read_body(x, &w) < 0)
        return;
    if (!w.path) {
        answer_error(x, 400, "Missing field in JSON data: path");
        return;
    }
    sweep(s);
    for (struct session *one = s->sessions; one; one = one->next)
        if (strcmp(one->path, w.path) == 0) {
            answer_session(x, 201, one);
            return;
        }
    if (!named_kernel(x, w.kernel, 1, &k))
        start_for(x, w.kernel.len ? w.kernel : BYTES("{}"), say_started);
    else if (k)
        answer_session(x, 201, make(s, &w, k));
}

static void
move_text(char **to, char **from)
{
    if (!*from)
        return;
    free(*to);
    *to = *from;
    *from = NULL;
}

static void
say_session(struct exchange *x)
{
    struct session *one = find(x->server, x);

    if (one)
        answer_session(x, 200, one);
}

/* The kernel that it had ends, as Jupyter Server does it, and is gone when that is answered. */
static void
change(struct exchange *x, struct session *one, struct wanted *w, const struct served *k)
{
    struct served *old = k ? served_find(x->server, one->kernel) : NULL;

    move_text(&one->path, &w->path);
    move_text(&one->name, &w->name);
    move_text(&one->type, &w->type);
    if (k)
        memcpy(one->kernel, k->id, sizeof one->kernel);
    if (old && old != k)
        stop_for(x, old, say_session);
    else
        answer_session(x, 200, one);
}

/* The session may have gone while its new kernel started. */
static void
say_changed(struct exchange *x, struct served *k)
{
    scoped(wanted_release) struct wanted w = {0};
    struct session *one;

    if (read_body(x, &w) == 0 && (one = find(x->server, x)))
        change(x, one, &w, k);
}

void
patch_session(struct server *s, struct exchange *x)
{
    scoped(wanted_release) struct wanted w = {0};
    struct session *one = find(s, x);
    scoped(str_free) char *name = NULL;
    struct served *k;

    if (!one || read_body(x, &w) < 0)
        return;
    if (named_kernel(x, w.kernel, 0, &k)) {
        if (k)
            change(x, one, &w, k);
    } else if (w.kernel.len && take_text(x, w.kernel, "name", &name) == 0 && name) {
        start_for(x, w.kernel, say_changed);
    } else if (!x->answered) {
        change(x, one, &w, NULL);
    }
}

void
delete_session(struct server *s, struct exchange *x)
{
    struct session *one = find(s, x);
    struct served *k;

    if (!one)
        return;
    k = served_find(s, one->kernel);
    for (struct session **at = &s->sessions; *at; at = &(*at)->next)
        if (*at == one) {
            *at = one->next;
            break;
        }
    free_session(one);
    if (k)
        stop_for(x, k, NULL);
    else
        answer_empty(x, 204);
}
