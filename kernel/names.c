/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/names.h"

#include <string.h>

#include "base/json.h"

#define MATCHES_MAX 2000

/*** The word at the cursor ***/

struct word {
    struct buf text;   /* the code */
    struct bytes head; /* "os" of "os.pa"; empty without a dot */
    struct bytes tail; /* "pa" */
    int dotted;
    int64_t cursor, start; /* code points; of the tail */
};

static int
is_word(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '_' || c >= 0x80;
}

static int64_t
count_points(const uint8_t *at, size_t len)
{
    int64_t n = 0;

    for (size_t i = 0; i < len; i++)
        n += (at[i] & 0xc0) != 0x80;
    return n;
}

static size_t
offset_of(const struct buf *text, int64_t points)
{
    size_t at = 0;

    while (at < text->len && (points > 0 || (text->data[at] & 0xc0) == 0x80))
        points -= (text->data[at++] & 0xc0) != 0x80;
    return at;
}

/* `whole`: the word goes on behind the cursor. */
static int
find_word(struct bytes content, int whole, struct word *ret)
{
    struct bytes code, value;
    size_t end, start, head;

    if (json_get(content, "code", &code) != J_STRING || json_unescape(code, &ret->text) < 0)
        return -1;
    ret->cursor = count_points(ret->text.data, ret->text.len);
    if (json_get(content, "cursor_pos", &value) == J_NUMBER)
        json_int64(value, &ret->cursor);
    end = offset_of(&ret->text, ret->cursor);
    while (whole && end < ret->text.len && is_word(ret->text.data[end]))
        end++;
    for (start = end; start > 0 && is_word(ret->text.data[start - 1]); start--)
        ;
    ret->tail = (struct bytes){ret->text.data + start, end - start};
    ret->start = ret->cursor - count_points(ret->text.data + start, end - start);
    ret->dotted = start > 0 && ret->text.data[start - 1] == '.';
    if (!ret->dotted)
        return 0;
    for (head = --start; head > 0 && is_word(ret->text.data[head - 1]); head--)
        ;
    /* a.b.c: what b is of a is not known */
    if (head == 0 || ret->text.data[head - 1] != '.')
        ret->head = (struct bytes){ret->text.data + head, start - head};
    return 0;
}

static void
word_release(struct word *w)
{
    buf_release(&w->text);
}

/*** The account ***/

static int
string_has_prefix(struct bytes string, struct bytes prefix, int exactly, struct buf *scratch)
{
    scratch->len = 0;
    return json_unescape(string, scratch) == 0 && scratch->len >= prefix.len &&
           (!exactly || scratch->len == prefix.len) &&
           (prefix.len == 0 || memcmp(scratch->data, prefix.data, prefix.len) == 0);
}

/* As json_get(), for any name. */
static enum json_type
find_member(struct bytes object, struct bytes name, struct bytes *ret)
{
    scoped(buf_release) struct buf scratch = {0};
    struct bytes key, value;
    enum json_type type;
    size_t at = 0;

    while ((type = json_next(object, &at, &key, &value)) != J_NONE)
        if (string_has_prefix(key, name, 1, &scratch)) {
            *ret = value;
            return type;
        }
    return J_NONE;
}

static enum json_type
find_string(struct bytes object, struct bytes string, struct bytes *ret)
{
    scoped(buf_release) struct buf name = {0};

    if (json_unescape(string, &name) < 0)
        return J_NONE;
    return find_member(object, (struct bytes){name.data, name.len}, ret);
}

struct entry {
    struct bytes kind, key, type; /* strings */
};

static int
read_entry(struct bytes array, struct entry *ret)
{
    size_t at = 0;

    return json_element(array, &at, &ret->kind) == J_STRING &&
           json_element(array, &at, &ret->key) == J_STRING &&
           json_element(array, &at, &ret->type) == J_STRING;
}

static int
find_name(struct bytes names, struct bytes name, struct entry *ret)
{
    struct bytes all, entry;

    return json_get(names, "names", &all) == J_OBJECT &&
           find_member(all, name, &entry) == J_ARRAY && read_entry(entry, ret);
}

/* Where the word is looked up: all names, or the members of its head. */
static int
find_table(struct bytes names, const struct word *w, struct bytes *ret)
{
    struct bytes members;
    struct entry entry;

    if (!w->dotted)
        return json_get(names, "names", ret) == J_OBJECT;
    return w->head.len && find_name(names, w->head, &entry) &&
           json_get(names, "members", &members) == J_OBJECT &&
           find_string(members, entry.key, ret) == J_OBJECT;
}

/*** Answers ***/

static int
add_match(struct bytes name, struct bytes kind, const struct word *w, struct buf *matches,
          struct buf *types)
{
    const char *comma = matches->len ? "," : "";

    return buf_printf(matches, "%s%.*s", comma, (int)name.len, name.data) < 0 ||
                   buf_printf(types,
                              "%s{\"start\":%lld,\"end\":%lld,\"text\":%.*s,\"type\":%.*s,"
                              "\"signature\":\"\"}",
                              comma, (long long)w->start, (long long)w->cursor, (int)name.len,
                              name.data, (int)kind.len, kind.data) < 0
               ? -1
               : 0;
}

static int
add_matches(struct bytes table, const struct word *w, struct buf *matches, struct buf *types)
{
    scoped(buf_release) struct buf scratch = {0};
    struct bytes name, value;
    struct entry entry;
    enum json_type type;
    size_t at = 0;
    int n = 0;

    while (n < MATCHES_MAX && (type = json_next(table, &at, &name, &value)) != J_NONE) {
        entry.kind = value;
        if (type != J_STRING && (type != J_ARRAY || !read_entry(value, &entry)))
            continue;
        if (!string_has_prefix(name, w->tail, 0, &scratch) ||
            (w->tail.len == 0 && scratch.len && scratch.data[0] == '_'))
            continue;
        if (add_match(name, entry.kind, w, matches, types) < 0)
            return -1;
        n++;
    }
    return 0;
}

int
names_complete(struct bytes names, struct bytes content, const char *about, struct buf *ret)
{
    scoped(buf_release) struct buf matches = {0}, types = {0};
    scoped(word_release) struct word w = {0};
    struct bytes table;

    if (find_word(content, 0, &w) < 0 ||
        (find_table(names, &w, &table) && add_matches(table, &w, &matches, &types) < 0))
        return -1;
    return buf_printf(ret,
                      "{\"status\":\"ok\",\"matches\":[%.*s],\"cursor_start\":%lld,"
                      "\"cursor_end\":%lld,\"metadata\":{\"_jupyter_types_experimental\":[%.*s],"
                      "\"husk\":%s}}",
                      (int)matches.len, matches.len ? (char *)matches.data : "",
                      (long long)(matches.len ? w.start : w.cursor), (long long)w.cursor,
                      (int)types.len, types.len ? (char *)types.data : "", about);
}

static int
describe(struct bytes names, const struct entry *entry, struct buf *text)
{
    struct bytes docs, doc;

    if (buf_text(text, "Type:      ") < 0 || json_unescape(entry->type, text) < 0)
        return -1;
    if (json_get(names, "docs", &docs) != J_OBJECT ||
        find_string(docs, entry->key, &doc) != J_STRING)
        return 0;
    return buf_text(text, "\nDocstring: ") < 0 ? -1 : json_unescape(doc, text);
}

int
names_inspect(struct bytes names, struct bytes content, const char *about, struct buf *ret)
{
    scoped(buf_release) struct buf text = {0}, data = {0};
    scoped(word_release) struct word w = {0};
    struct entry entry = {.key = BYTES("\"\"")};
    struct bytes table;
    int found = 0;

    if (find_word(content, 1, &w) < 0)
        return -1;
    if (!w.dotted)
        found = w.tail.len && find_name(names, w.tail, &entry);
    else
        found = find_table(names, &w, &table) &&
                find_member(table, w.tail, &entry.type) == J_STRING;
    if (found && (describe(names, &entry, &text) < 0 || buf_text(&data, "\"text/plain\":") < 0 ||
                  json_quote((struct bytes){text.data, text.len}, &data) < 0))
        return -1;
    return buf_printf(ret, "{\"status\":\"ok\",\"found\":%s,\"data\":{%.*s},\"metadata\":{\"husk\":%s}}",
                      found ? "true" : "false", (int)data.len, data.len ? (char *)data.data : "",
                      about);
}

int
names_is_complete(struct bytes names, struct bytes content, const char *about, struct buf *ret)
{
    return buf_text(ret, "{\"status\":\"unknown\"}");
}
