/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fuzz_progress.c: whatever is left out, a terminal shows the same after it. The first byte of the input is
 * the width of what stood in the line before.
 */
#include <stdlib.h>
#include <string.h>

#include "kernel/progress.h"

#define COLUMNS 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct screen {
    uint8_t line[COLUMNS];
    size_t at;
    uint64_t done; /* a sum of the lines that are finished, and of control characters where they came */
};

static void
add(struct screen *s, const uint8_t *at, size_t len)
{
    for (size_t i = 0; i < len; i++)
        s->done = s->done * 1099511628211u + at[i];
}

/* A byte is a column: the fuzzer makes no characters of several bytes. */
static void
show(struct screen *s, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (data[i] == '\n' || (data[i] < 0x20 && data[i] != '\r' && data[i] != '\033') || data[i] == 0x7f) {
            add(s, s->line, COLUMNS);
            add(s, data + i, 1);
            if (data[i] == '\n')
                memset(s->line, 0, COLUMNS);
            s->at = data[i] == '\n' ? 0 : s->at;
        } else if (data[i] == '\r') {
            s->at = 0;
        } else if (data[i] == '\033') {
            int whole = len - i >= 4 && memcmp(data + i, "\033[2K", 4) == 0;
            int erases = len - i >= 3 && memcmp(data + i, "\033[K", 3) == 0;
            if ((whole || erases) && s->at == 0) {
                memset(s->line, 0, COLUMNS);
                i += whole ? 3 : 2;
            } else {
                add(s, s->line, COLUMNS);
            }
        } else if (s->at < COLUMNS) {
            s->line[s->at++] = data[i];
        }
    }
    add(s, s->line, COLUMNS);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct screen before, after;
    scoped(buf_release) struct buf text = {0};

    if (size < 2 || size > COLUMNS - 256)
        return 0;
    for (size_t i = 0; i < size; i++)
        if (data[i] >= 0x80)
            return 0;
    before = after = (struct screen){.at = data[0]};
    memset(before.line, 'x', data[0]);
    memset(after.line, 'x', data[0]);
    if (buf_add(&text, data + 1, size - 1) < 0)
        return 0;
    progress_collapse(&text);
    show(&before, data + 1, size - 1);
    show(&after, text.data, text.len);
    if (text.len >= size || before.done != after.done || before.at != after.at)
        abort();
    return 0;
}
