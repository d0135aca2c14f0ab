/* SPDX-License-Identifier: BSD-3-Clause */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "kernel/options.h"
#include "serve/kernels.h"
#include "serve/specs.h"

enum kind { LIMIT, TEXT, NET, LIST, TAGS };

static const struct wish_row {
    const char *name, *option;
    enum kind kind;
    const char *needs;
} rows[] = {
#define WISH(name, option, kind, needs) {#name, option, kind, needs},
#include "serve/wishes.def"
#undef WISH
};

/*** Options that are there already ***/

static int
is_option(const char *word, const char *option)
{
    size_t len = strlen(option);

    return strncmp(word, option, len) == 0 && (word[len] == 0 || word[len] == '=');
}

/* The value of the last one of that name, or NULL. */
static const char *
value_of(const struct strv *options, const char *option)
{
    const char *value = NULL;

    for (size_t i = 0; i < options->len; i++) {
        const char *equals = strchr(options->item[i], '=');
        if (is_option(options->item[i], option))
            value = equals ? equals + 1 : i + 1 < options->len ? options->item[i + 1] : NULL;
        if (!equals)
            i++;
    }
    return value;
}

static void
remove_option(struct strv *options, const char *option)
{
    struct strv kept = {0};

    for (size_t i = 0; i < options->len; i++) {
        const char *word = options->item[i], *next = strchr(word, '=') ? NULL : options->item[i + 1];
        if (!is_option(word, option) && (strv_add(&kept, word) < 0 || (next && strv_add(&kept, next) < 0)))
            abort();
        i += next != NULL;
    }
    strv_release(options);
    *options = kept;
}

/*** What is wished ***/

/* A string or a number, as text. */
static int
scalar(struct bytes value, enum json_type type, struct buf *ret, const char **ret_text)
{
    if (type == J_NUMBER)
        (void)buf_add(ret, value.data, value.len);
    else if (type != J_STRING || json_unescape(value, ret) < 0)
        return -1;
    *ret_text = buf_string(ret);
    return *ret_text && strlen(*ret_text) == ret->len ? 0 : -1;
}

/* Sizes and processors alike: thousandths of what the text says. */
static int
measure(const char *text, double *ret)
{
    uint64_t size;
    char *end;

    *ret = strtod(text, &end);
    if (!*end && *text)
        return 0;
    if (size_parse(text, &size) < 0)
        return -1;
    *ret = (double)size;
    return 0;
}

static int
add_text(struct exchange *x, const struct wish_row *row, enum json_type type, struct bytes value,
         struct served_wish *w)
{
    scoped(buf_release) struct buf text = {0};
    const char *given, *most = row->kind == LIMIT ? value_of(&w->options, row->option) : NULL;
    double a, b;

    if (scalar(value, type, &text, &given) < 0) {
        answer_error(x, 400, "sandbox: '%s' is neither text nor a number", row->name);
        return -1;
    }
    if (most && measure(given, &a) == 0 && measure(most, &b) == 0 && a > b) {
        answer_error(x, 403, "sandbox: '%s' is at most %s on this server", row->name, most);
        return -1;
    }
    if (row->kind == TEXT || row->kind == NET)
        remove_option(&w->options, row->option);
    if (strv_addf(&w->options, "%s=%s", row->option, given) < 0)
        abort();
    return 0;
}

/* The list takes the place of the server's. */
static int
add_list(struct exchange *x, const struct wish_row *row, enum json_type type, struct bytes value,
         struct served_wish *w)
{
    struct bytes element;
    enum json_type each;
    size_t at = 0;

    remove_option(&w->options, row->option);
    while (type == J_ARRAY && (each = json_element(value, &at, &element)) != J_NONE) {
        scoped(buf_release) struct buf text = {0};
        const char *given;
        if (each != J_STRING || scalar(element, each, &text, &given) < 0)
            type = J_NONE;
        else if (strv_addf(&w->options, "%s=%s", row->option, given) < 0)
            abort();
    }
    if (type == J_ARRAY)
        return 0;
    answer_error(x, 400, "sandbox: '%s' is no array of strings", row->name);
    return -1;
}

static int
keep_tags(struct exchange *x, enum json_type type, struct bytes value, struct served_wish *w)
{
    if (type != J_OBJECT) {
        answer_error(x, 400, "sandbox: 'tags' is no object");
        return -1;
    }
    w->tags.len = 0;
    if (buf_add(&w->tags, value.data, value.len) < 0)
        abort();
    return 0;
}

static int
add_wish(struct exchange *x, const struct wish_row *row, enum json_type type, struct bytes value,
         struct served_wish *w)
{
    int none = row->kind == NET && type == J_STRING && json_string_is(value, "none");

    if (row->needs && !none && !strv_has(&x->server->options.grants, row->needs)) {
        answer_error(x, 403, "sandbox: '%s' is not for clients to choose on this server (--grant %s)", row->name,
                     row->needs);
        return -1;
    }
    if (row->kind == NET) { /* what the server allows goes with what it said about the network */
        remove_option(&w->options, "--allow");
        if (none)
            remove_option(&w->options, "--resolver");
    }
    if (row->option && strcmp(row->option, "--image") == 0) {
        remove_option(&w->options, "--profile");
        if (strv_add(&w->options, "--profile=image") < 0)
            abort();
    }
    return row->kind == TAGS   ? keep_tags(x, type, value, w)
           : row->kind == LIST ? add_list(x, row, type, value, w)
                               : add_text(x, row, type, value, w);
}

static int
read_sandbox(struct exchange *x, struct bytes sandbox, struct served_wish *w)
{
    const char *names[countof(rows) + 1] = {0};
    scoped(options_release) struct options parsed = {0};
    struct bytes value;
    struct err err;

    for (size_t i = 0; i < countof(rows); i++)
        names[i] = rows[i].name;
    if (exchange_only(x, sandbox, names) < 0)
        return -1;
    /* In the order of the rows: `network` clears what `allow` fills. */
    for (size_t i = 0; i < countof(rows); i++) {
        enum json_type type = json_get(sandbox, rows[i].name, &value);
        if (type != J_NONE && type != J_NULL && add_wish(x, &rows[i], type, value, w) < 0)
            return -1;
    }
    if (options_read((int)w->options.len, w->options.item, 1, &parsed, &err) < 0) {
        answer_error(x, 400, "sandbox: %s", err.text);
        return -1;
    }
    return 0;
}

static int
is_variable(const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)name[i]) && name[i] != '_')
            return 0;
    return len > 0 && !isdigit((unsigned char)*name);
}

static int
read_environment(struct exchange *x, struct bytes env, struct served_wish *w)
{
    struct bytes name, value;
    enum json_type type;
    size_t at = 0;

    while ((type = json_next(env, &at, &name, &value)) != J_NONE) {
        scoped(buf_release) struct buf n = {0}, v = {0};
        if (type == J_NULL)
            continue;
        if (type != J_STRING || json_unescape(name, &n) < 0 || json_unescape(value, &v) < 0 || !buf_string(&n) ||
            !is_variable((char *)n.data) || (v.len && memchr(v.data, 0, v.len))) {
            answer_error(x, 400, "env: %.*s is no variable with a text as its value",
                         (int)(name.len > 80 ? 80 : name.len), (const char *)name.data);
            return -1;
        }
        if (strv_addf(&w->environment, "%s=%.*s", (char *)n.data, (int)v.len, v.data ? (char *)v.data : "") < 0)
            abort();
    }
    return 0;
}

/* NULL if it is neither absent nor a text; "" if absent. */
static const char *
text_member(struct bytes object, const char *name, struct buf *into)
{
    struct bytes value;
    enum json_type type = json_get(object, name, &value);

    if (type == J_NONE || type == J_NULL)
        return "";
    if (type != J_STRING || json_unescape(value, into) < 0)
        return NULL;
    return buf_string(into);
}

int
wish_read(struct exchange *x, struct bytes object, struct served_wish *ret)
{
    static const char *const names[] = {"name", "path", "env", "sandbox", "id", "kernel_id", NULL};
    scoped(wish_release) struct served_wish w = {0};
    scoped(buf_release) struct buf name = {0}, path = {0};
    const char *wanted, *where;
    struct bytes env, sandbox;
    enum json_type has_env, has_sandbox;

    if (exchange_only(x, object, names) < 0)
        return -1;
    wanted = text_member(object, "name", &name);
    where = text_member(object, "path", &path);
    has_env = json_get(object, "env", &env);
    has_sandbox = json_get(object, "sandbox", &sandbox);
    if (!wanted || !where || (has_env != J_NONE && has_env != J_NULL && has_env != J_OBJECT) ||
        (has_sandbox != J_NONE && has_sandbox != J_NULL && has_sandbox != J_OBJECT)) {
        answer_error(x, 400, "'name' and 'path' are texts, 'env' and 'sandbox' are objects");
        return -1;
    }
    w.spec = specs_find(x->server, *wanted ? wanted : "python3");
    if (!w.spec) {
        answer_error(x, 404, "Kernel spec not found: %s", wanted);
        return -1;
    }
    for (size_t i = 0; i < w.spec->options.len; i++)
        if (strv_add(&w.options, w.spec->options.item[i]) < 0)
            abort();
    if ((has_env == J_OBJECT && read_environment(x, env, &w) < 0) ||
        (has_sandbox == J_OBJECT && read_sandbox(x, sandbox, &w) < 0))
        return -1;
    *ret = w;
    w = (struct served_wish){0}; /* moved to the caller */
    return 0;
}

void
wish_of_server(struct server *s, struct served_wish *ret)
{
    static const char *const ends[] = {"--idle-timeout", "--lifetime"};

    *ret = (struct served_wish){.spec = specs_find(s, "python3"), .hidden = 1};
    for (size_t i = 0; i < ret->spec->options.len; i++)
        if (strv_add(&ret->options, ret->spec->options.item[i]) < 0)
            abort();
    for (size_t i = 0; i < countof(ends); i++)
        remove_option(&ret->options, ends[i]);
    if (buf_text(&ret->tags, "{\"for\": \"/api/contents\"}") < 0)
        abort();
}

void
wish_release(struct served_wish *w)
{
    strv_release(&w->options);
    strv_release(&w->environment);
    buf_release(&w->tags);
    *w = (struct served_wish){0};
}
