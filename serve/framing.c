/* SPDX-License-Identifier: BSD-3-Clause */
#include "serve/framing.h"

#include <errno.h>
#include <string.h>

#include "base/json.h"

#define V1_EXTRA 2 /* offsets beside the ends of the parts: start and end of the channel */

static const char *const part_names[FRAMING_PARTS] = {"header", "parent_header", "metadata", "content"};

static uint64_t
get64le(const uint8_t *at)
{
    uint64_t value = 0;

    for (int i = 7; i >= 0; i--)
        value = value << 8 | at[i];
    return value;
}

static void
put64le(uint8_t *at, uint64_t value)
{
    for (int i = 0; i < 8; i++, value >>= 8)
        at[i] = (uint8_t)value;
}

static uint32_t
get32be(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void
put32be(uint8_t *at, size_t value)
{
    for (int i = 3; i >= 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
}

/*** Reading ***/

/* The object of a legacy frame. Of what it lacks there is nothing: a client need not say {} four times. */
static int
read_json(struct bytes text, struct framing *m, struct err *err)
{
    struct bytes value;

    if (json_check_object(text, err) < 0)
        return -1;
    for (int i = 0; i < FRAMING_PARTS; i++) {
        enum json_type type = json_get(text, part_names[i], &m->part[i]);
        if (type == J_NONE || type == J_NULL)
            m->part[i] = BYTES("{}");
        else if (type != J_OBJECT)
            return err_set(err, EINVAL, "'%s' is no object", part_names[i]);
    }
    switch (json_get(text, "channel", &value)) {
    case J_STRING:
        m->channel = (struct bytes){value.data + 1, value.len - 2};
        return 0;
    case J_NONE:
    case J_NULL:
        m->channel = BYTES("");
        return 0;
    default:
        return err_set(err, EINVAL, "'channel' is no string");
    }
}

static int
read_legacy_binary(struct bytes f, struct bytes *buffers, struct framing *m, struct err *err)
{
    struct bytes json = {0};
    uint32_t n;

    if (f.len < 4)
        return err_set(err, EINVAL, "a binary frame of %zu bytes", f.len);
    n = get32be(f.data);
    if (n == 0 || n > FRAMING_BUFFERS + 1 || 4 + 4 * (size_t)n > f.len)
        return err_set(err, EINVAL, "a frame of %zu bytes does not have %u offsets, or too many", f.len, n);
    for (uint32_t i = 0; i < n; i++) {
        size_t at = get32be(f.data + 4 + 4 * i), end = i + 1 < n ? get32be(f.data + 8 + 4 * i) : f.len;
        if (at < 4 + 4 * (size_t)n || at > end || end > f.len)
            return err_set(err, EINVAL, "offset %u lies outside of the frame, or before the one in front of it", i);
        if (i == 0)
            json = (struct bytes){f.data + at, end - at};
        else
            buffers[i - 1] = (struct bytes){f.data + at, end - at};
    }
    m->buffers = n - 1;
    return read_json(json, m, err);
}

static int
read_v1(struct bytes f, struct bytes *buffers, struct framing *m, struct err *err)
{
    uint64_t n, at, end;
    struct err why;

    if (f.len < 8)
        return err_set(err, EINVAL, "a binary frame of %zu bytes", f.len);
    n = get64le(f.data);
    if (n < V1_EXTRA + FRAMING_PARTS || n > V1_EXTRA + FRAMING_PARTS + FRAMING_BUFFERS || 8 + 8 * n > f.len)
        return err_set(err, EINVAL, "a frame of %zu bytes does not have %llu offsets, or too few or many", f.len,
                       (unsigned long long)n);
    at = get64le(f.data + 8);
    if (at < 8 + 8 * n)
        return err_set(err, EINVAL, "offset 0 lies among the offsets");
    for (uint64_t i = 1; i < n; i++, at = end) {
        struct bytes piece;
        end = get64le(f.data + 8 + 8 * i);
        if (end < at || end > f.len)
            return err_set(err, EINVAL, "offset %llu lies outside of the frame, or before the one in front of it",
                           (unsigned long long)i);
        piece = (struct bytes){f.data + at, (size_t)(end - at)};
        if (i == 1)
            m->channel = piece;
        else if (i < V1_EXTRA + FRAMING_PARTS)
            m->part[i - V1_EXTRA] = piece;
        else
            buffers[i - V1_EXTRA - FRAMING_PARTS] = piece;
    }
    m->buffers = (size_t)(n - V1_EXTRA - FRAMING_PARTS);
    for (int i = 0; i < FRAMING_PARTS; i++)
        if (json_check_object(m->part[i], &why) < 0)
            return err_set(err, EINVAL, "%s: %s", part_names[i], why.text);
    return 0;
}

int
framing_read(struct bytes frame, int v1, int binary, struct bytes buffers[static FRAMING_BUFFERS],
             struct framing *ret, struct err *err)
{
    struct framing m = {.buffer = buffers};
    int r;

    if (v1 && !binary)
        return err_set(err, EINVAL, "a text frame, where subprotocol v1 has binary ones");
    r = v1 ? read_v1(frame, buffers, &m, err) : binary ? read_legacy_binary(frame, buffers, &m, err)
                                                       : read_json(frame, &m, err);
    if (r == 0)
        *ret = m;
    return r;
}

/*** Writing ***/

/* Also msg_id and msg_type beside the header, as Jupyter Server says them: clients read them there. */
static int
write_json(const struct framing *m, struct buf *ret)
{
    static const char *const twice[] = {"msg_id", "msg_type"};
    size_t size = 128;
    struct bytes value;
    int bad;

    for (int i = 0; i < FRAMING_PARTS; i++)
        size += m->part[i].len + 32;
    bad = buf_reserve(ret, size) < 0 || buf_text(ret, "{\"channel\":\"") < 0 ||
          buf_add(ret, m->channel.data, m->channel.len) < 0 || buf_text(ret, "\"") < 0;
    for (size_t i = 0; !bad && i < countof(twice); i++)
        if (json_get(m->part[0], twice[i], &value) == J_STRING)
            bad = buf_printf(ret, ",\"%s\":", twice[i]) < 0 || buf_add(ret, value.data, value.len) < 0;
    for (int i = 0; !bad && i < FRAMING_PARTS; i++)
        bad = buf_printf(ret, ",\"%s\":", part_names[i]) < 0 ||
              buf_add(ret, m->part[i].data, m->part[i].len) < 0;
    return bad || buf_text(ret, ",\"buffers\":[]}") < 0 ? -1 : 0;
}

static int
write_legacy_binary(const struct framing *m, struct buf *ret)
{
    size_t start = ret->len, head = 4 + 4 * (m->buffers + 1), size = head, at;

    for (size_t i = 0; i < m->buffers; i++)
        size += m->buffer[i].len;
    if (buf_reserve(ret, size) < 0)
        return -1;
    ret->len += head;
    put32be(ret->data + start, m->buffers + 1);
    put32be(ret->data + start + 4, head);
    if (write_json(m, ret) < 0)
        return -1;
    at = ret->len - start;
    for (size_t i = 0; i < m->buffers; i++) {
        put32be(ret->data + start + 8 + 4 * i, at);
        if (buf_add(ret, m->buffer[i].data, m->buffer[i].len) < 0)
            return -1;
        at += m->buffer[i].len;
    }
    return 0;
}

static int
write_v1(const struct framing *m, struct buf *ret)
{
    size_t n = V1_EXTRA + FRAMING_PARTS + m->buffers, at = 8 + 8 * n, size = at + m->channel.len;
    uint8_t *into;

    for (size_t i = 0; i < FRAMING_PARTS + m->buffers; i++)
        size += i < FRAMING_PARTS ? m->part[i].len : m->buffer[i - FRAMING_PARTS].len;
    if (buf_reserve(ret, size) < 0)
        return -1;
    into = ret->data + ret->len;
    put64le(into, n);
    put64le(into + 8, at);
    for (size_t i = 1; i < n; i++) {
        struct bytes piece = i == 1                            ? m->channel
                             : i < V1_EXTRA + FRAMING_PARTS ? m->part[i - V1_EXTRA]
                                                               : m->buffer[i - V1_EXTRA - FRAMING_PARTS];
        if (piece.len)
            memcpy(into + at, piece.data, piece.len);
        at += piece.len;
        put64le(into + 8 + 8 * i, at);
    }
    ret->len += size;
    return 0;
}

int
framing_write(const struct framing *m, int v1, struct buf *ret, int *ret_binary)
{
    *ret_binary = v1 || m->buffers;
    return v1 ? write_v1(m, ret) : m->buffers ? write_legacy_binary(m, ret) : write_json(m, ret);
}
