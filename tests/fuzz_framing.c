/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What clients send over WebSockets. A frame that is accepted is written in both forms, and read back it is what
 * it was; nothing borrowed lies outside of the frame.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "serve/framing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bytes first[FRAMING_BUFFERS], second[FRAMING_BUFFERS];

static void
inside(struct bytes piece, struct bytes frame)
{
    int literal = piece.len <= 2; /* "" and {} stand in for what is not there */

    if (!literal && (piece.data < frame.data || piece.data + piece.len > frame.data + frame.len))
        abort();
}

static void
same(struct bytes a, struct bytes b)
{
    if (a.len != b.len || (a.len && memcmp(a.data, b.data, a.len) != 0))
        abort();
}

static void
round_trip(const struct framing *m, int v1)
{
    scoped(buf_release) struct buf b = {0};
    struct framing again;
    struct err err;
    int binary;

    if (framing_write(m, v1, &b, &binary) < 0)
        abort();
    if (framing_read((struct bytes){b.data, b.len}, v1, binary, second, &again, &err) < 0)
        abort();
    same(m->channel, again.channel);
    for (int i = 0; i < FRAMING_PARTS; i++)
        same(m->part[i], again.part[i]);
    if (m->buffers != again.buffers)
        abort();
    for (size_t i = 0; i < m->buffers; i++)
        same(m->buffer[i], again.buffer[i]);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct framing m;
    struct bytes frame;
    struct err err;
    int v1, binary;

    if (size == 0)
        return 0;
    v1 = data[0] & 1;
    binary = (data[0] >> 1) & 1;
    frame = (struct bytes){data + 1, size - 1};
    if (framing_read(frame, v1, binary, first, &m, &err) < 0)
        return 0;
    inside(m.channel, frame);
    for (int i = 0; i < FRAMING_PARTS; i++)
        inside(m.part[i], frame);
    for (size_t i = 0; i < m.buffers; i++)
        if (m.buffer[i].data < frame.data || m.buffer[i].data + m.buffer[i].len > frame.data + frame.len)
            abort();
    round_trip(&m, 1);
    /* The server writes channels of its own only, and parts as objects without white space around them. */
    if (memchr(m.channel.data, '"', m.channel.len) || memchr(m.channel.data, '\\', m.channel.len))
        return 0;
    for (size_t i = 0; i < m.channel.len; i++)
        if (m.channel.data[i] < 0x20 || m.channel.data[i] > 0x7e)
            return 0;
    for (int i = 0; i < FRAMING_PARTS; i++)
        if (m.part[i].data[0] != '{' || m.part[i].data[m.part[i].len - 1] != '}')
            return 0;
    round_trip(&m, 0);
    return 0;
}
