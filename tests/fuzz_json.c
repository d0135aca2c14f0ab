/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fuzz_json.c: any bytes, as JSON and as text. What json_check() accepts must be whole in
 * every way that it is looked at; what it refuses must not lead a reader outside.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

#define must(claim)                                                                        \
    do {                                                                                   \
        if (!(claim)) {                                                                    \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #claim);                    \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bytes
bytes_in(const struct buf *buf)
{
    return (struct bytes){buf->data, buf->len};
}

static int
same(struct bytes a, struct bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static int
inside(struct bytes part, struct bytes whole)
{
    return part.data >= whole.data && part.data <= whole.data + whole.len &&
           part.len <= (size_t)(whole.data + whole.len - part.data);
}

/* Plainly, another way than base/json.c. */
static int
is_utf8(struct bytes text)
{
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    uint32_t code;

    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];
        size_t more = c < 0x80 ? 0 : c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
        if ((c >= 0x80 && c < 0xc0) || c >= 0xf8 || more > text.len - i - 1)
            return 0;
        code = more ? c & (0x3fu >> more) : c;
        for (size_t j = 0; j < more; j++) {
            if (text.data[++i] >> 6 != 2)
                return 0;
            code = code << 6 | (text.data[i] & 0x3f);
        }
        if (code < least[more] || code > 0x10ffff || code >> 11 == 0x1b)
            return 0;
    }
    return 1;
}

/* What a string means and what it is written as lead to each other. */
static void
try_string(struct bytes string)
{
    scoped(buf_release) struct buf meant = {0}, quoted = {0}, again = {0};
    struct err err;

    must(json_unescape(string, &meant) == 0);
    must(meant.len <= string.len - 2);
    must(json_quote(bytes_in(&meant), &quoted) == 0);
    must(json_check(bytes_in(&quoted), &err) == J_STRING);
    must(json_unescape(bytes_in(&quoted), &again) == 0);
    if (is_utf8(bytes_in(&meant))) /* not so after a lone surrogate */
        must(same(bytes_in(&meant), bytes_in(&again)));
    must(buf_string(&meant));
    must(json_string_is(string, (const char *)meant.data) ==
         (strlen((const char *)meant.data) == meant.len));
}

static void
try_number(struct bytes number)
{
    scoped(buf_release) struct buf text = {0};
    int64_t value;
    const char *sign;

    if (json_int64(number, &value) < 0)
        return;
    sign = number.data[0] == '-' && value == 0 ? "-" : "";
    must(buf_printf(&text, "%s%lld", sign, (long long)value) == 0);
    must(same(bytes_in(&text), number));
}

/* A part of an accepted value is a value by itself, of the same type. */
static void
try_part(struct bytes part, struct bytes whole, int type)
{
    struct err err;

    must(inside(part, whole));
    must(json_check(part, &err) == type);
    if (type == J_STRING)
        try_string(part);
    if (type == J_NUMBER)
        try_number(part);
}

static void
must_end(struct bytes text, size_t at, size_t count, char open, char close)
{
    size_t i = at;

    if (count == 0) { /* the walk has not moved */
        while (text.data[i] != (uint8_t)open)
            i++;
        i++;
    }
    while (text.data[i] != (uint8_t)close) {
        must(text.data[i] == ' ' || text.data[i] == '\t' || text.data[i] == '\n' ||
             text.data[i] == '\r');
        i++;
    }
    while (++i < text.len)
        must(text.data[i] <= ' ');
}

static void
try_object(struct bytes text)
{
    scoped(buf_release) struct buf meant = {0};
    struct bytes name, value, found;
    enum json_type type;
    size_t at = 0, count = 0;

    for (; (type = json_next(text, &at, &name, &value)) != J_NONE; count++) {
        const char *key;
        try_part(name, text, J_STRING);
        try_part(value, text, type);
        meant.len = 0;
        must(json_unescape(name, &meant) == 0 && (key = buf_string(&meant)));
        if (strlen(key) != meant.len || count > 64)
            continue;
        must(json_get(text, key, &found) != J_NONE);
        must(found.data >= value.data); /* the last one counts */
    }
    must_end(text, at, count, '{', '}');
}

static void
try_array(struct bytes text)
{
    struct bytes value;
    enum json_type type;
    size_t at = 0, count = 0;

    for (; (type = json_element(text, &at, &value)) != J_NONE; count++)
        try_part(value, text, type);
    must_end(text, at, count, '[', ']');
}

static void
try_accepted(struct bytes text, int type)
{
    scoped(buf_release) struct buf wrapped = {0};
    struct err err;

    must(type >= J_OBJECT && type <= J_NULL);
    must(is_utf8(text));
    must((json_check_object(text, &err) == 0) == (type == J_OBJECT));
    if (type == J_OBJECT)
        try_object(text);
    if (type == J_ARRAY)
        try_array(text);
    must(buf_text(&wrapped, "{\"\":") == 0);
    must(buf_add(&wrapped, text.data, text.len) == 0);
    must(buf_text(&wrapped, " }") == 0);
    if (json_check(bytes_in(&wrapped), &err) < 0)
        must(strstr(err.text, "too deep"));
}

static void
try_refused(struct bytes text, const struct err *err)
{
    scoped(buf_release) struct buf meant = {0};
    struct bytes name = {text.data, 0}, value = {text.data, 0};
    int64_t number;
    size_t at = 0, count = 0;

    must(err->code && strncmp(err->text, "byte ", 5) == 0);
    must(strtoull(err->text + 5, NULL, 10) <= text.len);
    while (json_next(text, &at, &name, &value) != J_NONE) {
        must(inside(name, text) && inside(value, text) && ++count <= text.len);
        json_string_is(name, "msg_id");
        json_int64(value, &number);
        meant.len = 0;
        must(json_unescape(value, &meant) == 0 && meant.len <= value.len);
    }
    for (at = count = 0; json_element(text, &at, &value) != J_NONE;)
        must(inside(value, text) && ++count <= text.len);
    json_get(text, "msg_id", &value);
    json_string_is(text, "msg_id");
    json_int64(text, &number);
    must(json_unescape(text, &meant) == 0);
}

/* Text in two pieces, cut where json_utf8_tail() allows, is the text in one. */
static void
try_pieces(struct bytes text, size_t cut, const struct buf *whole)
{
    scoped(buf_release) struct buf first = {0}, second = {0};
    size_t tail = json_utf8_tail((struct bytes){text.data, cut}), len = cut - tail, seam;

    must(tail <= 3 && tail <= cut);
    must(json_quote((struct bytes){text.data, len}, &first) == 0);
    must(json_quote((struct bytes){text.data + len, text.len - len}, &second) == 0);
    must(buf_add(&first, second.data, second.len) == 0);
    must(first.len == whole->len + 2);
    seam = first.len - second.len - 1; /* two quotes are there, and not in the whole */
    must(memcmp(first.data, whole->data, seam) == 0);
    must(memcmp(first.data + seam + 2, whole->data + seam, whole->len - seam) == 0);
}

static void
try_text(struct bytes text)
{
    scoped(buf_release) struct buf quoted = {0}, meant = {0}, again = {0};
    struct err err;

    must(json_quote(text, &quoted) == 0);
    must(quoted.len <= 6 * text.len + 2);
    must(json_check(bytes_in(&quoted), &err) == J_STRING);
    must(json_unescape(bytes_in(&quoted), &meant) == 0);
    must(is_utf8(bytes_in(&meant)));
    must(same(bytes_in(&meant), text) == is_utf8(text));
    must(json_quote(bytes_in(&meant), &again) == 0);
    must(same(bytes_in(&again), bytes_in(&quoted)));
    if (is_utf8(text))
        must(json_utf8_tail(text) == 0);
    for (size_t cut = 0; cut <= text.len && text.len <= 64; cut++)
        try_pieces(text, cut, &quoted);
    try_pieces(text, text.len / 2, &quoted);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes text = {data, size};
    struct err err = {0};
    int type = json_check(text, &err);

    if (type < 0)
        try_refused(text, &err);
    else
        try_accepted(text, type);
    try_text(text);
    return 0;
}
