/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/progress.h"

#include <string.h>

#define WHOLE_LINE SIZE_MAX /* wider than any state */

struct state {
    const uint8_t *at;
    size_t len;
};

static size_t
skip_erasing(const struct state *s)
{
    if (s->len >= 3 && memcmp(s->at, "\033[K", 3) == 0)
        return 3;
    return s->len >= 4 && memcmp(s->at, "\033[2K", 4) == 0 ? 4 : 0;
}

/* Columns of a state, WHOLE_LINE if it erases the line first. 0 if it holds what this does not know. */
static int
measure(const struct state *s, size_t *ret)
{
    size_t start = skip_erasing(s), width = 0;

    for (size_t i = start; i < s->len; i++) {
        if (s->at[i] < 0x20 || s->at[i] == 0x7f)
            return 0;
        width += (s->at[i] & 0xc0) != 0x80;
    }
    *ret = start ? WHOLE_LINE : width;
    return 1;
}

static size_t
count_returns(const uint8_t *at, size_t len)
{
    size_t n = 0;

    for (const uint8_t *end = at + len; (at = memchr(at, '\r', (size_t)(end - at))); at++)
        n++;
    return n;
}

/* Marks in the line itself: walks backwards and moves what stays to the end of it. Returns where
 * that begins. */
static size_t
keep_visible(uint8_t *line, size_t len)
{
    size_t to = len, end = len, covered = 0;
    int any = 0; /* something behind covers `covered` columns */

    for (size_t i = len; i-- > 0;) {
        struct state s;
        size_t width;
        int known;
        if (line[i] != '\r')
            continue;
        s = (struct state){line + i + 1, end - i - 1};
        known = measure(&s, &width);
        if (!(known && any && width <= covered && !(width == WHOLE_LINE && covered != WHOLE_LINE))) {
            to -= s.len + 1;
            memmove(line + to, line + i, s.len + 1);
        }
        if (known) {
            covered = any && covered > width ? covered : width;
            any = 1;
        } else {
            any = 0;
        }
        end = i;
    }
    to -= end;
    memmove(line + to, line, end); /* what stood before the first return */
    return to;
}

void
progress_collapse(struct buf *text)
{
    size_t from = 0, to = 0;

    if (!text->len || !memchr(text->data, '\r', text->len))
        return;
    while (from < text->len) {
        const uint8_t *end = memchr(text->data + from, '\n', text->len - from);
        size_t len = (end ? (size_t)(end - text->data) : text->len) - from, start = 0;

        if (count_returns(text->data + from, len) > PROGRESS_STATES)
            start = keep_visible(text->data + from, len);
        memmove(text->data + to, text->data + from + start, len - start + (end != NULL));
        to += len - start + (end != NULL);
        from += len + (end != NULL);
    }
    text->len = to;
}
