/* SPDX-License-Identifier: BSD-3-Clause */
#include "wall/frame.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define FEW 12 /* parts that are sent from where they are */

uint16_t
get16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

uint32_t
get32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

uint64_t
get64(const uint8_t *at)
{
    return (uint64_t)get32(at) << 32 | get32(at + 4);
}

void
put32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}

void
put64(uint8_t *at, uint64_t value)
{
    put32(at, (uint32_t)(value >> 32));
    put32(at + 4, (uint32_t)value);
}

int
frame_head(const uint8_t *buf, size_t len, const struct frame_rule rules[FRAME_LIMIT],
           unsigned sender, unsigned phase, struct frame *ret, struct err *err)
{
    const struct frame_rule *rule;
    struct frame f = {0};

    if (len < FRAME_HEAD)
        return 0;
    f.length = get32(buf);
    f.number = get16(buf + 4);
    f.slot = get32(buf + 8);
    f.value = get32(buf + 12);
    f.mark = get64(buf + 16);
    if (f.number >= FRAME_LIMIT || !rules[f.number].name)
        return err_set(err, EPROTO, "no frame has number %u", f.number);
    rule = &rules[f.number];
    if (get16(buf + 6) != 0)
        return err_set(err, EPROTO, "%s with a reserved field that is not zero", rule->name);
    if (!(rule->sender & sender))
        return err_set(err, EPROTO, "%s from the wrong side", rule->name);
    if (!(rule->when & phase))
        return err_set(err, EPROTO, "%s at the wrong time", rule->name);
    if (f.length > rule->max)
        return err_set(err, EMSGSIZE, "%s of %u bytes, at most %u allowed", rule->name, f.length,
                       rule->max);
    *ret = f;
    return 1;
}

/* Every part must end where the payload ends, and there must be as many as the row says. */
static int
check_parts(const struct frame *f, const struct frame_rule *rule, struct err *err)
{
    size_t at = 0, count = 0;

    while (at < f->length) {
        size_t room = f->length - at;
        if (room < FRAME_PART_HEAD || room - FRAME_PART_HEAD < get32(f->payload + at))
            return err_set(err, EPROTO, "%s with a part that is longer than the frame",
                           rule->name);
        at += FRAME_PART_HEAD + get32(f->payload + at);
        count++;
    }
    if (count < rule->min_parts || (rule->max_parts != FRAME_ANY_PARTS && count > rule->max_parts))
        return err_set(err, EPROTO, "%s with %zu parts", rule->name, count);
    return 0;
}

ssize_t
frame_parse(const uint8_t *buf, size_t len, const struct frame_rule rules[FRAME_LIMIT],
            unsigned sender, unsigned phase, struct frame *ret, struct err *err)
{
    struct frame f;
    int r = frame_head(buf, len, rules, sender, phase, &f, err);

    if (r <= 0)
        return r;
    if (len - FRAME_HEAD < f.length)
        return 0;
    f.payload = buf + FRAME_HEAD;
    if (check_parts(&f, &rules[f.number], err) < 0)
        return -1;
    *ret = f;
    return FRAME_HEAD + (ssize_t)f.length;
}

int
frame_next(const struct frame *frame, size_t *at, struct bytes *ret)
{
    if (*at >= frame->length)
        return 0;
    ret->len = get32(frame->payload + *at);
    ret->data = frame->payload + *at + FRAME_PART_HEAD;
    *at += FRAME_PART_HEAD + ret->len;
    return 1;
}

struct bytes
frame_part(const struct frame *frame, size_t index)
{
    struct bytes part = {0};
    size_t at = 0;

    do {
        if (!frame_next(frame, &at, &part))
            return (struct bytes){(const uint8_t *)"", 0};
    } while (index--);
    return part;
}

void
frame_put_head(uint8_t into[static FRAME_HEAD], const struct frame *frame)
{
    put32(into, frame->length);
    put32(into + 4, (uint32_t)frame->number << 16);
    put32(into + 8, frame->slot);
    put32(into + 12, frame->value);
    put64(into + 16, frame->mark);
}

size_t
frame_payload(const struct bytes *parts, size_t nparts)
{
    size_t sum = nparts * FRAME_PART_HEAD;

    for (size_t i = 0; i < nparts; i++)
        if (__builtin_add_overflow(sum, parts[i].len, &sum))
            return SIZE_MAX;
    return sum;
}

int
frame_add(struct buf *buf, struct frame frame, const struct bytes *parts, size_t nparts)
{
    size_t payload = frame_payload(parts, nparts);
    uint8_t *at;

    if (payload > UINT32_MAX) {
        errno = EMSGSIZE;
        return -1;
    }
    if (buf_reserve(buf, FRAME_HEAD + payload) < 0)
        return -1;
    at = buf->data + buf->len;
    frame.length = (uint32_t)payload;
    frame_put_head(at, &frame);
    at += FRAME_HEAD;
    for (size_t i = 0; i < nparts; i++) {
        put32(at, (uint32_t)parts[i].len);
        at += FRAME_PART_HEAD;
        if (parts[i].len)
            memcpy(at, parts[i].data, parts[i].len);
        at += parts[i].len;
    }
    buf->len += FRAME_HEAD + payload;
    return 0;
}

void
frame_widen(int socket)
{
    const int size = 1 << 20;

    (void)setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

ssize_t
frame_send(int socket, struct frame frame, const struct bytes *parts, size_t nparts)
{
    uint8_t head[FRAME_HEAD], part_head[FEW][FRAME_PART_HEAD];
    struct iovec iov[1 + 2 * FEW] = {{head, FRAME_HEAD}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 1};
    ssize_t sent;

    if (nparts > FEW)
        return 0;
    frame.length = (uint32_t)frame_payload(parts, nparts);
    frame_put_head(head, &frame);
    for (size_t i = 0; i < nparts; i++) {
        put32(part_head[i], (uint32_t)parts[i].len);
        iov[msg.msg_iovlen++] = (struct iovec){part_head[i], FRAME_PART_HEAD};
        if (parts[i].len)
            iov[msg.msg_iovlen++] = (struct iovec){(void *)parts[i].data, parts[i].len};
    }
    do
        sent = sendmsg(socket, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent >= 0 ? sent : errno == EAGAIN || errno == ENOBUFS ? 0 : -1;
}
