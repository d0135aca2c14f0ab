/* SPDX-License-Identifier: BSD-3-Clause
 *
 * history.h: what was entered in this session, kept outside of the sandbox.
 */
#pragma once

#include "base/base.h"

struct history {
    struct history_line {
        uint32_t line;  /* number of the cell */
        struct buf code; /* JSON string, with its quotes */
    } *entry;
    size_t len, size;
};

int history_add(struct history *h, uint32_t line, struct bytes code);
void history_release(struct history *h);

/* Appends the list of a history_reply for an accepted history_request content. */
int history_answer(const struct history *h, struct bytes request, struct buf *ret);
