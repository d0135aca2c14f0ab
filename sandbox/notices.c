/* SPDX-License-Identifier: BSD-3-Clause */
#include "sandbox/notices.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/names.h"
#include "wall/sandbox.h"

/* Whether it was told a moment ago; remembers it. */
static int
is_repeated(struct notices *n, const char *text, int64_t now)
{
    uint32_t h = text_hash(text);

    for (size_t i = 0; i < NOTICES_KEPT; i++)
        if (n->recent[i].when && n->recent[i].hash == h &&
            now - n->recent[i].when < NOTICES_REPEAT_MS)
            return 1;
    n->recent[n->next].hash = h;
    n->recent[n->next].when = now;
    n->next = (n->next + 1) % NOTICES_KEPT;
    return 0;
}

static int
has_room(struct notices *n, int64_t now)
{
    if (now - n->window >= NOTICES_WINDOW_MS) {
        n->window = now;
        n->told = 0;
    }
    if (n->told >= NOTICES_IN_WINDOW) {
        n->left_out++;
        return 0;
    }
    n->told++;
    return 1;
}

void
notices_tell(struct notices *n, const char *format, ...)
{
    scoped(buf_release) struct buf packet = {0};
    char text[NOTICE_TEXT];
    int64_t now = now_ms();
    struct bytes part;
    va_list args;
    size_t len;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *c = text; *c; c++)
        if (*c < 0x20 || *c > 0x7e)
            *c = '?';
    if (is_repeated(n, text, now) || !has_room(n, now))
        return;
    len = strlen(text);
    if (n->left_out)
        snprintf(text + len, sizeof text - len, " (and %u notices before this one were left out)",
                 n->left_out);
    n->left_out = 0;
    part = bytes_of(text);
    if (frame_add(&packet, (struct frame){.number = SANDBOX_NOTICE}, &part, 1) == 0)
        (void)send(n->socket, packet.data, packet.len, MSG_DONTWAIT | MSG_NOSIGNAL);
}
