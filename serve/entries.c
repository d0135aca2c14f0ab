/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/entries.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json.h"

static void
put(struct buf *b, const char *text)
{
    if (buf_text(b, text) < 0)
        abort();
}

static void
put_bytes(struct buf *b, struct bytes bytes)
{
    if (buf_add(b, bytes.data, bytes.len) < 0)
        abort();
}

static void
put_quoted(struct buf *b, const char *text)
{
    if (json_quote_path(bytes_of(text), b) < 0)
        abort();
}

/*** Kinds ***/

static int
has_suffix(const char *path, const char *suffix)
{
    size_t len = strlen(path), want = strlen(suffix);

    return len >= want && strcasecmp(path + len - want, suffix) == 0;
}

static enum entry_kind
kind_of(struct bytes stat, int is_notebook)
{
    struct bytes type;

    if (json_get(stat, "type", &type) != J_STRING)
        return ENTRY_OTHER;
    if (json_string_is(type, "directory"))
        return ENTRY_DIRECTORY;
    if (!json_string_is(type, "file"))
        return ENTRY_OTHER;
    return is_notebook ? ENTRY_NOTEBOOK : ENTRY_FILE;
}

enum entry_kind
entry_kind_of(const char *path, struct bytes stat)
{
    return kind_of(stat, has_suffix(path, ".ipynb"));
}

const char *
entry_kind_name(enum entry_kind kind)
{
    static const char *const names[] = {"directory", "file", "notebook", "other"};

    return names[kind];
}

const char *
entry_mimetype(const char *path, int is_text)
{
    static const struct {
        const char *suffix, *type;
    } rows[] = {{".csv", "text/csv"}, {".css", "text/css"}, {".gif", "image/gif"}, {".html", "text/html"},
                {".jpeg", "image/jpeg"}, {".jpg", "image/jpeg"}, {".js", "text/javascript"}, {".json", "application/json"},
                {".md", "text/markdown"}, {".pdf", "application/pdf"}, {".png", "image/png"}, {".py", "text/x-python"},
                {".svg", "image/svg+xml"}, {".tar", "application/x-tar"}, {".webp", "image/webp"}, {".zip", "application/zip"}};

    for (size_t i = 0; i < countof(rows); i++)
        if (has_suffix(path, rows[i].suffix))
            return rows[i].type;
    return is_text ? "text/plain" : "application/octet-stream";
}

/*** Models ***/

/* `name` and `path` are strings of JSON. */
static void
add_model(enum entry_kind kind, struct bytes name, struct bytes path, const struct entry *e, struct buf *b)
{
    struct bytes date = BYTES("\"1970-01-01T00:00:00.000Z\""), size = BYTES("null"), mode;
    int writable = 0;

    (void)json_get(e->stat, "modified_at", &date);
    if (kind != ENTRY_DIRECTORY)
        (void)json_get(e->stat, "size", &size);
    if (json_get(e->stat, "mode", &mode) == J_STRING && mode.len >= 5)
        writable = (mode.data[mode.len - 4] - '0') & 2; /* its owner's right: everything here is one user's */
    put(b, "{\"name\": ");
    put_bytes(b, name);
    put(b, ", \"path\": ");
    put_bytes(b, path);
    put(b, ", \"last_modified\": ");
    put_bytes(b, date);
    put(b, ", \"created\": ");
    put_bytes(b, date);
    put(b, ", \"size\": ");
    put_bytes(b, size);
    put(b, writable ? ", \"writable\": true" : ", \"writable\": false");
    if (buf_printf(b, ", \"type\": \"%s\", \"format\": ", entry_kind_name(kind)) < 0)
        abort();
    if (e->whole) {
        put_quoted(b, e->format);
        put(b, ", \"mimetype\": ");
        if (e->mimetype)
            put_quoted(b, e->mimetype);
        else
            put(b, "null");
        put(b, ", \"content\": ");
        put_bytes(b, e->content);
    } else {
        put(b, "null, \"mimetype\": null, \"content\": null");
    }
    if (e->hash && buf_printf(b, ", \"hash\": \"%s\", \"hash_algorithm\": \"sha256\"", e->hash) < 0)
        abort();
    put(b, e->hash ? "}" : ", \"hash\": null, \"hash_algorithm\": null}");
}

void
entry_add_model(const struct entry *e, struct buf *ret)
{
    scoped(buf_release) struct buf name = {0}, path = {0};
    const char *slash = strrchr(e->path, '/');

    put_quoted(&path, e->path);
    put_quoted(&name, slash ? slash + 1 : e->path);
    add_model(e->kind, (struct bytes){name.data, name.len}, (struct bytes){path.data, path.len}, e, ret);
}

/* The raw name of an entry, with its quotes. */
static int
name_of(struct bytes entry, struct bytes *ret)
{
    return json_get(entry, "name", ret) == J_STRING && ret->len > 2 ? 0 : -1;
}

void
entry_add_list(const char *directory, struct bytes entries, struct buf *ret)
{
    struct bytes stat, name;
    size_t at = 0;
    int n = 0;

    put(ret, "[");
    while (json_element(entries, &at, &stat) != J_NONE) {
        scoped(buf_release) struct buf path = {0};
        enum entry_kind kind;
        if (name_of(stat, &name) < 0 || name.data[1] == '.')
            continue;
        kind = kind_of(stat, name.len > 8 && memcmp(name.data + name.len - 7, ".ipynb\"", 7) == 0);
        if (kind == ENTRY_OTHER)
            continue;
        put_quoted(&path, directory);
        path.len--; /* its closing quote */
        put(&path, *directory ? "/" : "");
        put_bytes(&path, (struct bytes){name.data + 1, name.len - 1});
        put(ret, n++ ? ", " : "");
        add_model(kind, name, (struct bytes){path.data, path.len}, &(struct entry){.stat = stat}, ret);
    }
    put(ret, "]");
}

/*** Names ***/

static int
begins_with(struct bytes name, struct bytes start)
{
    return name.len >= start.len && memcmp(name.data, start.data, start.len) == 0;
}

/* All are raw. 0: `plain` and `end`. More: `numbered`, that number, and `end`. -1: another name, or a number over `most`. */
static int64_t
number_of(struct bytes name, struct bytes plain, struct bytes numbered, struct bytes end, size_t most)
{
    size_t digits_end, number = 0;

    if (name.len < end.len || memcmp(name.data + name.len - end.len, end.data, end.len) != 0)
        return -1;
    digits_end = name.len - end.len;
    if (digits_end == plain.len && begins_with(name, plain))
        return 0;
    if (digits_end <= numbered.len || !begins_with(name, numbered) || name.data[numbered.len] == '0')
        return -1;
    for (size_t i = numbered.len; i < digits_end; i++) {
        if (name.data[i] < '0' || name.data[i] > '9' || number > most)
            return -1;
        number = 10 * number + (name.data[i] - '0');
    }
    return number <= most ? (int64_t)number : -1;
}

/* The first number that is free: there are no more names than entries, so it is at most their count. Each is looked at
 * once: a cell makes many. */
static size_t
free_number(struct bytes entries, struct bytes plain, struct bytes numbered, struct bytes end)
{
    size_t at = 0, count = 0, free_one = 0;
    struct bytes stat, name;
    uint8_t *taken;

    while (json_element(entries, &at, &stat) != J_NONE)
        count++;
    if (!(taken = calloc(count + 1, 1)))
        abort();
    for (at = 0; json_element(entries, &at, &stat) != J_NONE;) {
        int64_t number = name_of(stat, &name) < 0 ? -1 : number_of(name, plain, numbered, end, count);
        if (number >= 0)
            taken[number] = 1;
    }
    while (taken[free_one])
        free_one++;
    free(taken);
    return free_one;
}

void
entry_free_name(struct bytes entries, const char *stem, const char *insert, const char *suffix, struct buf *ret)
{
    scoped(buf_release) struct buf plain = {0}, between = {0}, end = {0};
    size_t plain_len, number;

    put_quoted(&plain, stem);
    put_quoted(&between, insert);
    put_quoted(&end, suffix);
    plain_len = --plain.len; /* without its closing quote */
    put_bytes(&plain, (struct bytes){between.data + 1, between.len - 2});
    number = free_number(entries, (struct bytes){plain.data, plain_len}, (struct bytes){plain.data, plain.len},
                         (struct bytes){end.data + 1, end.len - 1});
    if ((number ? buf_printf(ret, "%s%s%zu%s", stem, insert, number, suffix) : buf_printf(ret, "%s%s", stem, suffix)) < 0)
        abort();
}

const char *
entry_suffix(const char *name)
{
    const char *dot = has_suffix(name, ".ipynb") ? strrchr(name, '.') : strchr(name + (*name == '.'), '.');

    return dot ? dot : name + strlen(name);
}

/*** Notebooks as text ***/

static void
break_line(struct buf *b, size_t depth)
{
    put(b, "\n");
    for (size_t i = 0; i < depth; i++)
        put(b, " ");
}

/* The closing quote of a string that begins at `i`. */
static size_t
end_of_string(struct bytes json, size_t i)
{
    for (i++; json.data[i] != '"'; i++)
        i += json.data[i] == '\\';
    return i;
}

static int
is_space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

int
entry_lay_out(struct bytes json, size_t most, struct buf *ret)
{
    size_t depth = 0;

    for (size_t i = 0; i < json.len && ret->len <= most; i++) {
        size_t from = i;
        uint8_t c = json.data[i];
        if (is_space(c))
            continue;
        if (c == '"')
            i = end_of_string(json, i);
        if (c == '}' || c == ']') {
            depth--;
            if (ret->data[ret->len - 1] != '{' && ret->data[ret->len - 1] != '[')
                break_line(ret, depth);
        } else if (ret->len && strchr("{[,", ret->data[ret->len - 1])) {
            break_line(ret, depth);
        }
        put_bytes(ret, (struct bytes){json.data + from, i - from + 1});
        if (c == ':')
            put(ret, " ");
        depth += c == '{' || c == '[';
    }
    put(ret, "\n");
    return ret->len <= most ? 0 : -1;
}
