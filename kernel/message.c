/* SPDX-License-Identifier: BSD-3-Clause */
#include "kernel/message.h"

#include <errno.h>
#include <sodium.h>
#include <string.h>
#include <time.h>

#include "base/json.h"

int
wire_parse(const struct bytes *frames, size_t delimiter, size_t n, struct wire_msg *m, struct err *err)
{
    static const char *const names[] = {"header", "parent_header", "metadata", "content"};
    struct err why;

    m->first_identity = 0;
    m->identities = delimiter;
    m->first_buffer = delimiter + 2 + WIRE_PARTS;
    m->buffers = n - m->first_buffer;
    for (int i = 0; i < WIRE_PARTS; i++) {
        m->part[i] = frames[delimiter + 2 + (size_t)i];
        if (i != WIRE_CONTENT && json_check_object(m->part[i], &why) < 0)
            return err_set(err, EBADMSG, "%s: %s", names[i], why.text);
    }
    if (json_get(m->part[WIRE_HEADER], "msg_id", &m->msg_id) != J_STRING ||
        json_get(m->part[WIRE_HEADER], "msg_type", &m->msg_type) != J_STRING)
        return err_set(err, EBADMSG, "a header without msg_id and msg_type");
    return 0;
}

int
wire_delimiter(const struct bytes *frames, size_t n, size_t *ret, struct err *err)
{
    size_t delimiter = 0;

    while (delimiter < n && !bytes_equal(frames[delimiter], WIRE_DELIMITER))
        delimiter++;
    if (delimiter == n)
        return err_set(err, EBADMSG, "%zu frames without a delimiter", n);
    if (n - delimiter < 2 + WIRE_PARTS)
        return err_set(err, EBADMSG, "%zu frames after the delimiter", n - delimiter - 1);
    *ret = delimiter;
    return 0;
}

int
wire_read(const struct bytes *frames, size_t n, struct wire_msg *ret, struct err *err)
{
    struct wire_msg m = {0};
    size_t delimiter;

    if (wire_delimiter(frames, n, &delimiter, err) < 0 || wire_parse(frames, delimiter, n, &m, err) < 0)
        return -1;
    *ret = m;
    return 0;
}

void
sender_init(struct sender *s)
{
    uint8_t random[16];

    *s = (struct sender){0};
    randombytes_buf(random, sizeof random);
    sodium_bin2hex(s->session, sizeof s->session, random, sizeof random);
}

/* Digits from the right; returns where they begin. */
static char *
put_number(char *end, uint64_t number)
{
    do
        *--end = (char)('0' + number % 10);
    while (number /= 10);
    return end;
}

int
sender_header(struct sender *s, const char *type, struct buf *ret)
{
    char date[32], number[21], *first = put_number(number + 20, s->count++);
    const char *const pieces[] = {"{\"msg_id\":\"", s->last_id, "\",\"msg_type\":\"", type,
                                  "\",\"username\":\"husk\",\"session\":\"", s->session, "\",\"date\":\"",
                                  clock_text(clock_us(), date), "\",\"version\":\"" WIRE_PROTOCOL "\"}"};
    size_t len = strlen(s->session);

    number[20] = 0;
    memcpy(s->last_id, s->session, len);
    s->last_id[len] = '_';
    memcpy(s->last_id + len + 1, first, (size_t)(number + 21 - first));
    for (size_t i = 0; i < countof(pieces); i++)
        if (buf_text(ret, pieces[i]) < 0)
            return -1;
    return 0;
}
