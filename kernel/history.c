/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/history.h"

#include <fnmatch.h>
#include <stdlib.h>

#include "kernel/json.h"

int
history_add(struct history *h, uint32_t line, struct bytes code)
{
    struct history_line *l;

    if (h->len == h->size) {
        size_t size = h->size ? 2 * h->size : 64;
        l = realloc(h->entry, size * sizeof *l);
        if (!l)
            return -1;
        h->entry = l;
        h->size = size;
    }
    l = &h->entry[h->len];
    *l = (struct history_line){.line = line};
    if (buf_add(&l->code, code.data, code.len) < 0)
        return -1;
    h->len++;
    return 0;
}

void
history_release(struct history *h)
{
    for (size_t i = 0; i < h->len; i++)
        buf_release(&h->entry[i].code);
    free(h->entry);
    *h = (struct history){0};
}

static int64_t
number_of(struct bytes request, const char *name, int64_t standard)
{
    struct bytes value;
    int64_t n;

    if (json_get(request, name, &value) != JSON_NUMBER || json_int64(value, &n) < 0)
        return standard;
    return n;
}

static int
text_matches(const struct history_line *l, const char *pattern)
{
    scoped(buf_release) struct buf text = {0};
    struct bytes code = {l->code.data, l->code.len};

    return json_unescape(code, &text) == 0 && buf_string(&text) &&
           fnmatch(pattern, (const char *)text.data, 0) == 0;
}

static int
is_repeated_later(const struct history *h, const char *pick, size_t at)
{
    for (size_t i = at + 1; i < h->len; i++)
        if (pick[i] && h->entry[i].code.len == h->entry[at].code.len &&
            bytes_equal((struct bytes){h->entry[i].code.data, h->entry[i].code.len},
                        (const char *)buf_string(&h->entry[at].code)))
            return 1;
    return 0;
}

static void
pick_range(const struct history *h, struct bytes request, char *pick)
{
    int64_t session = number_of(request, "session", 0), start = number_of(request, "start", 0);
    int64_t stop = number_of(request, "stop", INT64_MAX);

    for (size_t i = 0; i < h->len && session == 0; i++)
        pick[i] = h->entry[i].line >= start && h->entry[i].line < stop;
}

static int
pick_search(const struct history *h, struct bytes request, char *pick)
{
    scoped(buf_release) struct buf pattern = {0};
    struct bytes value;
    int unique = json_get(request, "unique", &value) == JSON_TRUE;

    if (json_get(request, "pattern", &value) == JSON_STRING) {
        if (json_unescape(value, &pattern) < 0)
            return -1;
    } else if (buf_text(&pattern, "*") < 0) {
        return -1;
    }
    if (!buf_string(&pattern))
        return -1;
    for (size_t i = 0; i < h->len; i++)
        pick[i] = (char)text_matches(&h->entry[i], (const char *)pattern.data);
    for (size_t i = 0; unique && i < h->len; i++)
        if (pick[i] && is_repeated_later(h, pick, i))
            pick[i] = 0;
    return 0;
}

/* Keeps the last n of what is picked. */
static void
keep_last(const struct history *h, char *pick, int64_t n)
{
    for (size_t i = h->len; i-- > 0;)
        if (pick[i] && n-- <= 0)
            pick[i] = 0;
}

int
history_answer(const struct history *h, struct bytes request, struct buf *ret)
{
    scoped(str_free) char *pick = calloc(h->len + 1, 1);
    struct bytes value;
    int output = json_get(request, "output", &value) == JSON_TRUE, first = 1;

    if (!pick)
        return -1;
    json_get(request, "hist_access_type", &value);
    if (json_string_is(value, "range")) {
        pick_range(h, request, pick);
    } else {
        if (!json_string_is(value, "search"))
            for (size_t i = 0; i < h->len; i++)
                pick[i] = 1;
        else if (pick_search(h, request, pick) < 0)
            return -1;
        keep_last(h, pick, number_of(request, "n", INT64_MAX));
    }
    if (buf_add(ret, "[", 1) < 0)
        return -1;
    for (size_t i = 0; i < h->len; i++) {
        const struct history_line *l = &h->entry[i];
        if (!pick[i])
            continue;
        if (buf_printf(ret, "%s[0,%u,%s", first ? "" : ",", l->line, output ? "[" : "") < 0 ||
            buf_add(ret, l->code.data, l->code.len) < 0 ||
            buf_text(ret, output ? ",null]]" : "]") < 0)
            return -1;
        first = 0;
    }
    return buf_add(ret, "]", 1);
}
