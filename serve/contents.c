/* SPDX-License-Identifier: BSD-3-Clause
 *
 * contents.c: /api/contents, as Jupyter's clients use it (jupyter_server services/contents): files of a sandbox, read and
 * written by husk-agent with the rights of a cell. /api/kernels/ID/contents are those of a kernel; /api/contents
 * those of a sandbox of the server's own, which lives as long as it and has the options of its kernels: what they
 * share (--profile notebook --workdir DIR) it has, too.
 *
 * Paths begin at the working directory of the sandbox. None is ever looked up here.
 */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "kernel/base64.h"
#include "serve/entries.h"
#include "serve/errand.h"
#include "serve/handlers.h"
#include "serve/operations.h"
#include "serve/starts.h"

#define PIECE (4u << 20)
#define EMPTY_NOTEBOOK "{\"cells\": [], \"metadata\": {}, \"nbformat\": 4, \"nbformat_minor\": 5}"

static int
is_hidden(const char *path)
{
    return *path == '.' || strstr(path, "/.");
}

/*** GET ***/

static void
answer_whole(struct errand *e, struct entry *entry)
{
    struct buf b = {0};

    entry->path = e->path;
    entry->kind = e->kind;
    entry->stat = (struct bytes){e->stat.data, e->stat.len};
    entry_add_model(entry, &b);
    answer_json(e->x, 200, &b);
    errand_finish(e);
}

static void
on_list(struct errand *e, struct bytes result, struct bytes data)
{
    scoped(buf_release) struct buf list = {0};
    struct bytes entries = BYTES("[]");

    (void)json_get(result, "entries", &entries);
    entry_add_list(e->path, entries, &list);
    answer_whole(e, &(struct entry){.whole = 1, .format = "json", .content = {list.data, list.len}});
}

static const char *
hash_of(struct bytes data, char into[static 2 * crypto_hash_sha256_BYTES + 1])
{
    uint8_t digest[crypto_hash_sha256_BYTES];

    crypto_hash_sha256(digest, data.data, data.len);
    return sodium_bin2hex(into, 2 * sizeof digest + 1, digest, sizeof digest);
}

static int
is_set(const struct errand *e, const char *name, int standard)
{
    const char *value = exchange_query(e->x, name);

    return value ? strcmp(value, "0") != 0 : standard;
}

static void
show_file(struct errand *e)
{
    const char *format = exchange_query(e->x, "format");
    struct bytes data = {e->data.data, e->data.len};
    scoped(buf_release) struct buf content = {0};
    char hash[2 * crypto_hash_sha256_BYTES + 1];
    struct entry entry = {.whole = is_set(e, "content", 1), .hash = is_set(e, "hash", 0) ? hash_of(data, hash) : NULL};
    struct err err;

    if (!entry.whole) {
        answer_whole(e, &entry);
    } else if (e->kind == ENTRY_NOTEBOOK && json_check_object(data, &err) < 0) {
        errand_fail(e, 400, "Unreadable Notebook: %s: %s", e->path, err.text);
    } else if (e->kind == ENTRY_NOTEBOOK) {
        entry.format = "json";
        entry.content = data;
        answer_whole(e, &entry);
    } else if ((!format || strcmp(format, "text") == 0) && json_is_utf8(data)) {
        if (json_quote(data, &content) < 0)
            abort();
        entry.format = "text";
        entry.mimetype = entry_mimetype(e->path, 1);
        entry.content = (struct bytes){content.data, content.len};
        answer_whole(e, &entry);
    } else if (!format || strcmp(format, "base64") == 0) {
        entry.format = "base64";
        entry.mimetype = entry_mimetype(e->path, 0);
        if (buf_text(&content, "\"") < 0 || base64_add(&content, data) < 0 || buf_text(&content, "\"") < 0)
            abort();
        entry.content = (struct bytes){content.data, content.len};
        answer_whole(e, &entry);
    } else {
        errand_fail(e, 400, "%s is not UTF-8 encoded", e->path);
    }
}

static void
on_piece(struct errand *e, struct bytes result, struct bytes data)
{
    struct bytes eof;

    if (e->data.len + data.len > e->x->server->options.max_body) {
        errand_fail(e, 413, "%s is too large for this; /api/kernels/ID/sandbox/files has files of any size", e->path);
        return;
    }
    if (data.len && buf_add(&e->data, data.data, data.len) < 0)
        abort();
    if (json_get(result, "eof", &eof) != J_TRUE && data.len) {
        char more[64];
        snprintf(more, sizeof more, ",\"offset\":%zu,\"length\":%u", e->data.len, PIECE);
        errand_ask_about(e, "files.read", e->path, more, NULL, on_piece, NULL);
        return;
    }
    show_file(e);
}

static void
on_shown(struct errand *e, struct bytes result, struct bytes data)
{
    const char *type = exchange_query(e->x, "type");
    char more[64];

    errand_note_stat(e, e->path, result);
    if (e->kind == ENTRY_OTHER) {
        errand_fail(e, 400, "%s is neither a file nor a directory", e->path);
        return;
    }
    if (type && strcmp(type, "directory") == 0 && e->kind != ENTRY_DIRECTORY) {
        errand_fail(e, 400, "%s is not a directory", e->path);
        return;
    }
    if (type && strcmp(type, "directory") != 0 && e->kind == ENTRY_DIRECTORY) {
        errand_fail(e, 400, "%s is a directory, not a file", e->path);
        return;
    }
    if (type && e->kind != ENTRY_DIRECTORY)
        e->kind = strcmp(type, "notebook") == 0 ? ENTRY_NOTEBOOK : ENTRY_FILE;
    snprintf(more, sizeof more, ",\"length\":%u", PIECE);
    if (e->kind == ENTRY_DIRECTORY && is_set(e, "content", 1))
        errand_ask_about(e, "files.list", e->path, ",\"follow\":true", NULL, on_list, NULL);
    else if (e->kind != ENTRY_DIRECTORY && (is_set(e, "content", 1) || is_set(e, "hash", 0)))
        errand_ask_about(e, "files.read", e->path, more, NULL, on_piece, NULL);
    else
        answer_whole(e, &(struct entry){0});
}

/* One of a few words, or not said. */
static int
check_query(struct errand *e, const char *name, const char *one, const char *other)
{
    const char *value = exchange_query(e->x, name);

    if (!value || strcmp(value, one) == 0 || strcmp(value, other) == 0)
        return 0;
    errand_fail(e, 400, "'%s' is '%.40s'; it can be %s or %s", name, value, one, other);
    return -1;
}

static void
show(struct errand *e)
{
    if (is_hidden(e->path))
        errand_fail(e, 404, "No such file or directory: %s", e->path);
    else if (check_query(e, "content", "0", "1") == 0 && check_query(e, "hash", "0", "1") == 0 &&
             check_query(e, "format", "text", "base64") == 0)
        errand_ask_about(e, "files.stat", e->path, ",\"follow\":true", NULL, on_shown, errand_say_missing);
}

/*** PUT ***/

static void
write_data(struct errand *e, const char *method)
{
    struct bytes data = {e->data.data, e->data.len};

    errand_ask_about(e, method, e->path, "", &data, e->exists ? errand_say_changed : errand_say_made, NULL);
}

/* What a file is to have. -1: answered. */
static int
take_content(struct errand *e, const char *format)
{
    struct bytes content;
    enum json_type type = json_get(e->body, "content", &content);
    scoped(buf_release) struct buf text = {0};
    size_t len;

    if (type == J_NONE || type == J_NULL)
        return 0; /* a new one, and empty */
    if (type != J_STRING || !format || (strcmp(format, "text") != 0 && strcmp(format, "base64") != 0)) {
        errand_fail(e, 400, "%s: the content of a file is a text, whose 'format' is 'text' or 'base64'", e->path);
        return -1;
    }
    if (json_unescape(content, &text) < 0)
        abort();
    if (strcmp(format, "text") == 0) {
        e->data = text;
        text = (struct buf){0}; /* moved */
        return 0;
    }
    if (buf_reserve(&e->data, text.len + 1) < 0)
        abort();
    if (sodium_base642bin(e->data.data, e->data.size, (char *)text.data, text.len, "\r\n ", &len, NULL,
                          sodium_base64_VARIANT_ORIGINAL) < 0) {
        errand_fail(e, 400, "Encoding error saving %s: that is no base64", e->path);
        return -1;
    }
    e->data.len = len;
    return 0;
}

static void
save_file(struct errand *e)
{
    scoped(str_free) char *format = errand_text(e, "format");
    struct bytes chunk;
    int64_t number = 1;

    if (take_content(e, format) < 0)
        return;
    if (json_get(e->body, "chunk", &chunk) == J_NUMBER && json_int64(chunk, &number) < 0)
        number = 0;
    write_data(e, number == 1 ? "files.write" : "files.append"); /* a large one comes in pieces; the last is -1 */
}

static void
save_notebook(struct errand *e)
{
    struct bytes content = BYTES(EMPTY_NOTEBOOK);
    enum json_type type = json_get(e->body, "content", &content);

    if (type == J_NONE || type == J_NULL)
        content = BYTES(EMPTY_NOTEBOOK);
    else if (type != J_OBJECT) {
        errand_fail(e, 400, "%s: the content of a notebook is an object", e->path);
        return;
    }
    if (entry_lay_out(content, e->x->server->options.max_body, &e->data) < 0)
        errand_fail(e, 413, "%s would be too large as a file (--max-body)", e->path);
    else
        write_data(e, "files.write");
}

static void
save_directory(struct errand *e)
{
    if (e->exists && e->kind == ENTRY_DIRECTORY)
        errand_say_changed(e, (struct bytes){0}, (struct bytes){0});
    else
        errand_ask_about(e, "files.mkdir", e->path, ",\"parents\":false", NULL, errand_say_made, NULL);
}

static void
save_now(struct errand *e)
{
    scoped(str_free) char *type = errand_text(e, "type");
    const char *kind = type ? type : entry_kind_name(entry_kind_of(e->path, BYTES("{\"type\":\"file\"}")));

    if (strcmp(kind, "directory") == 0)
        save_directory(e);
    else if (e->exists && e->kind == ENTRY_DIRECTORY)
        errand_fail(e, 400, "%s is a directory", e->path);
    else if (strcmp(kind, "notebook") == 0)
        save_notebook(e);
    else
        save_file(e);
}

static void
on_there(struct errand *e, struct bytes result, struct bytes data)
{
    errand_note_stat(e, e->path, result);
    save_now(e);
}

static int
on_not_there(struct errand *e, struct bytes code)
{
    if (!json_string_is(code, "not_found"))
        return 0;
    save_now(e);
    return 1;
}

static void make(struct errand *e);

static void
save(struct errand *e)
{
    scoped(str_free) char *path = errand_text(e, "path");
    struct bytes value;

    if (!e->x->body.len)
        make(e);
    else if (json_get(e->body, "copy_from", &value) == J_STRING)
        errand_fail(e, 400, "Cannot copy with PUT, only POST");
    else if (is_hidden(e->path) || !*e->path || (path && is_hidden(path)))
        errand_fail(e, 400, "Cannot create file or directory %s", e->path);
    else
        errand_ask_about(e, "files.stat", e->path, ",\"follow\":true", NULL, on_there, on_not_there);
}

/*** POST ***/

static void
join(struct errand *e, const char *directory, struct buf *name)
{
    scoped(buf_release) struct buf whole = {0};

    if (buf_printf(&whole, "%s%s%s", directory, *directory ? "/" : "", buf_string(name)) < 0 || !buf_string(&whole) ||
        !(e->other = strdup((char *)whole.data)))
        abort();
}

/* How much of a name comes before its suffix, and before the "-Copy2" of one that is a copy itself. */
static size_t
stem_of(const char *base, const char *suffix)
{
    const char *at = suffix;

    while (at > base && at[-1] >= '0' && at[-1] <= '9')
        at--;
    return (size_t)((at - base > 5 && strncmp(at - 5, "-Copy", 5) == 0 ? at - 5 : suffix) - base);
}

static void
make_copy(struct errand *e, struct bytes entries, const char *from)
{
    scoped(buf_release) struct buf name = {0};
    scoped(str_free) char *path = errand_path(from), *stem = NULL; /* make() has looked at it */
    const char *slash, *base, *suffix;

    slash = strrchr(path, '/');
    base = slash ? slash + 1 : path;
    suffix = entry_suffix(base);
    stem = strndup(base, stem_of(base, suffix));
    if (!stem)
        abort();
    entry_free_name(entries, stem, "-Copy", suffix, &name);
    join(e, e->path, &name);
    errand_ask_with_two(e, "files.copy", path, e->other, "", errand_say_made, NULL);
}

static void
make_new(struct errand *e, struct bytes entries, const char *type, const char *ext)
{
    scoped(buf_release) struct buf name = {0};
    struct bytes data = {0};

    if (strcmp(type, "directory") == 0)
        entry_free_name(entries, "Untitled Folder", " ", "", &name);
    else if (strcmp(type, "notebook") == 0)
        entry_free_name(entries, "Untitled", "", ".ipynb", &name);
    else
        entry_free_name(entries, "untitled", "", ext, &name);
    join(e, e->path, &name);
    if (strcmp(type, "directory") == 0) {
        errand_ask_about(e, "files.mkdir", e->other, ",\"parents\":false", NULL, errand_say_made, NULL);
        return;
    }
    if (strcmp(type, "notebook") == 0)
        (void)entry_lay_out(BYTES(EMPTY_NOTEBOOK), SIZE_MAX, &e->data);
    data = (struct bytes){e->data.data, e->data.len};
    errand_ask_about(e, "files.write", e->other, "", &data, errand_say_made, NULL);
}

static void
on_siblings(struct errand *e, struct bytes result, struct bytes data)
{
    scoped(str_free) char *from = errand_text(e, "copy_from"), *type = errand_text(e, "type"), *ext = errand_text(e, "ext");
    struct bytes entries = BYTES("[]");
    int is_notebook = ext && strcmp(ext, ".ipynb") == 0;

    (void)json_get(result, "entries", &entries);
    if (from)
        make_copy(e, entries, from);
    else if (ext && (strchr(ext, '/') || strlen(ext) > 100))
        errand_fail(e, 400, "'%s' is no suffix of a file", ext);
    else
        make_new(e, entries, type && *type ? type : is_notebook ? "notebook" : "file", ext ? ext : "");
}

static int
say_no_directory(struct errand *e, struct bytes code)
{
    if (json_string_is(code, "not_a_directory"))
        errand_fail(e, 400, "Cannot POST to files, use PUT instead: %s", e->path);
    else
        return errand_say_missing(e, code);
    return 1;
}

/* The name is the server's to choose. */
static void
make(struct errand *e)
{
    scoped(str_free) char *from = errand_text(e, "copy_from"), *path = from ? errand_path(from) : NULL;

    if (is_hidden(e->path))
        errand_fail(e, 400, "Cannot create file or directory in %s", e->path);
    else if (from && (!path || is_hidden(path) || !*path))
        errand_fail(e, 400, "Cannot copy file or directory %s", from);
    else
        errand_ask_about(e, "files.list", e->path, ",\"limit\":1000000", NULL, on_siblings, say_no_directory);
}

/*** PATCH and DELETE; the checkpoint of a file goes with it ***/

static int
say_changed_anyway(struct errand *e, struct bytes code)
{
    errand_say_changed(e, (struct bytes){0}, (struct bytes){0});
    return 1;
}

static void
on_moved(struct errand *e, struct bytes result, struct bytes data)
{
    scoped(str_free) char *from = checkpoint_path(e->path), *to = checkpoint_path(e->other);

    errand_ask_with_two(e, "files.move", from, to, "", errand_say_changed, say_changed_anyway);
}

static int
say_taken(struct errand *e, struct bytes code)
{
    if (json_string_is(code, "exists")) {
        errand_fail(e, 409, "File already exists: %s", e->other);
        return 1;
    }
    return errand_say_missing(e, code);
}

static void
rename_it(struct errand *e)
{
    scoped(str_free) char *given = errand_text(e, "path");

    e->other = given ? errand_path(given) : strdup(e->path);
    if (!e->other || is_hidden(e->other) || is_hidden(e->path) || !*e->path || !*e->other)
        errand_fail(e, 400, "Cannot rename file or directory %s", e->path);
    else if (strcmp(e->other, e->path) == 0)
        errand_ask_about(e, "files.stat", e->path, ",\"follow\":true", NULL, errand_on_changed, errand_say_missing);
    else
        errand_ask_with_two(e, "files.move", e->path, e->other, ",\"overwrite\":false", on_moved, say_taken);
}

static int
say_done_anyway(struct errand *e, struct bytes code)
{
    errand_say_done(e, (struct bytes){0}, (struct bytes){0});
    return 1;
}

static void
remove_its_checkpoint(struct errand *e, struct bytes result, struct bytes data)
{
    e->other = checkpoint_path(e->path);
    errand_ask_about(e, "files.remove", e->other, ",\"missing_ok\":true", NULL, errand_say_done, say_done_anyway);
}

static void
on_what_is_in_it(struct errand *e, struct bytes result, struct bytes data)
{
    struct bytes entries = BYTES("[]"), one, name;
    size_t at = 0;

    (void)json_get(result, "entries", &entries);
    while (json_element(entries, &at, &one) != J_NONE)
        if (json_get(one, "name", &name) != J_STRING || !json_string_is(name, CHECKPOINTS)) {
            errand_fail(e, 400, "Directory %s not empty", e->path);
            return;
        }
    errand_ask_about(e, "files.remove", e->path, ",\"recursive\":true", NULL, errand_say_done, NULL);
}

static void
on_to_be_removed(struct errand *e, struct bytes result, struct bytes data)
{
    errand_note_stat(e, e->path, result);
    if (e->kind == ENTRY_DIRECTORY)
        errand_ask_about(e, "files.list", e->path, "", NULL, on_what_is_in_it, NULL);
    else
        errand_ask_about(e, "files.remove", e->path, "", NULL, remove_its_checkpoint, NULL);
}

static void
remove_it(struct errand *e)
{
    if (is_hidden(e->path) || !*e->path)
        errand_fail(e, 400, "Cannot delete file or directory %s", e->path);
    else
        errand_ask_about(e, "files.stat", e->path, "", NULL, on_to_be_removed, errand_say_missing);
}

/*** Requests ***/

static const struct verb {
    const char *method;
    void (*on_file)(struct errand *e), (*on_checkpoints)(struct errand *e), (*on_checkpoint)(struct errand *e);
} verbs[] = {
    {"GET", show, list_checkpoints, NULL},
    {"POST", make, make_checkpoint, restore_checkpoint},
    {"PUT", save, NULL, NULL},
    {"PATCH", rename_it, NULL, NULL},
    {"DELETE", remove_it, NULL, remove_checkpoint},
};

/* Takes "/checkpoints" and "/checkpoints/ID" off the path. */
static char *
take_checkpoint(char *path)
{
    static const char word[] = "/checkpoints";
    char *slash = strrchr(path, '/');
    size_t len = sizeof word - 1;
    char *id = NULL;

    if (slash && strcmp(slash, word) == 0) {
        *slash = 0;
        return strdup("");
    }
    if (slash && (size_t)(slash - path) > len && strncmp(slash - len, word, len) == 0) {
        id = strdup(slash + 1);
        slash[-(ptrdiff_t)len] = 0;
    }
    return id;
}

static void
begin(struct exchange *x, struct served *k)
{
    int of_a_kernel = x->segment[1] != NULL;
    struct errand *e = errand_new(x, k);
    void (*run)(struct errand *e) = NULL;

    e->path = errand_path(x->segment[of_a_kernel]);
    if (!e->path) {
        errand_fail(e, 404, "%s is outside of what is shown here", x->segment[of_a_kernel]);
        return;
    }
    if (exchange_object(x, &e->body) < 0) {
        errand_finish(e);
        return;
    }
    e->checkpoint = take_checkpoint(e->path);
    for (size_t i = 0; i < countof(verbs); i++)
        if (strcmp(verbs[i].method, x->route->method) == 0)
            run = !e->checkpoint ? verbs[i].on_file : *e->checkpoint ? verbs[i].on_checkpoint : verbs[i].on_checkpoints;
    if (run)
        run(e);
    else
        errand_fail(e, 405, "%s is not possible here", x->route->method);
}

static void
contents(struct server *s, struct exchange *x)
{
    struct served *k = x->segment[1] ? operation_kernel(s, x) : NULL;

    if (k)
        begin(x, k);
    else if (!x->answered)
        files_for(x, begin);
}

#define HANDLER(name)                                                                            \
    void name(struct server *s, struct exchange *x)                                              \
    {                                                                                            \
        contents(s, x);                                                                          \
    }
HANDLER(get_contents)
HANDLER(post_contents)
HANDLER(put_contents)
HANDLER(patch_contents)
HANDLER(delete_contents)
HANDLER(get_kernel_contents)
HANDLER(post_kernel_contents)
HANDLER(put_kernel_contents)
HANDLER(patch_kernel_contents)
HANDLER(delete_kernel_contents)
